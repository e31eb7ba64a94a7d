"""`distance_cross_entropy` on NVIDIA GPUs, in Triton: loss and gradient from one stream over the codes.

The method and its accuracy are in `triton_kernel.py`. Where a row of the gradient fits the registers (D up to
256 for 16-bit inputs, up to 128 otherwise) one kernel computes scores and sums, like flash attention with the
codes as both keys and values. Wider ones alternate between two kernels, over chunks of rows and codes: scores
into a buffer of bounded size, then sums by blocks of columns. Both take 4 N K D floating-point operations a
float16 product (2 N K D without gradient), where recomputing the scores for each block of columns would take
several times that.

Nothing waits for the device: chunk sizes follow from shapes. (The checks of values in `api.py` do wait.)
Nothing here has run on a GPU: the kernels are tested in Triton's interpreter (TRITON_INTERPRET=1 in the
environment when triton is first imported) and compiled for sm_80, sm_90 and sm_100.
"""

# Launch options, and arguments given by unpacking, are beyond pyright.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops import _checks
from spae_ops._implementation import NothingPrepared as Prepared
from spae_ops.lookup.frame import scale_of, shift_of

try:
    import triton

    from spae_ops.cross_entropy import triton_kernel as kernels
    from spae_ops.lookup.triton import OPTIONS, capability, processors, unavailable
except ImportError as error:
    raise ImportError(f"needs triton 3.6 or later, pip install 'triton>=3.6': {error}") from error

__all__ = ["LAYOUT", "Prepared", "loss_and_gradient", "prepare", "unavailable"]

LAYOUT = ""
TABLE_STEP = 128  # the table's rows are padded to whole tiles of every configuration
WIDTH_STEP = 64
DTYPES = _checks.QUERY_DTYPES
FEW_ROWS = 64
ROWS = 32768  # at a time, if one kernel does all
SCORED_ROWS = 8192  # at a time, if scores go through memory
SCORE_BYTES = (16 << 20, 128 << 20)
ROWS_PER_FRAME, ROWS_PER_FINISH = 4, 4
FRAME = {"num_warps": 4, "maxnreg": 128}
FINISH = {"num_warps": 4, "maxnreg": 128}


class Config(NamedTuple):
    """How `stream` is compiled."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


class ScoreConfig(NamedTuple):
    """How `score` is compiled."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def widest(split: bool) -> int:
    """The most columns of the gradient that one program of `stream` keeps in its registers."""
    return 128 if split else 256


def config(capability: tuple[int, int], num_queries: int, *, split: bool, scored: bool) -> Config:
    """The configuration of `stream` for a compute capability; none of them spills registers."""
    if scored:
        return Config(64, 64, 8, 2)
    few = num_queries <= FEW_ROWS
    if split:
        large = capability[0] in (9, 10, 11)  # 228 KiB of shared memory; the others have 100 to 164
        if not large:
            return Config(64, 32, 8, 2)
        return Config(64, 32, 4, 2) if few else Config(128, 32, 8, 2)
    if capability[0] == 9:
        return Config(64, 64, 4, 2) if few else Config(128, 64, 8, 2)
    return Config(64, 64, 8, 2)


def score_config(num_queries: int, *, split: bool) -> ScoreConfig:
    """The configuration of `score`: 32 KiB a stage, so that three fit every device."""
    return ScoreConfig(64 if num_queries <= FEW_ROWS else 128, 128, 32 if split else 64, 8, 3)


def prepare(codes: Tensor) -> Prepared:
    """Nothing: what depends on the codes alone also depends on the dtype of the queries."""
    return Prepared()


def loss_and_gradient(
    x: Tensor,
    codes: Tensor,
    prepared: Prepared,
    target: Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Loss and its gradient in x, by the method of `triton_kernel.py`.

    Args:
        x: [N, D] fp32 | fp16 | bf16, finite.
        codes: [K, D] fp32 | fp16 | bf16, finite.
        prepared: not read (see `prepare`).
        target: int64 [N], ids in 0..K-1.
        temperature: positive, finite.
        with_gradient: whether the gradient is asked for.

    Returns:
        loss float32 [N] and gradient float32 [N, D] ([0, D] unless asked for). Both are nan for a row whose
        scores are beyond 2^120 in size, and where a code's are.
    """
    x, codes, target = x.contiguous(), codes.contiguous(), target.contiguous()
    num_queries, width = x.shape
    loss = torch.empty(num_queries, dtype=torch.float32, device=x.device)
    gradient = loss.new_empty(num_queries if with_gradient else 0, width)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        table = _table(codes, temperature, split=torch.float32 in (x.dtype, codes.dtype))
        for rows in _row_chunks(num_queries, scored=table.scored):
            out = loss[rows], gradient[rows]
            _rows(x[rows], codes, target[rows], table, out, with_gradient)
    return loss, gradient


class _Table(NamedTuple):
    """The codes in their frame: entries fp16 [1 or 2, R, W], bias fp32 [R], shift float64 [D], scale and
    inverse temperature float64 [1]; how many codes there are, and whether scores go through memory."""

    entries: Tensor
    bias: Tensor
    shift: Tensor
    scale: Tensor
    inverse_temperature: Tensor
    num_codes: int
    scored: bool

    @property
    def split(self) -> bool:
        return len(self.entries) == 2


def _table(codes: Tensor, temperature: float, *, split: bool) -> _Table:
    num_codes, width = codes.shape
    scored = width > widest(split)
    padded = _multiple(width, WIDTH_STEP) if scored else max(32, triton.next_power_of_2(width))
    shift = shift_of(codes) if split else torch.zeros(width, dtype=torch.float64, device=codes.device)
    scale = scale_of(codes, shift)
    rows = _multiple(num_codes, TABLE_STEP)
    inverse = torch.full((1,), 1 / temperature, dtype=torch.float64, device=codes.device)
    entries = codes.new_empty(1 + split, rows, padded, dtype=torch.float16)
    norms = torch.empty(rows, dtype=torch.float64, device=codes.device)
    _frame(codes, (shift, scale, inverse), entries, norms, queries=False)
    bias = norms * (-kernels.LOG2_E.value / temperature)
    unusable = (bias < -kernels.LARGEST_SCORE.value) & norms.isfinite()
    bias = bias.float().masked_fill_(unusable, math.nan)
    return _Table(entries, bias, shift, scale, inverse, num_codes, scored)


def _rows(
    x: Tensor,
    codes: Tensor,
    target: Tensor,
    table: _Table,
    out: tuple[Tensor, Tensor],
    with_gradient: bool,
) -> None:
    """Fills out (loss [n], gradient [n, D]) for x [n, D]."""
    n, width = x.shape
    chosen = config(capability(x.device), n, split=table.split, scored=table.scored)
    score = score_config(n, split=table.split)
    rows = _multiple(n, score.block_m if table.scored else chosen.block_m)
    _, table_rows, padded = table.entries.shape
    queries = table.entries.new_empty(len(table.entries), rows, padded)
    factor = table.bias.new_empty(rows)
    frame = table.shift, table.scale, table.inverse_temperature
    _frame(x, frame, queries, factor, queries=True)

    chunk = _codes_per_chunk(n, rows, table_rows) if table.scored else table_rows
    scores = factor.new_empty(rows, chunk) if table.scored else factor
    column = widest(table.split) if table.scored else padded
    columns = triton.cdiv(padded, column) if with_gradient else 1
    tiles = chunk // chosen.block_n
    slots = 2 * processors(x.device)
    step = triton.cdiv(tiles, min(tiles, max(1, slots // (rows // chosen.block_m * columns))))
    splits = triton.cdiv(tiles, step)
    best, partition = factor.new_empty(2, columns, splits, rows)
    ids = torch.empty(best.shape, dtype=torch.int32, device=x.device)
    weighted = factor.new_empty(splits, rows, padded) if with_gradient else factor
    for offset in range(0, table_rows, chunk):
        here = min(chunk, table_rows - offset)
        if table.scored:
            kernels.score[(rows // score.block_m, here // score.block_n)](
                queries, table.entries, factor, table.bias, scores, rows, table_rows, offset, here,
                WIDTH=padded, BLOCK_M=score.block_m, BLOCK_N=score.block_n, BLOCK_K=score.block_k,
                SPLIT=table.split, num_warps=score.num_warps, num_stages=score.num_stages, **OPTIONS,
            )  # fmt: skip
        kernels.stream[(rows // chosen.block_m, splits, columns)](
            queries, table.entries, factor, table.bias, target, scores, best, ids, partition, weighted,
            n, rows, table_rows, padded, offset, here, step, int(offset > 0),
            BLOCK_M=chosen.block_m, BLOCK_N=chosen.block_n, BLOCK_D=column, SPLIT=table.split,
            SCORED=table.scored, GRADIENT=with_gradient, num_warps=chosen.num_warps,
            num_stages=chosen.num_stages, **OPTIONS,
        )  # fmt: skip
    kernels.finish[(triton.cdiv(n, ROWS_PER_FINISH),)](
        x, codes, target, *frame, best, ids, partition, weighted, *out, n, width, rows, padded, splits,
        ROWS=ROWS_PER_FINISH, BLOCK=min(256, triton.next_power_of_2(width)), GRADIENT=with_gradient,
        **FINISH, **OPTIONS,
    )  # fmt: skip


def _frame(
    x: Tensor, frame: tuple[Tensor, Tensor, Tensor], out: Tensor, measured: Tensor, *, queries: bool
) -> None:
    """Fills out [1 or 2, R, W] and measured [R] from x [N, D]."""
    split, rows, padded = out.shape
    kernels.frame_rows[(triton.cdiv(rows, ROWS_PER_FRAME),)](
        x, *frame, out, measured, len(x), x.shape[1], rows, padded,
        ROWS=ROWS_PER_FRAME, BLOCK=min(256, triton.next_power_of_2(padded)), QUERIES=queries,
        SPLIT=split == 2, **FRAME, **OPTIONS,
    )  # fmt: skip


def _row_chunks(num_queries: int, *, scored: bool) -> Iterator[slice]:
    size = SCORED_ROWS if scored else ROWS
    return (slice(start, start + size) for start in range(0, num_queries, size))


def _codes_per_chunk(num_queries: int, rows: int, table_rows: int) -> int:
    """How many codes' scores are held at a time: about 1 / 32 of them, within SCORE_BYTES."""
    low, high = SCORE_BYTES
    budget = min(high, max(low, num_queries * table_rows // 8))
    return min(table_rows, max(1, budget // (4 * rows * TABLE_STEP)) * TABLE_STEP)


def _multiple(value: int, step: int) -> int:
    return triton.cdiv(value, step) * step
