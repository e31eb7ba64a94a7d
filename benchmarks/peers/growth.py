"""Lookups at sizes for which most contestants of `lookup` would take minutes: ours as the library picks it,
the fastest exact peer that is installed, and the bare product."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.contestants import Contestant, needs, no_device
from benchmarks.peers import lookup

PRODUCT_BYTES = 1 << 30
_FASTEST = ("FAISS IndexFlatL2", "FAISS GpuIndexFlatL2", "torch addmm+argmin, chunked")


def ours(device: str) -> list[Contestant]:
    return [Contestant("spae_ops auto", "ours", device, lookup.prepare("auto"), lambda: no_device(device))]


def peers(device: str) -> list[Contestant]:
    product = Contestant(lookup.GEMM, "yardstick", device, gemm, needs(device))
    listed = {peer.name: peer for peer in lookup.peers(device)}
    able = (listed[name] for name in _FASTEST if name in listed and listed[name].unavailable() is None)
    return [product, *itertools.islice(able, 1)]


def gemm(codes: Any) -> Any:
    """The lookup's bare product, by as many rows as give 1 GiB: an [N, K] of these sizes fits no memory."""
    product = lookup.peers_of.gemm(codes)
    rows = max(1, PRODUCT_BYTES // (4 * len(codes)))

    def by_rows(x: Any) -> None:
        for block in x.split(rows):
            product(block)

    return by_rows
