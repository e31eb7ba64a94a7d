"""What words of other languages mean in English, from the parallel names and keywords of emoji."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from spae import assets
from spae.assets.archives import contents
from spae.configs import checked
from spae.data import emoji
from spae.data.things import Sides

# fmt: off
Language = Literal[
    "ar", "bn", "da", "de", "es", "et", "fa", "fi", "fr", "hi", "hu", "id", "it", "ja", "ko", "lt",
    "ms", "nb", "nl", "pl", "pt", "ru", "sv", "th", "tr", "uk", "vi", "zh",
]
# fmt: on
LANGUAGES: tuple[str, ...] = get_args(Language)

_LEAST_AGREEMENT = 2 / 3
_SEPARATORS = re.compile(r"[\s\d_.,:;!?()\[\]“”«»\"&/–—-]+")
_CHINESE = re.compile(r"[\u4e00-\u9fff]+")
_ASIAN = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{2,}")
_DATA = re.compile(r"package/([a-z]{2})/data\.json")


class Thing(NamedTuple):
    """A picture's name and keywords by language."""

    name: str
    terms: Mapping[str, Sequence[str]]


@cache
def translations(languages: tuple[str, ...], *, held_out: bool = False) -> dict[str, tuple[str, ...]]:
    """Words of other languages -> the English names or words that stand for the same emoji of things, in
    small letters.

    The dictionary is made here, from the names in the package `emoji` (14 languages) and the names and
    keywords in emojibase-data (25), both of the asset "emoji": see `aligned`. A word that is English as well
    (WordNet's) is left out, and one of several languages has the meaning that it has in the first of them.

    Args:
        languages: some of `LANGUAGES`, the first counts most.
        held_out: False leaves out the emoji of concepts that `Things` holds out of training, and each English
            term with a word of their names: what names one of them stays as strange as it was.

    Raises:
        ValueError: an unknown language.
        AssetNotCached, AssetError: the assets "emoji" and "wordnet-senses" are not cached and could not be
            fetched.
    """
    wanted = checked("languages", languages, tuple[Language, ...])
    if not wanted:
        return {}
    things = list(_things(assets.require("emoji"), wanted))
    side = None if held_out else Sides(emoji.prepared(64).table["concepts"])
    english = _english_words(assets.require("wordnet-senses"))
    found: dict[str, tuple[str, ...]] = {}
    for language in wanted:
        for word, meanings in aligned(things, language, side).items():
            if word not in english and not (word.endswith("s") and word[:-1] in english):
                found.setdefault(word, meanings)
    return found


def aligned(things: Sequence[Thing], language: str, side: Sides | None) -> dict[str, tuple[str, ...]]:
    """Words of a language -> the English terms that things have most nearly in common with them.

    A term is a whole name or keyword, or a word of one. Two terms agree by Dice's coefficient of the things
    that have them, 2 |A and B| / (|A| + |B|); a word's meanings are the English terms that agree with it
    best, all that tie, if they do by at least 2/3. A word of longer names and keywords alone counts only
    where two things or more have it, for articles and the like come with a single thing by chance. Words of
    one or two letters do not count, but one Chinese character or two kana or Hangul do.

    side: things that are not on its training side, and English terms that are not, are left out.
    """
    if side is not None:
        things = [thing for thing in things if side.of(thing.name) == "train"]
    english, _ = _uses(things, "en")
    if side is not None:
        english = {term: uses for term, uses in english.items() if side.of(term) == "train"}
    terms_of: dict[int, list[str]] = defaultdict(list)
    for term, uses in english.items():
        for number in uses:
            terms_of[number].append(term)
    found = {}
    foreign, whole = _uses(things, language)
    for word, uses in foreign.items():
        if word in english or not _is_word(word) or (word not in whole and len(uses) < 2):
            continue
        shared = Counter(term for number in uses for term in terms_of[number])
        agreement = {term: 2 * n / (len(uses) + len(english[term])) for term, n in shared.items()}
        best = max(agreement.values(), default=0.0)
        if best >= _LEAST_AGREEMENT:
            found[word] = tuple(sorted(term for term, value in agreement.items() if value == best))
    return found


def _uses(things: Sequence[Thing], language: str) -> tuple[dict[str, set[int]], set[str]]:
    """The numbers of the things that have each term, and the terms that are whole names or keywords."""
    uses: dict[str, set[int]] = defaultdict(set)
    whole: set[str] = set()
    for number, thing in enumerate(things):
        for text in thing.terms.get(language, ()):
            term = text.casefold()
            whole.add(term)
            for part in (term, *_SEPARATORS.split(term)):
                if part:
                    uses[part].add(number)
    return dict(uses), whole


def _is_word(term: str) -> bool:
    if _CHINESE.fullmatch(term) or _ASIAN.fullmatch(term):
        return True
    # Of letters and of the marks that some scripts write vowels with.
    return len(term) >= 3 and all(unicodedata.category(character)[0] in "LM" for character in term)


def _things(folder: Path, languages: Sequence[str]) -> Iterator[Thing]:
    """The emoji of things. folder: of the asset "emoji"."""
    terms = _keywords(folder, ("en", *languages))
    for concept in emoji.concepts_of(folder):
        own = terms.get(concept["hexcode"], {})
        yield Thing(
            concept["name"],
            {
                language: [*filter(None, [concept["names"].get(language)]), *own.get(language, ())]
                for language in ("en", *languages)
            },
        )


def _keywords(folder: Path, languages: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Code points -> language -> name and keywords in emojibase-data, for the languages that it has."""
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    wanted = {f"package/{language}/data.json" for language in languages}
    for name, text in contents(emoji.archive_of(folder, "emojibase-data"), wanted.__contains__):
        match = _DATA.fullmatch(name)
        assert match is not None
        for entry in json.loads(text):
            key = emoji.code_points(entry["hexcode"])
            found[key][match[1]] = [entry["label"], *entry.get("tags", ())]
    return found


def _english_words(index: Path) -> set[str]:
    """The lemmas of WordNet's index of senses, whose lines begin with one and a percent sign."""
    return {line.partition("%")[0] for line in index.read_text(encoding="ascii").splitlines()}
