"""Pyramid quantization in rounds: as few, as large lookups as the dependencies allow.

Every lookup depends only on earlier ones at its own position (eqs. 1, 2), so the j-th lookups of all
positions run together: 3 batches for the paper's 6 layers, and the m_l of eq. 2 is the number of the round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops._implementation import Lookup
from spae_ops.pyramid import Pyramid
from spae_ops.quantize.reference import (
    channels_last,
    dequantize,
    layer_queries,
    layer_queries_backward,
    unavailable,
)
from spae_ops.quantize.rules import features, layout, next_query

__all__ = ["dequantize", "layer_queries", "layer_queries_backward", "quantize", "unavailable"]


def quantize(z: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, lookup: Lookup) -> tuple[Tensor, Tensor]:
    """z [B, D, *shape], codes [K, D] -> ids int64 [B, num_tokens], quantized float32 [B, D, *shape]."""
    z = channels_last(z)
    total = torch.zeros(z.shape, dtype=torch.float64, device=z.device)
    ids = torch.empty(len(z), pyramid.num_tokens, dtype=torch.int64, device=z.device)
    for number, (tokens, at, layers) in enumerate(layout(pyramid, z.device).rounds):
        query = next_query(z[:, at].double(), total[:, at], number, rule).float()
        chosen = lookup(query, layers)
        ids[:, tokens] = chosen
        total[:, at] += codes[chosen].double()
    return ids, features(total, pyramid, rule, "nearest")
