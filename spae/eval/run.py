"""The one shape of every evaluation: settings, keys, records to go on from, a report, its table and page.

A task is a module of `spae.eval.tasks` with what `Task` says; `spae eval NAME` is built from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from spae import modules
from spae.eval.host import host
from spae.eval.table import joined
from spae.llm import FrozenLLM
from spae.llm.journal import Journal
from spae.tokenizers import Tokenizer

T = TypeVar("T")


class Measured(NamedTuple):
    """What a task found. report: JSON values. draw: draws the page of it (a PNG), if there is one."""

    report: dict[str, Any]
    draw: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Run:
    """One evaluation of a tokenizer, and of a frozen language model where the task asks one.

    name: of the task, and of its files. settings: the task's own, from `Task.settings`. model: in evaluation
    mode. out: the folder that keeps records and results; None keeps nothing. command: that makes it again.
    """

    name: str
    settings: Any
    model: Tokenizer
    llm: FrozenLLM | None = None
    out: Path | None = None
    command: str = ""

    @property
    def asked(self) -> FrozenLLM:
        """The language model. Raises ValueError if there is none."""
        if self.llm is None:
            raise ValueError(f"llm: expected a language model, which {self.name} asks, got None")
        return self.llm

    @property
    def folder(self) -> Path:
        """`out`, which exists. Raises ValueError if there is none."""
        if self.out is None:
            raise ValueError(f"out: expected a folder, in which {self.name} keeps its records, got None")
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out

    @property
    def size(self) -> int:
        """Height and width of the tokenizer's images."""
        return self.model.config.image_size[0]

    @cached_property
    def key(self) -> str:
        """Names the tokenizer and the language model: what any answer depends on, beside what was asked."""
        return f"{fingerprint(self.model)}:{self.asked.identity}"

    @cached_property
    def journal(self) -> Journal:
        """`records.jsonl` of the folder: every answer, so that the same run goes on where it stopped."""
        return Journal(self.folder / "records.jsonl")


class Task(Protocol):
    """A module of `spae.eval.tasks`: what it measures, of which options, and how that is shown.

    ABOUT: one sentence for --help. USES_LLM: whether it asks a language model; `Run.llm` and `Run.out` are
    then given. A task may also have `draw_models(reports, path)`: a page of several models' reports, by name.
    """

    ABOUT: str
    USES_LLM: bool

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the task's own options to `spae eval NAME`."""
        ...

    def settings(self, arguments: argparse.Namespace) -> Any:
        """The settings that the options name. Raises ValueError for impossible ones."""
        ...

    def measure(self, run: Run) -> Measured:
        """The evaluation itself."""
        ...

    def table(self, report: dict[str, Any]) -> str:
        """A report as a Markdown table."""
        ...


def tasks() -> list[str]:
    """The names of all evaluations."""
    from spae.eval import tasks

    return modules.names(tasks)


def find(name: str) -> Task:
    """An evaluation by name. Raises ValueError where there is none."""
    from spae.eval import tasks

    return cast(Task, modules.find(tasks, name))


def evaluate(task: Task, run: Run) -> dict[str, Any]:
    """Measure, and write `NAME.json`, `NAME.md` and, if the task draws one, the page `NAME.png` (of clips
    `NAME.gif`) into `run.out`.

    Returns the report: the command, the host, the language model's name and what the task measured. The same
    call goes on where an interrupted one stopped.
    """
    report: dict[str, Any] = {"command": run.command, "host": host()}
    if task.USES_LLM:
        report["llm"] = run.asked.name
        _ = run.folder
    measured = task.measure(run)
    report |= measured.report
    if run.out is not None:
        _write(task, report, run.folder, run.name, measured.draw)
    return report


def evaluate_models(task: Task, models: Sequence[str], run_of: Callable[[str], Run]) -> dict[str, Any]:
    """The same evaluation of several tokenizers, one after the other, on one page.

    models: as the user names them. run_of: a name to its run; all have one name, `out` and command. Each has
    its own files in the folder `out`/MODEL; those in `out` are about all. Returns the command and "models":
    each one's report, by the last part of its name.

    Raises ValueError if two have the same last part.
    """
    parts = [Path(name).name for name in models]
    if len(set(parts)) < len(parts):
        raise ValueError(f"model: expected names with different last parts, got {', '.join(models)}")
    reports: dict[str, Any] = {}
    run: Run | None = None
    for name, part in zip(models, parts, strict=True):
        run = run_of(name)
        own = replace(run, out=None if run.out is None else run.out / part)
        reports[part] = evaluate(task, own)
    assert run is not None, "models: expected at least one, got none"
    report = {"command": run.command, "models": reports}
    if run.out is not None:
        together = getattr(task, "draw_models", None)
        _write(task, report, run.folder, run.name, together and partial(together, reports))
    return report


def table_of(task: Task, report: dict[str, Any]) -> str:
    """A report of `evaluate`, or of `evaluate_models`, as a Markdown table."""
    if "models" not in report:
        return task.table(report)
    return joined({name: task.table(one) for name, one in report["models"].items()}, "model")


def _write(
    task: Task, report: dict[str, Any], folder: Path, name: str, draw: Callable[[Path], None] | None
) -> None:
    text = table_of(task, report) + (f"\n\n    {report['command']}" if report["command"] else "")
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    if draw is not None:
        draw(folder / f"{name}.png")


def check_layers(layers: Sequence[int]) -> None:
    """Raises ValueError unless these are numbers of layers, at least one of them."""
    if not layers or min(layers) < 1:
        raise ValueError(f"layers: expected at least 1, got {', '.join(map(str, layers)) or 'none'}")


def fingerprint(model: Tokenizer) -> str:
    """SHA-256 (hex) of all that decides an image's words: the weights, and the codebook that they name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def recall(journal: Journal | None, key: str, ask: Callable[[], T]) -> T:
    """The record of a key, asked for and kept where there is none yet."""
    found = None if journal is None else journal.get(key)
    if found is None:
        found = ask()
        if journal is not None:
            journal.put(key, found)
    return found
