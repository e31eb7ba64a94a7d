"""What a contestant is: an implementation of ours, a peer, or the yardstick they are measured by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from spae_ops import Impl

Call = Callable[..., Any]
DEVICES = ("cpu", "cuda")


def _available() -> None:
    return None


@dataclass(frozen=True)
class Contestant:
    """One way to answer a question.

    name: unique per device. kind: "ours" must be right; a "peer" computes in the contest's precision and may
    err by its rounding; an "inexact" one rounds further, and no ratio is taken with it; a "yardstick" answers
    nothing.
    prepare: codes [K, D] -> call; call: a case's inputs, and its parameters by name -> its answers, arrays in
    the question's order (one alone needs no tuple; None of a yardstick). For the lookup: queries -> ids.
    unavailable: why it cannot run on this machine, or None; it must import nothing heavy.
    takes: what codes and inputs are: torch tensors on `device`, or NumPy arrays, float32 where they are real.
    own_memory: its GPU memory does not come from torch's allocator, so that its peak is not known.
    yardstick: the name of its own, where there are several.
    """

    name: str
    kind: Literal["ours", "peer", "inexact", "yardstick"]
    device: str
    prepare: Callable[[Any], Call]
    unavailable: Callable[[], str | None] = _available
    takes: Literal["torch", "numpy"] = "torch"
    own_memory: bool = False
    yardstick: str | None = None


def our_names(op: str) -> list[Impl]:
    """Our implementations of an op that are worth timing: all but the definition."""
    import spae_ops

    return [cast("Impl", row.name) for row in spae_ops.implementations(op) if row.name != "reference"]


def our_unavailable(op: str, name: str, device: str) -> Callable[[], str | None]:
    """Why an implementation of an op of ours cannot run on `device`."""

    def unavailable() -> str | None:
        import torch

        from spae_ops._dispatch import FAMILIES

        if reason := no_device(device):
            return reason
        try:
            FAMILIES[op].resolve(op, name, torch.device(device))
        except RuntimeError as error:
            return str(error)
        return None

    return unavailable


def no_device(device: str) -> str | None:
    if device != "cuda":
        return None
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def needs(device: str, *packages: str) -> Callable[[], str | None]:
    """Why a contestant that needs these packages cannot run on `device`."""

    def unavailable() -> str | None:
        missing = [package for package in packages if find_spec(package) is None]
        return f"{', '.join(missing)} not installed" if missing else no_device(device)

    return unavailable
