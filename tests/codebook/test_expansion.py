"""Phrases that a language model makes of a vocabulary, and which of them describe images."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from spae.codebook import Codebook, expansion, spellings
from spae.codebook.expansion import Expansion, describing, expand
from spae.llm.ranking import Ranks, likeliest

pytest.importorskip("transformers", reason="the tiny language model is one of transformers")

from spae.testing.tiny_llm import tiny_llm, tiny_words


class Plain:
    """A model that only generates, as one behind a server does."""

    def __init__(self, llm):
        self._llm = llm
        for name in ("identity", "special_ids", "start_ids", "encode", "decode", "generate", "prefix"):
            setattr(self, name, getattr(llm, name))
        self.vocabulary_size = llm.vocabulary_size


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture(scope="module")
def book(llm):
    ids = torch.tensor([300, 310, 262, 66, 291])
    return Codebook.from_arrays(tiny_words(llm, ids), torch.randn(5, 4), ids, name="tiny")


def best_alone(llm, prompt, top):
    """By the definition: each next token's log-probability, one prompt at a time."""
    ids = [token for token in range(llm.vocabulary_size) if token not in llm.special_ids]
    scores = torch.cat(llm.logprobs([prompt] * len(ids), [[token] for token in ids]))
    return [ids[i] for i in scores.argsort(descending=True, stable=True)[:top].tolist()]


def test_each_phrase_goes_on_as_the_model_would(llm, book):
    top = 2
    shared = [*llm.start_ids, *llm.encode("a photo of")]
    expected: list[list[tuple[int, ...]]] = [[(token,) for token in book.llm_ids.tolist()]]
    for _ in range(2):
        expected.append(
            [
                (*phrase, token)
                for phrase in expected[-1]
                for token in best_alone(llm, [*shared, *phrase], top)
            ]
        )
    expanded = expand(llm, book, top=top, batch=3)
    texts = {llm.decode(phrase) for phrases in expected[1:] for phrase in phrases}
    readable = {text for text in texts if "\ufffd" not in text}
    assert set(expanded.words) == readable | set(book.words)
    assert expanded.words[: len(book)] == book.words
    known = {phrase for phrases in expected for phrase in phrases}
    for word, ids in zip(expanded.words, spellings(expanded.llm_ids), strict=True):
        ids = (ids,) if isinstance(ids, int) else ids
        assert ids in known
        assert len(ids) == 1 or llm.decode(ids) == word
    counts = expanded.about["counts"]
    assert sum(counts) == len(expanded)
    assert counts[0] == 5
    assert max(counts[1:]) > 0


def test_a_model_that_only_generates_gives_the_same(llm, book):
    plain: Any = Plain(llm)
    assert [isinstance(model, Ranks) for model in (llm, plain)] == [True, False]
    allowed = torch.arange(1, llm.vocabulary_size)
    prompts = [[40, 50], [60], [70, 71, 72]]
    prefix = llm.prefix([33, 34])
    ranked = likeliest(llm, prompts, 3, allowed=allowed, prefix=prefix)
    assert ranked.tolist() == likeliest(plain, prompts, 3, allowed=allowed, prefix=prefix).tolist()
    assert ranked.tolist() == [best_alone(llm, [33, 34, *prompt], 3) for prompt in prompts]
    assert expand(plain, book, top=2).words == expand(llm, book, top=2).words
    few = torch.tensor([5, 9])
    assert set(likeliest(llm, prompts, 2, allowed=few)[0].tolist()) == {5, 9}
    with pytest.raises(ValueError, match="allowed: expected at least 3 ids, got 2"):
        likeliest(llm, prompts, 3, allowed=few)


def test_what_was_interrupted_goes_on(llm, book, tmp_path, monkeypatch):
    asked = []

    def failing(model, prompts, k, **options):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(list(prompts))
        return likeliest(model, prompts, k, **options)

    whole = expand(llm, book, batch=2)
    monkeypatch.setattr(expansion, "likeliest", failing)
    with pytest.raises(KeyboardInterrupt):
        expand(llm, book, batch=2, journal=tmp_path / "journal")
    before = len(asked)
    asked.clear()
    asked.append(["the one that would fail comes later"])
    monkeypatch.setattr(
        expansion, "likeliest", lambda *a, **o: (asked.append(list(a[1])), likeliest(*a, **o))[1]
    )
    again = expand(llm, book, batch=2, journal=tmp_path / "journal")
    assert again.checksum == whole.checksum
    assert before == 3
    assert len(asked) - 1 == 6 - 3  # three batches of words, three of bigrams; three were kept
    asked.clear()
    expand(llm, book, batch=2, journal=tmp_path / "journal")
    assert asked == []
    expand(llm, book, batch=2, journal=tmp_path / "journal", prompt="an image of")
    assert len(asked) == 6


def test_saved_and_loaded(llm, book, tmp_path):
    expanded = expand(llm, book, top=2)
    expanded.save(tmp_path)
    loaded = Expansion.load(tmp_path)
    assert loaded.words == expanded.words
    assert loaded.llm_ids.equal(expanded.llm_ids)
    assert loaded.about == expanded.about
    assert loaded.about["codebook"] == book.checksum
    file = tmp_path / "expansion.json"
    saved = json.loads(file.read_text())
    saved["words"][7] = "other"
    file.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="expected content of checksum"):
        Expansion.load(tmp_path)


def test_phrases_become_a_codebook(llm, book):
    expanded = expand(llm, book)
    table = expanded.codebook(torch.randn(len(expanded), 6))
    assert table.words == expanded.words
    assert spellings(table.llm_ids)[0] == 300
    some = expanded.subset(torch.tensor([3, 0]))
    assert some.words == [expanded.words[3], expanded.words[0]]
    assert some.codebook(torch.randn(2, 6)).llm_ids.tolist() == [66, 300]
    with pytest.raises(ValueError, match="expected words of one id each"):
        expand(llm, table)


@pytest.mark.parametrize(("keep", "images"), [(1, 1), (1, 20), (3, 20)])
def test_what_describes_some_image_is_kept(keep, images):
    generator = torch.Generator().manual_seed(keep + images)
    unit = torch.nn.functional.normalize
    texts = unit(torch.randn(50, 8, generator=generator))
    features = unit(torch.randn(images, 8, generator=generator))
    rows = describing(texts, features, keep=keep)
    best = (features.double() @ texts.double().T).topk(keep).indices
    assert rows.tolist() == sorted(set(best.flatten().tolist()))
    with pytest.raises(ValueError, match=r"images: expected \[N, E\] beside texts \[50, 8\], got \[1, 3\]"):
        describing(texts, features[:1, :3])
