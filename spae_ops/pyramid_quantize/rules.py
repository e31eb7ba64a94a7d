"""How a position's chosen codes make its next query and its quantized feature: SAQ (SPAE eqs. 2, 3) and
RQ."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops.pyramid import Pyramid, ravel

RULES = ("saq", "rq")
FILLS = ("nearest", "zero")


class Layout(NamedTuple):
    """What dequantization needs to know of a pyramid, P = number of latent positions.

    covered: bool [P], positions with a token. source: int64 [P], for each position itself if it is covered,
    else the token position of its ancestor, the finest cell around it.
    """

    covered: Tensor
    source: Tensor


def next_query(z: Tensor, total: Tensor, count: int | Tensor, rule: str) -> Tensor:
    """The query after `count` lookups whose codes sum to `total`; z, total [.., D] float64.

    SAQ: (m + 1) z - sum of e(k_i). RQ: z - sum of e(k_i). The product is exact for float32 values and a small
    count, so that fused multiply-add cannot change the result.
    """
    return (count + 1) * z - total if rule == "saq" else z - total


def query_scale(count: Tensor, rule: str) -> Tensor:
    """The derivative of `next_query` in z, per position."""
    return count + 1 if rule == "saq" else torch.ones_like(count)


def features(total: Tensor, pyramid: Pyramid, rule: str, fill: str) -> Tensor:
    """Sums of codes [B, P, D] float64 -> quantized features [B, D, *shape] float32.

    SAQ averages the codes of a position, RQ adds them. A position without tokens takes the feature at its
    ancestor (fill="nearest") or stays zero (fill="zero").
    """
    if rule == "saq":
        total = total / pyramid.depth().flatten().clamp_min(1).to(total.device)[:, None]
    if fill == "nearest":
        total = total[:, layout(pyramid).source.to(total.device)]
    return total.float().transpose(1, 2).unflatten(2, pyramid.shape).contiguous()


def layout(pyramid: Pyramid) -> Layout:
    """Coverage and ancestors of the positions of a pyramid (cut it with `upto` for fewer layers)."""
    covered = pyramid.depth().flatten() > 0
    # The finest cell around a position is its nearest ancestor; among equal grids the deepest layer's.
    finest = max(range(pyramid.num_layers), key=lambda layer: (pyramid.tokens_per_layer[layer], layer))
    everywhere = torch.cartesian_prod(*(torch.arange(size) for size in pyramid.shape)).reshape(
        -1, pyramid.ndim
    )
    ratio = torch.tensor([s // g for s, g in zip(pyramid.shape, pyramid.grids[finest], strict=True)])
    ancestor = ravel(everywhere // ratio * ratio + ratio // 2, pyramid.shape)
    return Layout(covered, torch.where(covered, torch.arange(len(covered)), ancestor))
