"""How the peers are asked: each function takes codes [K, D] and returns queries [N, D] -> ids [N].

Whatever depends on the codes alone is done once, before the clock starts, for peers as for us.
"""

from __future__ import annotations

import os
from typing import Any

CDIST_LIMIT = 4 << 30  # bytes of an [N, K] matrix of distances beyond which cdist is asked in chunks of rows
ROWS = 1024
COLUMNS = {"cpu": 4096, "cuda": 65536}  # flat optimum of the CPU's caches; on a GPU, few launches


def gemm(codes: Any) -> Any:
    """Not a lookup: the product that every exhaustive lookup contains, X C^T, at the device's dense rate for
    it; float32 on a CPU, float16 on a GPU. It writes into memory that it keeps, and returns nothing."""
    import torch

    columns = (codes.half() if codes.device.type == "cuda" else codes.float()).T
    out = columns.new_empty(0, len(codes))

    def product(x: Any) -> None:
        nonlocal out
        if len(out) < len(x):
            out = columns.new_empty(len(x), len(codes))
        torch.mm(x.to(columns.dtype), columns, out=out[: len(x)])

    return product


def _squares(codes: Any) -> Any:
    return codes.float().square().sum(1).to(codes.dtype)


def addmm(codes: Any) -> Any:
    import torch

    squares, columns = _squares(codes), codes.T
    return lambda x: torch.addmm(squares, x, columns, alpha=-2).argmin(1)


def addmm_chunked(codes: Any, compiled: bool = False) -> Any:
    """Blocks of 1,024 queries by 4,096 codes (GPU: 65,536), so that a block of distances stays in cache. By
    torch.compile, which fuses what follows each product, if `compiled`: before the clock starts."""
    import torch

    squares, columns = _squares(codes), codes.T
    step = COLUMNS[codes.device.type]

    def rows(x: Any) -> Any:
        best = x.new_full((len(x),), torch.inf)
        ids = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for start in range(0, len(codes), step):
            block = slice(start, start + step)
            value, column = torch.addmm(squares[block], x, columns[:, block], alpha=-2).min(1)
            closer = value < best
            best = torch.where(closer, value, best)
            ids = torch.where(closer, column + start, ids)
        return ids

    search = compile_rows(rows, codes) if compiled else rows
    return lambda x: torch.cat([search(block) for block in x.split(ROWS)])


def addmm_compiled(codes: Any) -> Any:
    return addmm_chunked(codes, compiled=True)


def compile_rows(search: Any, codes: Any) -> Any:
    """A function of rows by torch.compile, for any number of them."""
    import torch

    compiled = torch.compile(search, dynamic=True)
    for rows in (1, 2, 64):  # one row, and more, are compiled for themselves
        compiled(codes[:rows])
    return compiled


def cdist(codes: Any) -> Any:
    """Whole where the [N, K] distances take no more than 4 GiB, else by as many rows as do."""
    import torch

    rows = max(1, CDIST_LIMIT // (len(codes) * codes.element_size()))
    return lambda x: torch.cat([torch.cdist(block, codes).argmin(1) for block in x.split(rows)])


def vector_quantize(codes: Any) -> Any:
    """`VectorQuantize` in eval mode, Euclidean; it also gathers the vectors, as its users have it do."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).to(codes.device).eval()
    quantizer.codebook = codes.float()
    return lambda x: quantizer(x[None])[1][0]


def faiss_cpu(codes: Any) -> Any:
    """By its matrix products at any number of queries: of few it would compute distances one by one, ten
    times as slowly."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 1
    index = faiss.IndexFlatL2(codes.shape[1])
    index.add(codes)
    return lambda x: index.search(x, 1)[1][:, 0]


def usearch(codes: Any) -> Any:
    from usearch.index import MetricKind, search

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))

    def nearest(x: Any) -> Any:
        return search(codes, x, 1, metric=MetricKind.L2sq, exact=True, threads=threads).keys.reshape(len(x))

    return nearest


def faiss_gpu(codes: Any) -> Any:
    """float32, which is all that its queries can be."""
    import faiss
    import faiss.contrib.torch_utils

    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexFlatL2(resources, codes.shape[1])
    index.add(codes.float())

    def search(x: Any, _resources: Any = resources) -> Any:
        return index.search(x.float(), 1)[1][:, 0]

    return search


def flash_kmeans(codes: Any) -> Any:
    """Its assignment kernel, with the configuration that it chooses itself."""
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    centroids = codes[None]
    squares = codes.float().square().sum(1)[None]

    def search(x: Any) -> Any:
        return euclid_assign_triton(x[None], centroids, x.float().square().sum(1)[None], c_sq=squares)[0]

    return search


def cuvs(codes: Any) -> Any:
    import torch
    from cuvs.neighbors import brute_force

    index = brute_force.build(codes, metric="sqeuclidean")
    return lambda x: torch.as_tensor(brute_force.search(index, x, 1)[1], device="cuda")[:, 0]
