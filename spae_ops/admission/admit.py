"""`admit`, which examines GPU kernels now, and `ensure`, which does where there is no verdict yet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from spae_ops import _checks
from spae_ops._dispatch import TABLES
from spae_ops._implementation import Impl
from spae_ops.admission import verdicts
from spae_ops.admission.verdicts import FAILED, ON_TRIAL, PASSED, AdmissionWarning, Verdict


def admit(
    device: torch.device | str | None = None,
    *,
    impl: Impl | None = None,
    dtype: torch.dtype = torch.float32,
    width: int = 576,
) -> list[Verdict]:
    """Examine the GPU kernels now, so that "auto" takes those that pass; returns what was found.

    Making a `CodeIndex` on a GPU does the same where there is no verdict yet. An examination, in a process of
    its own, takes seconds, and with Triton as long as its kernels take to compile. It can show that a kernel
    is wrong on this device, and never proves one right (see `spae_ops.admission`). Of an implementation that
    failed, a warning tells what; "auto" takes the next. Verdicts are kept in the cache; this replaces them.

    device: a CUDA device (None: the current one). impl: one implementation (None: all that need admission).
    dtype, width: fp32|fp16|bf16 and D of the codebook [K, D]; a verdict holds up to the next multiple of 64.

    Returns a verdict for each family of ops and implementation that this machine can run; none where nothing
    needs admission: without a CUDA device, or with SPAE_ADMIT=off.

    Raises TypeError or ValueError for arguments that do not fit, and RuntimeError in torch.compile's tracing
    and during the capture of a CUDA graph.
    """
    if impl is not None and impl not in ON_TRIAL:
        raise ValueError(f"impl: expected one of {', '.join(map(repr, ON_TRIAL))} or None, got {impl!r}")
    if dtype not in _checks.QUERY_DTYPES:
        raise _checks.ArgumentTypeError(
            f"dtype: expected {_checks.dtype_names(_checks.QUERY_DTYPES)}, got {dtype!r}"
        )
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"width: expected an integer of at least 1, got {width!r}")
    chosen = _device(device)
    if chosen is None or verdicts.mode() == "off":
        return []
    if _busy(chosen):
        raise RuntimeError("admit: cannot run while torch.compile traces or a CUDA graph is captured")
    found = []
    for name in (impl,) if impl is not None else ON_TRIAL:
        families = [kind for kind in TABLES if _runs(kind, name, chosen)]
        with _lock(chosen, name):
            found += _examine(name, families, chosen, dtype, width)
    return found


def ensure(device: torch.device, dtype: torch.dtype, width: int) -> None:
    """Examines, in every family of ops, the most preferred kernels on trial that have no verdict for such
    codes, up to the first that passes. Does nothing where none is needed or none can be had now."""
    if not verdicts.on_trial(device) or verdicts.mode() == "off" or _busy(device):
        return
    admitted: set[str] = set()
    for name in ON_TRIAL:
        open_families = _open(name, admitted, device, dtype, width)
        if open_families:
            with _lock(device, name):
                open_families = _open(
                    name, admitted, device, dtype, width
                )  # another process may have been first
                for verdict in _examine(name, open_families, device, dtype, width):
                    if verdict.outcome == PASSED:
                        admitted.add(verdict.family)


def _open(name: str, admitted: set[str], device: torch.device, dtype: torch.dtype, width: int) -> list[str]:
    """The families not `admitted` in which `name` runs and has no verdict; those it has passed are added."""
    found = []
    for kind in TABLES:
        if kind in admitted or name not in TABLES[kind].names:
            continue
        verdict = verdicts.kept(device, verdicts.case(kind, name, dtype, width), again=True)
        if verdict is None and _runs(kind, name, device):
            found.append(kind)
        elif verdict is not None and verdict.outcome == PASSED:
            admitted.add(kind)
        elif verdict is not None and verdict.outcome == FAILED:
            _warn(verdict)
    return found


def _examine(
    name: str, families: Sequence[str], device: torch.device, dtype: torch.dtype, width: int
) -> list[Verdict]:
    from spae_ops.admission import process

    found = process.examine(name, families, device, dtype, width)
    for verdict in found:
        verdicts.keep(device, verdict)
        if verdict.outcome != PASSED:
            _warn(verdict)
    return found


def _warn(verdict: Verdict) -> None:
    about = f"{verdict.implementation!r} of {verdict.family} on {verdict.device}"
    codes = f"{verdict.dtype} codes of width {verdict.width}"
    if verdict.outcome == FAILED:
        text = (
            f"{about} failed its examination for {codes}: {verdict.detail}. It is not used there by 'auto', "
            "which takes the next implementation. Please report this with the output of `spae doctor --json`."
        )
    else:
        text = (
            f"{about} could not be examined for {codes}: {verdict.detail}. Until it is, 'auto' takes the "
            "next implementation; spae_ops.admit() tries again."
        )
    warnings.warn(f"spae_ops: {text}", AdmissionWarning, stacklevel=4)


def _runs(kind: str, name: str, device: torch.device) -> bool:
    """Whether an implementation is there to be examined. Triton's interpreter never is."""
    if name not in TABLES[kind].names or verdicts.interpreted(name):
        return False
    return TABLES[kind].load(name, device)[1] is None


def _device(device: torch.device | str | None) -> torch.device | None:
    """The device with its number, None where nothing needs admission."""
    if device is None:
        if not torch.cuda.is_available():
            return None
        device = "cuda"
    found = torch.device(device)
    if not verdicts.on_trial(found):
        return None
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def _busy(device: torch.device) -> bool:
    """Whether this is no time for an examination."""
    if torch.compiler.is_compiling():
        return True
    return device.type == "cuda" and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@contextmanager
def _lock(device: torch.device, name: str) -> Iterator[None]:
    """One process examines while others that want the same wait; where there can be no lock, without one."""
    from filelock import FileLock, Timeout

    from spae_ops.admission import process

    place = verdicts.folder(device, name)
    lock = FileLock(str(place / f"{name}.lock"))
    try:
        os.makedirs(place, exist_ok=True)
        lock.acquire(timeout=process.TIME_LIMIT)
    except (OSError, Timeout, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
