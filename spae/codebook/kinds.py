"""What kind of thing an English word names: things, actions, colours, materials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from spae import assets

KINDS = ("things", "actions", "colours", "materials")
# The names of colours that people without a paint shop use; WordNet's colours run to hundreds, and to things.
_COLOURS = frozenset(
    (
        *("red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown", "black"),
        *("white", "gray", "grey", "gold", "golden", "silver", "cyan", "magenta", "turquoise", "teal"),
        *("lime", "olive"),
        *("navy", "maroon", "crimson", "scarlet", "beige", "tan", "ivory", "indigo", "lavender", "bronze"),
        *("dark", "bright", "pale", "colorful", "transparent"),
    )
)
# Numbers of WordNet's lexicographer files (lexnames(5WN)).
_FILES = {
    # animal, artifact, body, food, object, person, plant
    "things": ("n", frozenset((5, 6, 8, 13, 17, 18, 20))),
    # body, competition, consumption, contact, creation, motion, weather: what can be seen
    "actions": ("v", frozenset((29, 33, 34, 35, 36, 38, 43))),
    "materials": ("n", frozenset((27,))),
}
_PARTS = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
_LEAST_SHARE = 0.3


def of_kind(words: Sequence[str], kind: str) -> list[int]:
    """Rows of the words of a kind, in order; a word may be of several, and words are read without the white
    space around them.

    "colours" is a list of some forty. The others are what WordNet's senses say: a word is an action if senses
    of what is seen (motion, contact, creation, ..) make at least 30% of its uses as any part of speech in the
    texts that WordNet counts, a thing or a material likewise as a noun. Words that those texts lack are
    judged by their first senses.

    Raises:
        ValueError: unknown kind.
        spae.assets.AssetNotCached: any but "colours" needs the asset "wordnet-senses".
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    lemmas = [word.strip() for word in words]
    if kind == "colours":
        return [row for row, lemma in enumerate(lemmas) if lemma in _COLOURS]
    return [row for row, lemma in enumerate(lemmas) if _share(lemma, *_FILES[kind]) >= _LEAST_SHARE]


def _share(lemma: str, part: str, files: frozenset[int]) -> float:
    """The share of a word's uses that are senses of some files."""
    senses = _senses().get(lemma, ())
    if not senses:
        return 0.0
    if not any(count for *_, count in senses):
        # Not counted: the first sense of each part of speech stands for one use.
        senses = [(p, file, number, int(number == 1)) for p, file, number, _ in senses]
    total = sum(count for *_, count in senses)
    return sum(count for p, file, _, count in senses if p == part and file in files) / max(total, 1)


@cache
def _senses() -> dict[str, list[tuple[str, int, int, int]]]:
    """Lemma -> (part of speech, lexicographer file, number, count) of each sense.

    A line is ``lemma%part:file:id:head:id offset number count`` (senseidx(5WN)).
    """
    found: dict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
    for line in assets.require("wordnet-senses").read_text(encoding="ascii").splitlines():
        key, _, number, count = line.split(" ")
        lemma, _, sense = key.partition("%")
        part, file, *_ = sense.split(":")
        found[lemma].append((_PARTS[part], int(file), int(number), int(count)))
    return dict(found)
