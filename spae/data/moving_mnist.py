"""Moving MNIST (Srivastava et al. 2015): digits that drift over a dark square and bounce off its sides."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spae.configs import Count, checked
from spae.data.mnist import MNISTDigits
from spae.data.packaged import check_choice, check_size

_DIGIT = 28
_STEP = 0.1  # of the way from side to side, per frame
_SEEDS = {"train": 20230630, "test": 20230701}


class MovingMNIST(Dataset[tuple[Tensor, int]]):
    """Videos of `MNISTDigits` of the same split: (video float32 [3, T, size, size] in [-1, 1], index).

    Video i is the same on every machine and in every run: its digits, their places and directions come from a
    fixed seed and i. They move on straight lines at a tenth of the free way a frame; where they overlap the
    brighter pixel shows.

    Args:
        split: "train" or "test"; no digit is in both.
        size: pixels a side, at least 28.
        frames: T.
        digits: how many in each video.
        count: how many videos N; more never change the earlier ones.

    Attributes:
        labels: int64 [N, digits].
        captions: N strings such as "3 and 8".

    Raises:
        ValueError: an argument out of range.
        ImportError, AssetNotCached, AssetError: as `MNISTDigits`.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        size: int = 64,
        *,
        frames: int = 16,
        digits: int = 2,
        count: int = 10_000,
    ):
        check_choice("split", split, tuple(_SEEDS))
        check_size(size, _DIGIT)
        for name, value in (("frames", frames), ("digits", digits), ("count", count)):
            checked(name, value, Count)
        self.split, self.size, self.frames, self.digits, self.count = split, size, frames, digits, count
        source = MNISTDigits(split)
        self._digits = source.images[:, 0, 2:-2, 2:-2].contiguous()
        # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
        self._chosen = np.random.RandomState(_SEEDS[split]).randint(len(self._digits), size=(count, digits))
        self.labels = source.labels[torch.from_numpy(self._chosen)]
        self.captions = [" and ".join(map(str, row)) for row in self.labels.tolist()]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -self.count <= index < self.count:
            raise IndexError(f"index: expected less than {self.count}, got {index}")
        index %= self.count
        random = np.random.RandomState([_SEEDS[self.split], index])
        start = random.random_sample((self.digits, 2))
        angle = random.random_sample(self.digits) * 2 * np.pi
        velocity = _STEP * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        # Unfolded over the sides, the way is straight: folding it back gives the bounces.
        way = (start + np.arange(self.frames)[:, None, None] * velocity) % 2
        corners = np.rint(np.minimum(way, 2 - way) * (self.size - _DIGIT)).astype(int)
        video = torch.full((self.frames, self.size, self.size), -1.0)
        for frame, places in zip(video, corners, strict=True):
            for digit, (top, left) in zip(self._chosen[index], places, strict=True):
                window = frame[top : top + _DIGIT, left : left + _DIGIT]
                torch.maximum(window, self._digits[digit], out=window)
        return video.expand(3, -1, -1, -1), index
