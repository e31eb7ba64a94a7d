"""The ops that encode and decode in standard operators of torch, for formats that know no others.

What is traced inside `standard_operators` is made of them; `spae.export` writes ONNX by way of it. Shapes are
static but for the number of rows, and nothing depends on values, so that any exporter follows.

Lookups compute |q|^2 - 2<q,c> + |c|^2 in float64, block by block of the codes, and take the lowest id of
those that are the nearest up to the rounding of that: of equal codes the first, as the ops do. Another id
than the op's is possible only where two distances differ by less than some 1e-12 of |q|^2 + |c|^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spae_ops.pyramid import Pyramid, chains
from spae_ops.quantize.api import unflat
from spae_ops.quantize.rules import sources

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
    pyramid = unflat(shape, grids)
    values = z.flatten(2).transpose(1, 2).double()
    ids = []
    for layer, count in enumerate(pyramid.tokens_per_layer):
        at = list(chains(pyramid).places[layer])
        start = pyramid.num_tokens_upto(layer)
        here = [[token for token in chain if token < start] for chain in _tokens(pyramid, at)]
        query = values[:, _index(at, z)]
        if any(here):
            many = torch.tensor([[len(chain) + 1.0] for chain in here], dtype=torch.float64, device=z.device)
            scaled = query * many if rule == "saq" else query
            query = scaled - _sums(torch.cat(ids, 1), codes, here)
        allowed = mask[layer] if mask is not None and mask.ndim == 2 else mask
        ids.append(_nearest(query.float().flatten(0, 1), codes, allowed).reshape(-1, count))
    tokens = torch.cat(ids, 1)
    return tokens, _features(tokens, codes, pyramid, rule, "nearest")


def _pyramid_dequantize(ids, codes, shape, grids, rule, fill, impl):
    return _features(ids, codes, unflat(shape, grids), rule, fill)


def _pyramid_covered(shape, grids, device):
    depth = chains(unflat(shape, grids)).depth
    return torch.tensor([count > 0 for count in depth], device=device).reshape(shape)


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


def _features(ids: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, fill: str) -> Tensor:
    """int64 [B, n] -> float32 [B, D, *shape], as `spae_ops.quantize.rules.features`."""
    places = list(range(prod(pyramid.shape)))
    if fill == "nearest":
        places = sources(pyramid)
    here = _tokens(pyramid, places)
    total = _sums(ids, codes, here)
    if rule == "saq":
        many = [[max(len(chain), 1.0)] for chain in here]
        total = total / torch.tensor(many, dtype=torch.float64, device=ids.device)
    total = total.float().transpose(1, 2).contiguous()
    return total.reshape(-1, codes.shape[1], *pyramid.shape)


def _sums(ids: Tensor, codes: Tensor, here: Sequence[Sequence[int]]) -> Tensor:
    """The codes of tokens added in order, float64 [B, m, D]; here: the tokens of each of m places."""
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    for number in range(max(1, *map(len, here))):
        tokens = [chain[number] if number < len(chain) else 0 for chain in here]
        there = torch.tensor([[number < len(chain)] for chain in here], device=ids.device)
        chosen = codes[ids[:, _index(tokens, ids)]].double()
        total = total + torch.where(there, chosen, 0.0)
    return total


def _tokens(pyramid: Pyramid, places: Sequence[int]) -> list[list[int]]:
    """The tokens at each place, in order."""
    at: list[list[int]] = [[] for _ in range(prod(pyramid.shape))]
    for tokens in chains(pyramid).rounds:
        for token in tokens:
            at[_place(pyramid, token)].append(token)
    return [at[place] for place in places]


def _place(pyramid: Pyramid, token: int) -> int:
    for places in chains(pyramid).places:
        if token < len(places):
            return places[token]
        token -= len(places)
    raise IndexError(token)


def _index(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=like.device)


__all__ = ["standard_operators"]
