"""Sums of two numbers below ten: as captions, and answered by a language model in text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from spae.data.mnist import WORDS
from spae.incontext import Example, Task, Template, prompt
from spae.llm import FrozenLLM

Captions = Literal["digits", "words"]
_TEMPLATE = Template(between=" is", after="\n")
_SHOWN = 20
_MOST_TOKENS = 6


def numeral(number: int, captions: Captions) -> str:
    """A number below ten.

    >>> numeral(3, "digits"), numeral(3, "words")
    ('3', 'three')
    """
    return str(number) if captions == "digits" else WORDS[number]


def sum_text(first: int, second: int, captions: Captions) -> str:
    """
    >>> sum_text(1, 7, "digits"), sum_text(1, 7, "words")
    ('1+7', 'one plus seven')
    """
    plus = "+" if captions == "digits" else " plus "
    return plus.join(numeral(number, captions) for number in (first, second))


def said_sums(llm: FrozenLLM, sums: Sequence[str], captions: Captions, seed: str) -> list[str]:
    """What a language model says that some sums are, after other sums with their right answers.

    It continues "1+7 is" up to the end of the line; what it says is taken as it is, right or wrong. Whatever
    sum is asked, in either order, is not among those shown.

    sums: as `sum_text` writes them. seed: draws the sums that are shown.
    """
    asked = set(sums)
    free = [
        (first, second)
        for first in range(len(WORDS))
        for second in range(len(WORDS) - first)
        if not {sum_text(first, second, captions), sum_text(second, first, captions)} & asked
    ]
    examples = tuple(
        Example(sum_text(first, second, captions), f" {numeral(first + second, captions)}")
        for first, second in random.Random(seed).sample(free, min(_SHOWN, len(free)))
    )
    task = Task(_TEMPLATE, examples)
    prompts = [prompt(llm, task, Example(text), _MOST_TOKENS).ids for text in sums]
    rows = llm.generate(prompts, _MOST_TOKENS, stop=llm.encode("\n")[:1]).tolist()
    return [llm.decode([token for token in row if token >= 0]).strip() for row in rows]
