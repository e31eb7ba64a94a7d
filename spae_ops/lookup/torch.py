"""Exact lookup in plain torch, for any device: screen in float64, certify, re-score.

Screening computes |q|^2 - 2<q,c> + |c|^2 for a block of queries and codes with one matrix product. A code
whose screened distance exceeds the best by more than the error bound cannot be among the k nearest; the few
others are evaluated by the definition in `distance.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops._implementation import NothingPrepared as Prepared
from spae_ops.lookup.distance import squared_distance

__all__ = ["LAYOUT", "Prepared", "prepare", "screen", "search", "unavailable"]

LAYOUT = "torch/1"
ROWS, COLUMNS = 512, 2048  # a block of screened distances is 8 MB, whatever N and K are
PAIR_ELEMENTS = 1 << 21


def unavailable(device: torch.device | None) -> str | None:
    return None


def prepare(codes: Tensor) -> Prepared:
    return Prepared()


def search(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """x [N, D], codes [K, D], mask bool [K] or None -> ids int64 [N, k], sqdist float32 [N, k], ascending."""
    ids = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    sqdist = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        ids[rows], sqdist[rows] = _search_block(x[rows].double(), codes, mask, k)
    return ids, sqdist


def _search_block(q: Tensor, codes: Tensor, mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    best = q.new_full((len(q), k), torch.inf)
    ids = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(codes), COLUMNS):
        c = codes[start : start + COLUMNS].double()
        allowed = None if mask is None else mask[start : start + COLUMNS]
        screened, slack = screen(q, c)
        if allowed is not None:
            screened.masked_fill_(~allowed, torch.inf)
        # The k-th nearest is no farther than the k-th found so far, nor than the k-th here plus its error.
        limit = best[:, -1:]
        if k <= len(c):
            limit = torch.minimum(limit, screened.topk(k, largest=False).values[:, -1:] + slack)
        candidate = screened <= limit + slack
        if allowed is not None:
            candidate &= allowed
        row, column = candidate.nonzero(as_tuple=True)
        found = _rescore(q, c, row, column)
        best, ids = _merge(best, ids, row, column + start, found)
    return ids, best.float()


def screen(q: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """q [n, D], c [m, D] float64 -> approximate squared distances [n, m] and a bound on their error [n, 1].

    With u = 2^-53 a float64 inner product of length D, summed in any order, with or without fused
    multiply-add, is off by at most g|q||c|, g = Du / (1 - Du); so the three terms together are off by at most
    g(|q| + |c|)^2 plus a few roundings of the sum, and the definition's own evaluation by no more. 2D + 32
    covers both, and the norms' rounding.
    """
    qq, cc = (q * q).sum(-1, keepdim=True), (c * c).sum(-1)
    screened = torch.addmm(cc, q, c.T, alpha=-2).add_(qq)
    slack = (2 * q.shape[1] + 32) * 2.0**-53 * (qq.sqrt() + cc.max().sqrt()).square()
    return screened, slack


def _rescore(q: Tensor, c: Tensor, row: Tensor, column: Tensor) -> Tensor:
    size = max(1, PAIR_ELEMENTS // q.shape[1])
    pairs = zip(row.split(size), column.split(size), strict=True)
    return torch.cat([squared_distance(q[r], c[s]) for r, s in pairs])


def _merge(best: Tensor, ids: Tensor, row: Tensor, column: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The k lowest of (distance, id) per row, of `best` (all of lower id) and the pairs just found."""
    k = best.shape[1]
    # Pairs come in raster order, so a stable sort leaves equal distances in order of id.
    order = torch.argsort(found, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, column, found = row[order], column[order], found[order]
    rank = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    keep = rank < k
    row, rank = row[keep], rank[keep]
    new = torch.full_like(best, torch.inf)
    new_ids = torch.zeros_like(ids)
    new[row, rank] = found[keep]
    new_ids[row, rank] = column[keep]
    merged, order = torch.cat([best, new], 1).sort(dim=1, stable=True)
    return merged[:, :k], torch.cat([ids, new_ids], 1).gather(1, order)[:, :k]
