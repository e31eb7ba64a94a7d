"""Nearest-code lookups: queries [N, D] -> ids [N]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import Call, Contestant, needs, our_names, our_unavailable
from benchmarks.peers import _lookup as peers_of
from benchmarks.peers.lookup_inexact import numkong_search

if TYPE_CHECKING:
    from spae_ops import Impl

GEMM = "gemm"


def ours(device: str) -> list[Contestant]:
    names = our_names("nearest_code")
    return [
        Contestant(
            f"spae_ops {name}", "ours", device, prepare(name), our_unavailable("nearest_code", name, device)
        )
        for name in names
    ]


def prepare(name: Impl) -> Callable[[Any], Call]:
    def of(codes: Any) -> Call:
        from spae_ops import CodeIndex, nearest_code

        index = CodeIndex(codes, impl=name)
        return lambda x: nearest_code(x, index, impl=name).ids

    return of


def peers(device: str) -> list[Contestant]:
    here = needs(device)
    rows = [
        Contestant(GEMM, "yardstick", device, peers_of.gemm, here),
        Contestant("torch addmm+argmin", "peer", device, peers_of.addmm, here),
        Contestant("torch addmm+argmin, chunked", "peer", device, peers_of.addmm_chunked, here),
        Contestant("torch addmm+argmin, compiled", "peer", device, peers_of.addmm_compiled, here),
        Contestant("torch cdist+argmin", "peer", device, peers_of.cdist, here),
        Contestant(
            "vector-quantize-pytorch",
            "peer",
            device,
            peers_of.vector_quantize,
            needs(device, "vector_quantize_pytorch"),
        ),
    ]
    if device == "cpu":
        faiss = needs(device, "faiss")
        usearch, numkong = needs(device, "usearch"), needs(device, "numkong")
        return [
            *rows,
            Contestant("FAISS IndexFlatL2", "peer", device, peers_of.faiss_cpu, faiss, takes="numpy"),
            Contestant("USearch exact", "peer", device, peers_of.usearch, usearch, takes="numpy"),
            Contestant("NumKong", "peer", device, numkong_fp32, numkong, takes="numpy"),
        ]
    return [
        *rows,
        Contestant("FAISS GpuIndexFlatL2", "peer", device, peers_of.faiss_gpu, _faiss_gpu, own_memory=True),
        Contestant("flash-kmeans", "peer", device, peers_of.flash_kmeans, needs(device, "flash_kmeans")),
        Contestant("cuVS brute force", "peer", device, peers_of.cuvs, needs(device, "cuvs"), own_memory=True),
    ]


def numkong_fp32(codes: Any) -> Any:
    return numkong_search(codes, lambda values: values)


def _faiss_gpu() -> str | None:
    if reason := needs("cuda", "faiss")():
        return reason
    import faiss

    return None if hasattr(faiss, "GpuIndexFlatL2") else "faiss was built without GPU support"
