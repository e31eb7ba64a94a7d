"""Cross-entropy of a softmax over negative squared distances, streamed over the codes in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops.nearest_code.distance import squared_distance
from spae_ops.nearest_code.reference import COLUMNS, ROWS, screen


def unavailable(device: torch.device | None) -> str | None:
    return None


def prepare(codes: Tensor) -> list[Tensor]:
    return []


def loss_and_gradient(
    x: Tensor,
    codes: Tensor,
    prepared: list[Tensor],
    target: Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """x [N, D], codes [K, D], target int64 [N] -> loss [N] and its gradient in x [N, D] ([0, D] unless asked
    for), float64.

    loss = d_y / tau + log sum_k exp(-d_k / tau);  gradient = 2 / tau (sum_k p_k c_k - c_y). One pass over
    blocks of codes keeps the smallest distance so far, the sum of exponentials relative to it, and the
    weighted sum of codes.
    """
    loss = x.new_empty(len(x), dtype=torch.float64)
    gradient = x.new_empty(len(x) if with_gradient else 0, x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        q, own = x[rows].double(), codes[target[rows]].double()
        nearest, partition, mean = _stream(q, codes, temperature, with_gradient)
        # Rounding may put the target a hair nearer than the nearest; a cross-entropy is never negative.
        excess = (squared_distance(q, own) - nearest) / temperature + partition.log()
        loss[rows] = excess.clamp_min(0)
        if with_gradient:
            gradient[rows] = (mean - own) * (2 / temperature)
    return loss, gradient


def _stream(q: Tensor, codes: Tensor, temperature: float, with_mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Per query: min_k d_k, sum_k exp(-(d_k - min) / tau), and the softmax-weighted mean of the codes."""
    nearest = q.new_full((len(q),), torch.inf)
    partition = torch.zeros_like(nearest)
    weighted = torch.zeros_like(q)
    for start in range(0, len(codes), COLUMNS):
        c = codes[start : start + COLUMNS].double()
        distance = screen(q, c)[0].clamp_min_(0)
        lowest = torch.minimum(nearest, distance.amin(1))
        fade = torch.exp((lowest - nearest) / temperature)
        weight = torch.exp_(distance.sub_(lowest[:, None]).div_(-temperature))
        partition = partition * fade + weight.sum(1)
        if with_mean:
            weighted = weighted * fade[:, None] + weight @ c
        nearest = lowest
    return nearest, partition, weighted / partition[:, None]
