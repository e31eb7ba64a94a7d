"""More images from few: mirrored and shifted views of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset


class Views(Dataset[Any]):
    """`count` views of every image of a data set; view 0 is the image itself, the others are drawn.

    A view is mirrored left to right with probability 1/2 and shifted by up to `shift` pixels each way,
    repeating the pixels of the edge. Item i is view i // N of item i % N, the same whenever it is asked for:
    training goes on bit for bit after an interruption, with any number of loading processes.

    Args:
        dataset: of N items, each an image float [C, H, W] or a tuple that begins with one.
        count: of views, at least 1.
        mirror: False for things that must not be, such as digits.
        seed: of the draws.

    `captions`, where the data set has them, are those of the views.
    """

    def __init__(
        self, dataset: Dataset[Any], count: int, *, shift: int = 4, mirror: bool = True, seed: int = 0
    ):
        for name, value, least in (("count", count, 1), ("shift", shift, 0), ("seed", seed, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")
        if not isinstance(mirror, bool):
            raise ValueError(f"mirror: expected true or false, got {mirror!r}")
        self.dataset, self.count, self.shift, self.mirror, self.seed = dataset, count, shift, mirror, seed
        self.size = len(dataset)  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return self.count * self.size

    def __getitem__(self, index: int) -> Any:
        view, item = divmod(range(len(self))[index], self.size)
        sample = self.dataset[item]
        if view == 0:
            return sample
        if isinstance(sample, tuple | list):
            seen = self._view(sample[0], view, item), *sample[1:]
            return type(sample)(*seen) if hasattr(sample, "_fields") else type(sample)(seen)
        return self._view(sample, view, item)

    @property
    def captions(self) -> list[str]:
        """Each view's caption, that of its image."""
        return self.count * list(self.dataset.captions)  # pyright: ignore[reportAttributeAccessIssue]

    def mirrored(self, index: int) -> bool:
        """Whether item `index` is mirrored."""
        view, item = divmod(range(len(self))[index], self.size)
        return view > 0 and self._draws(view, item)[2]

    def _view(self, image: Tensor, view: int, item: int) -> Tensor:
        down, right, mirrored = self._draws(view, item)
        if mirrored:
            image = image.flip(-1)
        height, width = image.shape[-2:]
        padded = F.pad(image, (self.shift,) * 4, mode="replicate")
        return padded[..., down : down + height, right : right + width].contiguous()

    def _draws(self, view: int, item: int) -> tuple[int, int, bool]:
        """Pixels down and to the right, and whether it is mirrored."""
        # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
        random = np.random.RandomState([self.seed, view, item])
        down, right = random.randint(0, 2 * self.shift + 1, 2)
        return int(down), int(right), self.mirror and bool(random.randint(2))
