"""Kernels of the exact lookup on GPUs: frame, screen, certify, resolve, merge.

What they compute, its proof and what that assumes of the tensor cores are in `tensor_cores.py`.
"""

# What pyright knows of Triton's types is not what its compiler does with them.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false

from __future__ import annotations

import triton
import triton.language as tl

from spae_ops.lookup import tensor_cores

TILE = tl.constexpr(tensor_cores.TILE)
LANES = tl.constexpr(32)
ABSENT = tl.constexpr(tensor_cores.ABSENT)
LOWEST = tl.constexpr(tensor_cores.LOWEST)
FLOOR = tl.constexpr(tensor_cores.FLOOR)
UNSCREENED = tl.constexpr(tensor_cores.UNSCREENED)
COLUMN_SLACK = tl.constexpr(tensor_cores.COLUMN_SLACK)
INFLATION = tl.constexpr(tensor_cores.INFLATION)
LEAST = tl.constexpr(tensor_cores.LEAST)
DECIDED = tl.constexpr(float("inf"))  # the threshold of a row that `certify` has finished
NO_ID = tl.constexpr(1 << 61)


@triton.jit
def frame_rows(
    x, shift, scale, out, norms, residuals, extra, inverse, N, D, definition_error,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Rows x [N, D] to fp16 out [.., WIDTH] in the frame, with their measured bounds.

    out is zero beyond D and N, and where values are below LEAST in size.

    shift float64 [D], scale float64 [1]. norms, residuals, extra: float32 [..], N, R, and for queries the
    slack (e/2) N^2 or UNSCREENED, for codes the bias b. inverse: float32 [..], 1 / r, of queries only.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    source = x + row[:, None] * D
    s = tl.load(scale)
    unit = tl.full((ROWS,), 1.0, tl.float64)  # r
    back = unit  # 1 / r
    screened = row < N
    if QUERIES:
        largest = tl.zeros((ROWS,), tl.float64)
        for start in range(0, WIDTH, BLOCK):
            t = _framed(source, shift, s, row[:, None] < N, start + column, D)
            largest = tl.maximum(largest, tl.max(tl.abs(t), 1))
        # largest = [1, 2) 2^exponent; r brings it into [2^14, 2^15) unless that needs more than 2^30.
        exponent = (largest.to(tl.int64, bitcast=True) >> 52) - 1023
        shifted = tl.minimum(14 - exponent, 30)
        screened = screened & (shifted >= -45)
        shifted = tl.where(screened, shifted, 0)
        unit = ((shifted + 1023) << 52).to(tl.float64, bitcast=True)
        back = ((1023 - shifted) << 52).to(tl.float64, bitcast=True)
        tl.store(inverse + row, back.to(tl.float32))
    squares = tl.zeros((ROWS, BLOCK), tl.float64)
    residual_squares = tl.zeros((ROWS, BLOCK), tl.float64)
    for start in range(0, WIDTH, BLOCK):
        t = _framed(source, shift, s, screened[:, None], start + column, D) * unit[:, None]
        rounded = tl.where(tl.abs(t) < LEAST, 0.0, t).to(tl.float32).to(tl.float16)
        residual = t - rounded.to(tl.float32).to(tl.float64)
        squares += t * t
        residual_squares += residual * residual
        tl.store(out + row[:, None] * WIDTH + start + column, rounded, mask=start + column < WIDTH)
    total = tl.sum(squares, 1)
    root = tl.sqrt(total)
    off = tl.sqrt(tl.sum(residual_squares, 1)) + root * 2.0**-53
    norm = (root + off) * INFLATION * back
    tl.store(norms + row, norm.to(tl.float32))
    tl.store(residuals + row, (off * INFLATION * back).to(tl.float32))
    if QUERIES:
        slack = (0.5 * definition_error * norm * norm * INFLATION).to(tl.float32)
        tl.store(extra + row, tl.where(screened | (row >= N), slack, UNSCREENED))
    else:
        tl.store(extra + row, tl.where(screened, (-0.5 * total).to(tl.float32), ABSENT))


@triton.jit
def _framed(source, shift, scale, valid, column, D):
    """scale * (x - shift) in float64, zero where there is no such element."""
    inside = (column < D) & valid
    value = tl.load(source + column, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
    centre = tl.load(shift + column, mask=column < D, other=0.0)
    return tl.where(inside, (value - centre) * scale, 0.0)


@triton.jit
def screen(
    queries, codes, inverse, bias, first, second, rows, tiles, tiles_per_split,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """The two largest w of every row and tile, first and second float32 [tiles, rows].

    queries fp16 [rows, WIDTH], codes fp16 [128 tiles, WIDTH]: pointers, or tensor descriptors of blocks
    [BLOCK_M, BLOCK_K] and [128, BLOCK_K]. rows is a multiple of BLOCK_M. Programs: (row block, range of
    tiles); neighbours differ in rows, so that those running together read the same codes, from L2.
    """
    start = tl.program_id(0) * BLOCK_M
    row = start.to(tl.int64) + tl.arange(0, BLOCK_M)
    column = tl.arange(0, TILE)
    begin = tl.program_id(1) * tiles_per_split
    factor = tl.load(inverse + row)
    for tile in tl.range(begin, tl.minimum(begin + tiles_per_split, tiles), flatten=True):
        code = (column + tile * TILE).to(tl.int64)
        accumulator = tl.zeros((BLOCK_M, TILE), tl.float32)
        for k in range(WIDTH // BLOCK_K):
            if DESCRIPTORS:
                q = queries.load([start, k * BLOCK_K])
                c = codes.load([tile * TILE, k * BLOCK_K])
            else:
                element = k * BLOCK_K + tl.arange(0, BLOCK_K)
                q = tl.load(queries + row[:, None] * WIDTH + element[None, :])
                c = tl.load(codes + code[:, None] * WIDTH + element[None, :])
            accumulator = tl.dot(q, c.T, accumulator)
        scores = accumulator * factor[:, None] + tl.load(bias + code)[None, :]
        bits = (scores.to(tl.int32, bitcast=True) & -TILE) | column[None, :]
        packed = bits.to(tl.float32, bitcast=True)
        best = tl.max(packed, 1)
        # Columns differ, so the packed scores of a row do: exactly one of them equals the best.
        runner_up = tl.max(tl.where(packed == best[:, None], LOWEST, packed), 1)
        target = (tl.zeros_like(row) + tile) * rows + row
        tl.store(first + target, best)
        tl.store(second + target, runner_up)


@triton.jit
def _slack(norm, residual, own, tile_residual, tile_norm, tile_own, score):
    """slack(w), fp32; the tile's factors are R_t + (G + 4u) N_t, N_t and 3u N_t^2 + 2^-100, inflated."""
    return (norm * tile_residual + residual * tile_norm) + (own + tile_own) + COLUMN_SLACK * tl.abs(score)


@triton.jit
def _bounds(first, second, bounds, tile, rows, row, tiles, norm, residual, own):
    """The two largest w with their slacks; rows and tiles broadcast, LOWEST where there is no tile."""
    inside = tile < tiles
    a = tl.load(bounds + tile, mask=inside, other=0.0)
    b = tl.load(bounds + tiles + tile, mask=inside, other=0.0)
    c = tl.load(bounds + 2 * tiles + tile, mask=inside, other=0.0)
    source = tile.to(tl.int64) * rows + row
    best = tl.load(first + source, mask=inside, other=LOWEST)
    runner_up = tl.load(second + source, mask=inside, other=LOWEST)
    best_slack = _slack(norm, residual, own, a, b, c, best)
    return best, best_slack, runner_up, _slack(norm, residual, own, a, b, c, runner_up)


@triton.jit
def certify(
    x, codes, first, second, bounds, norms, residuals, owns, threshold, ids, sqdist, N, D, rows, tiles,
    ROWS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """T of every row, and the answer of the rows that have one candidate (there the threshold is DECIDED).

    x [N, D], codes [K, D] as given; bounds float32 [3, tiles]; norms, residuals, owns float32 [rows].
    threshold float32 [N], ids int64 [N], sqdist float64 [N].
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = row < N
    norm = tl.load(norms + row, mask=valid, other=0.0)[None, :]
    residual = tl.load(residuals + row, mask=valid, other=0.0)[None, :]
    own = tl.load(owns + row, mask=valid, other=0.0)[None, :]
    row = tl.where(valid, row, 0)
    limit = tl.full((ROWS,), FLOOR, tl.float32)
    for start in range(0, tiles, TILES):
        tile = start + tl.arange(0, TILES)[:, None]
        best, slack, _, _ = _bounds(
            first, second, bounds, tile, rows, row[None, :], tiles, norm, residual, own
        )
        limit = tl.maximum(limit, tl.max(best - slack, 0))
    count = tl.zeros((ROWS,), tl.int32)
    pick = tl.zeros((ROWS,), tl.int64)
    for start in range(0, tiles, TILES):
        tile = start + tl.arange(0, TILES)[:, None]
        best, slack, runner_up, runner_up_slack = _bounds(
            first, second, bounds, tile, rows, row[None, :], tiles, norm, residual, own
        )
        flagged = (best + slack >= limit[None, :]) & (tile < tiles)
        more = (runner_up + runner_up_slack >= limit[None, :]) & (tile < tiles)
        count += tl.sum(flagged.to(tl.int32), 0) + tl.sum(more.to(tl.int32), 0)
        code = tile.to(tl.int64) * TILE + (best.to(tl.int32, bitcast=True) & (TILE - 1))
        pick = tl.maximum(pick, tl.max(tl.where(flagged, code, 0), 0))
    decided = valid & (count == 1)
    found = squared_distance(x + row[:, None] * D, codes + pick[:, None] * D, decided[:, None], D, ROWS)
    tl.store(threshold + row, tl.where(decided, DECIDED, limit), mask=valid)
    tl.store(ids + row, pick, mask=decided)
    tl.store(sqdist + row, found, mask=decided)


@triton.jit
def resolve(
    x, codes, first, second, bounds, bias, norms, residuals, owns, threshold, after, after_ids, ids, sqdist,
    D, rows, tiles, tiles_per_split, k,
    LIST: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, AFTER: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """The k lowest (sqdist64, id) among a row's candidates in a range of tiles, ascending; k <= LIST.

    Programs: (row, range of tiles). ids int64 and sqdist float64 [N, ranges, k]; rows that are decided are
    left alone if FINAL. With AFTER, only candidates past (after float64 [N], after_ids int64 [N]) count.
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    limit = tl.load(threshold + row)
    undecided = limit < DECIDED
    norm = tl.load(norms + row)
    residual = tl.load(residuals + row)
    own = tl.load(owns + row)
    query = x + row * D + tl.zeros((1, 1), tl.int64)
    slot = tl.arange(0, LIST)
    kept = tl.where(slot < k, float("inf"), float("-inf")).to(tl.float64)
    kept_ids = slot.to(tl.int64) + NO_ID
    begin = split * tiles_per_split
    end = tl.where(undecided, tl.minimum(begin + tiles_per_split, tiles), begin)
    for start in range(begin, end, TILES):
        tile = start + tl.arange(0, TILES)
        best, slack, runner_up, runner_up_slack = _bounds(
            first, second, bounds, tile, rows, row, tiles, norm, residual, own
        )
        pending = (best + slack >= limit) & (tile < end)
        more = runner_up + runner_up_slack >= limit
        column = best.to(tl.int32, bitcast=True) & (TILE - 1)
        left = tl.sum(pending.to(tl.int32), 0)
        while left > 0:
            chosen = tl.min(tl.where(pending, tile, 2147483647), 0)
            whole = tl.max((more & (tile == chosen)).to(tl.int32), 0)
            offset = tl.where(whole > 0, 0, tl.max(tl.where(tile == chosen, column, 0), 0))
            number = tl.where(whole > 0, TILE, 1)
            for step in range(0, number, BLOCK):
                lane = step + tl.arange(0, BLOCK)
                code = chosen.to(tl.int64) * TILE + offset + lane
                counts = lane < number
                counts = counts & (tl.load(bias + code, mask=counts, other=ABSENT) > 0.5 * ABSENT)
                found = squared_distance(query, codes + code[:, None] * D, counts[:, None], D, BLOCK)
                if AFTER:
                    last = tl.load(after + row)
                    counts = counts & ((found > last) | ((found == last) & (code > tl.load(after_ids + row))))
                found = tl.where(counts, found, float("inf"))
                # Codes come in ascending order, so that one equal to the worst kept has the higher id.
                low = tl.min(found, 0)
                worst = tl.max(kept, 0)
                while low < worst:
                    enters = tl.min(tl.where(found == low, code, NO_ID), 0)
                    leaves = tl.max(tl.where(kept == worst, kept_ids, -1), 0)
                    kept = tl.where(kept_ids == leaves, low, kept)
                    kept_ids = tl.where(kept_ids == leaves, enters, kept_ids)
                    found = tl.where(code == enters, float("inf"), found)
                    low = tl.min(found, 0)
                    worst = tl.max(kept, 0)
            pending = pending & (tile != chosen)
            left -= 1
    kept = tl.where(slot < k, kept, float("inf"))
    target = (row * tl.num_programs(1) + split) * k
    _emit(kept, kept_ids, ids + target, sqdist + target, k, undecided | (not FINAL))


@triton.jit
def merge(partial_ids, partial, threshold, ids, sqdist, size, k, SIZE: tl.constexpr):
    """The k lowest (sqdist64, id) of a row's `size` partial results, for rows that are not decided."""
    row = tl.program_id(0).to(tl.int64)
    element = tl.arange(0, SIZE)
    source = row * size + element
    found = tl.load(partial + source, mask=element < size, other=float("inf"))
    found_ids = tl.load(partial_ids + source, mask=element < size, other=NO_ID)
    undecided = tl.load(threshold + row) < DECIDED
    _emit(found, found_ids, ids + row * k, sqdist + row * k, k, undecided)


@triton.jit
def _emit(found, found_ids, ids, sqdist, k, wanted):
    """Store the k lowest of (found, found_ids) in ascending order."""
    for position in range(k):
        low = tl.min(found, 0)
        lowest_id = tl.min(tl.where(found == low, found_ids, 2 * NO_ID), 0)
        tl.store(ids + position, lowest_id, mask=wanted)
        tl.store(sqdist + position, low, mask=wanted)
        found = tl.where(found_ids == lowest_id, float("inf"), found)


@triton.jit
def squared_distance(q, c, valid, D, ROWS: tl.constexpr):
    """`distance.squared_distance` of rows at the pointers q [ROWS or 1, 1] and c [ROWS, 1], float64 [ROWS].

    Where valid [ROWS, 1] is false, c is not read and the result means nothing.
    """
    lane = tl.arange(0, LANES)[None, :]
    lanes = tl.zeros((ROWS, LANES), tl.float64)
    for start in range(0, D, 4 * LANES):
        for block in tl.static_range(4):
            element = start + block * LANES + lane
            inside = element < D
            a = tl.load(q + element, mask=inside, other=0.0).to(tl.float32).to(tl.float64)
            b = tl.load(c + element, mask=inside & valid, other=0.0).to(tl.float32).to(tl.float64)
            t = a - b
            high = ((t.to(tl.int64, bitcast=True) + (1 << 26)) & -(1 << 27)).to(tl.float64, bitcast=True)
            low = t - high
            lanes += high * high
            lanes += (2.0 * high) * low
            lanes += low * low
    lanes = _fold(lanes, ROWS, 16)
    lanes = _fold(lanes, ROWS, 8)
    lanes = _fold(lanes, ROWS, 4)
    lanes = _fold(lanes, ROWS, 2)
    return tl.reshape(_fold(lanes, ROWS, 1), (ROWS,))


@triton.jit
def _fold(lanes, ROWS: tl.constexpr, HALF: tl.constexpr):
    """lanes[:, :HALF] + lanes[:, HALF:], in that pairing on every target (a tl.sum promises no order)."""
    left, right = tl.split(tl.permute(tl.reshape(lanes, (ROWS, 2, HALF)), (0, 2, 1)))
    return left + right
