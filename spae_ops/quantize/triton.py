"""The pyramid ops on NVIDIA GPUs, in Triton: queries and features are gathered from the codes chosen so far.

As on CPUs, a position's few codes are added up again for each query, and no running sums are kept. Values are
those of `rules`, bit for bit. Nothing waits for the device. Nothing here has run on a GPU: the kernels are
tested in Triton's interpreter (TRITON_INTERPRET=1 in the environment when triton is first imported) and
compiled for sm_80, sm_90 and sm_100.
"""

# Launch options, and arguments given by unpacking, are beyond pyright.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod

import torch
from torch import Tensor

from spae_ops._checks import QUERY_DTYPES
from spae_ops._implementation import Lookup
from spae_ops.pyramid import Pyramid
from spae_ops.quantize.rounds import choose
from spae_ops.quantize.rules import layout, tokens_of

try:
    import triton

    from spae_ops.lookup.triton import OPTIONS, unavailable
    from spae_ops.quantize import triton_kernel as kernels
except ImportError as error:
    raise ImportError(f"needs triton 3.6 or later, pip install 'triton>=3.6': {error}") from error

# Of the latents: float64 products would not be exact, so that fused multiply-add could change them.
DTYPES = QUERY_DTYPES
# A block of channels-first latents is read 32 neighbours at a time, of codes 64.
BLOCKS = {"PLACES": 32, "BLOCK": 64, "num_warps": 8}


def quantize(z: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, lookup: Lookup) -> tuple[Tensor, Tensor]:
    """z [B, D, *shape], codes [K, D] -> ids int64 [B, num_tokens], quantized float32 [B, D, *shape]."""
    codes, table = codes.contiguous(), layout(pyramid, z.device)

    def gather(ids: Tensor, number: int) -> Tensor:
        return _queries(z, ids, codes, pyramid, table.rounds[number][1], rule, length=number)

    ids = choose(z, pyramid, gather, lookup)
    return ids, dequantize(ids, codes, pyramid, rule, "nearest")


def dequantize(ids: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, fill: str) -> Tensor:
    """ids [B, num_tokens] of all layers of `pyramid`, codes [K, D] -> features float32 [B, D, *shape]."""
    ids, codes, table = ids.contiguous(), codes.contiguous(), layout(pyramid, ids.device)
    out = torch.empty(len(ids), codes.shape[1], *pyramid.shape, dtype=torch.float32, device=ids.device)
    if out.numel() > 0:
        places, width = prod(pyramid.shape), codes.shape[1]
        with _on(ids):
            kernels.features[_grid(len(ids), places, width)](
                ids, codes, table.source, table.chains, out, places, ids.shape[1], table.chains.shape[1],
                width, AVERAGE=rule == "saq", NEAREST=fill == "nearest", **BLOCKS, **OPTIONS,
            )  # fmt: skip
    return out


def layer_queries(z: Tensor, ids: Tensor, codes: Tensor, pyramid: Pyramid, layer: int, rule: str) -> Tensor:
    """The queries of a layer (eq. 2), z [B, D, *shape] -> [B, n_l, D] float32."""
    tokens = tokens_of(pyramid, layer)
    at = layout(pyramid, z.device).places[tokens]
    return _queries(z, ids.contiguous(), codes.contiguous(), pyramid, at, rule, limit=tokens.start)


def layer_queries_backward(grad: Tensor, pyramid: Pyramid, layer: int, rule: str) -> Tensor:
    """Gradient of `layer_queries` in z: grad [B, n_l, D] fp32|fp64 -> [B, D, *shape]. With rule "rq", and any
    dtype, also that of `dilation_subsample`."""
    grad, chains, tokens = grad.contiguous(), layout(pyramid, grad.device).chains, tokens_of(pyramid, layer)
    images, count, width = grad.shape
    out = grad.new_empty(images, width, *pyramid.shape)
    if out.numel() > 0:
        places = prod(pyramid.shape)
        with _on(grad):
            kernels.queries_backward[_grid(images, places, width)](
                grad, chains, out, places, tokens.start, count, chains.shape[1], width,
                AVERAGE=rule == "saq", **BLOCKS, **OPTIONS,
            )  # fmt: skip
    return out


def _queries(
    z: Tensor,
    ids: Tensor,
    codes: Tensor,
    pyramid: Pyramid,
    at: Tensor,
    rule: str,
    *,
    length: int | None = None,
    limit: int | None = None,
) -> Tensor:
    """The queries at positions at [R], [B, R, D], from the first `length` tokens there, or those below
    `limit`."""
    z, chains = z.flatten(2), layout(pyramid, z.device).chains
    images, width = z.shape[:2]
    out = torch.empty(images, len(at), width, dtype=torch.float32, device=z.device)
    if out.numel() > 0:
        row = chains.shape[1]
        with _on(z):
            kernels.queries[_grid(images, len(at), width)](
                z, ids, codes, at, chains, out, len(at), ids.shape[1], row,
                row if length is None else length, ids.shape[1] if limit is None else limit, width,
                *z.stride(), AVERAGE=rule == "saq", **BLOCKS, **OPTIONS,
            )  # fmt: skip
    return out


def _grid(images: int, places: int, width: int) -> tuple[int, int]:
    return images * triton.cdiv(places, BLOCKS["PLACES"]), triton.cdiv(width, BLOCKS["BLOCK"])


def _on(tensor: Tensor) -> AbstractContextManager:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


__all__ = ["DTYPES", "dequantize", "layer_queries", "layer_queries_backward", "quantize", "unavailable"]
