"""Moving MNIST (Srivastava et al. 2015): digits that drift over a dark square and bounce off its sides."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spae.configs import Count, Range, checked
from spae.data.mnist import MNISTDigits
from spae.data.packaged import check_choice, check_size

_DIGIT = 28
DIRECTIONS = ("left", "right", "up", "down")
_WAYS = np.array([[0.0, -1.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])  # down, right
_LEAST = 0.6  # of the free way that a digit goes in one direction
_STEP = 0.1  # of the way from side to side, per frame
_SEEDS = {"train": 20230630, "test": 20230701}


class MovingMNIST(Dataset[tuple[Tensor, int]]):
    """Videos of `MNISTDigits` of the same split: (video float32 [3, T, size, size] in [-1, 1], index).

    Video i is the same on every machine and in every run: its digits, their places and directions come from a
    fixed seed and i. Where digits overlap the brighter pixel shows.

    Args:
        split: "train" or "test"; no digit is in both.
        size: pixels a side, at least `digit_size`.
        frames: T.
        digits: how many in each video.
        count: how many videos N; more never change the earlier ones.
        motion: "bounce", at any angle, at a tenth of the free way a frame; "straight", in one of `DIRECTIONS`
            all along the video, over 0.6 to all of the free way.
        digit_size: pixels a side of a digit, 4 to 28; smaller ones are averaged over areas.

    Attributes:
        labels: int64 [N, digits].
        directions: int64 [N, digits] of `DIRECTIONS` for straight motion, otherwise None.
        captions: N strings such as "3 and 8", or "3 moving left and 8 moving up" for straight motion.

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
        motion: Literal["bounce", "straight"] = "bounce",
        digit_size: int = _DIGIT,
    ):
        check_choice("split", split, tuple(_SEEDS))
        check_choice("motion", motion, ("bounce", "straight"))
        checked("digit_size", digit_size, Annotated[int, Range(4, _DIGIT)])
        check_size(size, digit_size)
        for name, value in (("frames", frames), ("digits", digits), ("count", count)):
            checked(name, value, Count)
        self.split, self.size, self.frames, self.digits, self.count = split, size, frames, digits, count
        source = MNISTDigits(split)
        pixels = source.images[:, :1, 2:-2, 2:-2]
        self.digit_size = digit_size
        self._digits = F.interpolate(pixels, (digit_size, digit_size), mode="area")[:, 0].contiguous()
        # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
        self._chosen = np.random.RandomState(_SEEDS[split]).randint(len(self._digits), size=(count, digits))
        self.labels = source.labels[torch.from_numpy(self._chosen)]
        self.directions: Tensor | None = None
        told = [[str(label) for label in row] for row in self.labels.tolist()]
        if motion == "straight":
            random = np.random.RandomState([_SEEDS[split], 0, 1])
            self.directions = torch.from_numpy(random.randint(len(DIRECTIONS), size=(count, digits)))
            ways = [[DIRECTIONS[way] for way in row] for row in self.directions.tolist()]
            told = [
                [f"{label} moving {way}" for label, way in zip(*both, strict=True)]
                for both in zip(told, ways, strict=True)
            ]
        self.captions = [" and ".join(row) for row in told]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -self.count <= index < self.count:
            raise IndexError(f"index: expected less than {self.count}, got {index}")
        index %= self.count
        corners = np.rint(self._way(index) * (self.size - self.digit_size)).astype(int)
        video = torch.full((self.frames, self.size, self.size), -1.0)
        for frame, places in zip(video, corners, strict=True):
            for digit, (top, left) in zip(self._chosen[index], places, strict=True):
                window = frame[top : top + self.digit_size, left : left + self.digit_size]
                torch.maximum(window, self._digits[digit], out=window)
        return video.expand(3, -1, -1, -1), index

    def _way(self, index: int) -> NDArray[np.float64]:
        """Places of each digit in each frame, [T, digits, 2], in shares of the free way down and right."""
        random = np.random.RandomState([_SEEDS[self.split], index])
        start = random.random_sample((self.digits, 2))
        time = np.arange(self.frames)[:, None, None]
        if self.directions is not None:
            length = _LEAST + (1 - _LEAST) * random.random_sample((self.digits, 1))
            step = _WAYS[self.directions[index].numpy()] * length
            start = np.where(
                step > 0, start * (1 - step), np.where(step < 0, start * (1 + step) - step, start)
            )
            return start + time / max(self.frames - 1, 1) * step
        angle = random.random_sample(self.digits) * 2 * np.pi
        velocity = _STEP * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        # Unfolded over the sides, the way is straight: folding it back gives the bounces.
        way = (start + time * velocity) % 2
        return np.minimum(way, 2 - way)
