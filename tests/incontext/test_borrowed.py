"""Codes without words borrow those of a language model."""

from __future__ import annotations

import pytest
import torch

from spae import LQAE, SPAE, VQGAN, Codebook, LQAEConfig, SPAEConfig, VQGANConfig
from spae.incontext import Lexicon, borrow_words
from spae.testing.tiny_llm import tiny_llm, tiny_words


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def vqgan(codes: int) -> VQGAN:
    torch.manual_seed(0)
    sizes = {"channels": 4, "multipliers": (1, 1, 1), "num_res_blocks": 1}
    return VQGAN(VQGANConfig((16, 16), (4,), **sizes, codebook_size=codes, codebook_dim=8)).eval()


def borrowed(model, llm) -> list[int]:
    ids = borrow_words(model, llm).borrowed_ids
    assert ids is not None
    return ids.tolist()


def test_learned_codes_are_written_as_whole_words_and_read_back(llm):
    model = vqgan(12)
    with pytest.raises(ValueError, match="which is in no language; its codes may borrow words"):
        Lexicon.of(model, llm)
    ids = borrowed(model, llm)
    texts = [llm.decode([token]) for token in ids]
    assert len(set(texts)) == 12
    assert all(text[0] == " " and text[1:].isalpha() for text in texts)
    assert ids == sorted(ids)
    lexicon = Lexicon.of(model, llm)
    tokens = model.encode(torch.rand(3, 3, 16, 16) * 2 - 1)
    written = lexicon.llm_ids(tokens)
    assert all(set(image) <= set(ids) for image in written)
    assert torch.equal(lexicon.tokens(written).ids, tokens.ids)
    model.borrowed_ids = torch.tensor(ids[::-1])  # the same words, for other codes
    assert Lexicon.of(model, llm).fingerprint != lexicon.fingerprint


def test_a_word_that_the_model_has_is_kept_and_no_two_codes_share_one(llm):
    """Another vocabulary, whose second word is the first that the others could have borrowed."""
    own = [llm.decode([token])[1:] for token in borrowed(vqgan(3), llm)]
    words = ["##s", own[0], "zzzz", own[2]]
    book = Codebook.from_arrays(words, torch.randn(4, 6), torch.arange(300, 304)).normalised("unit")
    model = LQAE(LQAEConfig((16, 16), (4,), channels=4, multipliers=(1, 1, 1), num_res_blocks=1), book)
    written = [llm.decode([token]) for token in borrowed(model, llm)]
    assert (written[1], written[3]) == (f" {own[0]}", f" {own[2]}")
    assert written[0] == f" {own[1]}"
    assert len(set(written)) == 4
    Lexicon.of(model, llm)


def test_words_of_the_model_stay(llm):
    ids = torch.arange(270, 280)
    book = Codebook.from_arrays(tiny_words(llm, ids), torch.randn(10, 6), ids)
    model = SPAE(SPAEConfig((16, 16), (1, 2), channels=4, multipliers=(1, 1, 1, 1), num_res_blocks=1), book)
    assert borrow_words(model, llm).borrowed_ids is None


def test_more_codes_than_words_are_an_error(llm):
    with pytest.raises(
        ValueError, match=r"codebook: expected no more codes than the \d+ words of .*, got 4096"
    ):
        borrow_words(vqgan(4096), llm)
