"""Questions about pictures, answered by a frozen language model that sees them as words."""

from __future__ import annotations

import argparse

from spae.eval.episodes import FewShotSetting
from spae.eval.tasks import fewshot
from spae.eval.tasks.fewshot import FewShot

ABOUT = "Questions about easy-VQA's pictures: 10-way 1-shot, and 2-way with inner shots."
USES_LLM = True
# An answer is one of a few names, as in few-shot classification; only the prompts hold a question more.
measure, table = fewshot.measure, fewshot.table


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shots",
        type=int,
        nargs="+",
        default=[1, 3, 5],
        help="inner shots between 2 colors (default: 1 3 5)",
    )
    fewshot.add_reading(parser)


def settings(arguments: argparse.Namespace) -> tuple[FewShot, ...]:
    colors = tuple(FewShotSetting(2, shots) for shots in arguments.shots)
    return tuple(
        FewShot(data, settings=played, **fewshot.chosen(arguments))
        for data, played in (("easy-vqa", (FewShotSetting(10),)), ("easy-vqa-colors", colors))
    )
