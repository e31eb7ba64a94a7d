"""Lookups in rounds, where queries are gathered from the codes chosen so far."""

from __future__ import annotations

from collections.abc import Callable

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
    for number, (tokens, _) in enumerate(layout(pyramid, z.device).rounds):
        query = gather(ids, number)
        ids[:, tokens] = lookup(query.flatten(0, 1)).reshape(query.shape[:2])
    return ids
