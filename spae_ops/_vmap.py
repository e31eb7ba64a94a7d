"""The ops under `torch.func.vmap`: what is mapped over becomes more rows of one call.

Only where a codebook or a mask is itself mapped over there is a call for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Of each op the positions of the arguments whose first axis counts rows, as that of all results does.
_ROWS = {
    "nearest_code": (0,),
    "topk_codes": (0,),
    "dilation_subsample": (0,),
    "pyramid_quantize": (0,),
    "pyramid_dequantize": (0,),
    "layer_queries": (0, 1),
    "layer_queries_backward": (0,),
    "distance_cross_entropy": (0, 5),
}


def register() -> None:
    for name, rows in _ROWS.items():
        torch.library.register_vmap(f"spae_ops::{name}", _rule(name, rows))


def _rule(name: str, rows: Sequence[int]) -> Callable[..., Any]:
    def rule(info, in_dims, *args):
        op = getattr(torch.ops.spae_ops, name)
        together = all(dim is None for i, dim in enumerate(in_dims) if i not in rows and not _is_list(dim))
        if together and not any(_is_list(dim) and any(d is not None for d in dim) for dim in in_dims):
            args = list(args)
            for i in rows:
                args[i] = _first(args[i], in_dims[i], info.batch_size).flatten(0, 1)
            results = op(*args)
            return _each(results, lambda result: _unflat(result, info.batch_size)), _each(results, _zero)
        calls = [op(*_one(args, in_dims, i)) for i in range(info.batch_size)]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * len(calls[0])

    return rule


def _first(value: Tensor, dim: int | None, size: int) -> Tensor:
    """[.., size, ..], or without that axis -> [size, N, ..]."""
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)


def _unflat(result: Tensor, size: int) -> Tensor:
    # len() would fix the number in a compiled graph.
    return result.unflatten(0, (size, result.shape[0] // size))


def _one(args: Sequence[Any], in_dims: Sequence[Any], number: int) -> list[Any]:
    """The arguments of one of the calls that are mapped over."""
    chosen = []
    for value, dim in zip(args, in_dims, strict=True):
        if _is_list(dim):
            chosen.append(_one(value, dim, number))
        else:
            chosen.append(value if dim is None else value.select(dim, number))
    return chosen


def _each(results: Any, function: Callable[[Tensor], Any]) -> Any:
    return function(results) if isinstance(results, Tensor) else tuple(map(function, results))


def _zero(_: Tensor) -> int:
    return 0


def _is_list(dim: object) -> bool:
    return isinstance(dim, list | tuple)
