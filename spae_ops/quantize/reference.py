"""Pyramid quantization layer by layer, as the paper writes it, and the other pyramid ops, in plain torch."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from spae_ops._implementation import Lookup
from spae_ops.pyramid import Pyramid
from spae_ops.quantize.rules import features, layout, next_query, query_scale, tokens_of


def unavailable(device: torch.device | None) -> str | None:
    return None


def quantize(z: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, lookup: Lookup) -> tuple[Tensor, Tensor]:
    """z [B, D, *shape], codes [K, D] -> ids int64 [B, num_tokens], quantized float32 [B, D, *shape]."""
    z = channels_last(z).double()
    total = torch.zeros_like(z)
    count = torch.zeros(z.shape[1], dtype=torch.int64, device=z.device)
    ids = []
    for layer in range(pyramid.num_layers):
        at = _places(pyramid, layer, z.device)[0]
        query = next_query(z[:, at], total[:, at], count[at, None], rule).float()
        ids.append(lookup(query, [layer] * len(at)))
        total[:, at] += codes[ids[-1]].double()
        count[at] += 1
    return torch.cat(ids, 1), features(total, pyramid, rule, "nearest")


def dequantize(ids: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, fill: str) -> Tensor:
    """ids [B, num_tokens] of all layers of `pyramid`, codes [K, D] -> features float32 [B, D, *shape]."""
    return features(code_sums(ids, codes, pyramid), pyramid, rule, fill)


def layer_queries(z: Tensor, ids: Tensor, codes: Tensor, pyramid: Pyramid, layer: int, rule: str) -> Tensor:
    """The queries of a layer (eq. 2), z [B, D, *shape] -> [B, n_l, D] float32, or float64 if z is."""
    at, count = _places(pyramid, layer, z.device)
    total = z.new_zeros(len(z), len(at), codes.shape[1], dtype=torch.float64)
    if layer > 0:
        earlier = pyramid.upto(layer)
        total = code_sums(ids[:, : earlier.num_tokens], codes, earlier)[:, at]
    query = next_query(channels_last(z)[:, at].double(), total, count[:, None], rule)
    return query.to(torch.promote_types(z.dtype, torch.float32))


def layer_queries_backward(grad: Tensor, pyramid: Pyramid, layer: int, rule: str) -> Tensor:
    """Gradient of `layer_queries` in z: grad [B, n_l, D] -> [B, D, *shape]. With rule "rq" also that of
    `dilation_subsample`."""
    at, count = _places(pyramid, layer, grad.device)
    full = grad.new_zeros(len(grad), prod(pyramid.shape), grad.shape[2])
    full[:, at] = grad * query_scale(count, rule).to(grad.dtype)[:, None]
    return full.transpose(1, 2).unflatten(2, pyramid.shape).contiguous()


def dilation_subsample(z: Tensor, pyramid: Pyramid, layer: int) -> Tensor:
    """z [B, D, *shape] -> [B, n_l, D], the latents at a layer's positions (eq. 1)."""
    return channels_last(z)[:, _places(pyramid, layer, z.device)[0]].contiguous()


def channels_last(z: Tensor) -> Tensor:
    """[B, D, *shape] -> [B, P, D], a view."""
    return z.flatten(2).transpose(1, 2)


def code_sums(ids: Tensor, codes: Tensor, pyramid: Pyramid) -> Tensor:
    """Sum of the chosen codes at each position, float64 [B, P, D], added in order of layers."""
    # Not len(ids), which would fix the number of rows of what is traced.
    size = ids.shape[0], prod(pyramid.shape), codes.shape[1]
    total = torch.zeros(size, dtype=torch.float64, device=ids.device)
    for layer, chosen in enumerate(ids.split(pyramid.tokens_per_layer, dim=1)):
        total[:, _places(pyramid, layer, ids.device)[0]] += codes[chosen].double()
    return total


def _places(pyramid: Pyramid, layer: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The flat positions of a layer's tokens and m_l of eq. 2 there, both int64 [n_l]."""
    table, tokens = layout(pyramid, device), tokens_of(pyramid, layer)
    return table.places[tokens], table.order[tokens]
