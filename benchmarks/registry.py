"""Where the contestants of a question are found: the modules of `peers`, and a file of the user's."""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.contestants import Contestant


def contestants(question: str, device: str, also: Path | None = None) -> list[Contestant]:
    """All that may run on `device`: ours, peers, and those of a Python file that defines `CONTESTANTS`.

    The modules of a question are `peers/QUESTION.py` and all `peers/QUESTION_anything.py`; each defines
    `ours(device)` or `peers(device)`, or both, which return its contestants.
    """
    modules = list(_modules(question))
    return [
        *(contestant for module in modules for contestant in _of(module, "ours", device)),
        *(contestant for module in modules for contestant in _of(module, "peers", device)),
        *_more(device, also),
    ]


def find(question: str, name: str, device: str, also: Path | None = None) -> Contestant:
    """One contestant, without importing what the others need."""

    def in_order() -> Iterator[Contestant]:
        modules = list(_modules(question))
        for module in modules:
            yield from _of(module, "peers", device)
        yield from _more(device, also)
        for module in modules:  # last: listing ours imports torch
            yield from _of(module, "ours", device)

    for contestant in in_order():
        if contestant.name == name:
            return contestant
    raise ValueError(f"contestant: no {name!r} for {device}")


def _modules(question: str) -> Iterator[Any]:
    stem = question.replace("-", "_")
    for found in pkgutil.iter_modules(peers.__path__):
        if found.name == stem or found.name.startswith(f"{stem}_"):
            yield importlib.import_module(f"benchmarks.peers.{found.name}")


def _of(module: Any, group: str, device: str) -> Iterable[Contestant]:
    return getattr(module, group)(device) if hasattr(module, group) else []


def _more(device: str, file: Path | None) -> list[Contestant]:
    if file is None:
        return []
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"also: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [contestant for contestant in module.CONTESTANTS if contestant.device == device]
