"""What all questions have in common: who takes part, answers judged before times, results, the guard."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import contest, guard, host, inputs, report
from benchmarks.contest import Case, Setting, Worker
from benchmarks.contestants import DEVICES, Contestant
from benchmarks.registry import contestants

RESULTS = Path(__file__).parent / "results"


class Inexact(RuntimeError):
    """One of ours gave a wrong answer; the message is a table of who gave how many."""


class Question(ABC):
    """One question: its cases, how their answers are judged, and how its results read.

    labels: the fields of a row that name its case; groups of rows, tables, panels and floors go by them.
    answers: what the verdict is about, for messages. note: what readers of the tables must know. rounds: how
    the samples were taken. own_codes: cases bring their own, so that none are prepared before.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    labels: ClassVar[tuple[str, ...]]
    answers: ClassVar[str] = "ids"
    note: ClassVar[str] = "MiB is the peak of the extra memory, 4 N K the bytes of all distances in float32."
    rounds: ClassVar[str] = "Medians of {} interleaved rounds"
    own_codes: ClassVar[bool] = False
    codebook: ClassVar[str] = "smollm2"
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")

    @abstractmethod
    def add_arguments(self, add: Callable[..., Any]) -> None:
        """The arguments of this question alone."""

    @abstractmethod
    def cases(self, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        """The cases, whose real inputs are values of the contest's dtype."""

    @abstractmethod
    def judge(self, case: Case, codes: np.ndarray, ours: list[str]) -> dict[str, dict[str, Any]]:
        """Each contestant's verdict: fields of its row.

        Raises:
            Inexact: if the answer of one in `ours` is wrong.
        """

    @abstractmethod
    def table(self, rows: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
        """The lines of a Markdown table of one case."""

    @abstractmethod
    def case_title(self, labels: dict[str, Any]) -> str:
        """A case in words."""

    def panel(self, labels: dict[str, Any]) -> tuple[Any, Any]:
        """Row and column of a case in the plot."""
        return tuple(labels[name] for name in self.labels[:2])  # type: ignore[return-value]

    def ratio(self, rows: list[dict[str, Any]]) -> float | None:
        """What floors are about: how many times as long as we the others take; None if that is not known."""
        return report.ratio(rows)

    def setup(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Further facts for the record, and for the contestants' common parameters."""
        return {}

    def settings(self, setting: Setting) -> list[Setting]:
        """Those that each contestant has a process for."""
        return [setting]

    def sections(self, results: dict[str, Any]) -> list[tuple[str, list[str]]]:
        """Titles and tables of the Markdown."""
        groups = report.grouped(self, results["rows"])
        return [(self.case_title(labels), self.table(rows, results)) for labels, rows in groups]

    def plot(self, results: dict[str, Any], file: Path) -> None:
        report.plot_panels(self, results, file)

    def closing(self, results: dict[str, Any]) -> list[str]:
        """Lines of the Markdown table after the cases."""
        return []

    def add_all_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--codebook",
            default=self.codebook,
            help="smollm2, gemma3-65k, random:KxD, bundled:NAME or a folder",
        )
        self.add_arguments(add)
        add(
            "--only",
            nargs="+",
            metavar="NAME",
            help="contestants whose names contain one of these, and their yardsticks",
        )
        add(
            "--also",
            type=Path,
            metavar="FILE.py",
            help="more contestants: a file defining CONTESTANTS",
        )
        add("--device", choices=DEVICES, default="cpu")
        add("--dtype", choices=self.dtypes, default="float32")
        add("--repeats", type=positive, default=7, help="rounds (default: 7)")
        add("--threads", type=positive, default=host.cores(), help="CPU threads (default: all cores)")
        add(
            "--out",
            type=Path,
            help=f"results without their ending (default: benchmarks/results/{self.name}-...)",
        )
        add("--guard", action="store_true", help="fail when a ratio falls below its floor")
        add("--floors", type=Path, default=guard.FLOORS, help="the floors (default: benchmarks/floors.json)")

    def run(self, arguments: argparse.Namespace) -> int:
        """Exit status: 0, or 1 if one of ours is wrong (then no time is printed), one of ours failed, or the
        guard does not pass."""
        load_before = host.load()
        also = arguments.also.resolve() if arguments.also else None
        setting = Setting(
            self.name, arguments.device, arguments.dtype, arguments.threads, arguments.repeats, also
        )
        codebook, codes = inputs.load_codes(arguments.codebook)
        codes = inputs.rounded(codes, setting.dtype)
        taking_part, notes = _taking_part(arguments.only, setting)
        rows: list[dict[str, Any]] = []
        with (
            tempfile.TemporaryDirectory() as folder,
            _workers(
                taking_part, self.settings(setting), None if self.own_codes else codes, folder, notes
            ) as workers,
        ):
            for case in self.cases(arguments, codes):
                try:
                    rows += self.measure(case, workers, setting, codes, Path(folder), notes)
                except Inexact as error:
                    print(error)
                    say(f"an implementation of ours gave wrong {self.answers}; nothing is timed")
                    return 1
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        facts: dict[str, Any] = {"codebook": codebook, "num_codes": len(codes), "width": codes.shape[1]}
        facts["load_before"] = load_before
        facts |= self.setup(arguments)
        results = report.record(self, command, facts, setting, notes, rows)
        print(report.markdown(self, results))
        for file in report.write(self, results, arguments.out or RESULTS / self._file(codebook, setting)):
            say(f"wrote {file}")
        ours = {one.name for one in taking_part if one.kind == "ours"}
        reasons = [
            f"{note['name']}: {note['absent']}" for note in notes if "absent" in note and note["name"] in ours
        ]
        if arguments.guard:
            reasons += [f"guard: {reason}" for reason in guard.failures(self, results, arguments.floors)]
        for reason in reasons:
            say(reason)
        return 1 if reasons else 0

    def measure(
        self,
        case: Case,
        workers: list[Worker],
        setting: Setting,
        codes: np.ndarray,
        folder: Path,
        notes: list[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """The rows of one case; who failed, and why, goes to `notes`."""
        contest.answer(case, workers, folder)
        taking_part = [worker.contestant for worker in workers]
        ours = [one.name for one in taking_part if one.kind == "ours" and one.name in case.answers]
        verdicts = self.judge(case, codes, ours)
        where = self.case_title(case.labels)
        say(f"{where}: {self.answers} verified, {setting.repeats} rounds")
        contest.take_turns(case, workers, setting.repeats)
        notes += [absent(name, f"{where}: {reason}") for name, reason in case.failed.items()]
        return report.rows_of(case, taking_part, verdicts)

    def _file(self, codebook: str, setting: Setting) -> str:
        name = re.sub(r"[^\w.-]+", "-", codebook)
        dtype = "" if setting.dtype == "float32" else f"-{setting.dtype}"
        return f"{self.name}-{setting.device}-{name}{dtype}"


def _taking_part(only: list[str] | None, setting: Setting) -> tuple[list[Contestant], list[dict[str, Any]]]:
    """Those that can run here, and why the others cannot."""
    taking_part, missing = [], []
    listed = contestants(setting.question, setting.device, setting.also)
    chosen = [c for c in listed if c.kind != "yardstick" and (not only or any(p in c.name for p in only))]
    others = {c.yardstick for c in listed} - {c.yardstick for c in chosen}
    for contestant in listed:
        if contestant not in chosen and (contestant.kind != "yardstick" or contestant.name in others):
            continue
        reason = contestant.unavailable()
        if reason is None:
            taking_part.append(contestant)
        else:
            missing.append(absent(contestant.name, reason))
    if all(one.kind == "yardstick" for one in taking_part):
        raise ValueError(
            "only: no contestant is left: " + "; ".join(f"{n['name']}: {n['absent']}" for n in missing)
        )
    return taking_part, missing


@contextmanager
def _workers(
    taking_part: list[Contestant],
    settings: list[Setting],
    codes: np.ndarray | None,
    folder: str,
    notes: list[dict[str, Any]],
) -> Iterator[list[Worker]]:
    """A process per setting and contestant, loaded together and, where there are codes, prepared in turn; how
    that went goes to `notes`."""
    file = None
    if codes is not None:
        file = Path(folder) / "codes.npy"
        np.save(file, codes)
    with ExitStack() as stack:
        workers = [Worker(contestant, setting, file) for setting in settings for contestant in taking_part]
        for worker in workers:
            stack.callback(worker.close)
        for step in (Worker.ready, Worker.prepare) if file else (Worker.ready,):
            workers = [worker for worker in workers if _succeeds(step, worker, notes)]
        if file:
            notes += [{"name": worker.contestant.name, **worker.prepared} for worker in workers]
        yield workers


def _succeeds(step: Callable[[Worker], None], worker: Worker, notes: list[dict[str, Any]]) -> bool:
    name = worker.contestant.name
    say(f"{step.__name__}: {name}")
    try:
        step(worker)
    except contest.Failed as error:
        notes.append(absent(name, str(error)))
        return False
    return True


def absent(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "absent": host.scrubbed(reason)}


def verdict_table(where: str, answers: str, counts: dict[str, str]) -> str:
    lines: Iterable[str] = (f"| {name} | {count} |" for name, count in counts.items())
    return "\n".join([f"| {where} | wrong {answers} |", "|---|--:|", *lines])


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value
