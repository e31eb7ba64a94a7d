"""Cross-entropy of a softmax over negative squared distances, streamed over the codes in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops.lookup.distance import squared_distance
from spae_ops.lookup.torch import COLUMNS, LAYOUT, ROWS, Prepared, prepare, screen, unavailable

__all__ = ["LAYOUT", "Prepared", "loss_and_gradient", "prepare", "unavailable"]


def loss_and_gradient(
    x: Tensor,
    codes: Tensor,
    prepared: Prepared,
    target: Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """x [N, D], codes [K, D], target int64 [N] -> loss [N] and its gradient in x [N, D] ([0, D] unless asked
    for), float64.

    With the target y taken out of the sums, Z = sum_{k != y} exp((d_0 - d_k) / tau), d_0 the least of those
    distances, and a = log Z + (d_y - d_0) / tau:

        loss = log(1 + e^a)
        gradient = 2 / tau / (1 + e^-a) (sum_{k != y} exp((d_0 - d_k) / tau) c_k / Z - c_y)

    so that neither cancels where the target takes nearly all of the probability: the loss is as accurate,
    relative to itself, as a is absolutely, within (2 D + 32) 2^-53 (|x| + max |c|)^2 / tau. One pass over
    blocks of codes keeps d_0 so far and both sums relative to it.
    """
    loss = x.new_empty(len(x), dtype=torch.float64)
    gradient = x.new_empty(len(x) if with_gradient else 0, x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        q, own = x[rows].double(), codes[target[rows]].double()
        nearest, partition, mean = _stream(q, codes, target[rows], temperature, with_gradient)
        odds = (squared_distance(q, own) - nearest) / temperature + partition.log()
        loss[rows] = odds.clamp_min(0) + torch.log1p(torch.exp(-odds.abs()))
        if with_gradient:
            gradient[rows] = (mean - own) * (torch.sigmoid(odds) * 2 / temperature)[:, None]
    return loss, gradient


def _stream(
    q: Tensor, codes: Tensor, target: Tensor, temperature: float, with_mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Per query, over all codes but its target: min d_k, sum of exp(-(d_k - min) / tau), and the mean of the
    codes weighted by those; infinity and zeros where there are none."""
    nearest = q.new_full((len(q),), torch.inf)
    partition = torch.zeros_like(nearest)
    weighted = torch.zeros_like(q)
    for start in range(0, len(codes), COLUMNS):
        c = codes[start : start + COLUMNS].double()
        distance = screen(q, c)[0].clamp_min_(0)
        column = torch.arange(start, start + len(c), device=q.device)
        distance.masked_fill_(column == target[:, None], torch.inf)
        lowest = torch.minimum(nearest, distance.amin(1))
        base = lowest.nan_to_num(posinf=0)  # none yet
        fade = torch.exp((base - nearest) / temperature)
        weight = torch.exp_(distance.sub_(base[:, None]).div_(-temperature))
        partition = partition * fade + weight.sum(1)
        if with_mean:
            weighted = weighted * fade[:, None] + weight @ c
        nearest = lowest
    return nearest, partition, weighted / partition.clamp_min(1)[:, None]
