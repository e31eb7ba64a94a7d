"""The contest: every contestant alone in its process, exactness first, then rounds in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.registry import Contestant

TURN_SECONDS, TURN_CALLS = 0.2, 10
REST = 0.25  # OpenMP threads may spin for 0.2 s after their work, in the way of whoever is next
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Setting:
    """What all contestants of a run share."""

    device: str
    dtype: str
    threads: int
    repeats: int
    also: Path | None = None


class Failed(RuntimeError):
    """A contestant could not do what was asked; the message says why."""


class Worker:
    """A contestant's process, seen from outside. It starts at once, so that many can load their libraries
    together; `ready` waits for that, and every answer after it comes from one process at work alone."""

    def __init__(self, contestant: Contestant, setting: Setting, codes: Path) -> None:
        self.contestant = contestant
        command = [sys.executable, "-m", "benchmarks.worker", "--contestant", contestant.name]
        command += ["--device", setting.device, "--dtype", setting.dtype, "--threads", str(setting.threads)]
        command += ["--also", str(setting.also)] if setting.also else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(setting.threads))
        self._process = subprocess.Popen(
            [*command, str(codes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **threads},
        )
        self.prepared: dict[str, Any] = {}

    def ready(self) -> None:
        self._reply()

    def prepare(self) -> None:
        self.prepared = self.ask(prepare=True)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the reply, or its lack, tells why
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"its process ended with status {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Case:
    """One set of queries: what each contestant answered, and how long it took.

    samples: seconds per call. answers: ids int64 [N]. peaks: bytes, None where not known. failed: reasons.
    """

    kind: str
    queries: int
    samples: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, np.ndarray] = field(default_factory=dict)
    peaks: dict[str, int | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def look_up(case: Case, workers: Iterable[Worker], queries: Path) -> None:
    """Every contestant's ids and peak memory, once."""
    ids = queries.with_suffix(".ids.npy")
    for worker in workers:
        name = worker.contestant.name
        try:
            reply = worker.ask(queries=str(queries), ids=str(ids))
        except Failed as error:
            case.failed[name] = str(error)
            continue
        case.peaks[name] = reply["peak_bytes"]
        if worker.contestant.kind != "gemm":
            case.answers[name] = np.load(ids)
            ids.unlink()


def take_turns(case: Case, workers: Iterable[Worker], repeats: int) -> None:
    """Rounds A B C, A B C, ..: a drift of the machine's speed then meets all alike."""
    for _ in range(repeats):
        for worker in workers:
            name = worker.contestant.name
            if name in case.failed:
                continue
            time.sleep(REST)
            try:
                reply = worker.ask(seconds=TURN_SECONDS, calls=TURN_CALLS)
            except Failed as error:
                case.failed[name] = str(error)
                case.samples.pop(name, None)
                continue
            case.samples.setdefault(name, []).extend(reply["samples"])
