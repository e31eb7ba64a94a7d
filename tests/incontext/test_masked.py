"""Masked restoration: which words are hidden, what the model sees of the others, and what it may write."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models on this machine need transformers")

from spae import Codebook, PyramidTokens
from spae.incontext import Lexicon
from spae.incontext.tasks import hidden_places, restore_masked, split_words
from spae.testing.tiny_llm import tiny_llm, tiny_words
from spae_ops import Pyramid

PYRAMID = Pyramid((2, 2), ((1, 1), (2, 2)))


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def lexicon(llm):
    ids = torch.arange(270, 300)
    book = Codebook.from_arrays(tiny_words(llm, ids), torch.randn(30, 4), llm_ids=ids)
    masks = [torch.arange(30) < 10, torch.arange(30) >= 10]
    return Lexicon(book, PYRAMID, llm, masks)


def test_so_many_are_hidden_and_each_image_has_its_own():
    hidden = hidden_places(50, 64, torch.Generator().manual_seed(0))
    assert hidden.sum(1).tolist() == [19] * 50
    assert len({tuple(row.tolist()) for row in hidden}) == 50
    with pytest.raises(ValueError, match="rate: expected 0 to 1, got 2"):
        hidden_places(1, 4, torch.Generator(), 2)


def test_each_hidden_word_is_the_likeliest_after_those_before(llm):
    words = lexicon(llm)
    tokens = PyramidTokens(torch.tensor([[3, 11, 12, 13, 14], [4, 20, 21, 22, 23]]), PYRAMID)
    hidden = torch.tensor([[True, False, True, True], [False, True, False, False]])
    restored = restore_masked(llm, tokens, hidden, words)
    for row in range(2):
        known = tokens.ids[row].tolist()
        for place in hidden[row].nonzero()[:, 0].tolist():
            text = [270 + word for word in known[: 1 + place]]
            scores = llm.logprobs([text] * 20, [[280 + word] for word in range(20)])
            known[1 + place] = 10 + int(torch.cat(scores).argmax())
        assert restored.ids[row].tolist() == known
    other = tokens.ids.clone()
    other[0, [1, 3, 4]] = 29
    assert torch.equal(restore_masked(llm, PyramidTokens(other, PYRAMID), hidden, words).ids, restored.ids)


def test_words_as_a_text(llm):
    assert split_words(llm, (270, (271, 272), 280, 281), 2) == ([*llm.start_ids, 270, 271, 272], [280, 281])
    assert split_words(llm, (280, 281), 2)[0] == llm.encode("\n")
    with pytest.raises(ValueError, match="expected local words of one id each, got"):
        split_words(llm, (270, (271, 272)), 1)


def test_other_shapes_are_refused(llm):
    words = lexicon(llm)
    tokens = PyramidTokens(torch.tensor([[3, 11, 12, 13, 14]]), PYRAMID)
    with pytest.raises(ValueError, match=r"hidden: expected torch.bool \[1, 4\], got"):
        restore_masked(llm, tokens, torch.zeros(1, 5, dtype=torch.bool), words)
    with pytest.raises(ValueError, match="tokens: expected all 2 layers, got 1"):
        restore_masked(llm, tokens.upto(1), torch.zeros(1, 4, dtype=torch.bool), words)
