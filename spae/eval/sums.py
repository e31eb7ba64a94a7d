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


def said_sums(llm: FrozenLLM, sums: Sequence[tuple[int, int]], captions: Captions, seed: str) -> list[str]:
    """What a language model says that some sums are, after other sums with their right answers.

    It continues "1+7 is" up to the end of the line. The question is put in digits, of which small models make
    more; an answer that is a number below ten is returned as captions are written, any other as it is, right
    or wrong. Whatever sum is asked, in either order, is not among those shown.

    seed: draws the sums that are shown.
    """
    asked = {pair for first, second in sums for pair in ((first, second), (second, first))}
    pairs = [(first, second) for first in range(len(WORDS)) for second in range(len(WORDS) - first)]
    free = [pair for pair in pairs if pair not in asked]
    examples = tuple(
        Example(sum_text(first, second, "digits"), f" {first + second}")
        for first, second in random.Random(seed).sample(free, len(free))
    )
    task = Task(_TEMPLATE, examples)
    queries = [Example(sum_text(first, second, "digits")) for first, second in sums]
    prompts = [prompt(llm, task, query, _MOST_TOKENS).ids for query in queries]
    rows = llm.generate(prompts, _MOST_TOKENS, stop=llm.encode("\n")[:1]).tolist()
    said = [llm.decode([token for token in row if token >= 0]).strip() for row in rows]
    digits = [numeral(digit, "digits") for digit in range(len(WORDS))]
    return [numeral(digits.index(text), captions) if text in digits else text for text in said]
