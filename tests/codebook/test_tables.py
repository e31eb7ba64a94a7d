"""The real tables: SmolLM2's, Gemma-3's and LLaMA-2's."""

from __future__ import annotations

import random
import re

import pytest
import torch

from spae import assets
from spae.codebook import Codebook

pytest.importorskip("gguf", reason="needs the package gguf")


# The real SmolLM2 table


def test_smollm2_is_the_table_we_know(smollm2):
    assert (len(smollm2), smollm2.width, smollm2.name) == (49_152, 576, "smollm2")
    norms = smollm2.vectors.norm(dim=1)
    assert norms.mean().item() == pytest.approx(3.2, abs=0.05)
    assert norms.std().item() == pytest.approx(0.58, abs=0.01)
    assert smollm2.vectors.mean(dim=0).norm().item() == pytest.approx(2.2, abs=0.05)
    assert smollm2.llm_ids.equal(torch.arange(49_152))
    assert smollm2.checksum == "d54dd86cd7274d33371d8a7a7a852aa40fcf4ce9913c64d4270abbbdf3c909f2"


def test_smollm2_words_are_distinct_and_invert(smollm2):
    assert len(set(smollm2.words)) == 49_152
    assert smollm2.ids_of(smollm2.words).equal(torch.arange(49_152))
    assert smollm2.words[260] == " the"
    assert smollm2.words[2] == "<|im_end|>"
    assert smollm2.words[111] == "<0xA1>"


def test_smollm2_round_trips(smollm2):
    kept = smollm2.round_trips
    assert int(kept.sum()) == 48_839
    assert kept[smollm2.ids_of([" the", "the", "\n", " ", "7", "<|im_end|>", "\ufffd"])].all()
    assert not kept[smollm2.ids_of(["<0xA1>", "<0x80>"])].any()


def test_smollm2_duplicates_are_found(smollm2):
    assert smollm2.duplicates() == [
        (5, 9, 11, 36743),
        (7, 45175),
        (8, 10, 13, 15, 16, 36744, 48047),
        (12, 14),
    ]
    assert "11 rows repeat an earlier one" in repr(smollm2)


def test_smollm2_word_like(smollm2):
    words = smollm2.word_like()
    assert len(words) == 21_190
    assert sum(re.fullmatch(" [a-z]{3,}", word) is not None for word in words.words) == 21_185
    assert words.round_trips.all()


def test_smollm2_agrees_with_transformers(smollm2, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = assets.path("smollm2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    special = range(17)
    ids = sorted({*special, *range(17, 300), *random.Random(0).sample(range(49_152), 4000)})
    compare_with_transformers(smollm2, ids, tokenizer)


def compare_with_transformers(codebook: Codebook, rows: list[int], tokenizer) -> None:
    """Words and round trips are the tokenizer's own: decode of one id, and encode of what that gives."""
    ids = codebook.llm_ids[rows].tolist()
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    texts = [tokenizer.decode([i], **options) for i in ids]
    readings = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for row, llm_id, text, reading in zip(rows, ids, texts, readings, strict=True):
        assert bool(codebook.round_trips[row]) == (reading == [llm_id]), (llm_id, text, reading)
        if reading == [llm_id]:
            assert codebook.words[row] == text
        else:
            assert codebook.words[row].startswith("<0x")


# The real Gemma-3 table


@pytest.fixture(scope="module")
def gemma() -> Codebook:
    try:
        assets.path("gemma3")
    except assets.AssetNotCached:
        pytest.skip("needs `spae fetch gemma3` (238 MB)")
    return Codebook.load("gemma3-65k", progress=False)


def test_gemma_is_the_table_we_know(gemma):
    assert (len(gemma), gemma.width, gemma.name) == (65_536, 640, "gemma3-65k")
    norms = gemma.vectors.norm(dim=1)
    assert norms.mean().item() == pytest.approx(1.031, abs=0.001)
    assert norms.std().item() == pytest.approx(0.0005, abs=0.0001)
    assert (int(gemma.llm_ids[0]), int(gemma.llm_ids[-1])) == (494, 66_029)
    assert len(set(gemma.words)) == 65_536
    assert gemma.ids_of(gemma.words).equal(torch.arange(65_536))
    assert gemma.round_trips.all()
    assert gemma.duplicates() == []
    assert min(map(len, gemma.words)) == 2


def test_gemma_agrees_with_transformers(gemma, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = assets.path("gemma3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    compare_with_transformers(gemma, random.Random(0).sample(range(65_536), 3000), tokenizer)
    # Beyond the subset: control, user-defined and byte tokens.
    special = [*range(600), *range(255_900, 256_010)]
    whole = Codebook.from_gguf(file, ids=special, cache=False)
    compare_with_transformers(whole, list(range(len(special))), tokenizer)


def test_gemma_is_never_fetched_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    with pytest.raises(assets.AssetNotCached, match="spae fetch gemma3"):
        Codebook.load("gemma3-65k", progress=False)


# LLaMA-2's words


def test_llama2_is_the_vocabulary_of_v2l():
    try:
        assets.path("llama2")
    except assets.AssetNotCached:
        pytest.skip("needs `spae fetch llama2` (18 MB)")
    llama = Codebook.load("llama2", progress=False)
    assert (len(llama), llama.width, llama.name) == (32_000, 256, "llama2")
    assert llama.llm_ids.equal(torch.arange(32_000))
    assert [llama.words[i] for i in (1, 300, 301, 308, 16_000)] == ["<s>", "et", " l", " " * 8, " deleg"]
    assert llama.words[3 + 0xE2] == "<0xE2>"
    assert llama.ids_of(llama.words).equal(torch.arange(32_000))
    assert llama.vectors.norm(dim=1).mean().item() == pytest.approx(13.7765, abs=1e-3)
    assert len(llama.word_like()) > 5_000
