"""More words for an image: a language model's own, and those that it joins to them (V2L, section 3.2).

V2L writes "a photo of" and a word, and lets the frozen language model go on: its M likeliest next tokens make
bigrams of the word, theirs make trigrams. Of all these phrases the global codebook keeps what describes some
image: the few that are most similar to each, of any image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spae.checksum import checksum
from spae.codebook.codebook import Codebook
from spae.configs import Count, checked, read_object
from spae.llm import FrozenLLM
from spae.llm.journal import Journal
from spae.llm.ranking import likeliest
from spae_ops import CodeIndex, topk_codes

PROMPT = "a photo of"
_FORMAT = 1
_ARRAYS, _ABOUT = "expansion.safetensors", "expansion.json"


@dataclass(frozen=True)
class Expansion:
    """The words of a codebook and the phrases that a language model made of them.

    words: distinct texts. llm_ids: int64 [n, longest], the ids of each, -1 behind the last.
    about: where they come from, as JSON: "llm", "prompt", "top", "codebook" (its checksum) and "counts", how
        many have one id, two and so on.
    """

    words: list[str]
    llm_ids: Tensor
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) over words and ids."""
        shape = f"spae expansion {_FORMAT} {list(self.llm_ids.shape)}"
        return checksum([shape, *(f"{len(word)} {word}" for word in self.words), self.llm_ids])

    def subset(self, rows: Tensor) -> Expansion:
        """Some of the phrases, int64 [m] rows in this order. `about` stays: it says how all of them came."""
        return Expansion([self.words[row] for row in rows.tolist()], self.llm_ids[rows], self.about)

    def codebook(self, vectors: Tensor, *, name: str = "expanded") -> Codebook:
        """The phrases with a vector each, [n, D]: `ImageTextScorer.text_features` of the words."""
        return Codebook(self.words, vectors, self.llm_ids, name=name)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `expansion.safetensors` and `expansion.json` into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"llm_ids": self.llm_ids.to(torch.int32).contiguous()}, folder / _ARRAYS)
        about = {"format": _FORMAT, "checksum": self.checksum, "about": self.about, "words": self.words}
        (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Expansion:
        """What `save` wrote. Raises FileNotFoundError, or ValueError for anything else."""
        folder = Path(folder)
        saved = read_object(folder / _ABOUT, "an expanded vocabulary")
        if saved.get("format") != _FORMAT:
            raise ValueError(f"{folder / _ABOUT}: expected format {_FORMAT}, got {saved.get('format')!r}")
        words = checked(f"{folder / _ABOUT}: words", saved.get("words"), list[str])
        loaded = cls(words, load_file(folder / _ARRAYS)["llm_ids"].long(), saved.get("about") or {})
        if loaded.checksum != saved.get("checksum"):
            raise ValueError(
                f"{folder}: expected content of checksum {saved.get('checksum')}, got {loaded.checksum}"
            )
        return loaded


def expand(
    llm: FrozenLLM,
    codebook: Codebook,
    *,
    prompt: str = PROMPT,
    top: Count = 1,
    longest: Count = 3,
    journal: str | os.PathLike[str] | None = None,
    batch: Count = 1024,
    progress: bool = False,
) -> Expansion:
    """A codebook's words, and the bigrams, trigrams .. that a language model makes of them.

    Each phrase of fewer than `longest` ids is written behind the prompt, and the model's `top` likeliest next
    tokens (V2L's M) each make a longer one: K words become K, K * top and K * top^2 phrases. The prompt is
    read once, and `batch` phrases at a time behind it. Next tokens are any but control tokens. Phrases whose
    text is that of an earlier one, or no text alone (parts of characters), are left out of the result, though
    longer ones may come of them.

    codebook: words of this model, of one id each. journal: a JSONL file in which every batch is kept, so that
    the same call goes on where it stopped. progress: phrases per second on stderr, if that is a terminal.
    """
    for name, value, hint in (("top", top, Count), ("longest", longest, Count), ("batch", batch, Count)):
        checked(name, value, hint)
    if codebook.llm_ids.ndim != 1:
        raise ValueError(f"codebook: expected words of one id each, got {codebook.name!r}, which has phrases")
    whole = torch.arange(_vocabulary(llm, codebook))
    allowed = whole[~torch.isin(whole, torch.tensor(sorted(llm.special_ids), dtype=torch.int64))]
    writer = _Continuations(llm, prompt, top, allowed, None if journal is None else Journal(Path(journal)))
    generations: list[list[tuple[int, ...]]] = [[(token,) for token in codebook.llm_ids.tolist()]]
    while len(generations) < longest:
        phrases = generations[-1]
        generations.append(writer.longer(phrases, batch, progress, f"{len(generations) + 1} ids"))
    return _collected(llm, codebook, generations, {"llm": llm.identity, "prompt": prompt, "top": top})


def _vocabulary(llm: FrozenLLM, codebook: Codebook) -> int:
    """How many ids the model has: what it says, or as many as the codebook knows of."""
    return int(getattr(llm, "vocabulary_size", 0)) or int(codebook.llm_ids.max()) + 1


class _Continuations:
    """What a model writes behind a prompt and some phrases."""

    def __init__(
        self, llm: FrozenLLM, prompt: str, top: int, allowed: Tensor, journal: Journal | None
    ) -> None:
        self.llm, self.top, self.allowed, self.journal = llm, top, allowed, journal
        self.shared = [*llm.start_ids, *llm.encode(prompt)]
        self.prefix = llm.prefix(self.shared) if self.shared else None
        self._run = f"{llm.identity} {self.shared} {top} {checksum([allowed])}"

    def longer(
        self, phrases: list[tuple[int, ...]], batch: int, progress: bool, what: str
    ) -> list[tuple[int, ...]]:
        from tqdm import tqdm

        result = []
        with tqdm(total=len(phrases), unit="token", desc=what, disable=None if progress else True) as bar:
            for part in _parts(phrases, batch):
                for phrase, following in zip(part, self._next(part), strict=True):
                    result += [(*phrase, token) for token in following]
                bar.update(len(part))
        return result

    def _next(self, phrases: list[tuple[int, ...]]) -> list[list[int]]:
        key = hashlib.sha256(f"{self._run} {phrases}".encode()).hexdigest()
        known = None if self.journal is None else self.journal.get(key)
        if known is None:
            known = likeliest(self.llm, phrases, self.top, allowed=self.allowed, prefix=self.prefix).tolist()
            if self.journal is not None:
                self.journal.put(key, known)
        return known


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _collected(
    llm: FrozenLLM,
    codebook: Codebook,
    generations: Sequence[list[tuple[int, ...]]],
    about: dict[str, Any],
) -> Expansion:
    found: dict[str, tuple[int, ...]] = dict(zip(codebook.words, generations[0], strict=True))
    for phrases in generations[1:]:
        for phrase in phrases:
            text = llm.decode(phrase)
            if "\N{REPLACEMENT CHARACTER}" not in text:
                found.setdefault(text, phrase)
    longest = len(generations)
    ids = torch.tensor([[*phrase, *[-1] * (longest - len(phrase))] for phrase in found.values()])
    lengths = (ids >= 0).sum(1)
    counts = [int((lengths == length).sum()) for length in range(1, longest + 1)]
    return Expansion(list(found), ids, {**about, "codebook": codebook.checksum, "counts": counts})


def describing(texts: Tensor, images: Tensor, *, keep: Count = 5) -> Tensor:
    """The rows of the texts that describe some image: of each image the `keep` most similar, of all images
    together, int64 [m] ascending (V2L's filter; 5 in the paper).

    texts: [n, E] and images: [N, E], unit vectors as an `ImageTextScorer` gives them, so that the nearest by
    Euclidean distance are the most similar; the first of equals.
    """
    checked("keep", keep, Count)
    if texts.ndim != 2 or images.ndim != 2 or texts.shape[1] != images.shape[1] or not len(images):
        raise ValueError(
            f"images: expected [N, E] beside texts {list(texts.shape)}, got {list(images.shape)}"
        )
    index = CodeIndex(texts.float().contiguous())
    return topk_codes(images.float(), index, min(keep, len(texts))).ids.unique()
