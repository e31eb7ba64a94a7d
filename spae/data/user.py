"""The user's own images: folders, tar shards, Hugging Face datasets; read one by one, in a fixed order.

Every dataset here gives (image float32 [3, height, width] in [-1, 1], label int64 []), the same for the same
index every time, as resuming needs. Images are scaled so that the shorter side fits, and cut in the centre.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """All image files under a folder, in the order of their paths; the label is the number of the top folder
    that a file lies in (0 if in none), by name: ImageNet's `train/n01440764/x.JPEG`.

    Attributes:
        files: their paths. classes: the top folders' names. labels: int64 [N].

    Raises FileNotFoundError if there is no image.
    """

    def __init__(self, folder: str | Path, size: Sequence[int]):
        root, self.size = Path(folder), tuple(size)
        names = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS)
        self.files = [str(p) for p in names]
        _at_least_one(self.files, f"folder: {folder} holds no file of {' '.join(EXTENSIONS)}")
        inside = [p.relative_to(root).parts for p in names]
        tops = [parts[0] if len(parts) > 1 else "" for parts in inside]
        self.classes, self.labels = _numbered(tops)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return read_image(self.files[index], self.size), self.labels[index]


class TarShards(Dataset[tuple[Tensor, Tensor]]):
    """The images in tar files, as webdataset writes them, in the order of the files and of their members.

    The shards are read once for where their images lie; an image is then read from there, so any order is as
    good. The label is the number in the member `KEY.cls` beside an image `KEY.jpg`, and 0 without one.
    Shards must not be compressed.

    Raises FileNotFoundError if no shard matches or they hold no image.
    """

    def __init__(self, pattern: str | Path, size: Sequence[int]):
        self.size = tuple(size)
        self.shards = sorted(glob(str(pattern)))
        _at_least_one(self.shards, f"shards: no file matches {pattern}")
        self._places: list[tuple[int, int, int]] = []
        labels = []
        for number, shard in enumerate(self.shards):
            with tarfile.open(shard, "r:") as tar:
                members = [member for member in tar if member.isfile()]
                classes = {
                    member.name[: -len(".cls")]: int(tar.extractfile(member).read())  # pyright: ignore[reportOptionalMemberAccess]
                    for member in members
                    if member.name.endswith(".cls")
                }
            for member in members:
                key, extension = os.path.splitext(member.name)
                if extension.lower() in EXTENSIONS:
                    self._places.append((number, member.offset_data, member.size))
                    labels.append(classes.get(key, 0))
        _at_least_one(self._places, f"shards: {pattern} holds no image")
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number, offset, size = self._places[index]
        with open(self.shards[number], "rb") as stream:
            stream.seek(offset)
            return read_image(io.BytesIO(stream.read(size)), self.size), self.labels[index]


class HuggingFaceImages(Dataset[tuple[Tensor, Tensor]]):
    """A split of a Hugging Face dataset by its hub name or folder, read with the package `datasets`.

    image, label: its columns; without the label's, all are 0. Raises ImportError if `datasets` is missing.
    """

    def __init__(
        self, name: str, split: str, size: Sequence[int], *, image: str = "image", label: str = "label"
    ):
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError('this needs the package datasets: pip install "spae[datasets]"') from error
        self.size, self.image, self.label = tuple(size), image, label
        self.rows: Any = load_dataset(name, split=split)
        if image not in self.rows.column_names:
            raise ValueError(f"image: expected one of the columns {self.rows.column_names}, got {image!r}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[int(index)]
        return fit_image(row[self.image], self.size), torch.tensor(int(row.get(self.label) or 0))


def read_image(file: Any, size: Sequence[int]) -> Tensor:
    """An image file (path or stream) as float32 [3, *size] in [-1, 1]; see `fit_image`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "spae[train]"') from error
    with Image.open(file) as image:
        return fit_image(image, size)


def fit_image(image: Any, size: Sequence[int]) -> Tensor:
    """A Pillow image as float32 [3, height, width] in [-1, 1] of `size` (height, width).

    Scaled, keeping its aspect, until it just covers that size (Lanczos), and cut in the centre; what is
    transparent becomes white.
    """
    from PIL import Image, ImageOps

    height, width = size
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    array = np.array(image, np.float32).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array)) / 127.5 - 1


def _numbered(names: list[str]) -> tuple[list[str], Tensor]:
    """The distinct names in order, and each one's number."""
    distinct = sorted(set(names))
    number = {name: i for i, name in enumerate(distinct)}
    return distinct, torch.tensor([number[name] for name in names], dtype=torch.int64)


def _at_least_one(found: Sequence[Any], message: str) -> None:
    if not found:
        raise FileNotFoundError(message)
