"""CIFAR-10 (Krizhevsky 2009) from its official archive for Python, of which nothing is executed."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spae.data.images import Size, check_shape, read_image
from spae.data.packaged import check_choice

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_BATCHES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}


class CIFAR10(Dataset[tuple[Tensor, int]]):
    """50,000 training or 10,000 test photographs of 32x32 as (image float32 [3, *size] in [-1, 1], class).

    Args:
        path: `cifar-10-python.tar.gz`, or the folder `cifar-10-batches-py` that is in it.
        split: "train" or "test".
        size: see `Size`; other sizes than 32 need Pillow.

    Attributes:
        labels: int64 [N], indices into `classes`, which are the published names.
        captions: N names of classes.
        keys: N, the batch and the row.

    Raises:
        FileNotFoundError: there is nothing at the path, or a batch is missing.
        ValueError: an unknown split or a size out of range, or a batch is damaged or holds anything but
            numbers.
    """

    classes = CLASSES

    def __init__(self, path: str | Path, split: str = "train", size: Size = _SIDE):
        check_choice("split", split, tuple(_BATCHES))
        self.size = check_shape(size)
        if len(self.size) != 2:
            raise ValueError(f"size: expected (height, width), for CIFAR-10 has no video, got {size!r}")
        pixels, labels, self.keys = [], [], []
        for name, content in _contents(Path(path), _BATCHES[split]).items():
            rows, classes = _batch(f"{path}: {name}", content)
            pixels.append(rows)
            labels.append(classes)
            self.keys += [f"{name}/{row}" for row in range(len(rows))]
        self.pixels = np.concatenate(pixels)
        self.labels = np.concatenate(labels)
        self.captions = [CLASSES[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self.pixels[index], int(self.labels[index])
        if self.size == (_SIDE, _SIDE):
            return torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1, label
        from PIL import Image

        return read_image(Image.fromarray(pixels.transpose(1, 2, 0)), self.size, self.keys[index]), label


def _contents(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The batches' bytes by name, in the order of the names."""
    found: dict[str, bytes] = {}
    if path.is_dir():
        found = {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    elif path.is_file():
        try:
            with tarfile.open(path) as archive:
                for entry in archive:
                    if entry.isreg() and (name := entry.name.rpartition("/")[2]) in names:
                        stream = archive.extractfile(entry)
                        assert stream is not None  # it is a regular file
                        found[name] = stream.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(
                f"path: expected a tar archive, got {path}, which is none or damaged ({error})"
            ) from error
    if missing := sorted(set(names) - set(found)):
        raise FileNotFoundError(
            f"path: expected cifar-10-python.tar.gz or its folder with {', '.join(names)}, "
            f"got {str(path)!r} without {', '.join(missing)}"
        )
    return {name: found[name] for name in names}


def _batch(name: str, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels uint8 [n, 3, 32, 32] and classes int64 [n] of a pickled batch."""
    try:
        values = _Plain(io.BytesIO(content)).load()
        data, labels = (values.get(key.encode(), values.get(key)) for key in ("data", "labels"))
        pixels = data.pixels()
        classes = np.array(labels, np.int64)
        if len(classes) != len(pixels) or not ((classes >= 0) & (classes < len(CLASSES))).all():
            raise ValueError(f"expected {len(pixels)} labels from 0 to 9, got {labels!r:.60}")
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"path: expected batches of CIFAR-10, got {name}, which is none or damaged ({error})"
        ) from error
    return pixels, classes


class _Array:
    """Stands for a NumPy array while it is unpickled: keeps its parts, and no code of NumPy sees them."""

    def __init__(self, *_: Any):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8]:
        _, shape, dtype, columns_first, content = self.state
        if dtype.name not in ("u1", b"u1") or columns_first or not isinstance(content, bytes):
            raise ValueError(f"expected rows of bytes, got {dtype.name!r}")
        if len(shape) != 2 or shape[1] != _PIXELS or len(content) != shape[0] * shape[1]:
            raise ValueError(f"expected rows of {_PIXELS} bytes, got {len(content)} bytes as {shape}")
        return np.frombuffer(content, np.uint8).reshape(-1, 3, _SIDE, _SIDE)


class _Dtype:
    """Stands for a NumPy dtype."""

    def __init__(self, name: Any, *_: Any):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment, which bytes have not


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Plain(pickle.Unpickler):
    """Reads a pickle in which everything but plain values and the parts of an array is an error."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"expected only numbers, got {module}.{name}")
        return _ALLOWED[module, name]
