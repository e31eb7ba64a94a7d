"""Codebooks on disk: a folder with `codebook.safetensors` (the arrays) and `codebook.json` (words and the
rest)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.numpy

from spae import assets
from spae.codebook.data import FORMAT, CodebookData, Known

_ARRAYS, _ABOUT = "codebook.safetensors", "codebook.json"


def write(codebook: CodebookData, folder: Path) -> None:
    """Write a codebook into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "format": FORMAT,
        "name": codebook.name,
        "normalisation": codebook.normalisation,
        "checksum": codebook.checksum,
        "duplicates": codebook.duplicates,
        "words": codebook.words,
    }
    arrays = {
        "vectors": codebook.vectors.cpu().numpy(),
        "llm_ids": codebook.llm_ids.cpu().numpy(),
        "round_trips": codebook.round_trips.cpu().numpy(),
    }
    # Renamed into place: the codebook's own memory map may be the very file that is written.
    unfinished = folder / f"{_ARRAYS}.tmp"
    safetensors.numpy.save_file(arrays, unfinished)
    os.replace(unfinished, folder / _ARRAYS)
    unfinished = folder / f"{_ABOUT}.tmp"
    unfinished.write_text(json.dumps(about), encoding="utf-8")  # ASCII with escapes: words may hold anything
    os.replace(unfinished, folder / _ABOUT)


def read(folder: Path, *, verify: bool = True) -> CodebookData:
    """The codebook in a folder; its vectors are mapped into memory.

    Raises:
        FileNotFoundError: the folder holds no codebook.
        ValueError: it is of another format, or (with `verify`) its content does not match its checksum.
    """
    if not (folder / _ABOUT).is_file():
        raise FileNotFoundError(f"{folder} holds no codebook: it has no {_ABOUT}")
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    if about.get("format") != FORMAT:
        raise ValueError(f"{folder / _ABOUT}: expected codebook format {FORMAT}, got {about.get('format')!r}")
    known = Known(about["checksum"], [tuple(group) for group in about["duplicates"]])
    with safetensors.safe_open(folder / _ARRAYS, framework="pt", device="cpu") as arrays:
        codebook = CodebookData.of(
            about["words"],
            arrays.get_tensor("vectors"),
            arrays.get_tensor("llm_ids"),
            round_trips=arrays.get_tensor("round_trips"),
            name=about["name"],
            normalisation=about["normalisation"],
            known=None if verify else known,
        )
    if verify and codebook.checksum != known.checksum:
        raise ValueError(
            f"codebook in {folder}: the content has checksum {codebook.checksum}, expected {known.checksum}"
        )
    return codebook


def prepared(entry: str, make: Callable[[], CodebookData]) -> CodebookData:
    """The codebook under `entry` in the cache of derived data, made there first if need be."""
    # `cached` checks every byte on every call, so reading need not verify again.
    return read(assets.cached(entry, lambda folder: write(make(), folder)), verify=False)
