"""`nearest_code` on NVIDIA GPUs, in Triton: an fp16 screen with a proven error bound, float64 for the rest.

The method, its proof and what it assumes of the tensor cores are in `triton_kernel.py`. The assumption has
not been validated on a device, and nothing here has run on one: the kernels are tested in Triton's
interpreter (TRITON_INTERPRET=1 in the environment when triton is first imported) and compiled for sm_80,
sm_90 and sm_100.
"""

# Launch options, and arguments given by unpacking, are beyond pyright.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    from triton.tools.tensor_descriptor import TensorDescriptor

    from spae_ops.nearest_code import triton_kernel as kernels
except ImportError as error:
    raise ImportError(
        f"needs triton 3.6 or later, for instance pip install 'spae[triton]': {error}"
    ) from error

TILE = kernels.TILE.value
WIDTH_STEP = 64
MAX_SCREEN_WIDTH = 1 << 20
ROWS_PER_FRAME = 4
LIST_LIMIT = 256  # nearest codes found in one pass over the candidates; more take several passes
SPLIT_LIMIT = 16  # more than this are not found in several ranges of tiles at once
SUMMARY_BYTES = (16 << 20, 256 << 20)
OPTIONS = {"enable_fp_fusion": True}  # it changes no answer; unset, some versions of triton warn about it
FRAME = {"num_warps": 4, "maxnreg": 128}
RESOLVE = {"BLOCK": 8, "TILES": 64, "num_warps": 2, "maxnreg": 192}
INTERPRETED = not isinstance(kernels.screen, triton.runtime.JITFunction)


class Config(NamedTuple):
    """How `screen` is compiled. descriptors: tiles come by tensor descriptors (TMA), not by pointers."""

    block_m: int
    block_k: int
    num_warps: int
    num_stages: int
    max_registers: int
    descriptors: bool


def config(capability: tuple[int, int], num_queries: int) -> Config:
    """The configuration for a compute capability: at least two programs fit each of its multiprocessors.

    So one program's comparisons run while another's matrix products do.
    """
    if capability[0] in (9, 10, 11):
        return Config(64, 64, 4, 4, 168, True) if num_queries <= 64 else Config(128, 64, 8, 3, 128, True)
    if capability in ((8, 0), (8, 7)):  # 164 KiB of shared memory; the others of 8 and 12 have 100
        return Config(64, 32, 4, 4, 168, False) if num_queries <= 64 else Config(128, 32, 8, 4, 128, False)
    return Config(64, 32, 4, 3, 168, False)


def unavailable(device: torch.device | None) -> str | None:
    """Why this implementation cannot run on `device` (None: on this machine), or None where it can."""
    if device is not None and device.type not in ("cpu", "cuda"):
        return f"runs on CUDA tensors, got {device.type}"
    if INTERPRETED:
        return None
    if device is not None and device.type == "cpu":
        return "runs on CUDA tensors; on CPU only with TRITON_INTERPRET=1"
    if not torch.cuda.is_available():
        return "needs a CUDA device; without one, TRITON_INTERPRET=1 runs it on CPU tensors"
    if torch.version.hip is not None:
        return "needs an NVIDIA GPU: the error bound is stated for its tensor cores"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"needs compute capability 8.0 or higher, got {capability[0]}.{capability[1]}"
    return None


def prepare(codes: Tensor) -> list[Tensor]:
    """What every later search needs to know of the codes.

    Args:
        codes: [K, D] fp32 | fp16 | bf16, finite.

    Returns:
        table, float16 [128 T, W] with T = ceil(K / 128) and W the width padded to a multiple of 64: the
        codes, shifted, scaled and rounded; bias, float32 [128 T]; bounds, float32 [3, T]: each tile's factors
        of the error bound; frame, float64 [D + 1]: shift and scale. Padding aside, half the memory of the
        codes in fp32.
    """
    codes = codes.contiguous()
    num_codes, width = codes.shape
    tiles, padded = triton.cdiv(num_codes, TILE), _padded_width(width)
    shift = _shift(codes)
    frame = torch.cat([shift, _scale(codes, shift)])
    table = codes.new_empty(tiles * TILE, padded, dtype=torch.float16)
    norms, residuals, bias = codes.new_empty(3, tiles * TILE, dtype=torch.float32)
    _frame(codes, frame, table, (norms, residuals, bias, bias), queries=False)
    n = norms.view(tiles, TILE).amax(1).double()
    r = residuals.view(tiles, TILE).amax(1).double()
    unit = 2.0**-24
    gamma = padded * 2.0**-22
    bounds = torch.stack([r + (gamma + 4 * unit) * n, n, 3 * unit * n * n + 2.0**-100])
    return [table, bias, (bounds * (1 + 2.0**-16)).float(), frame]


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
    """
    x, codes = x.contiguous(), codes.contiguous()
    table, bias, bounds, frame = prepared
    if mask is not None:
        bias = bias.masked_fill(~F.pad(mask, (0, len(bias) - len(mask))), kernels.ABSENT.value)
    index = _Index(codes, table, bias, bounds, frame)
    ids = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    sqdist = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    size = _rows_per_chunk(len(x), len(codes), bounds.shape[1])
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            sqdist[rows] = _search_rows(x[rows], index, k, ids[rows])
    return ids, sqdist


class _Index(NamedTuple):
    codes: Tensor
    table: Tensor
    bias: Tensor
    bounds: Tensor
    frame: Tensor


class _Summary(NamedTuple):
    """What screening leaves: a tile's and row's two best scores [T, R], and the rows' N, R, own slack [R]."""

    first: Tensor
    second: Tensor
    norms: Tensor
    residuals: Tensor
    owns: Tensor


def _search_rows(x: Tensor, index: _Index, k: int, ids: Tensor) -> Tensor:
    """Writes ids [n, k] of x [n, D] and returns float64 squared distances [n, k]."""
    summary = _screen(x, index)
    if k > 1:
        return _resolve_many(x, index, summary, _kth_lower_bound(summary, index.bounds, k), ids)
    sqdist = torch.empty(len(x), 1, dtype=torch.float64, device=x.device)
    threshold = _certify(x, index, summary, (ids, sqdist))
    _resolve(x, index, summary, threshold, None, (ids, sqdist))
    return sqdist


def _certify(x: Tensor, index: _Index, summary: _Summary, out: tuple[Tensor, Tensor]) -> Tensor:
    """Fills out (ids, squared distances [n, 1]) where one candidate is left; thresholds float32 [n]."""
    threshold = torch.empty(len(x), dtype=torch.float32, device=x.device)
    tiles, rows = summary.first.shape
    block = 8 if len(x) <= 2048 else 32
    kernels.certify[(triton.cdiv(len(x), block),)](
        x, index.codes, summary.first, summary.second, index.bounds, *summary[2:], threshold, *out,
        len(x), x.shape[1], rows, tiles, ROWS=block, TILES=1024 // block, num_warps=4, **OPTIONS,
    )  # fmt: skip
    return threshold


def _screen(x: Tensor, index: _Index) -> _Summary:
    chosen = config(_capability(x.device), len(x))
    rows = triton.cdiv(len(x), chosen.block_m) * chosen.block_m
    padded, tiles = index.table.shape[1], index.bounds.shape[1]
    queries = x.new_empty(rows, padded, dtype=torch.float16)
    inverse, norms, residuals, owns = x.new_empty(4, rows, dtype=torch.float32)
    _frame(x, index.frame, queries, (norms, residuals, owns, inverse), queries=True)
    first, second = x.new_empty(2, tiles, rows, dtype=torch.float32)
    blocks = rows // chosen.block_m
    step = _tiles_per_split(blocks, tiles, 2 * _processors(x.device))
    operands = [queries, index.table]
    if chosen.descriptors:
        shapes = [chosen.block_m, chosen.block_k], [TILE, chosen.block_k]
        operands = [TensorDescriptor.from_tensor(t, shape) for t, shape in zip(operands, shapes, strict=True)]
    kernels.screen[(blocks, triton.cdiv(tiles, step))](
        *operands, inverse, index.bias, first, second, rows, tiles, step,
        WIDTH=padded, BLOCK_M=chosen.block_m, BLOCK_K=chosen.block_k, DESCRIPTORS=chosen.descriptors,
        num_warps=chosen.num_warps, num_stages=chosen.num_stages, maxnreg=chosen.max_registers, **OPTIONS,
    )  # fmt: skip
    return _Summary(first, second, norms, residuals, owns)


def _frame(
    x: Tensor, frame: Tensor, out: Tensor, measured: tuple[Tensor, Tensor, Tensor, Tensor], *, queries: bool
) -> None:
    """Fills out [R, W] and `measured` (norms, residuals, extra, inverse: float32 [R]) from x [N, D]."""
    rows, padded = out.shape
    width = x.shape[1]
    kernels.frame_rows[(rows // ROWS_PER_FRAME,)](
        x, frame, frame[-1:], out, *measured, len(x), width, (3 * triton.cdiv(width, 32) + 9) * 2.0**-53,
        WIDTH=padded, ROWS=ROWS_PER_FRAME, BLOCK=min(256, triton.next_power_of_2(padded)), QUERIES=queries,
        **FRAME, **OPTIONS,
    )  # fmt: skip
    if queries and width > MAX_SCREEN_WIDTH:
        measured[2].fill_(kernels.UNSCREENED.value)


def _resolve_many(x: Tensor, index: _Index, summary: _Summary, threshold: Tensor, ids: Tensor) -> Tensor:
    """Writes the k = ids.shape[1] nearest, at most LIST_LIMIT a pass, and returns their squared distances."""
    sqdist = torch.empty(ids.shape, dtype=torch.float64, device=x.device)
    after = None
    for start in range(0, ids.shape[1], LIST_LIMIT):
        columns = slice(start, start + LIST_LIMIT)
        found = ids.new_empty(ids[:, columns].shape), sqdist.new_empty(ids[:, columns].shape)
        _resolve(x, index, summary, threshold, after, found)
        ids[:, columns], sqdist[:, columns] = found
        after = found[1][:, -1].contiguous(), found[0][:, -1].contiguous()
    return sqdist


def _resolve(
    x: Tensor,
    index: _Index,
    summary: _Summary,
    threshold: Tensor,
    after: tuple[Tensor, Tensor] | None,
    out: tuple[Tensor, Tensor],
) -> None:
    """Fills out (ids, squared distances [n, k]) for the rows whose threshold is not DECIDED."""
    tiles, rows = summary.first.shape
    n, k = out[0].shape
    ranges = max(1, min(64, 8 * _processors(x.device) // n, tiles)) if k <= SPLIT_LIMIT else 1
    step = triton.cdiv(tiles, ranges)
    ranges = triton.cdiv(tiles, step)
    partial = out if ranges == 1 else tuple(t.new_empty(n, ranges * k) for t in out)
    last = (threshold, threshold) if after is None else after
    kernels.resolve[(n, ranges)](
        x, index.codes, summary.first, summary.second, index.bounds, index.bias, *summary[2:], threshold,
        *last, *partial, x.shape[1], rows, tiles, step, k, LIST=triton.next_power_of_2(k), **RESOLVE,
        AFTER=after is not None, FINAL=ranges == 1, **OPTIONS,
    )  # fmt: skip
    if ranges > 1:
        kernels.merge[(n,)](
            *partial, threshold, *out, ranges * k, k, SIZE=triton.next_power_of_2(ranges * k),
            num_warps=1, **OPTIONS,
        )  # fmt: skip


def _kth_lower_bound(summary: _Summary, bounds: Tensor, k: int) -> Tensor:
    """T of the proof for k > 1, float32 [R]."""
    floor = kernels.FLOOR.value
    tiles, rows = summary.first.shape
    if 2 * tiles < k:
        return summary.first.new_full((rows,), floor)
    a, b, c = bounds[:, :, None]
    slack = summary.norms * a + summary.residuals * b + (summary.owns + c)
    lower = torch.cat([w - (slack + kernels.COLUMN_SLACK.value * w.abs()) for w in summary[:2]])
    return lower.topk(k, dim=0).values[-1].clamp(min=floor)


def _shift(codes: Tensor) -> Tensor:
    """The median of a sample of rows by coordinate, where that at least halves the typical norm, else zero.

    float64 [D] of fp32 values. Not the mean, which would follow the few largest rows of a table whose norms
    span decades. Any shift is correct: it only has to keep the norms, hence the bound, small beside the
    distances.
    """
    count = min(len(codes), 255)
    sample = codes[torch.arange(count, device=codes.device) * len(codes) // count].double()
    centre = sample.median(0).values
    helps = (sample - centre).square().sum(1).median() < 0.25 * sample.square().sum(1).median()
    return torch.where(helps, centre, torch.zeros_like(centre))


def _scale(codes: Tensor, shift: Tensor) -> Tensor:
    """The power of two that brings the largest |c - shift| into [2^14, 2^15), float64 [1]."""
    step = max(1, (1 << 22) // codes.shape[1])
    largest = torch.stack([(block.double() - shift).abs().amax() for block in codes.split(step)]).amax()
    exponent = torch.frexp(largest).exponent.long()
    return ((1023 + 15 - exponent) << 52).view(1).view(torch.float64)


def _padded_width(width: int) -> int:
    return triton.cdiv(width, WIDTH_STEP) * WIDTH_STEP


def _rows_per_chunk(num_queries: int, num_codes: int, tiles: int) -> int:
    """How many queries are screened at a time: their summary is 8 bytes a row and tile."""
    low, high = SUMMARY_BYTES
    budget = min(high, max(low, num_queries * num_codes // 20))  # 1 / 80 of an fp32 [N, K]
    return max(TILE, budget // (8 * tiles) // TILE * TILE)


@lru_cache
def _tiles_per_split(blocks: int, tiles: int, slots: int) -> int:
    """Tiles a program screens, so that the programs fill the device's slots in whole waves."""

    def idle(splits: int) -> tuple[int, int]:
        # Time in tiles: waves of programs times tiles each, and the start of each program.
        waves = triton.cdiv(blocks * splits, slots)
        return waves * (triton.cdiv(tiles, splits) + 1), splits

    splits = min(range(1, min(tiles, 1024) + 1), key=idle)
    return triton.cdiv(tiles, splits)


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


@lru_cache
def _processors(device: torch.device) -> int:
    # The interpreter has none; a few make it take the paths that a device takes for few queries.
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
