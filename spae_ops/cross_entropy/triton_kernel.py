"""Kernels of the distance cross-entropy on GPUs: frame, score, stream, finish; and how accurate they are.

With weights e_k = exp(-(d_k - d_b) / tau) relative to a reference code b, d_k = |x - c_k|^2 and the target y,

    loss = log(1 + L / e_y),  gradient = 2 / tau * (A - L c_y) / (L + e_y),
    L = sum of e_k and A = sum of e_k c_k over the codes k other than y,

which keeps its relative accuracy however small the loss is, and is never negative. L and A are streamed over
tiles of codes with a running maximum. b is the best code other than y by the streamed scores, so that L >= 1;
the two distances that the loss hangs on, d_y and d_b, are evaluated again in float64 by the definition
(`squared_distance`), and d_b - d_y is exact where the streamed scores cancel.

Streaming happens in the frame of `nearest_code.frame`: a shift m, a power of two s for the table, a power of
two r for each query. With Q = r s (x - m) and C_k = s (c_k - m), the score in units of log 2 is

    t_k = <Q, C_k> f + b_k,   f = 2 log2(e) / (r s^2 tau),   b_k = -|c_k - m|^2 log2(e) / tau,

(|x - m|^2 is the same for all codes). Distances do not change with the shift; it makes |Q| and |C_k| as small
as the spread of the codes and with them the cancellation.

Precision. If codes and queries are both of 16 bits, m = 0, and Q and C_k, one float16 tensor each, hold what
they held (unless it is 2^28 times smaller than the largest): products of them are exact, and their sum is
accumulated in fp32. Otherwise (SPLIT) each is the sum of two float16 tensors, high and low, good to 2^-23 of
its value, and <Q, C> = <Q_low, C_high> + <Q_high, C_low> + <Q_high, C_high>; what is left out is 2^-22 of
|Q||C|. So the error of t is that of one fp32 product, at three float16 ones and not at tf32's rate. The
weights are scaled by 2^14, out of float16's subnormals, and split alike for A. Tensor cores may cut where
fp32 rounds; thousands of cuts in a row would show in A, so that with SPLIT they only add up within a tile.

Range. Scores beyond 2^120 in size, where their error would be greater than any difference of them, make a
loss of nan: b_k is set to nan, and so is f for a query that might give such a product.

Programs own what they write, and splits of the codes are added in ascending order: no atomics, the same bits
on every run on one device. How many splits there are depends on the device, hence the last bits do.
Offsets are 64-bit.
"""

# What pyright knows of Triton's types is not what its compiler does with them.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false

from __future__ import annotations

import triton
import triton.language as tl

from spae_ops.lookup.triton_kernel import squared_distance

LOG2_E = tl.constexpr(1.4426950408889634)
WEIGHT_BITS = tl.constexpr(14)
LARGEST_SCORE = tl.constexpr(2.0**120)
LARGEST_PRODUCT = tl.constexpr(2.0**30)  # of entries of Q and C
NO_CODE = tl.constexpr(2147483647)


@triton.jit
def frame_rows(
    x, shift, scale, inverse_temperature, out, measured, N, D, rows, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Rows x [N, D] in the frame, fp16 out [2 if SPLIT else 1, rows, width], zero beyond N and D.

    shift float64 [D]; scale, inverse_temperature float64 [1]. measured: of queries f, fp32 [rows]; of codes
    |c - m|^2, float64 [rows], infinite beyond N.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    source = x + row[:, None] * D
    valid = row[:, None] < N
    s = tl.load(scale)
    unit = tl.full((ROWS,), 1.0, tl.float64)  # r
    if QUERIES:
        largest = tl.zeros((ROWS,), tl.float64)
        for start in range(0, width, BLOCK):
            largest = tl.maximum(
                largest, tl.max(tl.abs(_framed(source, shift, s, valid, start + column, D)), 1)
            )
        # largest = [1, 2) 2^exponent; r brings it into [2^14, 2^15).
        exponent = tl.minimum(14 - ((largest.to(tl.int64, bitcast=True) >> 52) - 1023), 1000)
        unit = ((exponent + 1023) << 52).to(tl.float64, bitcast=True)
        f = 2.0 * LOG2_E * tl.load(inverse_temperature) / (s * s) / unit
        f = tl.where(f * LARGEST_PRODUCT * D < LARGEST_SCORE, f, float("nan"))
        tl.store(measured + row, f.to(tl.float32), mask=row < rows)
    squares = tl.zeros((ROWS, BLOCK), tl.float64)
    for start in range(0, width, BLOCK):
        element = start + column
        t = _framed(source, shift, s, valid, element, D) * unit[:, None]
        high = t.to(tl.float32).to(tl.float16)
        inside = (element < width) & (row[:, None] < rows)
        tl.store(out + row[:, None] * width + element, high, mask=inside)
        if SPLIT:
            low = (t - high.to(tl.float32).to(tl.float64)).to(tl.float32).to(tl.float16)
            tl.store(out + (rows + row[:, None]) * width + element, low, mask=inside)
        if not QUERIES:
            t = t / s
            squares += t * t
    if not QUERIES:
        total = tl.where(row < N, tl.sum(squares, 1), float("inf"))
        tl.store(measured + row, total, mask=row < rows)


@triton.jit
def _framed(source, shift, scale, valid, column, D):
    """scale * (x - shift) in float64, zero where there is no such element."""
    inside = (column < D) & valid
    value = tl.load(source + column, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
    centre = tl.load(shift + column, mask=column < D, other=0.0)
    return tl.where(inside, (value - centre) * scale, 0.0)


@triton.jit
def score(
    queries, codes, factor, bias, scores, rows, table_rows, offset, chunk,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """t of a chunk of codes, fp32 scores [rows, chunk]; the chunk begins at code `offset` of the table.

    queries fp16 [1 or 2, rows, WIDTH], codes fp16 [1 or 2, table_rows, WIDTH], factor fp32 [rows], bias fp32
    [table_rows]; rows and chunk are whole numbers of blocks. Programs: (row block, tile of codes).
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    code = (offset + column).to(tl.int64)
    element = tl.arange(0, BLOCK_K)[None, :]
    q_source = queries + row[:, None] * WIDTH + element
    q_low_source = queries + (row + rows)[:, None] * WIDTH + element
    c_source = codes + code[:, None] * WIDTH + element
    c_low_source = codes + (code + table_rows)[:, None] * WIDTH + element
    t = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, WIDTH, BLOCK_K):
        q = tl.load(q_source + k)
        c = tl.load(c_source + k)
        if SPLIT:
            q_low = tl.load(q_low_source + k)
            c_low = tl.load(c_low_source + k)
            t = tl.dot(q_low, c.T, t)
            t = tl.dot(q, c_low.T, t)
        t = tl.dot(q, c.T, t)
    t = t * tl.load(factor + row)[:, None] + tl.load(bias + code)[None, :]
    tl.store(scores + row[:, None] * chunk + column[None, :], t)


@triton.jit
def stream(
    queries, codes, factor, bias, target, scores, best, ids, partition, weighted,
    N, rows, table_rows, width, offset, chunk, tiles_per_split, resume,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr, SCORED: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """The running maximum, its code, L and A over a range of tiles of a chunk, from where they stood.

    Programs: (row block, split of the chunk's tiles, block of BLOCK_D columns). State, written at the end and
    read at the start if `resume` is 1 and not 0: best fp32, ids int32, partition fp32 [column blocks, splits,
    rows], weighted fp32 [splits, rows, width] (only if GRADIENT). partition and weighted are 2^14 L and
    2^14 A relative to 2^best.
    queries, codes, factor, bias and scores as in `score`; target int64 [N]. SCORED: t is read from scores;
    otherwise it is computed here, width is BLOCK_D, and there is one chunk and one block of columns.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(1)
    column = tl.arange(0, BLOCK_N)
    element = (tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    own = tl.load(target + row, mask=row < N, other=-1).to(tl.int32)
    state = (tl.program_id(2).to(tl.int64) * tl.num_programs(1) + split) * rows + row
    resumes = row < rows * resume
    top = tl.load(best + state, mask=resumes, other=float("-inf"))
    top_id = tl.load(ids + state, mask=resumes, other=-1)
    total = tl.load(partition + state, mask=resumes, other=0.0)
    if GRADIENT:
        target_rows = weighted + (split.to(tl.int64) * rows + row)[:, None] * width + element
        inside = element < width
        mean = tl.load(target_rows, mask=resumes[:, None] & inside, other=0.0)
    if not SCORED:
        q = tl.load(queries + row[:, None] * BLOCK_D + element)
        f = tl.load(factor + row)[:, None]
        if SPLIT:
            q_low = tl.load(queries + (row + rows)[:, None] * BLOCK_D + element)
    begin = split * tiles_per_split
    for tile in range(begin, tl.minimum(begin + tiles_per_split, chunk // BLOCK_N)):
        local = tile * BLOCK_N + column
        code = offset + local
        wide = code.to(tl.int64)[:, None]
        if not SCORED:
            c = tl.load(codes + wide * BLOCK_D + element)
            t = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            if SPLIT:
                c_low = tl.load(codes + (wide + table_rows) * BLOCK_D + element)
                t = tl.dot(q_low, c.T, t)
                t = tl.dot(q, c_low.T, t)
            t = tl.dot(q, c.T, t) * f + tl.load(bias + code)[None, :]
        else:
            t = tl.load(scores + row[:, None] * chunk + local[None, :])
            if GRADIENT:
                c = tl.load(codes + wide * width + element, mask=inside, other=0.0)
                if SPLIT:
                    c_low = tl.load(codes + (wide + table_rows) * width + element, mask=inside, other=0.0)
        t = tl.where(code[None, :] == own[:, None], float("-inf"), t)
        high = tl.max(t, 1)
        high_id = tl.min(tl.where(t == high[:, None], code[None, :], NO_CODE), 1)
        top_id = tl.where(high > top, high_id, top_id)
        reached = tl.maximum(top, high)
        base = tl.where(reached == float("-inf"), 0.0, reached)  # no code yet
        fade = tl.exp2(top - base)
        top = reached
        p = tl.exp2((t - base[:, None]) + WEIGHT_BITS)  # base may be too large to hold 14 more
        total = total * fade + tl.sum(p, 1)
        if GRADIENT:
            p_high = p.to(tl.float16)
            if SPLIT:
                p_low = (p - p_high.to(tl.float32)).to(tl.float16)
                part = tl.dot(p_low, c, tl.zeros((BLOCK_M, BLOCK_D), tl.float32))
                part = tl.dot(p_high, c_low, part)
                mean = mean * fade[:, None] + tl.dot(p_high, c, part)
            else:
                mean = tl.dot(p_high, c, mean * fade[:, None])
    tl.store(best + state, top)
    tl.store(ids + state, top_id)
    tl.store(partition + state, total)
    if GRADIENT:
        tl.store(target_rows, mean, mask=inside)


@triton.jit
def finish(
    x, codes, target, shift, scale, inverse_temperature, best, ids, partition, weighted, loss, gradient,
    N, D, rows, width, splits, ROWS: tl.constexpr, BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """loss fp32 [N] and gradient fp32 [N, D] from the states of the splits, in float64.

    x [N, D] and codes [K, D] as given; the states are those of `stream`, of the first block of columns.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = row < N
    row = tl.where(valid, row, 0)
    own = tl.load(target + row)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    nearest = tl.full((ROWS,), -1, tl.int32)
    source = row
    for _ in range(splits):
        value = tl.load(best + source)
        nearest = tl.where(value > top, tl.load(ids + source), nearest)
        top = tl.maximum(top, value)
        source += rows
    others = tl.zeros((ROWS,), tl.float64)
    source = row
    for _ in range(splits):
        others += tl.load(partition + source).to(tl.float64) * _fade(best, source, top)
        source += rows
    reference = tl.where(nearest < 0, own, nearest.to(tl.int64))
    query = x + row[:, None] * D
    near = squared_distance(query, codes + reference[:, None] * D, valid[:, None], D, ROWS)
    far = squared_distance(query, codes + own[:, None] * D, valid[:, None], D, ROWS)
    excess = (far - near) * tl.load(inverse_temperature)
    shrink = tl.exp(-tl.abs(excess))
    behind = excess > 0
    ratio = 1.0 + others * shrink
    # log(1 + z), accurate for small z
    small = tl.where(ratio == 1.0, others * shrink, tl.log(ratio) * (others * shrink) / (ratio - 1.0))
    large = excess + tl.log(others + shrink)
    tl.store(loss + row, tl.where(behind, large, small).to(tl.float32), mask=valid)
    if GRADIENT:
        slope = tl.where(behind, 1.0, shrink) / tl.where(behind, others + shrink, ratio)
        slope = (slope * 2.0 * tl.load(inverse_temperature))[:, None]
        back = 1.0 / tl.load(scale)
        for start in range(0, D, BLOCK):
            element = start + tl.arange(0, BLOCK)[None, :]
            inside = (element < D) & valid[:, None]
            total = tl.zeros((ROWS, BLOCK), tl.float64)
            source = row
            for _ in range(splits):
                value = tl.load(weighted + source[:, None] * width + element, mask=inside, other=0.0)
                total += value.to(tl.float64) * _fade(best, source, top)[:, None]
                source += rows
            c = tl.load(codes + own[:, None] * D + element, mask=inside, other=0.0)
            c = c.to(tl.float32).to(tl.float64) - tl.load(shift + element, mask=element < D, other=0.0)
            value = slope * (total * back - others[:, None] * c)
            tl.store(gradient + row[:, None] * D + element, value.to(tl.float32), mask=inside)


@triton.jit
def _fade(best, source, top):
    """2^-14 2^(best - top) in float64; zero of a state that saw no code."""
    value = tl.load(best + source)
    difference = tl.where(value == float("-inf"), float("-inf"), value - top)
    return tl.exp2(difference.to(tl.float64) - WEIGHT_BITS)
