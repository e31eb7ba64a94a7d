"""What a contestant is, and where to find those of a question: every implementation of ours, the peers, and
the yardstick they are measured by."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
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

    name: unique per device. kind: "ours" must be right, a "peer" may err, and a "yardstick" answers nothing.
    prepare: codes [K, D] -> call; call: a case's inputs, and its parameters by name -> its answers, arrays in
    the question's order (one alone needs no tuple; None of a yardstick). For the lookup: queries -> ids.
    unavailable: why it cannot run on this machine, or None; it must import nothing heavy.
    takes: what codes and inputs are: torch tensors on `device`, or NumPy arrays, float32 where they are real.
    own_memory: its GPU memory does not come from torch's allocator, so that its peak is not known.
    yardstick: the name of its own, where there are several.
    """

    name: str
    kind: Literal["ours", "peer", "yardstick"]
    device: str
    prepare: Callable[[Any], Call]
    unavailable: Callable[[], str | None] = _available
    takes: Literal["torch", "numpy"] = "torch"
    own_memory: bool = False
    yardstick: str | None = None


def contestants(question: str, device: str, also: Path | None = None) -> list[Contestant]:
    """All that may run on `device`: ours, peers, and those of a Python file that defines `CONTESTANTS`."""
    module = _module(question)
    return [*module.ours(device), *module.peers(device), *_more(device, also)]


def find(question: str, name: str, device: str, also: Path | None = None) -> Contestant:
    """One contestant, without importing what the others need."""
    module = _module(question)
    # Ours last: listing them imports torch.
    groups: tuple[Callable[[], Iterable[Contestant]], ...] = (
        lambda: module.peers(device),
        lambda: _more(device, also),
        lambda: module.ours(device),
    )
    for group in groups:
        for contestant in group():
            if contestant.name == name:
                return contestant
    raise ValueError(f"contestant: no {name!r} for {device}")


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
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(missing)} not installed" if missing else no_device(device)

    return unavailable


def _module(question: str) -> Any:
    return importlib.import_module(f"benchmarks.entrants.{question.replace('-', '_')}")


def _more(device: str, file: Path | None) -> list[Contestant]:
    if file is None:
        return []
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"also: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [contestant for contestant in module.CONTESTANTS if contestant.device == device]
