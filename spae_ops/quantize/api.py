"""The pyramid ops: subsample, quantize, dequantize and layer queries; checks and registration with torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops import _checks
from spae_ops._derivatives import refuse_forward_mode
from spae_ops._dispatch import PYRAMID, SEARCH
from spae_ops._implementation import Impl, prepared_by
from spae_ops._register import READS_VALUES, differentiable, fake, op, without_derivative
from spae_ops.code_index import CodeIndex, Table, as_table
from spae_ops.pyramid import Pyramid
from spae_ops.quantize.reference import channels_last
from spae_ops.quantize.reference import dilation_subsample as subsample
from spae_ops.quantize.rounds import nearest_by_layer
from spae_ops.quantize.rules import FILLS, RULES, layout


class PyramidCodes(NamedTuple):
    """ids: int64 [B, n], layer by layer in raster order. quantized: float32 [B, D, *shape].

    covered: bool [*shape], True where a kept layer has a token.
    """

    ids: Tensor
    quantized: Tensor
    covered: Tensor


def dilation_subsample(z: Tensor, pyramid: Pyramid, layer: int) -> Tensor:
    """The latents at a layer's positions (SPAE eq. 1): z [B, D, *shape] -> [B, n_l, D], differentiable.

    z: fp32|fp16|bf16|fp64. layer: 0-based.

    >>> z = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> dilation_subsample(z, Pyramid.square(4, (1, 2, 4)), 1).flatten().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    _check_pyramid(pyramid)
    _check_layer(pyramid, layer)
    _checks.check_latents("z", z, pyramid.shape)
    refuse_forward_mode("z", z, "dilation_subsample")
    return torch.ops.spae_ops.dilation_subsample(z, *_flat(pyramid), layer)


def pyramid_quantize(
    z: Tensor,
    codes: Tensor | CodeIndex,
    pyramid: Pyramid,
    *,
    rule: str = "saq",
    num_layers: int | None = None,
    mask: Tensor | None = None,
    impl: Impl = "auto",
) -> PyramidCodes:
    """Quantize latents to a pyramid of codes by streaming average quantization (SPAE eqs. 2, 3) or by
    residuals.

    z: [B, D, *shape] fp32|fp16|bf16|fp64, finite. codes: [K, D], or a CodeIndex of it.
    mask: bool [K], or [L, K] with a row for each layer of the pyramid; True = may be chosen. Layers with
    unequal rows are looked up apart.
    rule: "saq", or "rq" for residual quantization at the same positions.
    num_layers: use only the first layers of the pyramid (None: all).

    Returns ids int64 [B, num_tokens_upto(num_layers)], the quantized latents float32 [B, D, *shape] and the
    mask of covered positions; uncovered ones take their ancestor's feature as in `pyramid_dequantize`, which
    gives the same `quantized` from the ids, bit for bit. Queries are evaluated in float64 and rounded once to
    float32, so every implementation chooses the same ids. Not differentiable: the straight-through estimator
    is the caller's.

    Raises as `nearest_code` does, and ValueError for latents that do not fit the pyramid, or whose queries do
    not fit float32.
    """
    _check_pyramid(pyramid)
    table = as_table(codes, SEARCH, impl)
    _checks.check_latents("z", z, pyramid.shape, table.codes.shape[1])
    _checks.check_device("z", z, table.codes)
    _checks.check_mask(mask, table.codes, layers=pyramid.num_layers)
    _checks.check_choice("rule", rule, RULES)
    kept = pyramid if num_layers is None else pyramid.upto(num_layers)
    if mask is not None and mask.ndim == 2:
        mask = mask[: kept.num_layers]
    ids, quantized = torch.ops.spae_ops.pyramid_quantize(z.detach(), *table, *_flat(kept), rule, mask, impl)
    return PyramidCodes(ids, quantized, _covered(kept, z.device))


def pyramid_dequantize(
    ids: Tensor,
    codes: Tensor | CodeIndex,
    pyramid: Pyramid,
    *,
    rule: str = "saq",
    num_layers: int | None = None,
    fill: str = "nearest",
    impl: Impl = "auto",
) -> PyramidCodes:
    """The features of a pyramid of codes: their running average zhat (SPAE eq. 3), or their sum for
    rule="rq".

    ids: int64 [B, n], n = a whole number of the pyramid's layers. codes: [K, D], or a CodeIndex of it.
    num_layers: use only the first layers of ids (None: as many as ids hold).
    fill: positions without a token take the feature of the nearest covered ancestor, the finest cell around
    them ("nearest"), or zero ("zero").

    Returns the ids used, quantized float32 [B, D, *shape] and covered bool [*shape].
    Raises ValueError if ids are out of range or hold no whole number of layers.
    """
    _check_pyramid(pyramid)
    table = as_table(codes)
    _checks.check_ids("ids", ids, table.codes)
    _checks.check_choice("rule", rule, RULES)
    _checks.check_choice("fill", fill, FILLS)
    _checks.check_impl(impl)
    if ids.ndim != 2:
        raise ValueError(f"ids: expected shape [B, n], got {list(ids.shape)}")
    kept = pyramid.upto(pyramid.num_layers_of(ids.shape[1], name="ids"))
    if num_layers is not None:
        kept = kept.upto(num_layers)
    ids = ids[:, : kept.num_tokens]
    quantized = torch.ops.spae_ops.pyramid_dequantize(ids, table.codes, *_flat(kept), rule, fill, impl)
    return PyramidCodes(ids, quantized, _covered(kept, ids.device))


def layer_queries(
    z: Tensor,
    ids: Tensor,
    codes: Tensor | CodeIndex,
    pyramid: Pyramid,
    layer: int,
    *,
    rule: str = "saq",
    impl: Impl = "auto",
) -> Tensor:
    """The queries z_l that a layer looks up (SPAE eq. 2), differentiable in z with the factor m_l + 1 (1 for
    rule="rq").

    z: [B, D, *shape] fp32|fp16|bf16|fp64. ids: int64 [B, n], holding at least the layers before `layer`
    (0-based).
    Returns [B, n_l, D] float32 (float64 if z is). NotImplementedError for a z with a forward-mode tangent.
    """
    _check_pyramid(pyramid)
    _check_layer(pyramid, layer)
    table = as_table(codes)
    _checks.check_latents("z", z, pyramid.shape, table.codes.shape[1])
    _checks.check_device("z", z, table.codes)
    _checks.check_ids("ids", ids, table.codes)
    _checks.check_choice("rule", rule, RULES)
    _checks.check_impl(impl)
    needed = pyramid.num_tokens_upto(layer)
    if ids.ndim != 2 or ids.shape[0] != z.shape[0] or ids.shape[1] < needed:
        raise ValueError(f"ids: expected shape [{z.shape[0]}, n] with n >= {needed}, got {list(ids.shape)}")
    refuse_forward_mode("z", z, "layer_queries")
    return torch.ops.spae_ops.layer_queries(z, ids, table.codes, *_flat(pyramid), layer, rule, impl)


def _check_pyramid(pyramid: Pyramid) -> None:
    if not isinstance(pyramid, Pyramid):
        raise _checks.ArgumentTypeError(f"pyramid: expected a spae_ops.Pyramid, got {type(pyramid).__name__}")


def _check_layer(pyramid: Pyramid, layer: int) -> None:
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < pyramid.num_layers:
        raise ValueError(f"layer: expected 0..{pyramid.num_layers - 1}, got {layer!r}")


def _covered(pyramid: Pyramid, device: torch.device) -> Tensor:
    return torch.ops.spae_ops.pyramid_covered(*_flat(pyramid), device)


# The registered ops take a pyramid as its shape and its grids laid end to end: schemas know no classes.


def _flat(pyramid: Pyramid) -> tuple[list[int], list[int]]:
    return list(pyramid.shape), [size for grid in pyramid.grids for size in grid]


def unflat(shape: Sequence[int], grids: Sequence[int]) -> Pyramid:
    axes = len(shape)
    return Pyramid(tuple(shape), tuple(tuple(grids[i : i + axes]) for i in range(0, len(grids), axes)))


@op("pyramid_covered", "int[] shape, int[] grids, Device device")
def _pyramid_covered(shape, grids, device):
    return layout(unflat(shape, grids), device).covered.reshape(shape).clone()


@fake("pyramid_covered")
def _(shape, grids, device):
    return torch.empty(shape, dtype=torch.bool, device=device)


@op(
    "pyramid_quantize",
    "Tensor z, Tensor codes, Tensor[] prepared, str layout, SymInt[] origin, int[] shape, int[] grids,"
    " str rule, Tensor? mask, str impl",
    "(Tensor, Tensor)",
    READS_VALUES,
)
def _pyramid_quantize(z, codes, prepared, layout, origin, shape, grids, rule, mask, impl):
    table = Table(codes, prepared, layout, origin)
    kept = unflat(shape, grids)
    name, search = SEARCH.resolve(
        "pyramid_quantize",
        impl,
        z.device,
        preferred=table.owner,
        codes=codes,
        vouched=table.made_here,
        queries=len(z) * kept.num_tokens,
    )
    # Queries and features are gathered by the lookups' namesake, where there is one for these latents.
    _, gather = PYRAMID.resolve(
        "pyramid_quantize", "auto", z.device, z.dtype, name, codes, vouched=impl != "auto"
    )
    table.check()
    if not _checks.all_finite(z):
        _checks.check_finite("z", channels_last(z).reshape(-1, z.shape[1]))
    _checks.check_allowed(mask, len(codes), 1)
    codes = codes.contiguous()
    prepared = prepared_by(search, codes, prepared, layout)

    def nearest(query: Tensor, allowed: Tensor | None) -> Tensor:
        flat = query.flatten(0, 1).contiguous()
        return search.search(flat, codes, prepared, allowed, 1)[0][:, 0].reshape(query.shape[:2])

    choose = nearest_by_layer(nearest, mask)

    def lookup(query: Tensor, layers: Sequence[int]) -> Tensor:
        _check_queries(query, z)
        return choose(query, layers)

    return gather.quantize(z, codes, kept, rule, lookup)


def _check_queries(query: Tensor, z: Tensor) -> None:
    """Of finite latents and codes, queries [N, D] are finite too unless they are beyond float32."""
    if not _checks.all_finite(query):
        raise ValueError(
            "z: expected latents whose queries, z and what quantizing left of it, fit float32, "
            f"got values up to {float(z.abs().max()):.3g}"
        )


@fake("pyramid_quantize")
def _(z, codes, prepared, layout, origin, shape, grids, rule, mask, impl):
    ids = z.new_empty(z.shape[0], unflat(shape, grids).num_tokens, dtype=torch.int64)
    return ids, z.new_empty(z.shape, dtype=torch.float32)


@op(
    "pyramid_dequantize",
    "Tensor ids, Tensor codes, int[] shape, int[] grids, str rule, str fill, str impl",
    tags=READS_VALUES,
)
def _pyramid_dequantize(ids, codes, shape, grids, rule, fill, impl):
    _checks.check_range("ids", ids, len(codes))
    _, implementation = PYRAMID.resolve("pyramid_dequantize", impl, codes.device, codes=codes)
    return implementation.dequantize(ids, codes, unflat(shape, grids), rule, fill)


@fake("pyramid_dequantize")
def _(ids, codes, shape, grids, rule, fill, impl):
    return codes.new_empty(ids.shape[0], codes.shape[1], *shape, dtype=torch.float32)


@op(
    "layer_queries",
    "Tensor z, Tensor ids, Tensor codes, int[] shape, int[] grids, int layer, str rule, str impl",
    tags=READS_VALUES,
)
def _layer_queries(z, ids, codes, shape, grids, layer, rule, impl):
    pyramid = unflat(shape, grids)
    _checks.check_range("ids", ids[:, : pyramid.num_tokens_upto(layer)], len(codes))
    _, implementation = PYRAMID.resolve("layer_queries", impl, z.device, z.dtype, codes=codes)
    return implementation.layer_queries(z, ids, codes, pyramid, layer, rule)


@fake("layer_queries")
def _(z, ids, codes, shape, grids, layer, rule, impl):
    tokens = unflat(shape, grids).tokens_per_layer[layer]
    return z.new_empty(z.shape[0], tokens, z.shape[1], dtype=torch.promote_types(z.dtype, torch.float32))


@op("dilation_subsample", "Tensor z, int[] shape, int[] grids, int layer")
def _dilation_subsample(z, shape, grids, layer):
    return subsample(z, unflat(shape, grids), layer)


@fake("dilation_subsample")
def _(z, shape, grids, layer):
    return z.new_empty(z.shape[0], unflat(shape, grids).tokens_per_layer[layer], z.shape[1])


@op("layer_queries_backward", "Tensor grad, int[] shape, int[] grids, int layer, str rule, str impl")
def _layer_queries_backward(grad, shape, grids, layer, rule, impl):
    _, implementation = PYRAMID.resolve("layer_queries", impl, grad.device, codes=grad)
    return implementation.layer_queries_backward(grad, unflat(shape, grids), layer, rule)


@fake("layer_queries_backward")
def _(grad, shape, grids, layer, rule, impl):
    return grad.new_empty(grad.shape[0], grad.shape[2], *shape)


def _setup_layer_queries(ctx, inputs, output):
    z, _, _, *ctx.arguments = inputs
    ctx.dtype = z.dtype


def _setup_dilation_subsample(ctx, inputs, output):
    z, *arguments = inputs
    ctx.arguments = [*arguments, "rq", "auto"]  # the derivative of a residual query in z is plain subsampling
    ctx.dtype = z.dtype


def _backward_to_latents(ctx, grad):
    return torch.ops.spae_ops.layer_queries_backward(grad, *ctx.arguments).to(ctx.dtype)


differentiable(
    "layer_queries", lambda ctx, grad: (_backward_to_latents(ctx, grad), *[None] * 7), _setup_layer_queries
)
differentiable(
    "dilation_subsample",
    lambda ctx, grad: (_backward_to_latents(ctx, grad), *[None] * 3),
    _setup_dilation_subsample,
)
without_derivative(
    "layer_queries_backward", "layer_queries: expected at most one derivative in z, got a second: it has none"
)
for _name in ("pyramid_quantize", "pyramid_dequantize"):
    without_derivative(_name, f"{_name}: expected no gradient of its results: they have none")
