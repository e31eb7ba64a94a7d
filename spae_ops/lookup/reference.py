"""The definition of `nearest_code` and `topk_codes`: all distances, sorted by (distance, id)."""

from __future__ import annotations

import torch
from torch import Tensor

from spae_ops._implementation import NothingPrepared as Prepared
from spae_ops.lookup.distance import LANES, squared_distance

__all__ = ["LAYOUT", "Prepared", "prepare", "search", "split", "unavailable"]

LAYOUT = "reference/1"
ELEMENTS = 1 << 16  # of the codes at a time, in whole lanes: intermediates stay in the caches


def unavailable(device: torch.device | None) -> str | None:
    return None


def prepare(codes: Tensor) -> Prepared:
    return Prepared()


def split(codes: Tensor) -> tuple[Tensor, ...]:
    """Codes [K, D] in chunks of bounded memory."""
    return codes.split(max(1, ELEMENTS // (codes.shape[1] + LANES)))


def search(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """x [N, D], codes [K, D], mask bool [K] or None -> ids int64 [N, k], sqdist float32 [N, k], ascending."""
    chunks = split(codes)
    ids = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    sqdist = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    for row, query in enumerate(x):
        distance = torch.cat([squared_distance(query.expand_as(c), c) for c in chunks])
        if mask is not None:
            distance[~mask] = torch.inf
        ascending = distance.sort(stable=True)  # equal distances stay in order of id
        ids[row] = ascending.indices[:k]
        sqdist[row] = ascending.values[:k]
    return ids, sqdist
