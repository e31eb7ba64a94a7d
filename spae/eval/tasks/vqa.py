"""Questions about pictures, answered by a frozen language model that sees them as words."""

from __future__ import annotations

import argparse

from spae.eval.episodes import FewShotSetting
from spae.eval.tasks import fewshot
from spae.eval.tasks.caption import add_stop
from spae.eval.tasks.fewshot import FewShot
from spae.incontext.tasks.text import END_OF_LINE

ABOUT = "Questions about easy-VQA's pictures: 10-way 1-shot, and 2-way with inner shots."
USES_LLM = True
# As in few-shot classification an answer is one of a few names, but it is written freely, up to a stop.
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
    add_stop(parser, END_OF_LINE, 32)


def settings(arguments: argparse.Namespace) -> tuple[FewShot, ...]:
    options = fewshot.chosen(arguments, stop=tuple(arguments.stop), max_tokens=arguments.max_tokens)
    colors = tuple(FewShotSetting(2, shots) for shots in arguments.shots)
    return tuple(
        FewShot(data, settings=played, **options)
        for data, played in (("easy-vqa", (FewShotSetting(10),)), ("easy-vqa-colors", colors))
    )
