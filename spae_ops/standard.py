"""The ops that encode and decode in standard operators of torch, for formats that know no others.

What is traced inside `standard_operators` is made of them; `spae.export` writes ONNX by way of it. Shapes are
static but for the number of rows, and nothing depends on values, so that any exporter follows.

Lookups compute |q|^2 - 2<q,c> + |c|^2 in float64, block by block of the codes, and take the lowest id of
those that are the nearest up to the rounding of that: of equal codes the first, as the ops do. Another id
than the op's is possible only where two distances differ by less than some 1e-12 of |q|^2 + |c|^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spae_ops.quantize import reference
from spae_ops.quantize.api import unflat
from spae_ops.quantize.rules import layout

COLUMNS = 8192  # a block of distances is [N, 8192] float64


def standard_operators() -> TorchFunctionMode:
    """A context in which `nearest_code`, `pyramid_quantize` and `pyramid_dequantize` run as operators of
    torch's own, those of the same name registered here left out.

    It is meant for tracing: run as they are they hold an [N, 8192] float64 tensor and check no values.

    >>> from spae_ops import nearest_code
    >>> with standard_operators():
    ...     nearest_code(torch.tensor([[0.9, 0.2], [0.0, 3.0]]), torch.eye(2)).ids
    tensor([0, 1])
    """
    own = (_nearest_code, _pyramid_quantize, _pyramid_dequantize, _pyramid_covered)
    return _Standard({getattr(torch.ops.spae_ops, function.__name__[1:]): function for function in own})


class _Standard(TorchFunctionMode):
    def __init__(self, instead: dict[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.instead = instead

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (self.instead.get(func) or func)(*args, **(kwargs or {}))


def _nearest_code(x, codes, prepared, index_layout, origin, mask, impl):
    ids = _nearest(x, codes, mask)
    return ids, (x.double() - codes[ids].double()).square().sum(1).float()


def _pyramid_quantize(z, codes, prepared, index_layout, origin, shape, grids, rule, mask, impl):
    def lookup(query, layers):
        allowed = mask[layers[0]] if mask is not None and mask.ndim == 2 else mask
        return _nearest(query.flatten(0, 1), codes, allowed).unflatten(0, (-1, query.shape[1]))

    return reference.quantize(z, codes, unflat(shape, grids), rule, lookup)


def _pyramid_dequantize(ids, codes, shape, grids, rule, fill, impl):
    return reference.dequantize(ids, codes, unflat(shape, grids), rule, fill)


def _pyramid_covered(shape, grids, device):
    return layout(unflat(shape, grids), device).covered.reshape(shape).clone()


def _nearest(x: Tensor, codes: Tensor, mask: Tensor | None) -> Tensor:
    """x [N, D], codes [K, D], mask bool [K] or None -> int64 [N]."""
    query = x.double()
    length = query.square().sum(1, keepdim=True)
    best = ids = None
    for start in range(0, codes.shape[0], COLUMNS):
        block = codes[start : start + COLUMNS].double()
        lengths = block.square().sum(1)
        distance = length - 2 * (query @ block.T) + lengths
        if mask is not None:
            distance = torch.where(mask[start : start + COLUMNS], distance, torch.inf)
        # As in `spae_ops.lookup.torch.screen`; twice, for both of what is compared are off.
        slack = 2 * (2 * codes.shape[1] + 32) * 2.0**-53 * (length.sqrt() + lengths.max().sqrt()).square()
        least = distance.amin(1, keepdim=True)
        columns = torch.arange(start, start + block.shape[0], device=x.device)
        first = torch.where(distance <= least + slack, columns, codes.shape[0]).amin(1, keepdim=True)
        if best is None or ids is None:
            best, ids = least, first
        else:
            better = least < best - slack
            best, ids = torch.where(better, least, best), torch.where(better, first, ids)
    assert ids is not None
    return ids[:, 0]


__all__ = ["standard_operators"]
