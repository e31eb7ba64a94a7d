"""Few-shot classification of images by their words (SPAE section 4.1; Tsimpoukelli et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spae.incontext.prompts import Content, Example, Task, Template, prompt
from spae.llm import FrozenLLM

# V2L's wording.
_TEMPLATE = Template(before="Input:", between=", output:", after=".\n")


@dataclass(frozen=True)
class Verdict:
    """What a model made of one image.

    generated: its own words, up to the end of the answer. exact: the number of the name that they are, token
    by token, or None if they are none: what the papers score. scores: the log-probability of each name with
    the answer's end, natural logarithm.
    """

    generated: str
    exact: int | None
    scores: tuple[float, ...]

    @property
    def ranked(self) -> int:
        """The name that scores highest (the first of equals)."""
        return max(range(len(self.scores)), key=lambda name: self.scores[name])


def classification_task(
    shots: Sequence[tuple[Sequence[int], int]], names: Sequence[str], *, induction: bool = True
) -> Task:
    """The examples of one episode.

    shots: (an image's words as the model's ids, the number of its name), in the order shown. names: the
    possible answers, distinct. induction: begin with a line that lists them.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"names: expected different ones, got {list(names)}")
    for number, (_, way) in enumerate(shots):
        if not 0 <= way < len(names):
            raise ValueError(
                f"shots[{number}]: expected the number of a name, 0..{len(names) - 1}, got {way}"
            )
    listed = ", ".join(f'"{name}"' for name in names)
    preamble = f"For each of the following input-output pairs, output is one of [{listed}].\n"
    template = replace(_TEMPLATE, preamble=preamble if induction else "")
    return Task(template, tuple(Example(tuple(words), f" {names[way]}") for words, way in shots))


def classify(llm: FrozenLLM, task: Task, names: Sequence[str], condition: Content) -> Verdict:
    """Ask for the one of some names that continues a condition (an image's words as the model's ids): by
    greedy generation, and by ranking the names.

    Raises `spae.llm.ContextOverflow` if the prompt and the longest name do not fit.
    """
    answers = [llm.encode(f" {name}") for name in names]
    end = llm.encode(task.template.after)[:1]
    room = max(map(len, answers)) + 1
    ids = prompt(llm, task, Example(condition), room).ids
    shared, last = llm.prefix(ids[:-1]), ids[-1:]
    row = llm.generate([last], room, prefix=shared, stop=end)[0].tolist()
    written = [token for token in row if token >= 0]
    scores = llm.logprobs([last] * len(names), [answer + end for answer in answers], prefix=shared)
    return Verdict(
        generated=llm.decode(written).strip(),
        exact=answers.index(written) if written in answers else None,
        scores=tuple(float(score.double().sum()) for score in scores),
    )
