"""Few-shot classification of images by their words (SPAE section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from spae.incontext.prompts import Example, Task, Template, prompt
from spae.llm import GREEDY, FrozenLLM

_TEMPLATE = Template(before="Input:", between=" Output:", after="\n")
_END = "\n"


@dataclass(frozen=True)
class Verdict:
    """What a model made of one query.

    generated: the text it wrote, to the end of the line. exact: whether that is the right label, token by
    token (as the papers score it). ranked: which name is likeliest per token as the answer.
    """

    generated: str
    exact: bool
    ranked: int


def classification_task(
    llm: FrozenLLM,
    shots: Sequence[tuple[Sequence[int], int]],
    names: Sequence[str],
    *,
    induction: bool = True,
) -> Task:
    """The examples of one episode.

    shots: (an image's words as the model's ids, the number of its name), in the order shown. names: the
    possible answers. induction: begin with a line that lists the names.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"names: expected different ones, got {list(names)}")
    listed = ", ".join(names)
    preamble = f"For each of the following input output pairs, output is one of [{listed}].\n"
    template = replace(_TEMPLATE, preamble=preamble if induction else "")
    answers = [_answer(llm, name) for name in names]
    return Task(template, tuple(Example(tuple(words), answers[way]) for words, way in shots))


def classify(llm: FrozenLLM, task: Task, query: Sequence[int], names: Sequence[str], target: int) -> Verdict:
    """Ask for the name of an image by its words: once by free generation, once by ranking the names.

    query: the image's words as the model's ids. target: the number of the right name. Raises
    `spae.llm.ContextOverflow` where the examples do not fit.
    """
    answers = [_answer(llm, name) for name in names]
    end = llm.encode(_END)
    longest = max(map(len, answers)) + len(end)
    ids = prompt(llm, task, Example(tuple(query)), longest).ids
    shared, last = llm.prefix(ids[:-1]), ids[-1:]
    written = llm.generate([last], longest, prefix=shared, sampling=GREEDY, stop=end[:1])[0].tolist()
    written = [token for token in written if token >= 0]
    scores = llm.logprobs([last] * len(answers), answers, prefix=shared)
    # The mean over tokens: a sum would prefer short names.
    ranked = int(torch.stack([score.mean() for score in scores]).argmax())
    return Verdict(llm.decode(written).strip(), tuple(written) == answers[target], ranked)


def _answer(llm: FrozenLLM, name: str) -> tuple[int, ...]:
    return tuple(llm.encode(f" {name}"))
