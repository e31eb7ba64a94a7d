"""How a position's chosen codes make its next query and its quantized feature: SAQ (SPAE eqs. 2, 3) and
RQ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops.pyramid import Pyramid, chains, int64, ravel

RULES = ("saq", "rq")
FILLS = ("nearest", "zero")


class Layout(NamedTuple):
    """What quantization needs to know of a pyramid, P = number of latent positions, n = number of tokens.

    covered: bool [P], positions with a token. depth: int64 [P], tokens at each position.
    source: int64 [P], for each position itself if it is covered, else the token position of its ancestor, the
    finest cell around it.
    places: int64 [n], the position of each token. order: int64 [n], its place in its position's chain (m_l of
    eq. 2). chains: int64 [P, J], the tokens at each position in order,
    then -1.
    rounds: for each of `Pyramid.rounds` its tokens and their positions, both int64 [r], and their layers.
    """

    covered: Tensor
    depth: Tensor
    source: Tensor
    places: Tensor
    order: Tensor
    chains: Tensor
    rounds: tuple[tuple[Tensor, Tensor, tuple[int, ...]], ...]


def next_query(z: Tensor, total: Tensor, count: int | Tensor, rule: str) -> Tensor:
    """The query after `count` lookups whose codes sum to `total`; z, total [.., D] float64.

    SAQ: (m + 1) z - sum of e(k_i). RQ: z - sum of e(k_i). The product is exact for float32 values and a small
    count, so that fused multiply-add cannot change the result.
    """
    return (count + 1) * z - total if rule == "saq" else z - total


def tokens_of(pyramid: Pyramid, layer: int) -> slice:
    """A layer's tokens."""
    return slice(pyramid.num_tokens_upto(layer), pyramid.num_tokens_upto(layer + 1))


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


def layout(pyramid: Pyramid, device: torch.device) -> Layout:
    """A pyramid's tables (cut it with `upto` for fewer layers), made once per device; they must not be
    changed."""
    kept = _LAYOUTS.get((pyramid, device))
    if kept is not None:
        return kept
    with torch.inference_mode(False):
        made = _make_layout(pyramid, device)
    if type(made.depth) is Tensor:  # not one that only lives in some mode
        if len(_LAYOUTS) >= MAX_LAYOUTS:
            _LAYOUTS.clear()
        _LAYOUTS[pyramid, device] = made
    return made


MAX_LAYOUTS = 256
_LAYOUTS: dict[tuple[Pyramid, torch.device], Layout] = {}


def sources(pyramid: Pyramid) -> list[int]:
    """For each position itself if it is covered, else its ancestor: `Layout.source`, in plain numbers."""
    depth = chains(pyramid).depth
    # The finest cell around a position is its nearest ancestor; among equal grids the deepest layer's.
    finest = max(range(pyramid.num_layers), key=lambda layer: (pyramid.tokens_per_layer[layer], layer))
    ratio = [s // g for s, g in zip(pyramid.shape, pyramid.grids[finest], strict=True)]
    source = []
    for index, place in enumerate(product(*map(range, pyramid.shape))):
        cell = [p // r * r + r // 2 for p, r in zip(place, ratio, strict=True)]
        source.append(index if depth[index] else ravel(cell, pyramid.shape))
    return source


def _make_layout(pyramid: Pyramid, device: torch.device) -> Layout:
    table = chains(pyramid)
    places = [position for layer in table.places for position in layer]
    layer_of = [layer for layer, here in enumerate(table.places) for _ in here]
    tokens_at = [[-1] * len(table.rounds) for _ in table.depth]
    for number, tokens in enumerate(table.rounds):
        for token in tokens:
            tokens_at[places[token]][number] = token

    def there(values: Sequence) -> Tensor:
        return int64(values).to(device)

    depth = there(table.depth)
    return Layout(
        depth > 0,
        depth,
        there(sources(pyramid)),
        there(places),
        there(table.order),
        there(tokens_at),
        tuple(
            (there(tokens), there([places[t] for t in tokens]), tuple(layer_of[t] for t in tokens))
            for tokens in table.rounds
        ),
    )
