"""How a position's chosen codes make its next query and its quantized feature: SAQ (SPAE eqs. 2, 3) and
RQ."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops.pyramid import Pyramid, ravel

RULES = ("saq", "rq")
FILLS = ("nearest", "zero")


class Layout(NamedTuple):
    """What quantization needs to know of a pyramid, P = number of latent positions, n = number of tokens.

    covered: bool [P], positions with a token. depth: int64 [P], tokens at each position.
    source: int64 [P], for each position itself if it is covered, else the token position of its ancestor, the
    finest cell around it.
    places: int64 [n], the position of each token. chains: int64 [P, J], the tokens at each position in order,
    then -1.
    rounds: for each of `Pyramid.rounds` its tokens and their positions, both int64 [r].
    """

    covered: Tensor
    depth: Tensor
    source: Tensor
    places: Tensor
    chains: Tensor
    rounds: tuple[tuple[Tensor, Tensor], ...]


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
    table = layout(pyramid, total.device)
    if rule == "saq":
        total = total / table.depth.clamp_min(1)[:, None]
    if fill == "nearest":
        total = total[:, table.source]
    return total.float().transpose(1, 2).unflatten(2, pyramid.shape).contiguous()


@lru_cache(maxsize=256)
def layout(pyramid: Pyramid, device: torch.device) -> Layout:
    """A pyramid's tables (cut it with `upto` for fewer layers), made once per device; they must not be
    changed."""
    depth = pyramid.depth().flatten()
    covered = depth > 0
    # The finest cell around a position is its nearest ancestor; among equal grids the deepest layer's.
    finest = max(range(pyramid.num_layers), key=lambda layer: (pyramid.tokens_per_layer[layer], layer))
    everywhere = torch.cartesian_prod(*(torch.arange(size) for size in pyramid.shape)).reshape(
        -1, pyramid.ndim
    )
    ratio = torch.tensor([s // g for s, g in zip(pyramid.shape, pyramid.grids[finest], strict=True)])
    ancestor = ravel(everywhere // ratio * ratio + ratio // 2, pyramid.shape)
    source = torch.where(covered, torch.arange(len(covered)), ancestor)

    places = torch.cat([pyramid.flat_positions(layer) for layer in range(pyramid.num_layers)])
    rounds = [(step.tokens, places[step.tokens]) for step in pyramid.rounds()]
    chains = torch.full((len(covered), len(rounds)), -1)
    for number, (tokens, at) in enumerate(rounds):
        chains[at, number] = tokens
    return Layout(
        covered.to(device),
        depth.to(device),
        source.to(device),
        places.to(device),
        chains.to(device),
        tuple((tokens.to(device), at.to(device)) for tokens, at in rounds),
    )
