"""The user's own images: folders, webdataset's tar shards, Hugging Face data sets."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import itertools
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from spae import assets
from spae.data.captions import CAPTION_COLUMNS, read_captions
from spae.data.images import Size, check_shape, read_image
from spae.optional import needs

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_HF_SPLITS, _HF_DATASET = "dataset_dict.json", "dataset_info.json"


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The image files under a folder as (image float32 [3, *size] in [-1, 1], label), by path.

    The folder at the top of a file's path is its class; files that lie in no folder have the class "". Files
    and folders whose names begin with "." are left out.

    Args:
        root: the folder.
        size: see `Size`; with frames, of animated files.
        classes: further classes, so that the folders of several splits number theirs alike.
        tables: further files with captions (`read_captions`), outside the folder.

    Attributes:
        files: N paths.
        keys: N paths from the root, with slashes.
        classes: names of the classes, in order.
        labels: int64 [N], indices into `classes`.
        captions: N captions from beside the images (`read_captions`), where there are none the classes' names
            with spaces for underscores; "" where there is neither.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image is in it, a table of captions is damaged, or the size is out of range. Damaged
            images raise when they are read.
    """

    extensions, what = EXTENSIONS, "images"

    def __init__(
        self, root: str | Path, size: Size = 128, *, classes: Iterable[str] = (), tables: Iterable[Path] = ()
    ):
        self.size = check_shape(size)
        if not isinstance(root, str | Path):
            raise TypeError(f"root: expected a folder of {self.what}, got {root!r}")
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: expected a folder of {self.what}, got {str(root)!r}")
        listed = sorted(p for p in self.root.rglob("*") if not _hidden(p.relative_to(self.root)))
        self.files = [path for path in listed if path.suffix.lower() in self.extensions]
        if not self.files:
            raise ValueError(
                f"root: expected files that end in {', '.join(self.extensions)}, got none under {root}"
            )
        self.keys = [path.relative_to(self.root).as_posix() for path in self.files]
        names = [key.split("/")[0] if "/" in key else "" for key in self.keys]
        self.classes = sorted({*names, *classes})
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = np.array([numbers[name] for name in names], np.int64)
        captions = read_captions(self.files, [*listed, *tables])
        self.captions = [
            captions.get(file) or name.replace("_", " ") for file, name in zip(self.files, names, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.files[index], self.size, self.files[index]), int(self.labels[index])


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class TarShards(Dataset[tuple[Tensor, int]]):
    """webdataset's tar shards as (image float32 [3, *size] in [-1, 1], index), in their order.

    A sample is the files whose names agree up to the first dot: an image, and if there are any its caption
    (.txt) and class (.cls). The shards' headers are read once, at the start; images are then read from their
    places, in any order. Samples without an image are left out. Shards that are compressed by gzip are
    unpacked into the cache once.

    Args:
        shards: paths, or one pattern with `*` and with braces: "train-{0000..0146}.tar", "{a,b}.tar.gz".
        size: see `Size`; with frames, of animated files.

    Attributes:
        captions: N captions, "" where there is none.
        labels: int64 [N], -1 where there is none.
        keys: N names.

    Raises:
        FileNotFoundError: a shard is missing, or the pattern fits none.
        ValueError: a shard is no tar archive or a damaged one, no image is in any, or the size is out of
            range.
    """

    def __init__(self, shards: str | Path | Sequence[str | Path], size: Size = 128):
        self.size = check_shape(size)
        if not isinstance(shards, str | Path | list | tuple):
            raise TypeError(f"shards: expected paths or a pattern, got {shards!r}")
        self.shards = expand(str(shards)) if isinstance(shards, str | Path) else [str(s) for s in shards]
        self._files = [_unpacked(shard) for shard in self.shards]
        self._places: list[tuple[int, int, int]] = []
        self.captions: list[str] = []
        self.keys: list[str] = []
        labels: list[int] = []
        for number, shard in enumerate(self.shards):
            for key, sample in _samples(shard, self._files[number]):
                self._places.append((number, *sample["image"]))
                self.keys.append(key)
                self.captions.append(sample.get("txt", ""))
                labels.append(sample.get("cls", -1))
        self.labels = np.array(labels, np.int64)
        if not self.keys:
            raise ValueError(
                f"shards: expected at least one image, got none in {', '.join(self.shards) or 'no shard'}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number, offset, length = self._places[index]
        with open(self._files[number], "rb") as file:
            file.seek(offset)
            content = io.BytesIO(file.read(length))
        image = read_image(content, self.size, f"{self.shards[number]}: {self.keys[index]}")
        return image, index % len(self)


def _unpacked(shard: str) -> Path:
    """The shard itself, or its content without compression, known by the shard's path, size and time."""
    path = Path(shard)
    if not path.is_file():
        raise FileNotFoundError(f"shards: expected a file, got {shard!r}, where there is none")
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path
    known = f"{path.absolute()} {path.stat().st_size} {path.stat().st_mtime_ns}"

    def build(into: Path) -> None:
        try:
            with gzip.open(path) as packed, (into / "shard.tar").open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"shards: expected an archive that is whole, got {shard}, which is damaged ({error})"
            ) from error

    return assets.cached(f"shards/{hashlib.sha256(known.encode()).hexdigest()[:32]}", build) / "shard.tar"


def _samples(shard: str, file: Path) -> list[tuple[str, dict[str, Any]]]:
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(file, "r:") as archive:
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
                    sample[extension] = _text(f"shards: {shard}: {entry.name}", extension, stream.read())
    except tarfile.TarError as error:
        raise ValueError(
            f"shards: expected a tar archive, got {shard}, which is none or damaged ({error})"
        ) from error
    return [(key, sample) for key, sample in found.items() if "image" in sample]


def _text(name: str, extension: str, content: bytes) -> str | int:
    try:
        text = " ".join(content.decode("utf-8").split())
        return int(text) if extension == "cls" else text
    except ValueError as error:
        wanted = "the number of a class" if extension == "cls" else "text in UTF-8"
        raise ValueError(f"{name}: expected {wanted}, got {content[:40]!r}") from error


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
            raise FileNotFoundError(f"shards: expected a file, got {path!r}, where there is none")
        paths += fitting
    return paths


class HuggingFaceImages(Dataset[tuple[Tensor, int]]):
    """A Hugging Face data set as (image float32 [3, *size] in [-1, 1], index).

    Args:
        rows: a `datasets.Dataset`, or anything with a length and rows that are dictionaries.
        size: see `Size`; with frames, of animated files.
        image, label, caption: the columns. By default "image" or "img", "label", and the first of
            `CAPTION_COLUMNS`; the last two may be missing. Of a list of captions the first one counts.

    Attributes:
        labels: int64 [N], -1 without such a column.
        classes: names of the classes, where the data set has them.
        captions: N strings; of rows without such a column the names of their classes, else None for all.

    Raises:
        TypeError: the data set has no length (a streamed one).
        ValueError: it lacks a column that was named or that of images, or the size is out of range.
    """

    def __init__(
        self,
        rows: Any,
        size: Size = 128,
        *,
        image: str | None = None,
        label: str | None = None,
        caption: str | None = None,
    ):
        self.size = check_shape(size)
        if not hasattr(rows, "__len__"):
            raise TypeError(f"rows: expected a data set with a length, got {type(rows).__name__} (streamed?)")
        if not hasattr(rows, "column_names"):
            raise TypeError(f"rows: expected a data set with columns, got {type(rows).__name__}")
        columns = list(rows.column_names)
        for argument, column in (("image", image), ("label", label), ("caption", caption)):
            if column is not None and column not in columns:
                raise ValueError(f"{argument}: expected one of the columns {columns}, got {column!r}")
        known = {"image": ("image", "img"), "label": ("label",), "caption": CAPTION_COLUMNS}
        image, label, caption = (
            chosen or next((column for column in known[argument] if column in columns), None)
            for argument, chosen in (("image", image), ("label", label), ("caption", caption))
        )
        if image is None:
            raise ValueError(f"image: expected the name of one of the columns {columns}, got None")
        self.rows, self.image = rows, image
        labels = [-1] * len(rows) if label is None else [-1 if n is None else n for n in rows[label]]
        self.classes = tuple(getattr(getattr(rows, "features", {}).get(label), "names", None) or ())
        if any(isinstance(n, str) for n in labels):  # names without numbers
            self.classes = tuple(sorted({str(n) for n in labels if n != -1}))
            labels = [-1 if n == -1 else self.classes.index(str(n)) for n in labels]
        self.labels = np.array(labels, np.int64)
        self.captions: list[str] | None = None
        if caption is not None:
            self.captions = [_first(value) for value in rows[caption]]
        elif self.classes:
            self.captions = [self.classes[i].replace("_", " ") if i >= 0 else "" for i in labels]

    @classmethod
    def load(
        cls, name: str, split: str | None = "train", size: Size = 128, **options: Any
    ) -> HuggingFaceImages:
        """By name from the hub or a folder of files (`datasets.load_dataset`), or what `save_to_disk` wrote.

        split: None for a data set that was saved without splits. options: the columns.

        Raises ValueError for a split that the saved data set has not, ImportError without `datasets`.
        """
        try:
            import datasets
        except ImportError as error:
            raise ImportError(needs("HuggingFaceImages.load", "datasets")) from error
        folder = Path(name)
        if (folder / _HF_SPLITS).is_file():
            splits = datasets.load_from_disk(name)
            if split not in splits:
                raise ValueError(f"split: expected one of {list(splits)} in {name}, got {split!r}")
            return cls(splits[split], size, **options)
        if (folder / _HF_DATASET).is_file():
            return cls(datasets.load_from_disk(name), size, **options)
        return cls(datasets.load_dataset(name, split=split), size, **options)

    @staticmethod
    def has_splits(name: str) -> bool:
        """False for what `save_to_disk` wrote of a data set without splits."""
        return not (Path(name) / _HF_DATASET).is_file()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        value = self.rows[index][self.image]
        if isinstance(value, dict):  # a column that is not decoded
            value = io.BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
        return read_image(value, self.size, f"row {index}"), index % len(self)


def _first(caption: Any) -> str:
    if isinstance(caption, list | tuple):
        caption = caption[0] if caption else None
    return "" if caption is None else " ".join(str(caption).split())
