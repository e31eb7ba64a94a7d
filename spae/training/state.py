"""Checkpoints that appear whole or not at all.

A checkpoint is a folder `step-00000500` with everything that accelerate saves (model, optimizer, registered
objects, the states of the Python, NumPy and torch random number generators) and a manifest, written last: the
step, the size of every file, and what the trainer adds. It is renamed to its name when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

_MANIFEST = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})")


def save_checkpoint(
    accelerator: Accelerator, root: str | Path, step: int, info: dict[str, Any], *, keep: int = 2
) -> Path:
    """Write the checkpoint of `step` under `root`, then delete all but the newest `keep`; returns its folder.

    `info` (JSON) goes into the manifest. Every process must call this; nodes must share the file system.
    """
    root = Path(root)
    final = root / f"step-{step:08d}"
    partial = root / f"{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    # Not safetensors, which cannot hold a module's extra state: a codebook's name and checksum, not a tensor.
    accelerator.save_state(str(partial), safe_serialization=False)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sizes = {str(f.relative_to(partial)): f.stat().st_size for f in _files(partial)}
        manifest = {**info, "step": step, "files": sizes}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for file in _files(partial):
            _flush(file)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        for old in checkpoints(root)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Accelerator, folder: str | Path) -> None:
    """Restore what `save_checkpoint` wrote into the objects that `accelerator` knows, generators included."""
    accelerator.load_state(str(folder))


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, with its "step"; None if the checkpoint is missing or incomplete."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        complete = all((folder / name).stat().st_size == size for name, size in manifest["files"].items())
    except (OSError, ValueError):
        return None
    return manifest if complete else None


def checkpoints(root: str | Path) -> list[Path]:
    """The complete checkpoints under `root`, oldest first."""
    steps = {int(m[1]): f for f in Path(root).glob("step-*") if (m := _NAME.fullmatch(f.name))}
    return [steps[step] for step in sorted(steps) if read_manifest(steps[step])]


def latest(root: str | Path) -> Path | None:
    """The newest complete checkpoint under `root`, or None."""
    return next(reversed(checkpoints(root)), None)


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _flush(file: Path) -> None:
    """Force the bytes out before the rename that makes them count, so a power cut leaves no hollow file."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
