"""A few words for a context window: some by name, and others that lie far apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spae.codebook import selection
from spae.codebook.checks import rows_of
from spae.configs import Config, Count, Natural


@dataclass(frozen=True)
class WordChoice(Config):
    """Which words make a small codebook: a model learns from a few examples in its context what a few words
    mean, but not what thousands do.

    count: how many words, the names among them.
    names: words that come first, in this order, written without their leading space (" three" is "three").
    kind: of the others, one of `selection.SELECTIONS`; see `Codebook.select`.
    seed: of the first word, where there are no names.
    """

    section = "codebook.words"

    count: Count
    names: tuple[str, ...] = ()
    kind: str = "word-like"
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in selection.SELECTIONS:
            kinds = ", ".join(selection.SELECTIONS)
            raise ValueError(f"codebook.words.kind: expected one of {kinds}, got {self.kind!r}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"codebook.words.names: expected distinct words, got {self.names}")
        if len(self.names) > self.count:
            raise ValueError(
                f"codebook.words.count: expected at least the {len(self.names)} names, got {self.count}"
            )

    def vocabularies(self) -> dict[str, list[int]]:
        """Rows of the small codebook: "names", and "others" for the rest. Without names or others: none of
        that name."""
        names = len(self.names)
        groups = {"names": range(names), "others": range(names, self.count)}
        return {name: list(rows) for name, rows in groups.items() if rows}


def choose_words(
    words: Sequence[str], vectors: Tensor, choice: WordChoice, limit: int | None = None
) -> list[int]:
    """Rows of the chosen words: the names, then the others as `spread` takes them from the first `limit`
    (None: all) words of the kind, in most tables the most frequent.

    words: K distinct strings. vectors: [K, D].

    Raises ValueError for a name that is not among the words and for too few others.
    """
    row_of = {word: row for row, word in enumerate(words)}
    names = rows_of([f" {name}" for name in choice.names], row_of, "the table").tolist()
    pool = selection.select(words, choice.kind)
    if limit is not None and not 1 <= limit <= len(pool):
        raise ValueError(f"limit: expected 1 to the {len(pool)} {choice.kind} words, got {limit}")
    others = [row for row in pool[:limit] if row not in set(names)]
    if len(names) + len(others) < choice.count:
        raise ValueError(
            f"codebook.words.count: expected at most {len(names)} names and {len(others)} others, "
            f"got {choice.count}"
        )
    rows = names + others
    chosen = spread(vectors[torch.tensor(rows)], choice.count, first=len(names), seed=choice.seed)
    return [rows[place] for place in chosen]


def spread(vectors: Tensor, count: int, *, first: int = 0, seed: int = 0) -> list[int]:
    """Rows that lie far apart: the first `first`, and then again and again the row that is farthest from its
    nearest chosen one (Gonzalez 1985), the lowest of equals.

    vectors: [n, D] with n >= count >= first; compared in float64 after centring and scaling to unit length,
    for what tells an LLM's words apart is where they point from their mean. seed: of the first row, if
    first = 0.
    """
    if not max(first, 1) <= count <= len(vectors):
        raise ValueError(f"count: expected {max(first, 1)} to {len(vectors)}, got {count}")
    rows = vectors.detach().cpu().double()
    rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    chosen = list(range(first))
    if not chosen:
        chosen = [int(torch.randint(len(rows), (1,), generator=torch.Generator().manual_seed(seed)))]
    nearest = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for row in chosen:
        nearest = torch.minimum(nearest, _distances(rows, row))
    while len(chosen) < count:
        nearest[chosen] = -1  # also where every other row repeats a chosen one
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, _distances(rows, chosen[-1]))
    return chosen


def _distances(rows: Tensor, row: int) -> Tensor:
    return (rows - rows[row]).square().sum(1)
