"""The one dispatch: which implementation of an op runs.

A family of ops has a table of implementations in order of preference; `_implementation` says what one must
have. It is imported only when asked for, so that importing `spae_ops` needs no compiler, GPU or Triton; one
whose import fails with ImportError is unavailable for that reason.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch

from spae_ops import _checks, _extension
from spae_ops._implementation import CrossEntropy, Implementation, PyramidOps, Search

T = TypeVar("T", bound=Implementation)
# Devices on which "auto" considers an implementation, where that is not every device; elsewhere it is not
# even imported.
_AUTO_DEVICES: dict[str, tuple[str, ...]] = {"cuda": (), "triton": ()}


class ImplementationInfo(NamedTuple):
    """One row of `implementations`; `reason` says why it cannot run, and is empty where it can."""

    name: str
    available: bool
    reason: str


class Family(Generic[T]):
    """The implementations of a family of ops, by name, the most preferred first.

    Each is the name of its module, or an object.
    """

    def __init__(self, implementations: dict[str, str | T]) -> None:
        self._implementations = implementations

    @property
    def names(self) -> list[str]:
        return list(self._implementations)

    def register(self, name: str, implementation: str | T) -> None:
        """Adds an implementation, preferred to all others; one of the same name is replaced."""
        others = {key: value for key, value in self._implementations.items() if key != name}
        self._implementations = {name: implementation, **others}

    def unregister(self, name: str) -> None:
        del self._implementations[name]

    def load(self, name: str, device: torch.device | None) -> tuple[T | None, str | None]:
        """The implementation, or None if its import fails, and why it cannot run on `device`, if so."""
        found: Any = self._implementations[name]
        if isinstance(found, str):
            try:
                found = import_module(found)
            except ImportError as error:
                return None, str(error)
        return cast(T, found), found.unavailable(device)

    def resolve(
        self,
        op: str,
        impl: str,
        device: torch.device,
        dtype: torch.dtype | None = None,
        preferred: str = "",
        work: int = 0,
    ) -> tuple[str, T]:
        """Name and implementation that run `op` on `device` (for values of `dtype`, if given).

        "auto" takes the preferred one (that the codes were prepared for, say) if it is here and can run, else
        the first that can; naming one that cannot run raises RuntimeError with the reason.
        `work`: multiply-adds of the call; where much falls to plain torch for want of the extension, that is
        said once.
        """
        if impl != "auto" and impl not in self._implementations:
            raise ValueError(f"impl: expected 'auto' or one of {self.names} for {op}, got {impl!r}")
        for name in self._automatic(device, preferred) if impl == "auto" else [impl]:
            implementation, reason = self.load(name, device)
            dtypes: tuple[torch.dtype, ...] = getattr(implementation, "DTYPES", _checks.DIFFERENTIABLE_DTYPES)
            if reason is None and dtype is not None and dtype not in dtypes:
                reason = f"takes {_checks.dtype_names(dtypes)}, got {_checks.dtype_names([dtype])}"
            if implementation is not None and reason is None:
                if impl == "auto" and name == "torch" and device.type == "cpu":
                    _extension.warn_fallback(_extension.reason(), work)
                return name, implementation
            if impl != "auto":
                raise RuntimeError(f"impl: {impl!r} cannot run {op} on {device}: {reason}")
        raise RuntimeError(f"impl: no implementation of {op} runs on {device}")

    def _automatic(self, device: torch.device, preferred: str) -> list[str]:
        names = [name for name in self.names if device.type in _AUTO_DEVICES.get(name, (device.type,))]
        return [preferred, *names] if preferred in self._implementations else names


SEARCH = Family[Search](
    {
        "cuda": "spae_ops.lookup.cuda",
        "triton": "spae_ops.lookup.triton",
        "cpu": "spae_ops.lookup.cpu",
        "torch": "spae_ops.lookup.torch",
        "reference": "spae_ops.lookup.reference",
    }
)
CROSS_ENTROPY = Family[CrossEntropy](
    {
        "triton": "spae_ops.cross_entropy.triton",
        "cpu": "spae_ops.cross_entropy.cpu",
        "torch": "spae_ops.cross_entropy.torch",
        "reference": "spae_ops.cross_entropy.reference",
    }
)
PYRAMID = Family[PyramidOps](
    {
        "triton": "spae_ops.quantize.triton",
        "cpu": "spae_ops.quantize.cpu",
        "torch": "spae_ops.quantize.torch",
        "reference": "spae_ops.quantize.reference",
    }
)
FAMILIES: dict[str, Family[Any]] = {
    "nearest_code": SEARCH,
    "topk_codes": SEARCH,
    "pyramid_quantize": SEARCH,  # rounds of lookups: it runs wherever the lookup runs
    "pyramid_dequantize": PYRAMID,
    "layer_queries": PYRAMID,
    "dilation_subsample": PYRAMID,
    "distance_cross_entropy": CROSS_ENTROPY,
}


def implementations(op: str) -> list[ImplementationInfo]:
    """The implementations of an op in order of preference, and which of them can run on this machine.

    >>> import spae_ops
    >>> [(i.name, i.available) for i in spae_ops.implementations("nearest_code")][-1]
    ('reference', True)
    """
    if not isinstance(op, str) or op not in FAMILIES:
        raise ValueError(f"op: expected one of {', '.join(FAMILIES)}, got {op!r}")
    rows = []
    for name in FAMILIES[op].names:
        reason = FAMILIES[op].load(name, None)[1]
        rows.append(ImplementationInfo(name, reason is None, reason or ""))
    return rows
