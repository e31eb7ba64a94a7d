"""Who takes part: every implementation of ours, the peers, and the matrix product they are measured by.

This module and `peers` import no framework: a contestant that needs none of torch runs without it, because
two OpenMP runtimes in one process slow each other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import peers

Search = Callable[[Any], Any]
DEVICES = ("cpu", "cuda")
GEMM = "gemm"


def _available() -> None:
    return None


@dataclass(frozen=True)
class Contestant:
    """One way to look up nearest codes.

    name: unique per device. kind: "ours" must be exact, a "peer" may err, and "gemm" is the yardstick.
    prepare: codes [K, D] -> search; search: queries [N, D] -> ids, integers [N].
    unavailable: why it cannot run on this machine, or None; it must import nothing heavy.
    takes: what codes and queries are: torch tensors on `device`, or float32 NumPy arrays.
    own_memory: its GPU memory does not come from torch's allocator, so that its peak is not known.
    """

    name: str
    kind: Literal["ours", "peer", "gemm"]
    device: str
    prepare: Callable[[Any], Search]
    unavailable: Callable[[], str | None] = _available
    takes: Literal["torch", "numpy"] = "torch"
    own_memory: bool = False


def contestants(device: str, also: Path | None = None) -> list[Contestant]:
    """All that may run on `device`: ours, peers, and those of a Python file that defines `CONTESTANTS`."""
    return [*_ours(device), *_peers(device), *_more(device, also)]


def find(name: str, device: str, also: Path | None = None) -> Contestant:
    """One contestant, without importing what the others need."""
    # Ours last: listing them imports torch.
    for rows in (lambda: _peers(device), lambda: _more(device, also), lambda: _ours(device)):
        for contestant in rows():
            if contestant.name == name:
                return contestant
    raise ValueError(f"contestant: no {name!r} for {device}")


def _ours(device: str) -> list[Contestant]:
    import spae_ops

    names = [row.name for row in spae_ops.implementations("nearest_code")]
    return [
        Contestant(f"spae_ops {name}", "ours", device, _our_prepare(name), _our_unavailable(name, device))
        for name in names
    ]


def _our_prepare(name: str) -> Callable[[Any], Search]:
    def prepare(codes: Any) -> Search:
        from spae_ops import CodeIndex, nearest_code

        index = CodeIndex(codes, impl=name)
        return lambda x: nearest_code(x, index, impl=name).ids

    return prepare


def _our_unavailable(name: str, device: str) -> Callable[[], str | None]:
    def unavailable() -> str | None:
        import torch

        from spae_ops import CodeIndex

        if reason := _no_device(device):
            return reason
        try:
            CodeIndex(torch.zeros(1, 1, device=device), impl=name)
        except (RuntimeError, ImportError) as error:
            return str(error)
        return None

    return unavailable


def _no_device(device: str) -> str | None:
    if device != "cuda":
        return None
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def _needs(device: str, *packages: str) -> Callable[[], str | None]:
    def unavailable() -> str | None:
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(missing)} not installed" if missing else _no_device(device)

    return unavailable


def _peers(device: str) -> list[Contestant]:
    here = _needs(device)
    rows = [
        Contestant(GEMM, "gemm", device, peers.gemm, here),
        Contestant("torch addmm+argmin", "peer", device, peers.addmm, here),
        Contestant("torch addmm+argmin, chunked", "peer", device, peers.addmm_chunked, here),
        Contestant("torch cdist+argmin", "peer", device, peers.cdist, here),
        Contestant(
            "vector-quantize-pytorch",
            "peer",
            device,
            peers.vector_quantize,
            _needs(device, "vector_quantize_pytorch"),
        ),
    ]
    if device == "cpu":
        faiss = _needs(device, "faiss")
        rows.append(Contestant("FAISS IndexFlatL2", "peer", device, peers.faiss_cpu, faiss, takes="numpy"))
        return rows
    return [
        *rows,
        Contestant("FAISS GpuIndexFlatL2", "peer", device, peers.faiss_gpu, _faiss_gpu, own_memory=True),
        Contestant("flash-kmeans", "peer", device, peers.flash_kmeans, _needs(device, "flash_kmeans")),
        Contestant("cuVS brute force", "peer", device, peers.cuvs, _needs(device, "cuvs"), own_memory=True),
    ]


def _faiss_gpu() -> str | None:
    if reason := _needs("cuda", "faiss")():
        return reason
    import faiss

    return None if hasattr(faiss, "GpuIndexFlatL2") else "faiss was built without GPU support"


def _more(device: str, file: Path | None) -> list[Contestant]:
    if file is None:
        return []
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"also: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [contestant for contestant in module.CONTESTANTS if contestant.device == device]
