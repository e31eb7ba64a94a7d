"""The order of the data, a pure function of seed and step: a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the sample numbers, int64 [num_samples]."""
    # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
    return np.random.RandomState([seed, epoch]).permutation(num_samples)


class StepBatches(Sampler[list[int]]):
    """Sample numbers of the batches of steps `start` to `steps` - 1, for one of several processes.

    An epoch is `num_samples // batch_size` steps in the order of `epoch_order`; it leaves out the remainder,
    another one every time. `batch_size` counts the samples of all processes together: process `rank` of
    `world` gets every world-th of them.

    Raises ValueError if `batch_size` is more than `num_samples` or not divisible by `world`.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        steps: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        if batch_size > num_samples or batch_size % world:
            raise ValueError(
                f"batch_size: expected at most the {num_samples} samples and a multiple of the {world} "
                f"processes, got {batch_size}"
            )
        self.num_samples, self.batch_size, self.steps, self.seed = num_samples, batch_size, steps, seed
        self.start, self.rank, self.world = start, rank, world

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.num_samples // self.batch_size
        order, order_epoch = np.empty(0, np.int64), None
        for step in range(self.start, self.steps):
            epoch, batch = divmod(step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(self.num_samples, self.seed, epoch), epoch
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield whole[self.rank :: self.world].tolist()
