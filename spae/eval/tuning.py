"""What tuning a language model on a tokenizer's words is worth: the same questions before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spae.codebook import WordIds
from spae.data import Images
from spae.eval.statistics import mean, proportion
from spae.eval.table import markdown, shown
from spae.incontext import Example, Lexicon
from spae.incontext.prompts import prompt
from spae.incontext.tasks import classification_task, classify, hidden_places, restore_masked, split_words
from spae.llm import FrozenLLM
from spae.metrics import psnr
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all
from spae.training.tuning import Lesson

MOST_CLASSES = 50  # all names stand in every prompt


class MaskedRestoration:
    """V2L's masked restoration: lessons are images' words, the last layer's learnt and those before given;
    asked are images in which 30% of the last layer's words are hidden.

    Raises ValueError for a tokenizer whose last words have several ids, and for a rate that hides none.
    """

    def __init__(
        self, model: Tokenizer, llm: FrozenLLM, taught: Images, asked: Images, *, rate: float, seed: int
    ) -> None:
        self.model, self.lexicon = model, Lexicon.of(model, llm)
        self._taught, self._llm = _encoded(model, taught), llm
        self._originals = torch.stack([asked[i].image for i in range(len(asked))])
        self._tokens = encode_all(model, self._originals)
        self.hidden = hidden_places(len(asked), self._num_local, torch.Generator().manual_seed(seed), rate)
        if not self.hidden.any():
            raise ValueError(f"rate: expected one that hides some of {self._num_local} words, got {rate}")

    @property
    def _num_local(self) -> int:
        return self.model.pyramid.tokens_per_layer[-1]

    def lessons(self) -> list[Lesson]:
        words = self.lexicon.llm_ids(self._taught)
        return [Lesson(*map(tuple, split_words(self._llm, image, self._num_local))) for image in words]

    def limits(self) -> list[dict[str, Any]]:
        """What needs no language model: the commonest of the lessons' words at each place, and the images'
        own words, which nothing hides."""
        common = self._taught.layer(self.model.pyramid.num_layers - 1).mode(0).values
        return [self._row("commonest words", self._with(common)), self._row("own words", self._tokens)]

    def ask(self, llm: FrozenLLM, name: str) -> dict[str, Any]:
        parts = [
            restore_masked(llm, self._tokens[i : i + 1], self.hidden[i : i + 1], self.lexicon).ids
            for i in tqdm(range(len(self._tokens)), desc=name, disable=None)
        ]
        return self._row(name, PyramidTokens(torch.cat(parts), self.model.pyramid))

    def _with(self, local: Tensor) -> PyramidTokens:
        ids = self._tokens.ids.clone()
        own = ids[:, -self._num_local :]
        ids[:, -self._num_local :] = torch.where(self.hidden, local, own)
        return PyramidTokens(ids, self.model.pyramid)

    def _row(self, name: str, tokens: PyramidTokens) -> dict[str, Any]:
        right = (tokens.ids == self._tokens.ids)[:, -self._num_local :][self.hidden]
        quality = psnr(self._originals, decode_all(self.model, tokens))
        return {
            "by": name,
            "hidden words right": proportion(int(right.sum()), len(right))._asdict(),
            "psnr": mean(quality)._asdict(),
        }


class Classification:
    """Which of some names is an image's, by its words and without examples: lessons are named images.

    layers: whose words are shown. Raises ValueError for data without names, or with too many.
    """

    def __init__(
        self, model: Tokenizer, llm: FrozenLLM, taught: Images, asked: Images, *, layers: int
    ) -> None:
        self.names = sorted(set(taught.captions))
        if not 2 <= len(self.names) <= MOST_CLASSES or "" in self.names:
            raise ValueError(f"data: expected 2 to {MOST_CLASSES} names of images, got {len(self.names)}")
        if unknown := sorted(set(asked.captions) - set(self.names)):
            raise ValueError(f"data: expected held-out images of known names, got {unknown[0]!r}")
        self._llm, self._task = llm, classification_task([], self.names)
        lexicon = Lexicon.of(model, llm)
        self._taught, self._asked = (
            list(zip(lexicon.llm_ids(_encoded(model, part).upto(layers)), part.captions, strict=True))
            for part in (taught, asked)
        )

    def lessons(self) -> list[Lesson]:
        end = self._llm.encode(self._task.template.after)[:1]
        return [
            Lesson(self._question(words), (*self._llm.encode(f" {name}"), *end))
            for words, name in self._taught
        ]

    def _question(self, words: Sequence[WordIds]) -> tuple[int, ...]:
        return tuple(prompt(self._llm, self._task, Example(tuple(words)), 0).ids)

    def limits(self) -> list[dict[str, Any]]:
        """What needs no language model: the name that an image's first word has most often in lessons."""
        named: dict[WordIds, Counter[str]] = {}
        for words, name in self._taught:
            named.setdefault(words[0], Counter())[name] += 1
        commonest = Counter(name for _, name in self._taught).most_common(1)[0][0]
        right = [
            (named[words[0]].most_common(1)[0][0] if words[0] in named else commonest) == name
            for words, name in self._asked
        ]
        return [{"by": "first word", "ranked": proportion(sum(right), len(right))._asdict()}]

    def ask(self, llm: FrozenLLM, name: str) -> dict[str, Any]:
        exact = ranked = 0
        for words, wanted in tqdm(self._asked, desc=name, disable=None):
            verdict = classify(llm, self._task, self.names, words)
            way = self.names.index(wanted)
            exact, ranked = exact + (verdict.exact == way), ranked + (verdict.ranked == way)
        count = len(self._asked)
        return {
            "by": name,
            "exact": proportion(exact, count)._asdict(),
            "ranked": proportion(ranked, count)._asdict(),
        }


def tuning_table(report: dict[str, Any]) -> str:
    """A report of `spae tune` as Markdown: means and shares with 95% intervals."""
    measures = [name for name in _MEASURES if any(name in row for row in report["rows"])]
    rows = [
        [row["by"], *(shown(row[name]) if name in row else "" for name in measures)] for row in report["rows"]
    ]
    run = report["run"]
    note = (
        f"{report['llm']}, {run['data']}: {run['lessons']} lessons, {run['images']} held-out images, "
        f"seed {run['seed']}; with 95% intervals."
    )
    return markdown(["by", *measures], rows, note)


_MEASURES = ("exact", "ranked", "hidden words right", "psnr")


def _encoded(model: Tokenizer, images: Images) -> PyramidTokens:
    return encode_all(model, torch.stack([images[i].image for i in range(len(images))]))
