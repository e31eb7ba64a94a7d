"""Lookups in rounds, where queries are gathered from the codes chosen so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spae_ops._implementation import Lookup
from spae_ops.pyramid import Pyramid
from spae_ops.quantize.rules import layout


def choose(z: Tensor, pyramid: Pyramid, gather: Callable[[Tensor, int], Tensor], lookup: Lookup) -> Tensor:
    """The ids int64 [B, num_tokens] of latents z [B, D, *shape].

    gather(ids, j): the queries of round j, float32 [B, r, D], from what the rounds before it chose; the rest
    of ids is not there yet.
    """
    ids = torch.empty(len(z), pyramid.num_tokens, dtype=torch.int64, device=z.device)
    for number, (tokens, _, layers) in enumerate(layout(pyramid, z.device).rounds):
        ids[:, tokens] = lookup(gather(ids, number), layers)
    return ids


def nearest_by_layer(nearest: Callable[[Tensor, Tensor | None], Tensor], mask: Tensor | None) -> Lookup:
    """Lookups among the codes that each query's layer may take.

    nearest(query, allowed): float32 [B, r, D] and bool [K] or None -> ids int64 [B, r]. mask: None, bool [K]
    for all layers, or [L, K]; layers with equal rows are looked up together.
    """
    if mask is None or mask.ndim == 1:
        return lambda query, layers: nearest(query, mask)
    rows = list(mask)
    first_alike = [next(j for j, other in enumerate(rows) if torch.equal(row, other)) for row in rows]

    def lookup(query: Tensor, layers: Sequence[int]) -> Tensor:
        owners = [first_alike[layer] for layer in layers]
        distinct = sorted(set(owners))
        if len(distinct) == 1:
            return nearest(query, rows[distinct[0]])
        ids = torch.empty(query.shape[:2], dtype=torch.int64, device=query.device)
        for owner in distinct:
            at = torch.tensor([i for i, own in enumerate(owners) if own == owner], device=query.device)
            ids[:, at] = nearest(query[:, at], rows[owner])
        return ids

    return lookup
