"""The one dispatch: which implementation of an op runs.

An implementation is a module with `unavailable(device) -> str | None` (why it cannot run there, or on this
machine when `device` is None), the op's functions and, where it does not take every dtype that the op does,
`DTYPES`. It is imported only when asked for, so that importing
`spae_ops` needs no compiler, no GPU and no Triton; a module whose import fails with ImportError is
unavailable for that reason.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch

from spae_ops import _checks

# In order of preference for impl="auto".
_SEARCH = {
    "cuda": "spae_ops.nearest_code.cuda",
    "triton": "spae_ops.nearest_code.triton",
    "cpu": "spae_ops.nearest_code.cpu",
    "reference": "spae_ops.nearest_code.reference",
}
_CROSS_ENTROPY = {
    "triton": "spae_ops.distance_cross_entropy.triton",
    "cpu": "spae_ops.distance_cross_entropy.cpu",
    "reference": "spae_ops.distance_cross_entropy.reference",
}
_PYRAMID = {
    "cpu": "spae_ops.pyramid_quantize.cpu",
    "reference": "spae_ops.pyramid_quantize.reference",
}
# Devices on which "auto" considers an implementation, where that is not every device; elsewhere it is not
# even imported. The CUDA kernels have passed in an emulator and Triton's in its interpreter, but neither have
# run on a GPU: until they have (benchmarks/gpu.sh), they run by name only.
_AUTO_DEVICES: dict[str, tuple[str, ...]] = {"cuda": (), "triton": ()}
_MODULES: dict[str, dict[str, str]] = {
    "nearest_code": _SEARCH,
    "topk_codes": _SEARCH,
    "pyramid_quantize": _SEARCH,  # rounds of lookups: it runs wherever the lookup runs
    "distance_cross_entropy": _CROSS_ENTROPY,
    "dilation_subsample": {"reference": "spae_ops.pyramid_quantize.reference"},
    "pyramid_dequantize": _PYRAMID,
    "layer_queries": _PYRAMID,
}


class ImplementationInfo(NamedTuple):
    """One row of `implementations`; `reason` says why it cannot run, and is empty where it can."""

    name: str
    available: bool
    reason: str


def implementations(op: str) -> list[ImplementationInfo]:
    """The implementations of an op in order of preference, and which of them can run on this machine.

    >>> import spae_ops
    >>> [(i.name, i.available) for i in spae_ops.implementations("nearest_code")][-1]
    ('reference', True)
    """
    rows = []
    for name in _modules(op):
        reason = _load(op, name, None)[1]
        rows.append(ImplementationInfo(name, reason is None, reason or ""))
    return rows


def resolve(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> tuple[str, Any]:
    """Name and module of the implementation that runs `op` on `device` (for values of `dtype`, if given).

    "auto" takes the first that can; naming one that cannot run raises RuntimeError with the reason.
    """
    names = list(_modules(op))
    if impl != "auto" and impl not in names:
        raise ValueError(f"impl: expected 'auto' or one of {names} for {op}, got {impl!r}")
    automatic = [name for name in names if device.type in _AUTO_DEVICES.get(name, (device.type,))]
    for name in automatic if impl == "auto" else [impl]:
        module, reason = _load(op, name, device)
        if module is not None and dtype not in (None, *getattr(module, "DTYPES", (dtype,))):
            reason = f"takes {_checks.dtype_names(module.DTYPES)}, got {_checks.dtype_names([dtype])}"
        if module is not None and reason is None:
            return name, module
        if impl != "auto":
            raise RuntimeError(f"impl: {impl!r} cannot run {op} on {device}: {reason}")
    raise RuntimeError(f"impl: no implementation of {op} runs on {device}")


def _modules(op: str) -> dict[str, str]:
    if op not in _MODULES:
        raise ValueError(f"op: expected one of {', '.join(_MODULES)}, got {op!r}")
    return _MODULES[op]


def _load(op: str, name: str, device: torch.device | None) -> tuple[ModuleType | None, str | None]:
    try:
        module = import_module(_MODULES[op][name])
    except ImportError as error:
        return None, str(error)
    return module, module.unavailable(device)
