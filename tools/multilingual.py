"""What a dictionary of 28 languages changes for the words of Gemma's table, without training:
`results/multilingual.md`.

    python tools/multilingual.py --features FOLDER > results/multilingual.md

FOLDER keeps Lite0's features between runs (`tools/semantic_words.py` shares it). Needs the asset gemma3.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from semantic_words import PYRAMID, Features, pictures
from torch import Tensor

from spae import Codebook
from spae.data.emoji import Emoji
from spae.data.translations import LANGUAGES, translations
from spae.losses import relative_scores
from spae.losses.semantic import THRESHOLDS
from spae.models.semantic_words import SemanticWords
from spae.scorers import CaptionScorer, TextFeatureCache

SOURCES = ("emoji", "emoji-more", "gcompris", "pysiogame")
SHOWN = ("hot beverage", "dog", "house", "fish", "moon", "book", "bridge at night", "snake", "cheese wedge")
COFFEES = "koffie", "Kaffee", "кофе", "kopi", "café"
TEXT = """# Words of other languages, scored as what they mean

`python tools/multilingual.py --features FOLDER`: every figure as printed; nothing trains, seeds play no
part; what they say is in the README beside it. The 65,536 words of Gemma's table (`gemma3-65k`) and the
scorer `caption`, MiniLM, which knows English, without and with `languages` (all 28): a word of these then
has the likeness of the English words that it translates (`spae.data.translations`).

**What the dictionary is.** It is made when it is asked for, of the names and keywords of emoji of things:
two words mean the same if they stand for nearly the same emoji. Of several meanings the one counts that is
most like them all. `koffie` ({koffie}) is read as "{read}"; for "coffee" it scores {coffee}, where
"coffee" scores {coffee_self} and MiniLM alone gives `koffie` {koffie_alone}. But of
{coffees} Gemma's 65,536 words have {said}: a model of this table can say no other.

**What is held out.** The emoji of the 150 concepts that test and stop training, and each English term with
a word of their names, are not in it: it has {words:,} words, and would have {more:,} more. So a name of
theirs in another language scores as MiniLM alone has it, which is mostly by chance; no word came to mean
what it means by a concept that a figure here is about. Translations tell nothing of pictures in any case:
the map from pictures to meanings is fitted to training pictures and English names. But a table with `dog`
in ten languages has ten words where it had one, and the best 4 or 8 words may be one guess said several
times: the last table therefore also counts how many different things the words say.
"""


class Trial:
    """Gemma's words, their features without and with the dictionary, and which of them it knows."""

    def __init__(self) -> None:
        self.book = Codebook.load("gemma3-65k", normalise="centre+scale")
        self.meanings = translations(LANGUAGES)
        self.plain, self.with_languages = CaptionScorer(), CaptionScorer(languages=LANGUAGES)  # pyright: ignore[reportArgumentType]
        alone = TextFeatureCache(self.plain).features(self.book.words)
        self.keys = [word.strip().casefold() for word in self.book.words]
        rows = [row for row, key in enumerate(self.keys) if key in self.meanings]
        self.foreign = torch.zeros(len(self.keys), dtype=torch.bool)
        self.foreign[rows] = True
        known = alone.clone()
        known[rows] = self.with_languages.text_features([self.book.words[row] for row in rows])
        self.readings = self.read(sorted({self.keys[row] for row in rows}))
        self.text = {"MiniLM alone": alone, "with the dictionary": known}

    def relative(self, captions: Sequence[str], how: str) -> Tensor:
        """Of all words for each caption, float32 [n, K]."""
        return relative_scores(self.plain.caption_features(captions) @ self.text[how].T)

    def read(self, words: Sequence[str]) -> dict[str, str]:
        """What words of the dictionary are read as: of their meanings the one that scores as they do."""
        terms = list(dict.fromkeys(term for word in words for term in self.meanings[word]))
        place = {term: number for number, term in enumerate(terms)}
        encoded, own = self.plain.text_features(terms), self.with_languages.text_features(words)
        found = {}
        for word, feature in zip(words, own, strict=True):
            of = self.meanings[word]
            found[word] = of[int((encoded[[place[term] for term in of]] @ feature).argmax())]
        return found

    def meaning(self, row: int) -> str:
        """What a word says: if the dictionary knows it, what it is read as, else itself."""
        return self.readings.get(self.keys[row], self.keys[row])

    def shown(self, row: int) -> str:
        key = self.keys[row]
        return f"{key} ({self.readings[key]})" if key in self.readings else key


def table(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"


def row(*cells: object) -> str:
    return f"| {' | '.join(f'{c:.3f}' if isinstance(c, float) else str(c) for c in cells)} |"


def by_language(trial: Trial) -> Iterator[str]:
    """Words that gain a meaning, and how well they score for it: in the mean over those that are read as the
    name of a training concept, for that name."""
    names = sorted({name.casefold() for name in Emoji("train", 64).captions})
    scores = {how: trial.relative(names, how) for how in trial.text}
    yield table(
        "language", "words of it", "in the table", *(f"score, {how}" for how in scores), "some of them"
    )
    for language in LANGUAGES:
        meanings = translations((language,))
        first = {key: place for place, key in reversed(list(enumerate(trial.keys))) if key in meanings}
        own = [key for key in first if trial.meanings[key] == meanings[key]]
        pairs = [
            (names.index(trial.readings[key]), first[key]) for key in own if trial.readings[key] in names
        ]
        means = ["-"] * len(scores)
        if pairs:
            picked = tuple(torch.tensor(pairs).T)
            means = [f"{relative[picked].mean():.3f} ({len(pairs)})" for relative in scores.values()]
        some = sorted(place for _, place in pairs)[:6]
        shown = ", ".join(map(trial.shown, some))
        yield row(language, len(meanings), len(first), *means, shown)
    yield row("all", len(trial.meanings), f"{int(trial.foreign.sum())} rows", "", "", "")


def by_threshold(trial: Trial) -> Iterator[str]:
    """How many pictures' pools have a foreign word. Pools are those of the pictures' names."""
    columns = [f"rho {rho:g}" for rho in THRESHOLDS]
    yield table("pools of", "scorer", *columns, "best word foreign")
    for split, of in (
        ("train", "2,247 pictures of training concepts"),
        ("new_concept", "300 of held-out ones"),
    ):
        captions = Emoji(split, 64).captions  # pyright: ignore[reportArgumentType]
        for how in trial.text:
            relative = trial.relative(captions, how)
            shares = [
                f"{((relative >= rho) & trial.foreign).any(1).float().mean():.3f} "
                f"({(relative >= rho).sum(1).float().mean():.1f} words)"
                for rho in THRESHOLDS
            ]
            best = trial.foreign[relative.argmax(1)].float().mean().item()
            yield row(of, how, *shares, best)


def by_concept(trial: Trial) -> Iterator[str]:
    yield table("concept", "pool at .9, MiniLM alone", "with the dictionary")
    both = [trial.relative(SHOWN, how) for how in trial.text]
    for number, name in enumerate(SHOWN):
        cells = []
        for relative in both:
            ranked = relative[number].topk(60)
            keys = [
                trial.shown(i)
                for i, score in zip(*map(Tensor.tolist, ranked[::-1]), strict=True)
                if score >= 0.9
            ]
            cells.append(", ".join(dict.fromkeys(keys)))
        yield row(name, *cells)


def chosen(trial: Trial, features: Features) -> Iterator[str]:
    """Words of layers 1 to 3 by `SemanticWords`, fitted to training pictures, for pictures never seen."""
    pooled = torch.cat([features("Lite0", 128, name)[:, :, 0, 0] for name in SOURCES])
    wanted = trial.plain.caption_features([name for of in SOURCES for name in pictures(of).captions])
    yield table(
        "pictures", "scorer", "layer", "score by it", "score by MiniLM alone", "foreign", "words", "meanings"
    )
    examples = []
    for how, text in trial.text.items():
        words = SemanticWords(trial.book, PYRAMID, 3, rank=192, pools=(1, 4, 8))
        words.fit_pooled([(pooled, wanted)], text)
        for split in ("dev", "both new"):
            captions = pictures(split).captions
            ids = words.choose_from(features("Lite0", 128, split, whole=True))
            scores = [trial.relative(captions, by) for by in (how, "MiniLM alone")]
            for layer, of in enumerate(ids.split((1, 4, 16), dim=1)):
                means = [relative.gather(1, of).mean().item() for relative in scores]
                words_of = sum(len(set(r)) for r in of.tolist()) / len(of)
                said = sum(len({trial.meaning(i) for i in r}) for r in of.tolist()) / len(of)
                foreign = trial.foreign[of].float().mean().item()
                yield row(split, how, layer + 1, *means, foreign, f"{words_of:.1f}", f"{said:.1f}")
            if split == "both new" and how != "MiniLM alone":
                examples = list(zip(captions, ids[:, :5].tolist(), strict=True))
    yield ""
    yield table("new picture", "layer 1 and its four words of layer 2, with the dictionary")
    for caption, ids in examples[::9]:
        said = [trial.shown(i) for i in ids]
        yield row(caption, f"**{said[0]}**; {', '.join(said[1:])}")


def introduction(trial: Trial) -> str:
    words = ["koffie", "coffee"]
    caption = trial.plain.caption_features(["coffee"])
    # Relative to Gemma's words, of which koffie is none.
    low, high = (caption @ trial.text["with the dictionary"].T).aminmax()
    found = [
        ((caption @ scorer.text_features(words).T)[0] - low) / (high - low)
        for scorer in (trial.plain, trial.with_languages)
    ]
    return TEXT.format(
        coffees=", ".join(f"`{word}`" for word in COFFEES),
        said=", ".join(f"`{word}`" for word in COFFEES if word.casefold() in trial.keys) or "none",
        koffie=", ".join(trial.meanings["koffie"]),
        read=trial.read(["koffie"])["koffie"],
        coffee=f"{found[1][0]:.3f}",
        coffee_self=f"{found[1][1]:.3f}",
        koffie_alone=f"{found[0][0]:.3f}",
        words=len(trial.meanings),
        more=len(translations(LANGUAGES, held_out=True)) - len(trial.meanings),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True, help="folder that keeps features")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    trial = Trial()
    print(introduction(trial), flush=True)
    for title, rows in (
        (
            "By language: words that get a meaning, and their scores for the concepts they name (how many)",
            by_language(trial),
        ),
        (
            "The share of pictures whose pool has a word that is not English, and the words in a pool",
            by_threshold(trial),
        ),
        ("By concept", by_concept(trial)),
        (
            "Words chosen for pictures never seen, by a map fitted to training pictures",
            chosen(trial, Features(arguments.features, None)),
        ),
    ):
        print(f"## {title}\n")
        for line in rows:
            print(line, flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
