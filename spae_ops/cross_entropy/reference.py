"""The definition of `distance_cross_entropy` and its gradient, a query at a time, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops.lookup.distance import squared_distance
from spae_ops.lookup.reference import LAYOUT, Prepared, prepare, split, unavailable

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

    With p = softmax(-d / tau): loss = -log p_y; gradient = 2 / tau sum_k p_k (c_k - c_y).
    """
    loss = x.new_empty(len(x), dtype=torch.float64)
    gradient = x.new_empty(len(x) if with_gradient else 0, x.shape[1], dtype=torch.float64)
    chunks = split(codes)
    for row, (query, y) in enumerate(zip(x.double(), target.tolist(), strict=True)):
        distance = torch.cat([squared_distance(query.expand_as(c), c) for c in chunks])
        score = (distance.min() - distance) / temperature
        others = torch.cat([score[:y], score[y + 1 :]])
        # log(1 + the sum over the others): a loss close to zero keeps its digits, and so does the gradient.
        loss[row] = torch.logaddexp(others.new_zeros(()), others.logsumexp(0) - score[y])
        if with_gradient:
            weights = score.softmax(0).split(len(chunks[0]))
            own = codes[y].double()
            pulls = [p @ (c.double() - own) for p, c in zip(weights, chunks, strict=True)]
            gradient[row] = torch.stack(pulls).sum(0) * (2 / temperature)
    return loss, gradient
