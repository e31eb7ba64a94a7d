"""A codebook prepared once for lookups."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spae_ops import _checks, _kept
from spae_ops._dispatch import SEARCH, Family
from spae_ops._implementation import Impl
from spae_ops.admission.admit import ensure


class CodeIndex:
    """A frozen codebook with what an implementation computes from it once: packed copies, norms, error
    bounds.

    codebook: [K, D] fp32|fp16|bf16, finite, K >= 1, D >= 1. A contiguous one is not copied, and must not
        change while the index lives: after a change in place, lookups raise ValueError. (A change by way of
        `.data`, or of memory shared with NumPy or another process, cannot be seen: make a new index.)
    impl: the implementation it is prepared for; "auto" is the one that lookups on the codebook's device take.
        On a GPU where nobody has yet examined the kernels for such a codebook, that is done first (see
        `spae_ops.admit`).
        Lookups with impl="auto" take the implementation that the index is prepared for. One that names
        another prepares the codebook for that one too, once, and the index keeps both.

    Every op that takes `codes` takes a tensor or a CodeIndex; with a tensor the preparation is repeated at
    each call. Pickles hold the codebook and are prepared anew where they are loaded.

    >>> import spae_ops
    >>> index = CodeIndex(torch.eye(3))
    >>> spae_ops.nearest_code(torch.tensor([[0.1, 0.9, 0.0]]), index).ids
    tensor([1])
    """

    def __init__(self, codebook: Tensor, *, impl: Impl = "auto") -> None:
        _checks.check_codes("codebook", codebook)
        _checks.check_impl(impl)
        with torch.inference_mode(False):  # what inference mode makes cannot be saved for a backward
            codes = codebook.detach()
            codes = codes.clone() if codes.is_inference() else codes.contiguous()
            _checks.check_finite("codebook", codes)
            self.codes = codes
            if impl == "auto":
                ensure(codes.device, codes.dtype, codes.shape[1])
            self._asked = impl
            self.impl, implementation = SEARCH.resolve("nearest_code", impl, codes.device, codes=codes)
            self._prepared = {implementation.LAYOUT: list(implementation.prepare(codes))}
        self._layout = implementation.LAYOUT
        self._origin = [codes.data_ptr(), codes._version]

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

    def table(self, family: Family[Any], impl: str) -> Table:
        """The codebook as the registered ops of a family take it, for `impl`; alone for an exported
        program."""
        if torch.compiler.is_exporting():
            return Table(self.codes, [], _kept.LAYOUT, [])
        layout = self._layout
        if impl in family.names and not torch.compiler.is_compiling():
            implementation, reason = family.load(impl, self.device)
            if implementation is not None and reason is None:  # else the op says why it cannot run
                layout = implementation.LAYOUT or layout
                if layout not in self._prepared:
                    with torch.inference_mode(False):
                        self._prepared[layout] = list(implementation.prepare(self.codes))
        return Table(self.codes, self._prepared[layout], layout, self._origin)

    def __reduce__(self) -> tuple[Any, ...]:
        return _index, (self.codes, self._asked)

    def __len__(self) -> int:
        return self.num_codes

    def __repr__(self) -> str:
        dtype = str(self.codes.dtype).removeprefix("torch.")
        return (
            f"CodeIndex({self.num_codes} x {self.width} {dtype} on {self.device}, prepared for {self.impl})"
        )


def _index(codes: Tensor, impl: Impl) -> CodeIndex:
    return CodeIndex(codes, impl=impl)


class Table(NamedTuple):
    """A codebook as the registered ops take it.

    codes: [K, D]. prepared: the tensors prepared from it, of this layout ([] and "" if none are). origin: the
    address and the version of the codes that they were prepared from.
    """

    codes: Tensor
    prepared: list[Tensor]
    layout: str
    origin: list[int]

    @property
    def owner(self) -> str:
        """The implementation that it was prepared for, or ""."""
        return self.layout.partition("/")[0]

    @property
    def made_here(self) -> bool:
        """Whether this process prepared it, of these very codes, as an exported program's was not."""
        return bool(self.origin) and self.codes.data_ptr() == self.origin[0]

    def check(self) -> None:
        """The checks that read values: a bare tensor is finite, an index's has not changed."""
        if self.layout == _kept.LAYOUT:
            return  # looked at when it is prepared
        if not self.origin:
            _checks.check_finite("codes", self.codes)
            return
        version = self.origin[1]
        # Compilers may hand over a copy, whose versions are its own.
        if self.made_here and self.codes._version != version:
            raise ValueError(
                f"codes: expected a codebook as it was when its CodeIndex was made, got one that has changed "
                f"in place since (version {version}, now {self.codes._version}); make a new CodeIndex"
            )


def as_table(codes: Tensor | CodeIndex, family: Family[Any] = SEARCH, impl: str = "auto") -> Table:
    """`codes` of any op; values are checked inside the op, where torch.compile does not break."""
    _checks.check_impl(impl)
    if isinstance(codes, CodeIndex):
        return codes.table(family, impl)
    _checks.check_codes("codes", codes)
    return Table(codes.detach(), [], "", [])
