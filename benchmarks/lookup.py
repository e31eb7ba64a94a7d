"""How long does the exact nearest-code lookup take, next to what else there is?"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contest, guard, host, inputs, report
from benchmarks.contest import Case, Setting, Worker
from benchmarks.exactness import count_mismatches
from benchmarks.registry import DEVICES, Contestant, contestants

RESULTS = Path(__file__).parent / "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--codebook", default="smollm2", help="smollm2, gemma3-65k, random:KxD, bundled:NAME or a folder")
    add("--queries", type=_positive, nargs="+", default=[64, 597, 4776], metavar="N")
    add("--kind", nargs="+", choices=inputs.KINDS, default=["random"], help="where the queries come from")
    add(
        "--only", nargs="+", metavar="NAME", help="contestants whose names contain one of these, and the GEMM"
    )
    add("--also", type=Path, metavar="FILE.py", help="more contestants: a Python file defining CONTESTANTS")
    add("--device", choices=DEVICES, default="cpu")
    add("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    add("--repeats", type=_positive, default=7, help="rounds (default: 7)")
    add("--threads", type=_positive, default=host.cores(), help="CPU threads (default: all cores)")
    add("--out", type=Path, help="results without their ending (default: benchmarks/results/lookup-...)")
    add("--guard", action="store_true", help="fail when a ratio falls below its floor")
    add("--floors", type=Path, default=guard.FLOORS, help="the floors (default: benchmarks/floors.json)")


class Inexact(RuntimeError):
    """One of ours gave a wrong id; the message is a table of who gave how many."""


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0, or 1 if one of ours is inexact (then no time is printed), one of ours failed, or the
    guard does not pass."""
    also = arguments.also.resolve() if arguments.also else None
    setting = Setting(arguments.device, arguments.dtype, arguments.threads, arguments.repeats, also)
    codebook, codes = inputs.load_codes(arguments.codebook)
    codes = inputs.rounded(codes, setting.dtype)
    entrants, notes = _entrants(arguments.only, setting)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _workers(entrants, setting, codes, folder, notes) as workers,
    ):
        for kind, count in itertools.product(arguments.kind, arguments.queries):
            x = inputs.rounded(inputs.make_queries(kind, count, codes, arguments.codebook), setting.dtype)
            try:
                rows += _measure(Case(kind, count), workers, setting, x, codes, Path(folder), notes)
            except Inexact as error:
                print(error)
                _say("an implementation of ours is not exact; nothing is timed")
                return 1
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    results = report.record(command, codebook, codes, setting, notes, rows)
    print(report.markdown(results))
    for file in report.write(results, arguments.out or RESULTS / _default_name(codebook, setting)):
        _say(f"wrote {file}")
    ours = {entrant.name for entrant in entrants if entrant.kind == "ours"}
    reasons = [
        f"{note['name']}: {note['absent']}" for note in notes if "absent" in note and note["name"] in ours
    ]
    if arguments.guard:
        reasons += [f"guard: {reason}" for reason in guard.failures(results, arguments.floors)]
    for reason in reasons:
        _say(reason)
    return 1 if reasons else 0


def _measure(
    case: Case,
    workers: list[Worker],
    setting: Setting,
    x: np.ndarray,
    codes: np.ndarray,
    folder: Path,
    notes: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of one case; who failed, and why, goes to `notes`.

    Raises:
        Inexact: before anything is timed.
    """
    file = folder / "queries.npy"
    np.save(file, x)
    contest.look_up(case, workers, file)
    entrants = [worker.contestant for worker in workers]
    ours = [entrant.name for entrant in entrants if entrant.kind == "ours" and entrant.name in case.answers]
    wrong, compared = count_mismatches(x, codes, case.answers, next(iter(ours), None))
    where = f"{case.queries:,} {case.kind} queries"
    if any(wrong[name] for name in ours):
        lines = [f"| {name} | {count} of {compared} |" for name, count in wrong.items()]
        raise Inexact("\n".join([f"| {where} | wrong ids |", "|---|--:|", *lines]))
    _say(f"{where}: ids verified, {setting.repeats} rounds")
    contest.take_turns(case, workers, setting.repeats)
    notes += [_absent(name, f"{where}: {reason}") for name, reason in case.failed.items()]
    return report.rows_of(case, codes, entrants, wrong, compared)


def _entrants(only: list[str] | None, setting: Setting) -> tuple[list[Contestant], list[dict[str, Any]]]:
    """Those that can run here, and why the others cannot."""
    entrants, absent = [], []
    for contestant in contestants(setting.device, setting.also):
        if only and contestant.kind != "gemm" and not any(part in contestant.name for part in only):
            continue
        reason = contestant.unavailable()
        if reason is None:
            entrants.append(contestant)
        else:
            absent.append(_absent(contestant.name, reason))
    if all(entrant.kind == "gemm" for entrant in entrants):
        raise ValueError("only: nobody is left: " + "; ".join(f"{n['name']}: {n['absent']}" for n in absent))
    return entrants, absent


@contextmanager
def _workers(
    entrants: list[Contestant],
    setting: Setting,
    codes: np.ndarray,
    folder: str,
    notes: list[dict[str, Any]],
) -> Iterator[list[Worker]]:
    """A process per contestant, loaded together and prepared in turn; how that went goes to `notes`."""
    file = Path(folder) / "codes.npy"
    np.save(file, codes)
    with ExitStack() as stack:
        started = [Worker(entrant, setting, file) for entrant in entrants]
        for worker in started:
            stack.callback(worker.close)
        workers = started
        for step in (Worker.ready, Worker.prepare):
            workers = [worker for worker in workers if _succeeds(step, worker, notes)]
        notes += [{"name": worker.contestant.name, **worker.prepared} for worker in workers]
        yield workers


def _succeeds(step: Callable[[Worker], None], worker: Worker, notes: list[dict[str, Any]]) -> bool:
    name = worker.contestant.name
    _say(f"{step.__name__}: {name}")
    try:
        step(worker)
    except contest.Failed as error:
        notes.append(_absent(name, str(error)))
        return False
    return True


def _absent(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "absent": host.scrubbed(reason)}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _default_name(codebook: str, setting: Setting) -> str:
    name = re.sub(r"[^\w.-]+", "-", codebook)
    return f"lookup-{setting.device}-{name}" + ("" if setting.dtype == "float32" else f"-{setting.dtype}")


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value
