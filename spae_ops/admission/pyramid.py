"""The examination of a `PyramidOps`: what it gathers, bit for bit that of the definition on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spae_ops._checks import QUERY_DTYPES
from spae_ops._implementation import Lookup
from spae_ops.admission.problems import randn
from spae_ops.admission.wrong import Wrong
from spae_ops.lookup import torch as screened
from spae_ops.pyramid import Pyramid
from spae_ops.quantize import reference
from spae_ops.quantize.rules import FILLS, RULES

PYRAMIDS = (
    Pyramid.square(8, (1, 2, 4, 8, 8)),
    Pyramid((2, 4, 6), ((1, 1, 1), (1, 2, 2), (2, 4, 6))),
    Pyramid((12,), ((1,), (3,))),  # most positions have no token
)
REPEATS = 5


def examine(implementation: Any, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """What was found of a `PyramidOps` on `device`, for codes of `dtype` and `width`.

    Raises:
        Wrong: a bit is not the definition's, or differs from run to run.
    """
    small, count = device.type != "cuda", 0
    top = -(-width // 64) * 64
    for each in (width,) if small else dict.fromkeys((width, top, top - 63)):
        codes = randn(150, each, seed=81).to(dtype)
        for pyramid in PYRAMIDS:
            for latents in QUERY_DTYPES if pyramid is PYRAMIDS[0] else QUERY_DTYPES[:1]:
                z = randn(2, each, *pyramid.shape, seed=82).to(latents)
                count += _check(implementation, device, z, codes, pyramid)
    return f"{count} results of the pyramid ops"


def _check(implementation: Any, device: torch.device, z: Tensor, codes: Tensor, pyramid: Pyramid) -> int:
    """Compares every op on one problem; how many results."""
    count = 0
    for name, expected, found in _results(implementation, device, z, codes, pyramid):
        for repeat in range(REPEATS if device.type == "cuda" else 1):
            pairs = list(zip(found(), expected, strict=True))
            count += len(pairs)
            for part, (a, b) in enumerate(pairs):
                a = a.cpu()
                if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
                    about = f"{str(z.dtype).removeprefix('torch.')} latents {list(z.shape)}"
                    raise Wrong(
                        f"{name} of {about}, part {part}, time {repeat + 1}: bits are not the definition's"
                    )
    return count


def _results(
    implementation: Any, device: torch.device, z: Tensor, codes: Tensor, pyramid: Pyramid
) -> Iterator[tuple[str, tuple[Tensor, ...], Any]]:
    """Name, what the definition gives, and a function that gives what is examined."""
    there, table = z.to(device), codes.to(device)
    for rule in RULES:
        ids, quantized = reference.quantize(z, codes, pyramid, rule, _lookup(codes, z.device))
        moved = ids.to(device)
        yield (
            f"quantize, {rule}",
            (ids, quantized),
            lambda rule=rule: implementation.quantize(there, table, pyramid, rule, _lookup(codes, device)),
        )
        for fill in FILLS:
            yield (
                f"dequantize, {rule}, {fill}",
                (reference.dequantize(ids, codes, pyramid, rule, fill),),
                lambda rule=rule, fill=fill, moved=moved: (
                    implementation.dequantize(moved, table, pyramid, rule, fill),
                ),
            )
        for layer in range(pyramid.num_layers):
            queries = reference.layer_queries(z, ids, codes, pyramid, layer, rule)
            yield (
                f"layer_queries, {rule}, layer {layer}",
                (queries,),
                lambda rule=rule, layer=layer, moved=moved: (
                    implementation.layer_queries(there, moved, table, pyramid, layer, rule),
                ),
            )
            yield (
                f"layer_queries_backward, {rule}, layer {layer}",
                (reference.layer_queries_backward(queries, pyramid, layer, rule),),
                lambda rule=rule, layer=layer, grad=queries: (
                    implementation.layer_queries_backward(grad.to(device), pyramid, layer, rule),
                ),
            )


def _lookup(codes: Tensor, device: torch.device) -> Lookup:
    """The exact lookup on the CPU, for queries on `device`."""
    prepared = screened.prepare(codes)

    def look_up(query: Tensor, layers: Sequence[int]) -> Tensor:
        flat = query.cpu().flatten(0, -2).contiguous()
        return screened.search(flat, codes, prepared, None, 1)[0].reshape(query.shape[:-1]).to(device)

    return look_up
