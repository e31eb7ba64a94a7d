"""Data sets that are prepared once from an asset's archives and then lie in the cache as arrays of bytes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spae import assets

_PIXELS = "pixels.npy"
_TABLE = "table.json"
Build = Callable[[Path, Path], dict[str, Any]]


class Prepared:
    """A prepared set: uint8 [N, C, ...] images in a memory-mapped file, and a table of what is known of them.

    The file is opened when it is first read, anew in every process, so data loaders' workers share its pages.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.table: dict[str, Any] = json.loads((folder / _TABLE).read_text(encoding="utf-8"))

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        return np.load(self.folder / _PIXELS, mmap_mode="r")

    def image(self, row: int) -> Tensor:
        """float32 in [-1, 1]."""
        return torch.from_numpy(self.pixels[row].astype(np.float32)) / 127.5 - 1

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "table": self.table}


def prepare(asset: str, variant: str, version: int, build: Build) -> Prepared:
    """The prepared form `variant` of an asset, made by `build(asset_folder, into)` the first time.

    `build` writes its images with `write_pixels` or `open_pixels` and returns the table. The asset is fetched
    only when the prepared form is missing. `version` is that of `build`: raise it when its result changes.
    """
    described = json.dumps([version, [file.sha256 for file in assets.REGISTRY[asset].files]])
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]

    def prepare_once(into: Path) -> None:
        folder = assets.require(asset)
        print(f"spae: preparing {asset} {variant}, once", file=sys.stderr, flush=True)
        table = build(folder, into)
        (into / _TABLE).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")

    return Prepared(assets.cached(f"data/{asset}-{variant}-{digest}", prepare_once))


def open_pixels(into: Path, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A writable uint8 array on disk, for `build` to fill."""
    return np.lib.format.open_memmap(into / _PIXELS, mode="w+", dtype=np.uint8, shape=tuple(shape))


def write_pixels(into: Path, pixels: NDArray[np.uint8]) -> None:
    np.save(into / _PIXELS, pixels)


class PackagedDataset(Dataset[tuple[Tensor, int]]):
    """Rows of a prepared set: item i is (image float32 [C, H, W] in [-1, 1], `targets[i]`).

    Attributes:
        rows: int64 [N], ascending; where the items lie in the prepared set, the same for every split.
        targets: int64 [N]; what comes with each image: a class where the set has classes, else i itself, an
            index into the set's `captions` and other lists.
        keys: N strings, the rows.
    """

    def __init__(self, prepared: Prepared, rows: NDArray[np.int64], targets: NDArray[np.int64] | None = None):
        self._prepared = prepared
        self.rows = rows
        self.targets = np.arange(len(rows)) if targets is None else targets
        self.keys = [str(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._prepared.image(int(self.rows[index])), int(self.targets[index])


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_size(size: int, least: int = 8, most: int = 1024) -> None:
    """Raises ValueError unless `size` is a whole number of pixels that images are prepared at."""
    if not isinstance(size, int) or not least <= size <= most:
        raise ValueError(f"size: expected a whole number from {least} to {most}, got {size!r}")


def square(image: Any, size: int) -> NDArray[np.uint8]:
    """A Pillow image on a white square, resized: uint8 [3, size, size]."""
    from PIL import Image

    image = image.convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    resized = canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
