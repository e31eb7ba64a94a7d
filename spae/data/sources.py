"""The user's own images: folders, webdataset's tar shards, Hugging Face data sets."""

from __future__ import annotations

import glob
import io
import itertools
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from spae.data.captions import read_captions
from spae.data.images import read_image
from spae.data.packaged import check_size
from spae.optional import needs

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The image files under a folder as (image float32 [3, size, size] in [-1, 1], label), by path.

    The folder at the top of a file's path is its class; files that lie in no folder have the class "".

    Attributes:
        files: N paths.
        classes: names of the classes, in order.
        labels: int64 [N], indices into `classes`.
        captions: N captions from beside the images (`read_captions`), where there are none the classes' names
            with spaces for underscores; "" where there is neither.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image is in it, a table of captions is damaged, or the size is out of range. Damaged
            images raise when they are read.
    """

    def __init__(self, root: str | Path, size: int = 128):
        check_size(size)
        self.root, self.size = Path(root), size
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: expected a folder of images, got {str(root)!r}")
        listed = sorted(self.root.rglob("*"))
        self.files = [path for path in listed if path.suffix.lower() in EXTENSIONS]
        if not self.files:
            raise ValueError(f"root: no file under {root} ends in {', '.join(EXTENSIONS)}")
        parts = [path.relative_to(self.root).parts for path in self.files]
        names = [path[0] if len(path) > 1 else "" for path in parts]
        self.classes = sorted(set(names))
        self.labels = np.array([self.classes.index(name) for name in names])
        captions = read_captions(self.files, listed)
        self.captions = [
            captions.get(file) or name.replace("_", " ") for file, name in zip(self.files, names, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.files[index], self.size, self.files[index]), int(self.labels[index])


class TarShards(Dataset[tuple[Tensor, int]]):
    """webdataset's tar shards as (image float32 [3, size, size] in [-1, 1], index), in their order.

    A sample is the files whose names agree up to the first dot: an image, and if there are any its caption
    (.txt) and class (.cls). The shards' headers are read once, at the start; images are then read from their
    places, in any order. Samples without an image are left out.

    Args:
        shards: paths, or one pattern with `*` and with braces: "train-{0000..0146}.tar", "{a,b}.tar".
        size: pixels a side.

    Attributes:
        captions: N captions, "" where there is none.
        labels: int64 [N], -1 where there is none.
        keys: N names.

    Raises:
        FileNotFoundError: a shard is missing, or the pattern fits none.
        ValueError: a shard is no uncompressed tar archive, no image is in any, or the size is out of range.
    """

    def __init__(self, shards: str | Path | Sequence[str | Path], size: int = 128):
        check_size(size)
        self.size = size
        self.shards = expand(str(shards)) if isinstance(shards, str | Path) else [str(s) for s in shards]
        self._places: list[tuple[int, int, int]] = []
        self.captions: list[str] = []
        self.keys: list[str] = []
        labels: list[int] = []
        for number, shard in enumerate(self.shards):
            for key, sample in _samples(shard):
                self._places.append((number, *sample["image"]))
                self.keys.append(key)
                self.captions.append(sample.get("txt", ""))
                labels.append(int(sample.get("cls", -1)))
        self.labels = np.array(labels, np.int64)
        if not self.keys:
            raise ValueError(f"shards: no image is in {', '.join(self.shards) or 'no shard'}")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number, offset, length = self._places[index]
        with open(self.shards[number], "rb") as file:
            file.seek(offset)
            content = io.BytesIO(file.read(length))
        image = read_image(content, self.size, f"{self.shards[number]}: {self.keys[index]}")
        return image, index % len(self)


def _samples(shard: str) -> list[tuple[str, dict[str, Any]]]:
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                folder, slash, name = entry.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not entry.isreg() or not stem:
                    continue
                sample = found.setdefault(folder + slash + stem, {})
                extension = extension.lower()
                if f".{extension}" in EXTENSIONS:
                    sample["image"] = (entry.offset_data, entry.size)
                elif extension in ("txt", "cls"):
                    stream = archive.extractfile(entry)
                    assert stream is not None  # it is a regular file
                    sample[extension] = stream.read().decode("utf-8").strip()
    except tarfile.TarError as error:
        raise ValueError(f"shards: {shard} is no tar archive without compression: {error}") from error
    return [(key, sample) for key, sample in found.items() if "image" in sample]


def expand(pattern: str) -> list[str]:
    """The paths that a pattern with `{first..last}`, `{a,b}` and `*` stands for, in order.

    Raises:
        FileNotFoundError: a `*` fits no file, or a path without one is missing.
    """
    pieces = []
    for piece in re.split(r"(\{[^{}]*\})", pattern):
        if match := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece):
            width = len(match[1]) if match[1].startswith("0") else 0
            pieces.append([str(n).zfill(width) for n in range(int(match[1]), int(match[2]) + 1)])
        else:
            pieces.append(piece[1:-1].split(",") if piece.startswith("{") else [piece])
    paths = []
    for path in map("".join, itertools.product(*pieces)):
        fitting = sorted(glob.glob(path)) if "*" in path else [path] * Path(path).is_file()
        if not fitting:
            raise FileNotFoundError(f"shards: expected a file, found none at {path!r}")
        paths += fitting
    return paths


class HuggingFaceImages(Dataset[tuple[Tensor, int]]):
    """A Hugging Face data set as (image float32 [3, size, size] in [-1, 1], index).

    Args:
        rows: a `datasets.Dataset`, or anything with a length and rows that are dictionaries.
        size: pixels a side.
        image, label, caption: the columns; the last two may be missing.

    Attributes:
        labels: int64 [N], -1 without such a column.
        captions: N strings; of rows without such a column the names of their classes, else None for all.

    Raises:
        TypeError: the data set has no length (a streamed one).
        ValueError: it lacks the column of images, or the size is out of range.
    """

    def __init__(
        self,
        rows: Any,
        size: int = 128,
        *,
        image: str = "image",
        label: str = "label",
        caption: str = "caption",
    ):
        check_size(size)
        if not hasattr(rows, "__len__"):
            raise TypeError(f"rows: expected a data set with a length, got {type(rows).__name__} (streamed?)")
        columns = list(rows.column_names)
        if image not in columns:
            raise ValueError(f"image: expected one of the columns {columns}, got {image!r}")
        self.rows, self.size, self.image = rows, size, image
        labels = rows[label] if label in columns else [-1] * len(rows)
        self.labels = np.array(labels, np.int64)
        names = getattr(getattr(rows, "features", {}).get(label), "names", None)
        self.captions: list[str] | None = None
        if caption in columns:
            self.captions = list(rows[caption])
        elif names and label in columns:
            self.captions = [names[i].replace("_", " ") for i in self.labels]

    @classmethod
    def load(cls, name: str, split: str = "train", size: int = 128, **options: Any) -> HuggingFaceImages:
        """By `datasets.load_dataset(name, split=split)`, from the hub or a folder. `options`: the columns."""
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError(needs("HuggingFaceImages.load", "datasets")) from error
        return cls(load_dataset(name, split=split), size, **options)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.rows[index][self.image], self.size, f"row {index}"), index % len(self)
