"""`nearest_code` on CPUs, compiled: an fp32 screen with a proven error bound, float64 for what it leaves.

The method and its proof are in `csrc/nearest_code.h`. Ids and distances are the definition's bit for bit,
whatever the instruction set (`SPAE_ISA=avx512|avx2|portable`, default the fastest that runs) and the number
of threads (`torch.set_num_threads`).
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from spae_ops import _extension


def unavailable(device: torch.device | None) -> str | None:
    """Why this implementation cannot run on `device` (None: on this machine), or None where it can."""
    if device is not None and device.type != "cpu":
        return f"runs on cpu tensors, got {device.type}"
    return _extension.reason()


def prepare(codes: Tensor) -> list[Tensor]:
    """What every later search needs to know of the codes.

    Args:
        codes: [K, D] fp32 | fp16 | bf16, finite.

    Returns:
        panels, float32 [T, 2, D, 16] with T = ceil(K / 32): the codes, shifted, scaled and regrouped;
        bounds, float32 [2, 32 T]: each code's bias and norm; frame, float64 [D + 1]: shift and scale.
        Together they take as much memory as the codes in fp32, and 8 bytes a code.

    Raises:
        RuntimeError: the extension is not available, or a code is not finite.
    """
    _extension.load()
    return list(torch.ops.spae_ops.nearest_code_cpu_prepare(codes.contiguous()))


def search(
    x: Tensor, codes: Tensor, prepared: list[Tensor], mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest allowed codes of every query, by (squared distance in float64, id).

    Args:
        x: [N, D] fp32 | fp16 | bf16, finite.
        codes: [K, D] fp32 | fp16 | bf16, as given to `prepare`.
        prepared: what `prepare(codes)` returned.
        mask: [K] bool, True = may be chosen, or None; at least k must be True.
        k: how many, 1 <= k <= K.

    Returns:
        ids int64 [N, k] and squared distances float32 [N, k], ascending.

    Raises:
        RuntimeError: the extension or SPAE_ISA's instruction set is missing, or the arguments do not fit.
    """
    ids, sqdist, _ = _search(x, codes, prepared, mask, k)
    return ids, sqdist


def num_rescored(
    x: Tensor, codes: Tensor, prepared: list[Tensor], mask: Tensor | None = None, k: int = 1
) -> Tensor:
    """How many codes a search evaluates in float64 for each query, int64 [N]; k where the screen decides all.

    Arguments as for `search`. The counts, unlike its answers, depend on the instruction set and on timing.
    """
    return _search(x, codes, prepared, mask, k)[2]


def _search(
    x: Tensor, codes: Tensor, prepared: list[Tensor], mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    _extension.load()
    panels, bounds, frame = prepared
    mask = None if mask is None else mask.contiguous()
    isa = os.environ.get("SPAE_ISA", "")
    return torch.ops.spae_ops.nearest_code_cpu_search(
        x.contiguous(), codes.contiguous(), panels, bounds, frame, mask, k, isa
    )
