"""Fashion-MNIST (Xiao et al. 2017): 70,000 articles of clothing in 10 classes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from spae.assets.archives import contents
from spae.data.packaged import PackagedDataset, check_choice, prepare, write_pixels

CLASSES = (
    *("t-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_NUM_TRAIN = 60_000


class Fashion(PackagedDataset):
    """60,000 training or 10,000 test articles, as published: (image float32 [3, 32, 32] in [-1, 1], class).

    The 28-pixel images are padded with 2 pixels of background (-1) on each side and repeated over 3 channels.

    Attributes:
        labels: int64 [N], indices into `CLASSES`.
        captions: N class names.

    Raises:
        ValueError: `split` is neither "train" nor "test", or `size` is not 32.
        AssetNotCached, AssetError: the asset "fashion" is not cached and could not be fetched.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 32):
        check_choice("split", split, ("train", "test"))
        check_choice("size", size, (32,))
        prepared = prepare("fashion", "28", 1, _build)
        every = np.arange(len(prepared.table["labels"]))
        rows = every[:_NUM_TRAIN] if split == "train" else every[_NUM_TRAIN:]
        self.labels = np.array(prepared.table["labels"])[rows]
        super().__init__(prepared, rows, self.labels)
        self.split, self.size = split, size
        self.captions = [CLASSES[label] for label in self.labels]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return F.pad(image, (2, 2, 2, 2), value=-1.0).expand(3, -1, -1), label


def _build(folder: Path, into: Path) -> dict[str, Any]:
    files = {}
    for archive in folder.glob("*.deb"):
        for name, file in contents(archive, lambda name: name.endswith("-ubyte.gz")):
            files[Path(name).name] = _idx(gzip.decompress(file))
    parts = ("train", "t10k")
    pixels = np.concatenate([files[f"{part}-images-idx3-ubyte.gz"] for part in parts])
    write_pixels(into, pixels[:, None])
    labels = np.concatenate([files[f"{part}-labels-idx1-ubyte.gz"] for part in parts])
    return {"labels": labels.tolist()}


def _idx(file: bytes) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, the type 8, the number of axes, their lengths, the values."""
    if file[:3] != b"\0\0\x08":
        raise ValueError(f"file: expected an IDX file of bytes, 00 00 08 .., got {file[:3].hex(' ')}")
    axes = file[3]
    shape = np.frombuffer(file, ">i4", axes, offset=4)
    return np.frombuffer(file, np.uint8, offset=4 + 4 * axes).reshape(shape)
