"""Distance cross-entropies in bf16, as users write them for speed, and the bare products that none of their
precision undercuts unless it leaves something out; CPUs only, as in `lookup_inexact`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.contestants import Call, Contestant, needs
from benchmarks.peers.cross_entropy import _in_chunks
from benchmarks.peers.lookup_inexact import product_int8, quantized

ROWS = 512


def peers(device: str) -> list[Contestant]:
    if device != "cpu":
        return []
    here = needs(device)
    return [
        Contestant("gemm", "yardstick", device, gemm, here),
        Contestant("gemm bf16", "yardstick", device, gemm_bf16, here),
        Contestant("gemm int8", "yardstick", device, gemm_int8, here),
        Contestant("torch bf16 addmm", "inexact", device, bf16_addmm, here),
        Contestant("torch bf16 addmm, compiled", "inexact", device, bf16_compiled, here),
    ]


def gemm(codes: Any) -> Call:
    """X C^T and, for the gradient, a matrix like it times C, by 512 rows."""
    return _products(codes, lambda x: x, lambda a, b: a @ b)


def gemm_bf16(codes: Any) -> Call:
    return _products(codes.bfloat16(), lambda x: x.bfloat16(), lambda a, b: a @ b)


def gemm_int8(codes: Any) -> Call:
    import torch

    return _products(
        quantized(codes)[0],
        lambda x: x if x.dtype == torch.int8 else x.to(torch.int8),
        product_int8,
    )


def _products(codes: Any, convert: Callable[[Any], Any], multiply: Callable[[Any, Any], Any]) -> Call:
    columns = codes.T

    def call(x: Any, target: Any, *, temperature: float, gradient: bool) -> None:
        for rows in x.split(ROWS):
            scores = multiply(convert(rows), columns)
            if gradient:
                multiply(convert(scores), codes)

    return call


def bf16_addmm(codes: Any) -> Call:
    """All scores in one matrix of bf16, the softmax in what torch takes for it."""
    return _in_chunks(_bf16_loss(codes), codes)


def bf16_compiled(codes: Any) -> Call:
    """The same by torch.compile, by 512 rows; compiled before the clock starts."""
    import torch

    call = _in_chunks(torch.compile(_bf16_loss(codes), dynamic=True), codes, ROWS)
    for rows in (1, 2, 64):
        for gradient in (False, True):
            call(codes[:rows], torch.zeros(rows, dtype=torch.int64), temperature=2.0, gradient=gradient)
    return call


def _bf16_loss(codes: Any) -> Callable[[Any, Any, Any], Any]:
    import torch

    columns, squares = codes.bfloat16().T, codes.square().sum(1)

    def loss(x: Any, target: Any, temperature: float) -> Any:
        scores = (2 * (x.bfloat16() @ columns).float() - squares) / temperature
        return torch.nn.functional.cross_entropy(scores, target, reduction="none")

    return loss
