"""`examine`: the examination of one implementation of a family of ops, in this process.

It is a plain function, so that emulated and interpreted kernels can be examined on CPUs, and faults planted
in them; `python -m spae_ops.admission` runs it apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.utils.deterministic

from spae_ops.admission import cross_entropy, pyramid, search
from spae_ops.admission.verdicts import FAILED, PASSED, UNKNOWN
from spae_ops.admission.wrong import Void, Wrong

EXAMINATIONS = {
    "nearest_code": search.examine,
    "distance_cross_entropy": cross_entropy.examine,
    "pyramid": pyramid.examine,
}
# What a device says of a kernel, and not of what else a machine may lack.
_OF_THE_DEVICE = ("CUDA error", "nearest_code: ", "CUDA_ERROR", "device-side assert")
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "bad allocation")
_NOT_BUILT = ("no kernel image", "unsupported PTX", "unsupported toolchain")


class Finding(NamedTuple):
    """outcome: "passed", "failed" or "unknown". in_doubt: whether the device may be of no more use to this
    process."""

    outcome: str
    detail: str
    in_doubt: bool = False


def examine(
    family: str, implementation: Any, device: torch.device, dtype: torch.dtype, width: int
) -> Finding:
    """Examines an implementation of a family of ops on `device`, for codes of `dtype` and `width`.

    "failed": a wrong answer, an assumption of its proof that does not hold, or an error of the device.
    "unknown": what says nothing of it, such as too little memory.
    """
    try:
        with _scratch_of_nan(), torch.no_grad():
            detail = EXAMINATIONS[family](implementation, device, dtype, width)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return Finding(PASSED, detail)
    except Wrong as wrong:
        return Finding(FAILED, str(wrong))
    except Void as void:
        return Finding(UNKNOWN, str(void))
    except Exception as error:
        return _of_error(error, device)


def _of_error(error: Exception, device: torch.device) -> Finding:
    first = next(iter(str(error).strip().splitlines()), "no message")
    said = f"{type(error).__name__}: {first}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        s in str(error) for s in _OUT_OF_MEMORY
    ):
        return Finding(UNKNOWN, f"out of memory ({said})", in_doubt=True)
    if any(s in str(error) for s in _NOT_BUILT) and device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return Finding(
            FAILED, f"no kernel was built for compute capability {capability} ({said})", in_doubt=True
        )
    if any(s in str(error) for s in _OF_THE_DEVICE):
        return Finding(FAILED, said, in_doubt=True)
    return Finding(UNKNOWN, said, in_doubt=True)


@contextmanager
def _scratch_of_nan() -> Iterator[None]:
    """Memory that was not written holds NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill
