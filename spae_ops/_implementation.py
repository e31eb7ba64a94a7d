"""What the ops ask of an implementation: protocols that a module, or any object, satisfies.

An implementation has a name (in `_dispatch`), says where it can run, and may prepare a codebook once: what it
prepares is a NamedTuple of tensors of its own, `Prepared`, under the name of its layout, `LAYOUT`. Another
layout's tensors never reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from spae_ops import _kept
from spae_ops.pyramid import Pyramid

Impl = Literal["auto", "cuda", "triton", "cpu", "torch", "reference"]
# [B, r, D] float32 queries and the layer of each of the r -> int64 [B, r] ids of the nearest codes
Lookup = Callable[[Tensor, Sequence[int]], Tensor]


class Implementation(Protocol):
    """Where it can run. `DTYPES`, of the values, may be left out where it takes all that the op does, and so
    may `instructions()`, a str, where it has no instruction sets to choose from."""

    def unavailable(self, device: torch.device | None) -> str | None:
        """Why it cannot run on `device` (None: on this machine), or None where it can."""
        ...


class NothingPrepared(NamedTuple):
    """What an implementation prepares that reads the codes as they are."""


class Prepares(Implementation, Protocol):
    """LAYOUT: the implementation's name and a version, "cpu/1", raised whenever the meaning of the tensors
    changes; "" where nothing is ever prepared."""

    @property
    def LAYOUT(self) -> str: ...

    @property
    def Prepared(self) -> Callable[..., Any]: ...

    def prepare(self, codes: Tensor) -> Any:
        """codes: [K, D] fp32 | fp16 | bf16, finite and contiguous -> a `Prepared`."""
        ...


class Search(Prepares, Protocol):
    """`nearest_code` and `topk_codes`."""

    def search(
        self, x: Tensor, codes: Tensor, prepared: Any, mask: Tensor | None, k: int
    ) -> tuple[Tensor, Tensor]:
        """x: [N, D] and codes: [K, D] fp32 | fp16 | bf16, finite, contiguous; prepared: of these codes; mask:
        bool [K] or None; 1 <= k <= the codes allowed. -> ids int64 and sqdist float32 [N, k], ascending by
        (squared distance in float64, id)."""
        ...


class CrossEntropy(Prepares, Protocol):
    """`distance_cross_entropy`."""

    def loss_and_gradient(
        self,
        x: Tensor,
        codes: Tensor,
        prepared: Any,
        target: Tensor,
        temperature: float,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """x [N, D], codes [K, D], target int64 [N] -> loss [N] and its gradient in x, [N, D] or [0, D]."""
        ...


class PyramidOps(Implementation, Protocol):
    """The pyramid ops. Lookups come from the search implementation of the same name."""

    def quantize(
        self, z: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, lookup: Lookup
    ) -> tuple[Tensor, Tensor]:
        """z [B, D, *shape], codes [K, D] -> ids int64 [B, num_tokens], quantized float32 [B, D, *shape]."""
        ...

    def dequantize(self, ids: Tensor, codes: Tensor, pyramid: Pyramid, rule: str, fill: str) -> Tensor:
        """ids [B, num_tokens] of all layers of `pyramid` -> features float32 [B, D, *shape]."""
        ...

    def layer_queries(
        self, z: Tensor, ids: Tensor, codes: Tensor, pyramid: Pyramid, layer: int, rule: str
    ) -> Tensor:
        """z [B, D, *shape] -> [B, n_l, D] float32 (float64 if z is)."""
        ...

    def layer_queries_backward(self, grad: Tensor, pyramid: Pyramid, layer: int, rule: str) -> Tensor:
        """grad [B, n_l, D] -> [B, D, *shape]. With rule "rq" also the gradient of `dilation_subsample`."""
        ...


def prepared_by(implementation: Prepares, codes: Tensor, tensors: Sequence[Tensor], layout: str) -> Any:
    """What `implementation` needs of the codes: `tensors`, if they are of its layout, else prepared anew.

    Raises ValueError for tensors of another version of its layout (an exported program's, say).
    """
    own = implementation.LAYOUT
    if layout == _kept.LAYOUT:
        return _kept.kept(codes, own, implementation.prepare)
    if own and layout == own:
        return implementation.Prepared(*tensors)
    if own and layout.partition("/")[0] == own.partition("/")[0]:
        raise ValueError(f"codes: expected an index of layout {own}, got one of {layout}; make it again")
    return implementation.prepare(codes)
