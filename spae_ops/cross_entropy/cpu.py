"""`distance_cross_entropy` on CPUs, compiled: loss and gradient in one pass over tiles of codes.

The method and its bounds are in `csrc/distance_cross_entropy/distance_cross_entropy.h`.
Rows whose softmax a few codes make up are truncated: the int8 screen of lookups finds the codes whose weight
is at least 2^-26 / K of the largest (the target apart), and these are evaluated in float64. All others
together have less than 2^-26 of the sum, half of what rounding the loss to fp32 may take. For other rows
scores are computed in fp32 with the codes' common mean taken out, the target's distance and whatever fp32
leaves too coarse in float64. `SPAE_TRUNCATE=on|off` truncates all rows or none (default: where a trial on
some of a call's rows finds few codes, and of those where few are left).

The same bits come out on every run and for every number of threads (`torch.set_num_threads`); instruction
sets (`SPAE_ISA=avx512|avxvnni|avx2|portable`, default the fastest that runs) round differently where rows
are not truncated. Names of AMX mean the vector instructions beside it, but for the screen.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from spae_ops import _extension
from spae_ops._checks import QUERY_DTYPES
from spae_ops.lookup.cpu import LAYOUT, Prepared, prepare, unavailable

DTYPES = QUERY_DTYPES


def loss_and_gradient(
    x: Tensor,
    codes: Tensor,
    prepared: Prepared,
    target: Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The loss of every query and its gradient in x.

    Args:
        x: [N, D] fp32 | fp16 | bf16, finite.
        codes: [K, D] fp32 | fp16 | bf16, as given to `prepare`.
        prepared: what `prepare(codes)` returned.
        target: int64 [N], ids in 0..K-1.
        temperature: positive, finite.
        with_gradient: False leaves out the second product.

    Returns:
        loss float32 [N] and gradient float32 [N, D] ([0, D] unless asked for).

    Raises:
        RuntimeError: the extension or SPAE_ISA's instruction set is missing, SPAE_TRUNCATE is unknown, or
            the arguments do not fit.
    """
    loss, gradient, _ = _run(x, codes, prepared, target, temperature, with_gradient)
    return loss, gradient


def num_evaluated(x: Tensor, codes: Tensor, prepared: Prepared, target: Tensor, temperature: float) -> Tensor:
    """How many codes other than the target make up each truncated row, int64 [N]; -1 for other rows.

    Arguments as for `loss_and_gradient`.
    """
    return _run(x, codes, prepared, target, temperature, False)[2]


def _run(
    x: Tensor, codes: Tensor, prepared: Prepared, target: Tensor, temperature: float, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _extension.load()
    return torch.ops.spae_ops.distance_cross_entropy_cpu(
        x.contiguous(),
        codes.contiguous(),
        *prepared,
        target.contiguous(),
        temperature,
        with_gradient,
        *(os.environ.get(name, "") for name in ("SPAE_ISA", "SPAE_TRUNCATE")),
    )


__all__ = ["DTYPES", "LAYOUT", "Prepared", "loss_and_gradient", "num_evaluated", "prepare", "unavailable"]
