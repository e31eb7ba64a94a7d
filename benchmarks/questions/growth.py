"""How do the lookup's time and memory grow with the queries, the codes and their width?"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks import contest, inputs, report
from benchmarks.contest import Case, Setting, Worker
from benchmarks.curves import AXES, RESULT, axis_title, curves, draw, time_slope
from benchmarks.exactness import SAMPLE
from benchmarks.question import absent, positive, say
from benchmarks.questions.lookup import Lookup

FIRST = {"queries": 64, "codes": 4096, "width": 64}
LAST = {"queries": 1 << 20, "codes": 1 << 20, "width": 4096}
FACTOR = 4


class Growth(Lookup):
    """Judged as lookups are; one size varies at a time, and no more than one contestant holds memory."""

    name: ClassVar[str] = "growth"
    about = (__doc__ or "").splitlines()[0]
    labels: ClassVar[tuple[str, ...]] = ("axis", "value", "threads")
    rounds: ClassVar[str] = "Medians of up to {} turns, one contestant after the other"
    own_codes = True
    note: ClassVar[str] = (
        "An answer that takes half a second or more is the only sample. MiB is the peak of the extra memory, "
        "beyond queries, codes and what was prepared of them, with the results; 4 N K the bytes of all "
        f"distances in float32. Exactness: {SAMPLE} queries by the definition in float64, all others against "
        "ours. Along N the codes are the codebook's, along K and D random, as large where held."
    )

    def add_arguments(self, add: Callable[..., Any]) -> None:
        add("--axes", nargs="+", choices=AXES, default=list(AXES))
        add("--queries", type=positive, default=597, metavar="N", help="held along the other axes")
        add(
            "--largest", type=positive, default=max(LAST.values()), help="no size beyond (default: 1,048,576)"
        )
        add(
            "--longest",
            type=float,
            default=10.0,
            metavar="SECONDS",
            help="all but ours end where a call would take longer (default: 10)",
        )
        add("--busy", type=int, default=0, metavar="CORES", help="keep so many cores busy meanwhile")

    def setup(self, arguments: argparse.Namespace) -> dict[str, Any]:
        return {"held_queries": arguments.queries, "longest": arguments.longest, "busy": arguments.busy}

    def run(self, arguments: argparse.Namespace) -> int:
        self._longest, self._took = arguments.longest, {}
        with _busy(arguments.busy):
            return super().run(arguments)

    def settings(self, setting: Setting) -> list[Setting]:
        """One thread, and all; on a GPU only all, for they do not matter."""
        counts = {setting.threads} if setting.device == "cuda" else {1, setting.threads}
        return [replace(setting, threads=count) for count in sorted(counts)]

    def cases(self, arguments: argparse.Namespace, codes: np.ndarray) -> Iterator[Case]:
        if arguments.largest < (least := min(FIRST[axis] for axis in arguments.axes)):
            raise ValueError(f"largest: expected at least {least}, got {arguments.largest}")
        for axis in arguments.axes:
            value = FIRST[axis]
            while value <= min(LAST[axis], arguments.largest):
                size = {
                    "queries": arguments.queries,
                    "codes": len(codes),
                    "width": codes.shape[1],
                    axis: value,
                }
                table, source = codes, arguments.codebook
                if axis != "queries":
                    source, table = inputs.load_codes(f"random:{size['codes']}x{size['width']}")
                    table = inputs.rounded(table, arguments.dtype)
                x = inputs.make_queries("random", size["queries"], table, source)
                work = 2.0 * len(x) * table.size
                labels = {"axis": axis, "value": value}
                yield Case(labels, [inputs.rounded(x, arguments.dtype)], work=work, truth=table)
                value *= FACTOR

    def measure(
        self,
        case: Case,
        workers: list[Worker],
        setting: Setting,
        codes: np.ndarray,
        folder: Path,
        notes: list[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """The rows of a case for every number of threads."""
        rows: list[dict[str, Any]] = []
        files = folder / "codes.npy", folder / "inputs.npz"
        np.save(files[0], case.truth)
        np.savez(files[1], *case.inputs)
        for threads in dict.fromkeys(worker.setting.threads for worker in workers):
            labels = {**case.labels, "threads": threads}
            of_these = [worker for worker in workers if worker.setting.threads == threads]
            only = tuple(w.contestant.name for w in of_these if not self._too_long(w, labels, notes))
            part = Case(labels, case.inputs, only=only, work=case.work, truth=case.truth)
            say(self.case_title(labels))
            contest.one_by_one(part, of_these, *files, setting.repeats)
            contestants = [worker.contestant for worker in of_these]
            ours = [one.name for one in contestants if one.kind == "ours" and one.name in part.answers]
            verdicts = self.judge(part, part.truth, ours)
            for name, prepared in part.prepared.items():
                verdicts[name] = {**verdicts.get(name, {}), **prepared}
            where = self.case_title(labels)
            notes += [absent(name, f"{where}: {reason}") for name, reason in part.failed.items()]
            found = report.rows_of(part, contestants, verdicts)
            rows += [{**row, "num_codes": len(part.truth), "queries": len(part.inputs[0])} for row in found]
        self._took |= {
            self._key(row["contestant"], row): (row["value"], row["median_ms"] / 1e3) for row in rows
        }
        return rows

    @staticmethod
    def _key(name: str, labels: dict[str, Any]) -> tuple[Any, ...]:
        return name, labels["axis"], labels["threads"]

    def _too_long(self, worker: Worker, labels: dict[str, Any], notes: list[dict[str, Any]]) -> bool:
        """Whether a contestant that is not ours would take too long, judged by its last size; noted once."""
        contestant = worker.contestant
        value, seconds = self._took.get(self._key(contestant.name, labels), (labels["value"], 0.0))
        expected = seconds * labels["value"] / value
        if contestant.kind == "ours" or expected <= self._longest:
            return False
        reason = f"{self.case_title(labels)} and beyond: a call would take {expected:.0f} s"
        if labels["value"] == value * FACTOR:
            notes.append(absent(contestant.name, reason))
        return True

    def case_title(self, labels: dict[str, Any]) -> str:
        threads = "1 thread" if labels["threads"] == 1 else f"{labels['threads']} threads"
        return f"{AXES[labels['axis']]} = {labels['value']:,}, {threads}"

    def sections(self, results: dict[str, Any]) -> list[tuple[str, list[str]]]:
        """A table per axis."""
        rows = results["rows"]
        axes = dict.fromkeys(row["axis"] for row in rows)
        return [
            (axis_title(axis, results), self.table([row for row in rows if row["axis"] == axis], results))
            for axis in axes
        ]

    def table(self, rows: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
        lines = [
            f"| {AXES[rows[0]['axis']]} | threads | | median ms | samples | fastest peer / this | GFLOP/s "
            "| MiB | of 4 N K | prepared in s | MiB kept | wrong ids |",
            "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for _, group in report.grouped(self, rows):
            peer = report.fastest(group, "peer")
            for row in group:
                cells = [
                    f"{row['value']:,}",
                    str(row["threads"]),
                    report.contestant(row),
                    report.digits(row["median_ms"]),
                    str(row["samples"]),
                    f"{peer['median_ms'] / row['median_ms']:.2f}" if peer else "-",
                    f"{row['gflops']:,.0f}",
                    report.memory(row, 4 * row["queries"] * row["num_codes"]),
                    f"{row['prepare_seconds']:.2f}",
                    report.mebibytes(row["prepared_bytes"]),
                    "no ids" if row["role"] == "yardstick" else f"{row['mismatches']} of {row['compared']}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
        return lines

    def closing(self, results: dict[str, Any]) -> list[str]:
        """The slopes of time, and memory from the smallest size to the largest."""
        lines = [
            "",
            "## Slopes",
            "",
            "Of log time over log size; and MiB at the smallest and the largest size, of ours also without",
            f"the {RESULT} N bytes of results.",
            "",
        ]
        lines += [
            "| | threads | | from | to | slope of time | MiB | without |",
            "|---|--:|---|--:|--:|--:|---|---|",
        ]
        for (axis, name, threads), rows in curves(results["rows"]).items():
            ends = rows[0], rows[-1]
            peaks = [row["peak_extra_bytes"] for row in ends]
            known = rows[0]["role"] == "ours" and None not in peaks
            bare = [max(0, row["peak_extra_bytes"] - RESULT * row["queries"]) for row in ends if known]
            cells = [AXES[axis], str(threads), name, *(f"{row['value']:,}" for row in ends), time_slope(rows)]
            cells += [" to ".join(map(report.mebibytes, values)) for values in (peaks, bare)]
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def plot(self, results: dict[str, Any], file: Path) -> None:
        draw(results, file)


@contextmanager
def _busy(cores: int) -> Iterator[None]:
    """Keeps so many cores busy, as others do on a machine that is shared."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()
