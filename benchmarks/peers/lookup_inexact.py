"""Lookups that round the values before they compare, as users write them for speed, and the bare products
that none of their precision undercuts; CPUs only, for on GPUs `--dtype` says what everyone gets."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.contestants import Contestant, needs
from benchmarks.peers._lookup import COLUMNS, ROWS, compile_rows

LEVELS = 127
NUMKONG_ROWS = 64  # a block of distances of this many queries stays in a last-level cache


def peers(device: str) -> list[Contestant]:
    if device != "cpu":
        return []
    torch, numkong = needs(device), needs(device, "numkong")
    return [
        Contestant("gemm bf16", "yardstick", device, gemm_bf16, torch),
        Contestant("gemm int8", "yardstick", device, gemm_int8, torch),
        Contestant("torch bf16 addmm+argmin", "inexact", device, bf16_addmm, torch),
        Contestant("torch bf16 addmm+argmin, chunked", "inexact", device, bf16_chunked, torch),
        Contestant("torch bf16 addmm+argmin, compiled", "inexact", device, bf16_compiled, torch),
        Contestant("torch _int_mm+argmin", "inexact", device, int_mm, torch),
        Contestant("NumKong bf16", "inexact", device, numkong_bf16, numkong, takes="numpy"),
        Contestant("NumKong int8", "inexact", device, numkong_int8, numkong, takes="numpy"),
    ]


def gemm_bf16(codes: Any) -> Any:
    """X C^T alone; rounding X is part of it."""
    import torch

    columns = codes.bfloat16().T
    return _kept(columns, lambda x, out: torch.mm(x.bfloat16(), columns, out=out))


def gemm_int8(codes: Any) -> Any:
    """The same in int8, with exact sums in int32."""

    columns = quantized(codes)[0].T
    return _kept(columns.int(), lambda x, out: product_int8(quantized(x)[0], columns, out=out))


def _kept(like: Any, product: Callable[[Any, Any], Any]) -> Any:
    """A call that writes each product into memory that it keeps, and returns nothing."""
    out = like.new_empty(0, like.shape[1])

    def call(x: Any) -> None:
        nonlocal out
        if len(out) < len(x):
            out = out.new_empty(len(x), out.shape[1])
        product(x, out[: len(x)])

    return call


def bf16_addmm(codes: Any) -> Any:
    import torch

    columns, squares = codes.bfloat16().T, codes.square().sum(1).bfloat16()
    return lambda x: torch.addmm(squares, x.bfloat16(), columns, alpha=-2).argmin(1)


def bf16_chunked(codes: Any) -> Any:
    return _in_chunks(_bf16_search(codes))


def bf16_compiled(codes: Any) -> Any:
    return _in_chunks(compile_rows(_bf16_search(codes), codes))


def _bf16_search(codes: Any) -> Callable[[Any], Any]:
    import torch

    step = COLUMNS["cpu"]
    squares = codes.square().sum(1).split(step)
    columns = [block.T for block in codes.bfloat16().split(step)]

    def search(x: Any) -> Any:
        x = x.bfloat16()
        best = x.new_full((len(x),), torch.inf, dtype=torch.float32)
        ids = torch.zeros(len(x), dtype=torch.int64)
        for start, (square, block) in enumerate(zip(squares, columns, strict=True)):
            value, column = (square - 2 * (x @ block).float()).min(1)
            closer = value < best
            best = torch.where(closer, value, best)
            ids = torch.where(closer, column + start * step, ids)
        return ids

    return search


def int_mm(codes: Any) -> Any:
    """Rows in multiples of a step of their own, products in exact integers, squares in float32."""

    integers, steps = quantized(codes)
    columns, steps = integers.T, 2 * steps.T
    squares = codes.square().sum(1)

    def search(x: Any) -> Any:
        rows, step = quantized(x)
        return (squares - product_int8(rows, columns) * (step * steps)).argmin(1)

    return _in_chunks(search)


def product_int8(a: Any, b: Any, out: Any = None) -> Any:
    """int8 [n, D] and [D, K] -> int32 [n, K]; torch has no public name for it."""
    import torch

    product = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]
    return product(a, b) if out is None else product(a, b, out=out)


def quantized(values: Any) -> tuple[Any, Any]:
    """float [n, D] -> int8 [n, D] and the steps [n, 1]."""
    import torch

    step = values.abs().amax(1, keepdim=True).clamp_min(1e-30) / LEVELS
    return (values / step).round().to(torch.int8), step


def numkong_bf16(codes: Any) -> Any:
    import numkong

    return numkong_search(codes, lambda values: numkong.astype(values, "bf16"))


def numkong_int8(codes: Any) -> Any:
    """One step for all, as one number scales its distances."""
    import numpy as np

    scale = LEVELS / np.abs(codes).max()
    return numkong_search(
        codes, lambda values: np.clip(np.rint(values * scale), -LEVELS, LEVELS).astype(np.int8)
    )


def numkong_search(codes: Any, convert: Callable[[Any], Any]) -> Any:
    """NumKong's distances to packed codes; it leaves threads and the arg-min to its caller."""
    import numkong
    import numpy as np

    packed = numkong.dots_pack(convert(codes))
    pool = ThreadPoolExecutor(int(os.environ.get("OMP_NUM_THREADS", "1")))

    def nearest(x: Any) -> Any:
        return np.asarray(numkong.euclideans_packed(convert(x), packed)).argmin(1)

    def search(x: Any) -> Any:
        blocks = [x[start : start + NUMKONG_ROWS] for start in range(0, len(x), NUMKONG_ROWS)]
        return np.concatenate(list(pool.map(nearest, blocks)))

    return search


def _in_chunks(search: Callable[[Any], Any]) -> Any:
    import torch

    return lambda x: torch.cat([search(block) for block in x.split(ROWS)])
