"""Few-shot classification of images by their words (SPAE section 4.1; Tsimpoukelli et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spae.codebook import WordIds
from spae.incontext.prompts import Content, Example, Task, Template, prompt
from spae.incontext.tasks.text import check_stop
from spae.llm import FrozenLLM, Prefix

FORMS = {
    "v2l": Template(before="Input:", between=", output:", after=".\n"),
    "colon": Template(before="", between=":", after="\n"),
}
"""How an example is written: as V2L words it, or "words: name" and nothing else."""
CONTENT_FREE = (" N/A", "", " [MASK]")
"""What stands for the image in contextual calibration: Zhao et al. 2021."""


@dataclass(frozen=True)
class Verdict:
    """What a model made of one image.

    generated: its own words, up to the end of the answer. exact: the number of the name that they are, token
    by token, or None if they are none: what the papers score. scores: the log-probability of each name with
    the answer's end, natural logarithm, or what `classify`'s options make of it.
    """

    generated: str
    exact: int | None
    scores: tuple[float, ...]

    @property
    def ranked(self) -> int:
        """The name that scores highest (the first of equals)."""
        return max(range(len(self.scores)), key=lambda name: self.scores[name])


def classification_task(
    shots: Sequence[tuple[Sequence[WordIds], int]],
    names: Sequence[str],
    *,
    induction: bool = True,
    form: str = "v2l",
) -> Task:
    """The examples of one episode.

    shots: (an image's words as the model's ids, the number of its name), in the order shown. names: the
    possible answers, distinct. induction: begin with a line that lists them. form: one of `FORMS`.
    """
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"names: expected different ones, got {list(names)}")
    for number, (_, way) in enumerate(shots):
        if not 0 <= way < len(names):
            raise ValueError(
                f"shots[{number}]: expected the number of a name, 0..{len(names) - 1}, got {way}"
            )
    listed = ", ".join(f'"{name}"' for name in names)
    preamble = f"For each of the following input-output pairs, output is one of [{listed}].\n"
    template = replace(FORMS[form], preamble=preamble if induction else "")
    return Task(template, tuple(Example(tuple(words), f" {names[way]}") for words, way in shots))


def classify(
    llm: FrozenLLM,
    task: Task,
    names: Sequence[str],
    condition: Content,
    *,
    calibrate: bool = False,
    per_token: bool = False,
    stop: Sequence[str] = (),
    max_tokens: int | None = None,
) -> Verdict:
    """Ask for the one of some names that continues a condition (an image's words as the model's ids): by
    greedy generation, and by ranking the names.

    Args:
        calibrate: contextual calibration (Zhao et al. 2021, with W diagonal and b = 0): each name's
            probability among the names is divided by its mean over the inputs `CONTENT_FREE`, so that a name
            gains nothing from being likely after anything.
        per_token: rank by the mean of a name's log-probabilities, not by their sum, so that names of many
            tokens lose nothing by it.
        stop: texts whose first token ends what is generated; none: the end of an example's line.
        max_tokens: generate up to so many; None: as many as the longest name has, and its end.

    Raises ValueError for a `stop` that is no texts of at least a character, and `spae.llm.ContextOverflow` if
    the prompt and what is generated do not fit.
    """
    if stop:
        check_stop(stop)
    answers = [llm.encode(f" {name}") for name in names]
    end = llm.encode(task.template.after)[:1]
    ends = [llm.encode(text)[0] for text in stop] or end
    longest = max(map(len, answers)) + 1
    room = longest if max_tokens is None else max_tokens
    whole = prompt(llm, task, Example(condition), max(room, longest))
    # Only calibration asks something else behind the same examples.
    known = whole.num_shared if calibrate else 0
    examples = llm.prefix(whole.ids[:known]) if known else None
    shared = llm.prefix(whole.ids[known:-1], examples)
    row = llm.generate([whole.ids[-1:]], room, prefix=shared, stop=ends)[0].tolist()
    written = [token for token in row if token >= 0]

    def rank(tail: Sequence[int], prefix: Prefix | None) -> Tensor:
        each = llm.logprobs([tail] * len(names), [answer + end for answer in answers], prefix=prefix)
        sums = torch.stack([one.double().sum() for one in each])
        return sums / torch.tensor([len(one) for one in each]) if per_token else sums

    scores = rank(whole.ids[-1:], shared)
    if calibrate:
        tails = [prompt(llm, task, Example(text), longest).ids[whole.num_shared :] for text in CONTENT_FREE]
        empty = torch.stack([rank(tail, examples).log_softmax(0) for tail in tails])
        scores = scores.log_softmax(0) - (empty.logsumexp(0) - math.log(len(tails)))
    return Verdict(
        generated=llm.decode(written).strip(),
        exact=answers.index(written) if written in answers else None,
        scores=tuple(scores.tolist()),
    )
