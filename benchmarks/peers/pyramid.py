"""Pyramid quantizers: latents z [B, D, *shape], and the queries [B, n, D] that they lead to -> ids [B, n].

Each implementation of ours has a yardstick: its own lookup of all those queries at once, as if none of them
depended on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import Call, Contestant, our_names, our_unavailable

if TYPE_CHECKING:
    from spae_ops import Impl

_OP = "pyramid_quantize"


def ours(device: str) -> list[Contestant]:
    rows = []
    for name in our_names(_OP):
        flat = f"{name}, one flat lookup"
        here = our_unavailable(_OP, name, device)
        pyramid = Contestant(f"spae_ops {name}", "ours", device, _pyramid(name), here, yardstick=flat)
        rows += [pyramid, Contestant(flat, "yardstick", device, _flat(name), here)]
    return rows


def _pyramid(name: Impl) -> Callable[[Any], Call]:
    def prepare(codes: Any) -> Call:
        from spae_ops import CodeIndex, Pyramid, pyramid_quantize

        index = CodeIndex(codes, impl=name)

        def quantize(z: Any, queries: Any, *, grids: list[int], rule: str) -> Any:
            pyramid = Pyramid.square(z.shape[-1], tuple(grids))
            return pyramid_quantize(z, index, pyramid, rule=rule, impl=name).ids

        return quantize

    return prepare


def _flat(name: Impl) -> Callable[[Any], Call]:
    def prepare(codes: Any) -> Call:
        from spae_ops import CodeIndex, nearest_code

        index = CodeIndex(codes, impl=name)

        def look_up(z: Any, queries: Any, *, grids: list[int], rule: str) -> None:
            nearest_code(queries, index, impl=name)

        return look_up

    return prepare
