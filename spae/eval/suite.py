"""`spae eval all`: every evaluation of some tokenizers, on one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spae.assets import AssetError, AssetNotCached
from spae.eval.host import host
from spae.eval.run import Run, evaluate_models, find, table_of, tasks

# Of sets that episodes know by another name than `open_data`.
_EPISODES = {"mnist": "digits", "fashion": "garments"}
_DRAWN = ("generate", "strides")
_OF_IMAGES = ("reconstruction", "semantics")
_FEW = ("--contexts", "1", "--examples", "10")
QUICK: dict[str, tuple[str, ...]] = {
    "reconstruction": ("--images", "64"),
    "semantics": ("--images", "64"),
    "fewshot": ("--episodes", "4", "--ways", "2", "--shots", "1", "--no-lite0"),
    "vqa": ("--episodes", "4", "--shots", "1", "--no-lite0"),
    "caption": ("--queries", "4", "--examples", "4"),
    "generate": (*_FEW, "--plain", "2", "--sums", "2"),
    "strides": (*_FEW, "--plain", "2", "--sums", "0", "--strides", "4", "--modes", "par"),
    "denoise": ("--images", "2", "--tasks", "inpainting"),
    "outpaint": (*_FEW, "--images", "2"),
    "windows": ("--images", "2", "--windows", "16", "--steps", "8"),
    "frames": ("--clips", "8"),
    "nextframe": ("--images", "2", "--examples", "4", "--layers", "2"),
    "motion": ("--contexts", "1", "--examples", "4", "--pool", "40", "--held-out", "8"),
}
"""Options with which a task takes seconds, and its figures say that it runs, no more."""


def options(task: str, data: str, *, quick: bool) -> list[str]:
    """What a task of the suite is asked for. data: of the tasks that take any, as `open_data` names it."""
    chosen = list(QUICK.get(task, ())) if quick else []
    if task in _OF_IMAGES:
        # All four splits of the emoji are scored whole.
        if data == "emoji" and task == "semantics":
            return []
        return [*chosen, "--data", data, *(["--split", "new_both"] if data == "emoji" else [])]
    if task in ("sound", "frames", "nextframe"):  # which say themselves where the data are none of theirs
        return [*chosen, "--data", data]
    if task in _DRAWN and data == "fashion":
        return [*chosen, "--data", "garments", "--sums", "0"]
    return [*chosen, "--data", _EPISODES.get(data, data)] if task == "fewshot" else chosen


def settings(task: str, data: str, *, quick: bool, seed: int) -> Any:
    """The task's settings by those options."""
    parser = argparse.ArgumentParser(prog=task)
    parser.add_argument("--seed", type=int, default=seed)
    found = find(task)
    found.add(parser)
    return found.settings(parser.parse_args(options(task, data, quick=quick)))


def evaluate_suite(
    chosen: Sequence[str],
    models: Sequence[str],
    run_of: Callable[[str, str], Run],
    out: Path,
) -> dict[str, Any]:
    """Each task for all models (`evaluate_models`), in the folder `out`/TASK; one that cannot run on this
    data, these models or this machine is named with its reason, and the others go on.

    run_of: a task and a model's name to a run. Returns the host, "tasks", their reports by name, and
    "not measured", reasons by name.
    """
    reports: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for task in chosen:
        print(f"spae: {task}", file=sys.stderr)
        try:
            reports[task] = evaluate_models(
                find(task), models, lambda name, task=task: replace(run_of(task, name), out=out / task)
            )
        except (ValueError, OSError, ImportError, RuntimeError, AssetError, AssetNotCached) as error:
            missing[task] = " ".join(str(error).split()) or type(error).__name__
    return {"host": host(), "tasks": reports, "not measured": missing}


def suite_table(report: dict[str, Any]) -> str:
    """All tables below each other."""
    parts = [f"## {name}\n\n{table_of(find(name), of)}" for name, of in report["tasks"].items()]
    parts += [f"## {name}\n\nnot measured: {reason}" for name, reason in report["not measured"].items()]
    return "\n\n".join(parts)


def without_llm() -> list[str]:
    """The tasks that ask no language model."""
    return [name for name in tasks() if not find(name).USES_LLM]
