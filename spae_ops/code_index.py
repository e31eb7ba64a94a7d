"""A codebook prepared once for lookups."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops import _checks
from spae_ops._dispatch import resolve


class CodeIndex:
    """A frozen codebook with what an implementation computes from it once: packed copies, norms, error
    bounds.

    codebook: [K, D] fp32|fp16|bf16, finite, K >= 1, D >= 1. It must not change while the index lives.
    impl: the implementation it is prepared for; "auto" is the one that lookups on the codebook's device take.

    Every op that takes `codes` takes a tensor or a CodeIndex; with a tensor the preparation is repeated at
    each call.

    >>> import spae_ops
    >>> index = CodeIndex(torch.eye(3))
    >>> spae_ops.nearest_code(torch.tensor([[0.1, 0.9, 0.0]]), index).ids
    tensor([1])
    """

    def __init__(self, codebook: Tensor, *, impl: str = "auto") -> None:
        _checks.check_codes("codebook", codebook)
        codes = codebook.detach().contiguous()
        _checks.check_finite("codebook", codes)
        self.codes = codes
        self.impl, implementation = resolve("nearest_code", impl, codes.device)
        self.prepared: list[Tensor] = implementation.prepare(codes)

    @property
    def num_codes(self) -> int:
        return self.codes.shape[0]

    @property
    def width(self) -> int:
        return self.codes.shape[1]

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def to(self, device: torch.device | str) -> CodeIndex:
        """The same codebook prepared on another device (this index if it lies there already)."""
        moved = self.codes.to(device)
        return self if moved.device == self.device else CodeIndex(moved)

    def __len__(self) -> int:
        return self.num_codes

    def __repr__(self) -> str:
        dtype = str(self.codes.dtype).removeprefix("torch.")
        return (
            f"CodeIndex({self.num_codes} x {self.width} {dtype} on {self.device}, prepared for {self.impl})"
        )


class Table(NamedTuple):
    """A codebook as the registered ops take it: codes [K, D], the prepared tensors, and for which
    implementation."""

    codes: Tensor
    prepared: list[Tensor]
    prepared_for: str


def as_table(codes: Tensor | CodeIndex) -> Table:
    """`codes` of any op; a bare tensor is checked for nan inside the op, where torch.compile does not
    break."""
    if isinstance(codes, CodeIndex):
        return Table(codes.codes, codes.prepared, codes.impl)
    _checks.check_codes("codes", codes)
    return Table(codes.detach(), [], "")
