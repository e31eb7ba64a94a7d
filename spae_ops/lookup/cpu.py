"""`nearest_code` on CPUs, compiled: an int8 or fp32 screen with a proven bound, float64 for what it leaves.

The method and its proof are in `csrc/nearest_code/cpu/nearest_code.h`. Ids and distances are the definition's
bit for bit, whatever the instruction set (`SPAE_ISA=amx|avx512|avxvnni|avx2|portable`, default the fastest
that runs), the screen (`SPAE_SCREEN=int8|fp32`, default int8 until it leaves too much), pruning by a fifth of
the dimensions first (`SPAE_PRUNE=on|off`, default where a trial on some of a call's queries finds them near
codes) and the number of threads (`torch.set_num_threads`). Beyond its results a search takes some 16 MiB, or
an eightieth of an fp32 [N, K] if that is more, up to some 264 MiB, but never less than a block of queries
needs.

AMX adds up the int8 screen in matrix tiles (`csrc/simd/tiles.h`), of the very panels that the others read. It
is taken only after a self-test at first use and, where SPAE_ISA does not name it, only by searches that are
large enough; every tile's sums are checked for lost registers, and where one fails AVX-512 answers instead,
for the rest of the process. `SPAE_AMX=off` turns it off. No machine with AMX has run it yet: what is tested
are its schedule and its AVX-512 part, on an emulation of the tile instructions that runs anywhere
(`SPAE_ISA=amx-emulated|amx-emulated-avx512`, slow).
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops import _extension

LAYOUT = "cpu/1"


class Prepared(NamedTuple):
    """The codes in the kernel's order, T = ceil(K / 32): 1.25 times their fp32 memory, and 20 bytes a code.

    panels: float32 [T, 2, D, 16], shifted, scaled and regrouped. panels8: uint8 [T, 2, ceil(D / 4), 16, 4],
    the same in multiples of a step per code, 128 added. bounds: float32 [160 T], the codes' biases, then
    norms, int8 residuals, steps and tails. frame: float64 [D + 1], shift and scale.
    """

    panels: Tensor
    panels8: Tensor
    bounds: Tensor
    frame: Tensor


def instructions() -> str:
    """The instruction sets that run here, fastest first, and what is to be said of AMX; "" without the
    extension."""
    if _extension.reason() is not None:
        return ""
    module = _extension.load()
    names = [name for name in module.instruction_sets() if not name.startswith("amx-emulated")]
    return f"{', '.join(names)} (AMX: {module.amx_status()})"


def unavailable(device: torch.device | None) -> str | None:
    """Why this implementation cannot run on `device` (None: on this machine), or None where it can."""
    if device is not None and device.type != "cpu":
        return f"runs on cpu tensors, got {device.type}"
    return _extension.reason()


def prepare(codes: Tensor) -> Prepared:
    """What every later search needs to know of the codes, [K, D] fp32 | fp16 | bf16, finite.

    Raises:
        RuntimeError: the extension is not available, or a code is not finite.
    """
    _extension.load()
    return Prepared(*torch.ops.spae_ops.nearest_code_cpu_prepare(codes.contiguous()))


def search(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
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
        RuntimeError: the extension or SPAE_ISA's instruction set is missing, SPAE_SCREEN or SPAE_PRUNE is
            unknown, or the arguments do not fit.
    """
    ids, sqdist, _ = _search(x, codes, prepared, mask, k)
    return ids, sqdist


def num_rescored(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None = None, k: int = 1
) -> Tensor:
    """How many codes a search evaluates in float64 for each query, int64 [N]; k where the screen decides all.

    Arguments as for `search`. The counts, unlike its answers, depend on the instruction set, the
    screen and timing.
    """
    return _search(x, codes, prepared, mask, k)[2]


def _search(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    _extension.load()
    mask = None if mask is None else mask.contiguous()
    switches = [os.environ.get(name, "") for name in ("SPAE_ISA", "SPAE_SCREEN", "SPAE_PRUNE")]
    return torch.ops.spae_ops.nearest_code_cpu_search(
        x.contiguous(), codes.contiguous(), *prepared, mask, k, *switches
    )
