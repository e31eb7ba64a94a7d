"""The exact lookup on tensor cores: the method and its proof, and what the Triton and CUDA kernels share.

The distance that decides is `distance.squared_distance`, sqdist64. Screening happens in a frame: a shift m
(of fp32 values), a power of two s for the table and a power of two r for each query. In exact arithmetic

    Q = s (q - m),  C_k = s (c_k - m),  score_k = <Q, C_k> - |C_k|^2 / 2,
    so that  s^2 |q - c_k|^2 = |Q|^2 - 2 score_k.

Q' = fp16(r Q) / r and C'_k = fp16(C_k) are what the tensor cores see, where fp16() makes 0 of what lies below
2^-14, so that none of its results is subnormal. u = 2^-24. `frame` measures in float64, inflates by 1 + 2^-20
and rounds to fp32 the norms and the norms of the residuals

    N_q >= |Q|, |Q'|    R_q >= |Q - Q'|    N_k >= |C_k|, |C'_k|    R_k >= |C_k - C'_k|

and b_k = fl32(-|C_k|^2 / 2). `screen` computes v_k = fl32(dot_k / r + b_k), dot_k the fp32 accumulation of
<r Q', C'_k>, and overwrites the low 7 bits of v_k by the code's column in its tile of 128: w_k.

How far w_k is from score_k:
  (1) |<Q, C_k> - <Q', C'_k>| <= |<Q, C_k - C'_k>| + |<Q - Q', C'_k>|  <= N_q R_k + R_q N_k
  (2) accumulation: |dot_k / r - <Q', C'_k>|                           <= G N_q N_k, if what follows holds
  (3) rounding v_k (1 / r is a power of two: nothing else rounds)      <= u ((1 + G) N_q N_k + 0.51 N_k^2)
  (4) rounding b_k                                                     <= 0.51 u N_k^2
  (5) the column in the low bits: less than 2^7 ulp                    <= 2^-16 |w_k|
and how far sqdist64 is from s^-2 (|Q|^2 - 2 score_k), in score units (step (5) of csrc's nearest_code.h):
  (6) the definition's own error                                       <= (e/2) (N_q + N_k)^2,
      e = (3 ceil(D/32) + 9) 2^-53 < 2^-36 for D <= 2^20.
With a tile t's largest N_k and R_k in place of each code's own, all six together are at most
    slack(w) = N_q (R_t + (G + 4u) N_t) + R_q N_t + 3u N_t^2 + (e/2) N_q^2 + 2^-100 + 2^-16 |w|,
where 2^-100 covers subnormals, flushed or not. It is evaluated in fp32: the tile's factors are inflated by
1 + 2^-16 and the last coefficient is 9/8 2^-16, which covers that and the roundings of w - slack, w + slack.

Assumption about the hardware, for (2). Products of two fp16 values enter the sum exactly (here they are 0 or
lie in [2^-28, 2^30)), and one step adds b >= 4 of them to the accumulator: the b + 1 terms are cut to
multiples of 2^(x - F), F >= 23, added exactly, and the result is rounded or cut to fp32. x is the largest
exponent of a term that is not 0, of a product the sum of its factors'. The factors are normal numbers, hence
2^x is at most the largest term. (A subnormal one would count with exponent -14 whatever its leading bit, and
2^x could be 2^20 times the largest term: no multiple of sum |Q'_d C'_d| would bound the error. That is why
fp16() makes none.) A step is then off by at most (b + 2) 2^-23 sum |Q'_d C'_d|, and D / b steps by 0.75 D
2^-22 N_q N_k to first order. G = W 2^-22, W the padded width, is a third more; an fp32 sum in any order,
fused or not, needs D u. The maker documents none of it. By experiment, (b, F) is (4, 23) on V100, (8, 24) on
A100 and Ada, and (16, 25) on H100, H200, B200 and RTX Blackwell, all of which cut, for mma, wgmma and tcgen05
alike: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 7:e330, 2021
(to A100); Khattak and Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv 2512.07004, and Xie, Wang,
Yang et al., "MMA-Sim", arXiv 2511.10909 (to Blackwell: models made apart, each equal to the hardware on
random inputs, with the same parameters). To first order A100 needs (9/16 + 1/8) D 2^-23 = 0.35 D 2^-22,
Hopper and Blackwell (17/64 + 1/16) D 2^-23 = 0.17 D 2^-22: G is about three and six times that. Before
"auto" takes kernels on a GPU, `spae_ops.admission.matrix_unit` measures there, by their own `screen`, whether
half of G covers the sums that are worst for such units.

Certificate. T, the largest w - slack(w) over the tiles' largest w, is a lower bound of some code j's
score_j less (6). A code whose w + slack(w) is below T has a strictly larger sqdist64 than j: it is not the
answer, nor ties with it. Per row and tile, `screen` leaves the two largest w. A tile whose first w + slack(w)
is not below T is flagged; if its second is below T, the first is its only candidate, otherwise all its codes
are candidates (w + slack(w) ascends with w). `certify` finishes the rows with one candidate; `resolve`
evaluates the others' candidates by the definition and keeps the k lowest by (sqdist64, id). For k > 1, T is
the k-th largest among the w - slack(w) of the two largest w of every tile.

Range. Table and query entries lie below 2^15 in size after scaling, so |v|, slack < 2^105 where r >= 2^-45.
Queries that would need a smaller r, and all where D > 2^20, have a slack of 2^127: every tile is flagged, and
every allowed code evaluated. Codes that do not exist or are masked have b_k = ABSENT, below every score.

Offsets are 64-bit. No atomics: each output has one writer, and what it writes does not depend on timing.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spae_ops.lookup.frame import scale_of, shift_of

TILE = 128
WIDTH_STEP = 64
MAX_SCREEN_WIDTH = 1 << 20
LIST_LIMIT = 256  # nearest codes found in one pass over the candidates; more take several passes
SPLIT_LIMIT = 16  # more than this are not found in several ranges of tiles at once
SUMMARY_BYTES = (16 << 20, 256 << 20)
ABSENT = -(2.0**126)
LOWEST = -1.5 * 2.0**126  # below every score, those of absent codes too
FLOOR = -1.875 * 2.0**127  # below every score less its slack
UNSCREENED = 2.0**127
COLUMN_SLACK = 1.125 * 2.0**-16
INFLATION = 1.0 + 2.0**-20
LEAST = 2.0**-14


class Prepared(NamedTuple):
    """The codes in their frame; T = ceil(K / 128) tiles, W the padded width. Padding aside, half the memory
    of the codes in fp32."""

    table: Tensor  # float16 [128 T, W]
    bias: Tensor  # float32 [128 T]
    bounds: Tensor  # float32 [3, T]
    frame: Tensor  # float64 [D + 1]


class Index(NamedTuple):
    """codes [K, D] and what `prepare` made of them, the mask in its bias."""

    codes: Tensor
    table: Tensor
    bias: Tensor
    bounds: Tensor
    frame: Tensor


class Summary(NamedTuple):
    """What screening leaves. scores float32 [2, T, R]: each tile's two largest w. measured float32 [4, R]:
    each row's N, R, own slack, 1 / r."""

    scores: Tensor
    measured: Tensor


class Kernels(Protocol):
    """The five steps on a device; x [N, D] and codes [K, D] as given, outputs written into the arguments."""

    def row_block(self, device: torch.device, num_queries: int) -> int:
        """What R must be a multiple of."""
        ...

    def frame(self, x: Tensor, frame: Tensor, out: Tensor, measured: Tensor) -> None:
        """Fills out float16 [R, W] and measured float32: [4, R], N, R, own slack and 1 / r, of queries;
        [3, R], N, R and b, of codes."""
        ...

    def screen(self, queries: Tensor, index: Index, inverse: Tensor, scores: Tensor) -> None:
        """Fills scores float32 [2, T, R] from queries float16 [R, W] and inverse float32 [R]."""
        ...

    def certify(
        self, x: Tensor, index: Index, summary: Summary, threshold: Tensor, ids: Tensor, sqdist: Tensor
    ) -> None:
        """Fills threshold float32 [N]; where one candidate is left, it is infinity, and ids int64 and sqdist
        float64 [N, 1] are the answer."""
        ...

    def resolve(
        self,
        x: Tensor,
        index: Index,
        summary: Summary,
        threshold: Tensor,
        after: tuple[Tensor, Tensor] | None,
        out: tuple[Tensor, Tensor],
        tiles_per_range: int,
    ) -> None:
        """Fills out = (ids int64, sqdist float64), both [N, ranges, k], with the k lowest of each range of
        tiles, for rows whose threshold is finite; with after = (sqdist float64 [N], ids int64 [N]), of those
        past it."""
        ...

    def merge(self, partial: tuple[Tensor, Tensor], threshold: Tensor, out: tuple[Tensor, Tensor]) -> None:
        """Fills out [N, k] with the k lowest of partial [N, ranges, k], where the threshold is finite."""
        ...

    def processors(self, device: torch.device) -> int: ...


def prepare(kernels: Kernels, codes: Tensor) -> Prepared:
    """What every later search needs to know of the codes, [K, D] fp32 | fp16 | bf16, finite."""
    codes = codes.contiguous()
    num_codes, width = codes.shape
    tiles, padded = ceil_div(num_codes, TILE), ceil_div(width, WIDTH_STEP) * WIDTH_STEP
    shift = shift_of(codes)
    frame = torch.cat([shift, scale_of(codes, shift)])
    table = codes.new_empty(tiles * TILE, padded, dtype=torch.float16)
    measured = codes.new_empty(3, tiles * TILE, dtype=torch.float32)
    with on_device(codes):
        kernels.frame(codes, frame, table, measured)
    n, r = measured[:2].view(2, tiles, TILE).amax(2).double()
    unit = 2.0**-24
    gamma = padded * 2.0**-22
    bounds = torch.stack([r + (gamma + 4 * unit) * n, n, 3 * unit * n * n + 2.0**-100])
    return Prepared(table, measured[2].clone(), (bounds * (1 + 2.0**-16)).float(), frame)


def search(
    kernels: Kernels, x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
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
        bias = bias.masked_fill(~F.pad(mask, (0, len(bias) - len(mask))), ABSENT)
    index = Index(codes, table, bias, bounds, frame)
    ids = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    sqdist = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    size = _rows_per_chunk(len(x), len(codes), bounds.shape[1])
    with on_device(x):
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            sqdist[rows] = _search_rows(kernels, x[rows], index, k, ids[rows])
    return ids, sqdist


def on_device(tensor: Tensor):
    """Makes the tensor's device current, as launches need it."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def screen(kernels: Kernels, x: Tensor, index: Index) -> Summary:
    """The summary of x [N, D], R >= N rows of it."""
    block = kernels.row_block(x.device, len(x))
    rows = ceil_div(len(x), block) * block
    queries = x.new_empty(rows, index.table.shape[1], dtype=torch.float16)
    measured = x.new_empty(4, rows, dtype=torch.float32)
    kernels.frame(x, index.frame, queries, measured)
    if x.shape[1] > MAX_SCREEN_WIDTH:
        measured[2].fill_(UNSCREENED)
    scores = x.new_empty(2, index.bounds.shape[1], rows, dtype=torch.float32)
    kernels.screen(queries, index, measured[3], scores)
    return Summary(scores, measured)


def certify(
    kernels: Kernels, x: Tensor, index: Index, summary: Summary, ids: Tensor, sqdist: Tensor
) -> Tensor:
    """Fills ids and sqdist [N, 1] where one candidate is left; thresholds float32 [N]."""
    threshold = torch.empty(len(x), dtype=torch.float32, device=x.device)
    kernels.certify(x, index, summary, threshold, ids, sqdist)
    return threshold


def _search_rows(kernels: Kernels, x: Tensor, index: Index, k: int, ids: Tensor) -> Tensor:
    """Writes ids [n, k] of x [n, D] and returns float64 squared distances [n, k]."""
    summary = screen(kernels, x, index)
    if k > 1:
        threshold = _kth_lower_bound(summary, index.bounds, k)[: len(x)].contiguous()
        return _resolve_many(kernels, x, index, summary, threshold, ids)
    sqdist = torch.empty(len(x), 1, dtype=torch.float64, device=x.device)
    threshold = certify(kernels, x, index, summary, ids, sqdist)
    _resolve(kernels, x, index, summary, threshold, None, (ids, sqdist))
    return sqdist


def _resolve_many(
    kernels: Kernels, x: Tensor, index: Index, summary: Summary, threshold: Tensor, ids: Tensor
) -> Tensor:
    """Writes the k = ids.shape[1] nearest, at most LIST_LIMIT a pass, and returns their squared distances."""
    sqdist = torch.empty(ids.shape, dtype=torch.float64, device=x.device)
    after = None
    for start in range(0, ids.shape[1], LIST_LIMIT):
        columns = slice(start, start + LIST_LIMIT)
        found = ids.new_empty(ids[:, columns].shape), sqdist.new_empty(ids[:, columns].shape)
        _resolve(kernels, x, index, summary, threshold, after, found)
        ids[:, columns], sqdist[:, columns] = found
        after = found[1][:, -1].contiguous(), found[0][:, -1].contiguous()
    return sqdist


def _resolve(
    kernels: Kernels,
    x: Tensor,
    index: Index,
    summary: Summary,
    threshold: Tensor,
    after: tuple[Tensor, Tensor] | None,
    out: tuple[Tensor, Tensor],
) -> None:
    """Fills out (ids, squared distances [n, k]) for the rows whose threshold is finite."""
    tiles = index.bounds.shape[1]
    n, k = out[0].shape
    ranges = max(1, min(64, 8 * kernels.processors(x.device) // n, tiles)) if k <= SPLIT_LIMIT else 1
    step = ceil_div(tiles, ranges)
    ranges = ceil_div(tiles, step)
    if ranges == 1:
        whole = out[0].view(n, 1, k), out[1].view(n, 1, k)
        kernels.resolve(x, index, summary, threshold, after, whole, step)
        return
    partial = out[0].new_empty(n, ranges, k), out[1].new_empty(n, ranges, k)
    kernels.resolve(x, index, summary, threshold, after, partial, step)
    kernels.merge(partial, threshold, out)


def _kth_lower_bound(summary: Summary, bounds: Tensor, k: int) -> Tensor:
    """T of the proof for k > 1, float32 [R]."""
    _, tiles, rows = summary.scores.shape
    if 2 * tiles < k:
        return summary.scores.new_full((rows,), FLOOR)
    norms, residuals, owns, _ = summary.measured
    a, b, c = bounds[:, :, None]
    slack = norms * a + residuals * b + (owns + c)
    lower = torch.cat([w - (slack + COLUMN_SLACK * w.abs()) for w in summary.scores])
    return lower.topk(k, dim=0).values[-1].clamp(min=FLOOR)


def _rows_per_chunk(num_queries: int, num_codes: int, tiles: int) -> int:
    """How many queries are screened at a time: their summary is 8 bytes a row and tile."""
    low, high = SUMMARY_BYTES
    budget = min(high, max(low, num_queries * num_codes // 20))  # 1 / 80 of an fp32 [N, K]
    return max(TILE, budget // (8 * tiles) // TILE * TILE)


@lru_cache
def tiles_per_split(blocks: int, tiles: int, slots: int) -> int:
    """Tiles that a program screens, so that the programs fill the device's slots in whole waves."""

    def idle(splits: int) -> tuple[int, int]:
        # Time in tiles: waves of programs times tiles each, and the start of each program.
        waves = ceil_div(blocks * splits, slots)
        return waves * (ceil_div(tiles, splits) + 1), splits

    splits = min(range(1, min(tiles, 1024) + 1), key=idle)
    return ceil_div(tiles, splits)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
