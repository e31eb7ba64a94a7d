"""The pyramid ops on CPUs, compiled: queries and features are gathered straight from the codes chosen so far.

A position has few codes, so adding them up again costs less than keeping float64 sums of the whole latent
grid. Values are those of `rules`, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops import _extension
from spae_ops._checks import QUERY_DTYPES
from spae_ops._implementation import Lookup
from spae_ops.lookup.cpu import unavailable
from spae_ops.pyramid import Pyramid
from spae_ops.quantize.reference import layer_queries_backward
from spae_ops.quantize.rounds import choose
from spae_ops.quantize.rules import layout, tokens_of

# Of the latents: float64 products would not be exact, so that fused multiply-add could change them.
DTYPES = QUERY_DTYPES


def quantize(z: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, lookup: Lookup) -> tuple[Tensor, Tensor]:
    """z [B, D, *shape], codes [K, D] -> ids int64 [B, num_tokens], quantized float32 [B, D, *shape]."""
    table = layout(pyramid, z.device)

    def gather(ids: Tensor, number: int) -> Tensor:
        at = table.rounds[number][1]
        return _queries(z, ids, codes, at, table.chains[at, :number], rule)

    ids = choose(z, pyramid, gather, lookup)
    return ids, dequantize(ids, codes, pyramid, rule, "nearest")


def dequantize(ids: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, fill: str) -> Tensor:
    """ids [B, num_tokens] of all layers of `pyramid`, codes [K, D] -> features float32 [B, D, *shape]."""
    table = layout(pyramid, ids.device)
    chains = table.chains[table.source] if fill == "nearest" else table.chains
    return _features(ids, codes, chains, rule).unflatten(2, pyramid.shape)


def layer_queries(z: Tensor, ids: Tensor, codes: Tensor, pyramid: Pyramid, layer: int, rule: str) -> Tensor:
    """The queries of a layer (eq. 2), z [B, D, *shape] -> [B, n_l, D] float32."""
    table = layout(pyramid, z.device)
    tokens = tokens_of(pyramid, layer)
    at = table.places[tokens]
    chains = table.chains[at]
    return _queries(z, ids, codes, at, torch.where(chains < tokens.start, chains, -1), rule)


def _queries(z: Tensor, ids: Tensor, codes: Tensor, at: Tensor, chains: Tensor, rule: str) -> Tensor:
    _extension.load()
    return torch.ops.spae_ops.pyramid_queries_cpu(
        z.flatten(2), ids.contiguous(), codes.contiguous(), at, chains.contiguous(), rule == "saq"
    )


def _features(ids: Tensor, codes: Tensor, chains: Tensor, rule: str) -> Tensor:
    _extension.load()
    return torch.ops.spae_ops.pyramid_features_cpu(
        ids.contiguous(), codes.contiguous(), chains.contiguous(), rule == "saq"
    )


__all__ = ["DTYPES", "dequantize", "layer_queries", "layer_queries_backward", "quantize", "unavailable"]
