"""Codebooks on disk: a folder with `codebook.safetensors` (the arrays) and `codebook.json` (words and the
rest)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.numpy
from torch import Tensor

from spae import assets
from spae.codebook.data import FORMAT, CodebookData, Known
from spae.configs import checked, read_object

_ARRAYS, _ABOUT = "codebook.safetensors", "codebook.json"
_KINDS = {
    "name": str,
    "normalisation": str,
    "checksum": str,
    "duplicates": list[list[int]],
    "words": list[str],
}


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
    about = read_object(folder / _ABOUT, "a codebook")
    if about.get("format") != FORMAT:
        raise ValueError(f"{folder / _ABOUT}: expected codebook format {FORMAT}, got {about.get('format')!r}")
    for name, kind in _KINDS.items():
        checked(f"{folder / _ABOUT}: {name}", about.get(name), kind)
    known = Known(about["checksum"], [tuple(group) for group in about["duplicates"]])
    try:
        codebook = CodebookData.of(
            about["words"],
            **_arrays(folder / _ARRAYS),
            name=about["name"],
            normalisation=about["normalisation"],
            known=None if verify else known,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: {error}") from error
    if verify and codebook.checksum != known.checksum:
        raise ValueError(f"{folder}: expected content of checksum {known.checksum}, got {codebook.checksum}")
    return codebook


def _arrays(file: Path) -> dict[str, Tensor]:
    """Mapped into memory."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a codebook's arrays, got no such file")
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as arrays:
            return {name: arrays.get_tensor(name) for name in ("vectors", "llm_ids", "round_trips")}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file}: expected a codebook's arrays, got what is none ({error})") from error


def prepared(entry: str, make: Callable[[], CodebookData]) -> CodebookData:
    """The codebook under `entry` in the cache of derived data, made there first if need be."""
    # `cached` checks every byte on every call, so reading need not verify again.
    return read(assets.cached(entry, lambda folder: write(make(), folder)), verify=False)
