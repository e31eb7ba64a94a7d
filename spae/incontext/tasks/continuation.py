"""Clips continued: the words of their last moments from those of the earlier ones, after whole clips."""

from __future__ import annotations

import torch
from torch import Tensor

from spae.incontext.lexicon import Lexicon
from spae.incontext.prompts import Example, Task, Template
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid


def later_tokens(pyramid: Pyramid, moments: int = 1) -> Tensor:
    """Which tokens stand in the last so many places along time of a grid [T', H', W'], bool [n]: what is
    hidden where a clip is to be continued, as a grey region hides those of outpainting.

    Raises ValueError for a grid without time, and unless one moment or more is hidden and one is left.
    """
    if len(pyramid.shape) != 3 or not 1 <= moments < pyramid.shape[0]:
        raise ValueError(
            f"moments: expected 1 or more, and fewer than a grid over time, height and width has, got "
            f"{moments} of {list(pyramid.shape)}"
        )
    times = torch.cat([pyramid.positions(layer)[:, 0] for layer in range(pyramid.num_layers)])
    return times >= pyramid.shape[0] - moments


def continuation_task(
    conditions: PyramidTokens, answers: PyramidTokens, query: PyramidTokens, lexicon: Lexicon
) -> tuple[Task, Example]:
    """What `restore_windows` continues one clip from, with `later_tokens` for what is hidden.

    conditions, answers: [E, n] of the examples, the same clips' tokens, or others' answers as a control: each
    word of an answer is shown after those before it in the condition. query: [1, n]; what it has at hidden
    places is not looked at.
    """
    if len(conditions) != len(answers) or len(query) != 1:
        raise ValueError(
            f"answers: expected {len(conditions)}, one for each condition, and one query, got {len(answers)} "
            f"and {len(query)} queries"
        )
    pairs = zip(lexicon.llm_ids(conditions), lexicon.llm_ids(answers), strict=True)
    examples = tuple(Example(condition, answer) for condition, answer in pairs)
    return Task(Template(), examples), Example(lexicon.llm_ids(query)[0])
