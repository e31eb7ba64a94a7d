"""Which words of a table make a smaller codebook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from spae import assets

SELECTIONS = ("all", "word-like", "nouns")
_WORD_LIKE = re.compile(r" [^\W\d_]{3,}")
# WordNet's rules of detachment for nouns (morphy(7WN)): ending of a plural, ending of its singular.
_PLURALS = {"s": "", "ses": "s", "xes": "x", "zes": "z", "ches": "ch", "shes": "sh", "men": "man", "ies": "y"}


def select(words: Sequence[str], kind: str) -> list[int]:
    """Rows of the words of one kind, in order.

    - "all": every word;
    - "word-like": word-initial lower-case pieces, a space and then at least three letters, none upper-case;
    - "nouns": those of them that are English nouns in WordNet, singular.

    Raises:
        ValueError: unknown kind.
        spae.assets.AssetNotCached: "nouns" needs the asset "wordnet".
    """
    if kind not in SELECTIONS:
        raise ValueError(f"words: expected one of {', '.join(SELECTIONS)}, got {kind!r}")
    if kind == "all":
        return list(range(len(words)))
    rows = [row for row, word in enumerate(words) if _WORD_LIKE.fullmatch(word) and word == word.lower()]
    return rows if kind == "word-like" else [row for row in rows if _is_noun(words[row][1:])]


def _is_noun(word: str) -> bool:
    nouns = _nouns()
    return word in nouns and not any(
        word.endswith(plural) and word[: -len(plural)] + singular in nouns
        for plural, singular in _PLURALS.items()
        if not word.endswith("ss")
    )


@cache
def _nouns() -> frozenset[str]:
    """The lemmas of WordNet's noun index: its lines begin with one, but for the licence's, which are
    indented."""
    index = assets.require("wordnet").read_text(encoding="ascii")
    return frozenset(line.split(" ", 1)[0] for line in index.splitlines() if not line.startswith(" "))
