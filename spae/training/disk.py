"""Files that a power cut or a kill leaves as they were or as they are meant, never in between."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, out to the disk: before a rename makes them count, and
    after it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows flushes no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(file: Path, text: str) -> None:
    """Write a file anew, in one step."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    flush(partial)
    os.replace(partial, file)
    flush(file.parent)
