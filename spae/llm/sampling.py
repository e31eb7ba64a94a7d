"""Choosing the next token, the same for every back end, batch and device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spae.llm.protocol import Sampling


def choose(logits: Tensor, sampling: Sampling, streams: Sequence[int], position: int) -> Tensor:
    """One column for each row of logits [B, m] -> int64 [B], on the CPU.

    Greedy takes the first of equal maxima. Otherwise the distribution is computed in float64 and row b's draw
    is the uniform number of (seed, streams[b], position), whatever else is in the batch.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=1).cpu()
    scaled = logits.detach().cpu().double() / sampling.temperature
    probabilities, order = scaled.softmax(dim=1).sort(dim=1, descending=True, stable=True)
    if sampling.top_k is not None:
        probabilities[:, sampling.top_k :] = 0
    if sampling.top_p is not None:
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities[before >= sampling.top_p] = 0
    cumulative = probabilities.cumsum(dim=1)
    draws = torch.tensor([[uniform(sampling.seed, stream, position)] for stream in streams])
    # The first column whose cumulative probability exceeds the draw; it has a probability above zero.
    columns = torch.searchsorted(cumulative, draws.double() * cumulative[:, -1:], right=True)
    last = (probabilities > 0).sum(dim=1, keepdim=True) - 1
    return order.gather(1, columns.minimum(last))[:, 0]


def uniform(seed: int, stream: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments (Philox, Salmon et al. 2011)."""
    # As uint64 from the start: a list of large numbers would pass through float64, which keeps 53 bits.
    key = np.array([seed % 2**64, stream % 2**64], dtype=np.uint64)
    counter = np.array([0, 0, 0, position % 2**64], dtype=np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    return float(int(generator.random_raw()) >> 11) * 2.0**-53
