"""Degraded images restored by a frozen language model, from ten copies of the image itself, corrupted less
and less (SPAE section 3.2; V2L)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from spae.eval.restoration import (
    Lab,
    Restoration,
    Restored,
    add_restoration,
    join,
    restoration_options,
    restoration_table,
)
from spae.eval.run import Measured, Run
from spae.incontext.tasks.denoising import DEGRADATIONS, answers_of, denoising_task, majority
from spae.tokenizers import PyramidTokens
from spae.tokenizers.batches import encode_all

ABOUT = "Degraded images restored after ten copies, corrupted less and less."
USES_LLM = True
table = restoration_table


@dataclass(frozen=True, kw_only=True)
class Denoising(Restoration):
    """tasks: names of `DEGRADATIONS`."""

    tasks: tuple[str, ...] = tuple(DEGRADATIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [task for task in self.tasks if task not in DEGRADATIONS]:
            raise ValueError(f"tasks: expected some of {sorted(DEGRADATIONS)}, got {unknown[0]!r}")


def add(parser: argparse.ArgumentParser) -> None:
    add_restoration(parser, Denoising())
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=list(DEGRADATIONS),
        help=f"some of {', '.join(DEGRADATIONS)} (default: all)",
    )


def settings(arguments: argparse.Namespace) -> Denoising:
    return Denoising(tasks=tuple(arguments.tasks), **restoration_options(arguments))


def measure(run: Run) -> Measured:
    """Restore images of every task.

    Beside the language model's images stand, by name: "wrong image", the same with another image's words in
    place of the degraded ones; "majority", at each position the commonest of the examples' words (the copies
    share most of the answer, so this is what a model must reach to have understood the examples); "nearest
    example", that of them that is most like the original; "degraded", the input as it is; "random words"; and
    "own words", the original's in as many layers.

    Finished segments are kept in `segments.jsonl`.
    """
    lab = Lab(run)
    rows, pages = [], []
    for name in run.settings.tasks:
        methods = _restore(lab, name)
        rows += lab.rows(name, methods)
        pages.append((f"{name}:\noriginal", methods))
    return lab.measured(rows, pages)


def _restore(lab: Lab, name: str) -> dict[str, Restored]:
    """One task's images by method."""
    chosen: Any = lab.chosen
    degraded = DEGRADATIONS[name](lab.originals)
    conditions = encode_all(lab.model, degraded)
    answers: dict[str, list[PyramidTokens]] = {"language model": [], "wrong image": []}
    most, nearest = [], []
    for i in tqdm(range(chosen.images), desc=name, disable=None):
        for kind, j in zip(answers, (i, (i + 1) % chosen.images), strict=True):
            task, query = denoising_task(
                conditions[j : j + 1],
                lab.tokens[i : i + 1],
                lab.lexicon,
                condition_layers=chosen.condition_layers,
                seed=chosen.seed * 10**6 + i,
            )
            answers[kind].append(lab.decode(task, [query]))
            if kind == "language model":
                most.append(majority(task))
                nearest.append(lab.nearest(answers_of(task), i))
    methods = {kind: lab.restored(join(parts)) for kind, parts in answers.items()}
    methods["majority"] = lab.restored(lab.lexicon.tokens(most))
    methods["nearest example"] = lab.restored(lab.lexicon.tokens(nearest))
    return methods | {"degraded": Restored(degraded), **lab.limits()}
