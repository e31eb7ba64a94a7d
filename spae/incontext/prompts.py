"""Prompts: examples and a query as the ids of a language model.

A prompt of eq. 10 is the template's preamble, one line per example and the query's open line. Progressive
decoding (eq. 11) asks one prompt per segment of the answer, a `Span`; there are two layouts.

"examples", as eq. 11 writes it: every example is one line ([u, v_<t'], v_t), the input being its condition
and the preceding segments, the output the segment in question. Between two passes each example changes, so
nothing but the preamble is common to them; what the passes' prompts share is shared between queries.

    an image of 3 w1 w2: w3         |  an image of 3 w1 w2 w3: w4
    an image of 8 x1 x2: x3         |  an image of 8 x1 x2 x3: x4
    an image of 1+7 y1 y2:          |  an image of 1+7 y1 y2 y3:

"segments": the examples' first segments, then all their second ones, and so on up to the segment in question,
each line with the example's condition; then the query's lines in the same order, the last one open. A pass
shows exactly what it shows in the other layout, in another order, and the examples' part of pass t+1 begins
with that of pass t: all of it is read once. PNAR passes after PAR ones share the PAR blocks.

    an image of 3: w1               |  an image of 3: w1
    an image of 8: x1               |  an image of 8: x1
    an image of 1+7:                |  an image of 3: w2
                                    |  an image of 8: x2
                                    |  an image of 1+7: y1
                                    |  an image of 1+7:
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spae.codebook import WordIds
from spae.llm import ContextOverflow, FrozenLLM, text_of

Part = str | tuple[WordIds, ...]
"""A text, or an image's words in the language model's ids (`Lexicon.llm_ids`)."""
Content = Part | tuple[Part, ...]
"""One part, or several in order: ``(image, " Question: what shape?")``."""


@dataclass(frozen=True)
class Template:
    """How one example is written: ``before + input + between + output + after``.

    The query is written the same way and stops after `between`. `preamble` stands once at the top (the task
    induction).
    """

    preamble: str = ""
    before: str = ""
    between: str = ":"
    after: str = "\n"


@dataclass(frozen=True)
class Example:
    """A pair of the in-context set, or a query if it has no answer.

    condition: u of the paper's eqs. 10 and 11. answer: v; ids where it is to be decoded progressively.
    aligned: ids aligned with the answer's, of a degraded version of it. The input then shows these of the
        preceding tokens and of the segment in question, in place of the answer's preceding tokens (V2L's
        deblurring, shift and rotation). Empty for none.
    """

    condition: Content = ""
    answer: Content = ()
    aligned: tuple[WordIds, ...] = ()


@dataclass(frozen=True)
class Task:
    """The in-context set of a prompt: a template and examples with answers."""

    template: Template
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Span:
    """What one pass of progressive decoding generates, and what its prompt shows.

    tokens: the positions of the answer that it generates. context: the preceding positions that it shows.
    conditioned: whether the condition u is shown. blocks: earlier segments that stand before the one in
    question, for the "segments" layout; there `context` is empty.
    """

    tokens: range
    context: range = range(0)
    conditioned: bool = True
    blocks: tuple[range, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids; `num_shared` of them, at the beginning, are the same for every query of the task."""

    ids: tuple[int, ...]
    num_shared: int

    def text(self, llm: FrozenLLM) -> str:
        """The prompt as text that the model's tokenizer reads back as the same ids; see `text_of`."""
        return text_of(llm, self.ids)


def prompt(llm: FrozenLLM, task: Task, query: Example, num_tokens: int) -> Prompt:
    """The whole of a task and a query (eq. 10), to be continued by num_tokens ids.

    Raises `ContextOverflow` with the counts and how many examples would fit.
    """
    writer = Writer(llm, task)
    shared = writer.shared(None)
    tail = writer.query(query, None, ())
    writer.check_fit(None, len(tail), num_tokens)
    ids = [token for section in shared for token in section]
    return Prompt((*ids, *tail), len(ids))


@dataclass
class Writer:
    """Writes the prompts of one task for one language model."""

    llm: FrozenLLM
    task: Task
    _encoded: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for i, example in enumerate(self.task.examples):
            if not example.answer:
                raise ValueError(f"task: expected answers in all examples, got none in examples[{i}]")

    def shared(self, span: Span | None) -> list[list[int]]:
        """What every query's prompt begins with, in sections: the start and preamble, then the examples, in
        one block or one per segment. None stands for the whole answer at once."""
        head = [*self.llm.start_ids, *self._ids([self.task.template.preamble])]
        return [head, *(self._ids(self._lines(block)) for block in _blocks(span))]

    def query(self, query: Example, span: Span | None, answer: Sequence[WordIds]) -> list[int]:
        """The query's lines, the last one open; `answer` holds its tokens before the span."""
        parts: list[Part] = []
        *earlier, last = _blocks(span)
        known = Example(query.condition, tuple(answer), query.aligned)
        for block in earlier:
            parts += self._line(known, block)
        parts += self._input(known, last)
        return self._ids(parts)

    def check_fit(self, span: Span | None, tail: int, num_tokens: int) -> None:
        """Raises ContextOverflow if the examples, a query's `tail` ids and `num_tokens` more do not fit."""
        blocks = [len(section) for section in self.shared(span)]
        total = sum(blocks) + tail + num_tokens
        window = self.llm.context_window
        if total <= window:
            return
        room, fit = window - blocks[0] - tail - num_tokens, 0
        for example in self.task.examples:
            room -= sum(len(self._ids(self._line(example, block))) for block in _blocks(span))
            if room < 0:
                break
            fit += 1
        what = "the answer" if span is None else f"tokens {span.tokens.start} to {span.tokens.stop - 1}"
        raise ContextOverflow(
            f"prompt: expected at most {window} tokens, {self.llm.name}'s context window, got {total}: "
            f"{len(self.task.examples)} examples ({sum(blocks)} tokens), the query ({tail}) and {what} "
            f"({num_tokens}); {fit} examples would fit"
        )

    def _lines(self, block: Span | None) -> list[Part]:
        return [part for example in self.task.examples for part in self._line(example, block)]

    def _line(self, example: Example, span: Span | None) -> list[Part]:
        output = _parts(example.answer) if span is None else [_cut(example.answer, span.tokens)]
        return [*self._input(example, span), *output, self.task.template.after]

    def _input(self, example: Example, span: Span | None) -> list[Part]:
        template = self.task.template
        shown: list[Part] = []
        if span is None or span.conditioned:
            shown += _parts(example.condition)
        if example.aligned:
            start = 0 if span is None else span.context.start if span.context else span.tokens.start
            stop = len(example.aligned) if span is None else span.tokens.stop
            shown.append(_cut(example.aligned, range(start, stop)))
        elif span is not None and span.context:
            shown.append(_cut(example.answer, span.context))
        return [template.before, *shown, template.between]

    def _ids(self, parts: Sequence[Part]) -> list[int]:
        """Parts as ids; neighbouring texts are read as one, as they would be in a whole text."""
        ids: list[int] = []
        text = ""
        for part in (*parts, ()):
            if isinstance(part, str):
                text += part
                continue
            if text:
                if text not in self._encoded:
                    self._encoded[text] = self.llm.encode(text)
                ids += self._encoded[text]
                text = ""
            ids += _flat(part)
        return ids


def _blocks(span: Span | None) -> list[Span | None]:
    if span is None:
        return [None]
    return [*(Span(block, conditioned=span.conditioned) for block in span.blocks), span]


def _parts(content: Content) -> list[Part]:
    if isinstance(content, str):
        return [content]
    if not any(isinstance(item, str) for item in content):
        return [content]  # type: ignore[list-item]
    return list(content)  # type: ignore[arg-type]


def _flat(words: Sequence[WordIds]) -> list[int]:
    """The ids of some words, one after the other."""
    ids: list[int] = []
    for word in words:
        ids += (word,) if isinstance(word, int) else _flat(word)
    return ids


def _cut(content: Content, span: range) -> tuple[WordIds, ...]:
    ids = () if isinstance(content, str) else tuple(content)
    if len(ids) < span.stop or not all(isinstance(token, int | tuple) for token in ids):
        raise ValueError(f"answer: expected at least {span.stop} ids to cut to {span}, got {content!r:.80}")
    return ids[span.start : span.stop]  # type: ignore[return-value]
