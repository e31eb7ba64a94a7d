"""`nearest_code` and `topk_codes`: the contract, its checks, and their registration with torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops import _checks
from spae_ops._dispatch import SEARCH
from spae_ops._implementation import Impl, prepared_by
from spae_ops._register import READS_VALUES, fake, op, without_derivative
from spae_ops.code_index import CodeIndex, Table, as_table


class NearestCode(NamedTuple):
    """ids: int64 [..] or [.., k]. sqdist: float32, the squared distances, of the same shape."""

    ids: Tensor
    sqdist: Tensor


def nearest_code(
    x: Tensor, codes: Tensor | CodeIndex, *, mask: Tensor | None = None, impl: Impl = "auto"
) -> NearestCode:
    """The nearest code of each query, exactly (the arg-min that SPAE quantizes by).

    x: [.., D] fp32|fp16|bf16, finite. codes: [K, D] fp32|fp16|bf16, or a CodeIndex of it.
    mask: bool [K], True = may be chosen. impl: "auto", or a name from `implementations("nearest_code")`.

    Returns ids int64 [..] and sqdist float32 [..]. The id is the argmin of the squared distance evaluated in
    float64 between the values as given, equal distances going to the lowest id; that evaluation is defined to
    the bit (`spae_ops.squared_distance`), so every implementation returns the same ids on every run. Never
    holds an [N, K] tensor. Not differentiable: use a straight-through estimator.

    Raises TypeError (types, dtypes) and ValueError (shapes, devices, nan or inf in x, a mask that allows no
    code), and RuntimeError if the implementation named cannot run.

    >>> nearest_code(torch.tensor([[0.9, 0.2], [0.0, 3.0]]), torch.eye(2)).ids
    tensor([0, 1])
    """
    ids, sqdist = torch.ops.spae_ops.nearest_code(*_arguments(x, codes, mask, impl), impl)
    return NearestCode(ids.reshape(x.shape[:-1]), sqdist.reshape(x.shape[:-1]))


def topk_codes(
    x: Tensor, codes: Tensor | CodeIndex, k: int, *, mask: Tensor | None = None, impl: Impl = "auto"
) -> NearestCode:
    """The k nearest codes of each query, exactly, in ascending order of (squared distance, id).

    Like `nearest_code`, with ids and sqdist of shape [.., k]; 1 <= k <= the number of codes that may be
    chosen.

    >>> topk_codes(torch.tensor([[2.2]]), torch.tensor([[0.0], [1.0], [2.0], [3.0]]), 3).ids
    tensor([[2, 3, 1]])
    """
    arguments = _arguments(x, codes, mask, impl)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k: expected an integer of at least 1, got {k!r}")
    ids, sqdist = torch.ops.spae_ops.topk_codes(*arguments, k, impl)
    return NearestCode(ids.reshape(*x.shape[:-1], k), sqdist.reshape(*x.shape[:-1], k))


def _arguments(x: Tensor, codes: Tensor | CodeIndex, mask: Tensor | None, impl: str):
    table = as_table(codes, SEARCH, impl)
    _checks.check_queries("x", x, table.codes)
    _checks.check_mask(mask, table.codes)
    return x.detach().reshape(-1, x.shape[-1]), *table, mask


def _lookup(x: Tensor, table: Table, mask: Tensor | None, k: int, impl: str) -> tuple[Tensor, Tensor]:
    """The eager body of both ops, x [N, D] -> ids, sqdist [N, k]: checks that read values, and dispatch."""
    _, implementation = SEARCH.resolve(
        "nearest_code",
        impl,
        x.device,
        preferred=table.owner,
        codes=table.codes,
        vouched=table.made_here,
        queries=len(x),
    )
    table.check()
    _checks.check_finite("x", x)
    _checks.check_allowed(mask, len(table.codes), k)
    codes = table.codes.contiguous()
    prepared = prepared_by(implementation, codes, table.prepared, table.layout)
    return implementation.search(x.contiguous(), codes, prepared, mask, k)


_ARGUMENTS = "Tensor x, Tensor codes, Tensor[] prepared, str layout, SymInt[] origin, Tensor? mask"


@op("nearest_code", f"{_ARGUMENTS}, str impl", "(Tensor, Tensor)", READS_VALUES)
def _nearest_code(x, codes, prepared, layout, origin, mask, impl):
    ids, sqdist = _lookup(x, Table(codes, prepared, layout, origin), mask, 1, impl)
    return ids.flatten(), sqdist.flatten()


@fake("nearest_code")
def _(x, codes, prepared, layout, origin, mask, impl):
    return x.new_empty(x.shape[0], dtype=torch.int64), x.new_empty(x.shape[0], dtype=torch.float32)


@op("topk_codes", f"{_ARGUMENTS}, int k, str impl", "(Tensor, Tensor)", READS_VALUES)
def _topk_codes(x, codes, prepared, layout, origin, mask, k, impl):
    return _lookup(x, Table(codes, prepared, layout, origin), mask, k, impl)


@fake("topk_codes")
def _(x, codes, prepared, layout, origin, mask, k, impl):
    return x.new_empty(x.shape[0], k, dtype=torch.int64), x.new_empty(x.shape[0], k, dtype=torch.float32)


for _name in ("nearest_code", "topk_codes"):
    without_derivative(_name, f"{_name}: expected no gradient of its results: they have none")
