"""Intervals for what an evaluation reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_Z95 = 1.959963984540054  # the 97.5% quantile of the normal distribution


class Interval(NamedTuple):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion(successes: int, trials: int) -> Interval:
    """The share of successes with Wilson's score interval (Wilson 1927), which stays inside [0, 1].

    >>> print(proportion(8, 10))
    0.800 [0.490, 0.943]
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes: expected 0..trials and trials >= 1, got {successes} of {trials}")
    p, z2 = successes / trials, _Z95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def mean(values: Tensor) -> Interval:
    """The mean of values [N] over independent images, with 1.96 standard errors either side.

    >>> import torch
    >>> print(mean(torch.tensor([1.0, 2.0, 3.0, 4.0])))
    2.500 [1.235, 3.765]
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values: expected shape [N] with N >= 2, got {list(values.shape)}")
    centre = values.double().mean().item()
    half = _Z95 * values.double().std().item() / math.sqrt(len(values))
    return Interval(centre, centre - half, centre + half)


def difference(ones: Sequence[bool], others: Sequence[bool]) -> Interval:
    """How much larger the share of one measure is than that of another on the same N >= 2 trials, with a 95%
    interval (normal approximation) of the paired differences: it may leave 0 out where the two shares' own
    intervals overlap.

    >>> print(difference([True, True, True, False], [True, False, False, False]))
    0.500 [-0.066, 1.000]
    """
    pairs = zip(ones, others, strict=True)
    found = mean(torch.tensor([float(one) - float(other) for one, other in pairs]))
    return found._replace(low=max(-1.0, found.low), high=min(1.0, found.high))
