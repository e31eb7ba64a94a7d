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

from benchmarks.contestants import Contestant

TURN_SECONDS, TURN_CALLS = 0.2, 10
ENOUGH_SECONDS = 0.5
REST = 0.25  # OpenMP threads may spin for 0.2 s after their work, in the way of the next contestant
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Setting:
    """What all contestants of a run share."""

    question: str
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

    def __init__(self, contestant: Contestant, setting: Setting, codes: Path | None) -> None:
        self.contestant, self.setting = contestant, setting
        command = [sys.executable, "-m", "benchmarks.worker", "--contestant", contestant.name]
        command += ["--question", setting.question]
        command += ["--device", setting.device, "--dtype", setting.dtype, "--threads", str(setting.threads)]
        command += ["--also", str(setting.also)] if setting.also else []
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(setting.threads))
        self._process = subprocess.Popen(
            [*command, *([str(codes)] if codes else [])],
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
    """One set of inputs: what each contestant answered, and how long it took.

    labels: what tells this case from the others, as it stands in the results. inputs: arrays with a row for
    each query or image. parameters: what calls take by name. only: the names of those who take part (None:
    everyone). work: floating-point operations that an exhaustive answer needs, None where that says nothing.
    truth: what the judge of its question wants to know.
    samples: seconds per call. answers: arrays. peaks: bytes, None where not known. prepared: seconds and
    bytes, where the case has codes of its own. failed: reasons.
    """

    labels: dict[str, Any]
    inputs: list[np.ndarray]
    parameters: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    work: float | None = None
    truth: Any = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    peaks: dict[str, int | None] = field(default_factory=dict)
    prepared: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def takes(self, worker: Worker) -> bool:
        return self.only is None or worker.contestant.name in self.only


def answer(case: Case, workers: Iterable[Worker], folder: Path) -> None:
    """Every contestant's answers and peak memory, once."""
    inputs, answers = folder / "inputs.npz", folder / "answers.npz"
    np.savez(inputs, *case.inputs)
    for worker in workers:
        if not case.takes(worker):
            continue
        try:
            _answer(case, worker, inputs, answers)
        except Failed as error:
            case.failed[worker.contestant.name] = str(error)


def _answer(case: Case, worker: Worker, inputs: Path, answers: Path) -> float:
    """One contestant's answers and peak memory; returns the seconds that it took."""
    name = worker.contestant.name
    reply = worker.ask(inputs=str(inputs), parameters=case.parameters, answers=str(answers))
    case.peaks[name] = reply["peak_bytes"]
    if answers.exists():
        with np.load(answers) as arrays:
            case.answers[name] = [arrays[key] for key in arrays.files]
        answers.unlink()
    return reply["seconds"]


def take_turns(case: Case, workers: Iterable[Worker], repeats: int) -> None:
    """Rounds A B C, A B C, ..: a drift of the machine's speed then affects all of them equally."""
    for _ in range(repeats):
        for worker in workers:
            name = worker.contestant.name
            if name in case.failed or not case.takes(worker):
                continue
            time.sleep(REST)
            try:
                reply = worker.ask(seconds=TURN_SECONDS, calls=TURN_CALLS)
            except Failed as error:
                case.failed[name] = str(error)
                case.samples.pop(name, None)
                continue
            case.samples.setdefault(name, []).extend(reply["samples"])


def one_by_one(case: Case, workers: Iterable[Worker], codes: Path, inputs: Path, repeats: int) -> None:
    """For cases too large for all at once: each contestant prepares these codes, answers, takes its turns,
    and lets everything go before the next one starts.

    codes: an .npy file; inputs: an .npz file with the case's. An answer of half a second or more is the only
    sample; otherwise turns go on until they have taken as long.
    """
    answers = inputs.with_name("answers.npz")
    for worker in workers:
        name = worker.contestant.name
        if not case.takes(worker):
            continue
        try:
            worker.ask(codes=str(codes))
            case.prepared[name] = worker.ask(prepare=True)
            time.sleep(REST)
            samples = [_answer(case, worker, inputs, answers)]
            if samples[0] < ENOUGH_SECONDS:
                samples = []
                while len(samples) < repeats * TURN_CALLS and sum(samples) < ENOUGH_SECONDS:
                    samples += worker.ask(seconds=TURN_SECONDS, calls=TURN_CALLS)["samples"]
            case.samples[name] = samples
        except Failed as error:
            case.failed[name] = str(error)
        with suppress(Failed):  # of a process that has ended the reason is known
            worker.ask(forget=True)
