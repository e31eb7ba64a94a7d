"""Prompts: examples and a query as the ids of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spae.llm import FrozenLLM

Part = str | tuple[int, ...]
"""A text, or ids of the language model (an image's words, from `Lexicon.llm_ids`)."""
Content = Part | tuple[Part, ...]
"""One part, or several in order: ``(image, " Question: what shape?")``."""


@dataclass(frozen=True)
class Template:
    """How one example is written: ``before + condition + between + answer + after``.

    The query is written the same way and stops after `between`. `preamble` stands once at the top (the task
    induction). `block` stands before each block of lines in the "segments" layout of `decode`.
    """

    preamble: str = ""
    before: str = ""
    between: str = ":"
    after: str = "\n"
    block: str = "\n"


@dataclass(frozen=True)
class Example:
    """A pair of the in-context set, or a query if it has no answer.

    condition: u of the paper's eqs. 10 and 11. answer: v; ids where it is to be decoded progressively.
    aligned: ids aligned with the answer's tokens that only show the span in question (a degraded image's
    tokens, V2L's deblurring, shift and rotation); empty for none.
    """

    condition: Content
    answer: Content = ()
    aligned: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """The in-context set of a prompt: a template and examples with answers."""

    template: Template
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids.

    ids: all of it. shared: how many of the first ids are the same for every query of the task.
    num_examples: how many examples it shows.
    """

    ids: tuple[int, ...]
    shared: int
    num_examples: int

    def text(self, llm: FrozenLLM) -> str:
        """The prompt as text that the model's tokenizer reads back as the same ids.

        Raises ValueError naming the first word that does not read back, where it stands and what it becomes.
        """
        raise NotImplementedError


def prompt(llm: FrozenLLM, task: Task, query: Example, num_tokens: int) -> Prompt:
    """The whole of a task and a query (eq. 10), to be continued by num_tokens ids.

    Raises `ContextOverflow` with the counts and how many examples would fit.
    """
    raise NotImplementedError


def first_examples(task: Task, count: int) -> Task:
    """The same task with only its first examples."""
    return Task(task.template, task.examples[:count])


def check_task(task: Task) -> Sequence[Example]:
    """The examples, each checked to have an answer."""
    raise NotImplementedError
