"""cl100k's words, which a text encoder gives vectors: any, or MiniLM."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from spae import assets
from spae.assets.resumable import resumable
from spae.codebook import Codebook
from spae.models.minilm import MiniLM

pytest.importorskip("gguf", reason="needs the package gguf")


@pytest.fixture(scope="module")
def ranks():
    return assets.fetch("cl100k", progress=False)


def letters(texts: list[str]) -> torch.Tensor:
    """A quick stand-in for a text encoder."""
    return torch.tensor([[len(text), ord(text[0]), ord(text[-1])] for text in texts], dtype=torch.float64)


def test_cl100k_takes_the_tokens_that_are_utf8(ranks):
    codebook = Codebook.load("cl100k", encode=letters)
    assert (len(codebook), codebook.width, codebook.name) == (99_483, 3, "cl100k")
    assert codebook.ids_of(codebook.words).equal(torch.arange(99_483))
    assert codebook.words[0] == "!"
    assert codebook.vectors.dtype == torch.float32
    assert codebook.vectors[0].tolist() == [1, 33, 33]
    assert codebook.round_trips.all()


def test_cl100k_agrees_with_tiktoken(ranks):
    tiktoken = pytest.importorskip("tiktoken", reason="needs the package tiktoken")
    codebook = Codebook.load("cl100k", encode=letters)
    lines = (line.split() for line in ranks.read_bytes().splitlines())
    table = {base64.b64decode(token): int(rank) for token, rank in lines}
    pattern = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    encoding = tiktoken.Encoding("cl100k", pat_str=pattern, mergeable_ranks=table, special_tokens={})
    for word, llm_id, kept in zip(
        codebook.words, codebook.llm_ids.tolist(), codebook.round_trips.tolist(), strict=True
    ):
        assert encoding.decode([llm_id]) == word
        assert (encoding.encode_ordinary(word) == [llm_id]) == kept


def test_cl100k_encoders_that_give_the_wrong_shape_are_named(ranks):
    with pytest.raises(
        ValueError, match=r"encode: expected a tensor \[2048, D\] for 2048 texts, got \[2047, 3\]"
    ):
        Codebook.load("cl100k", encode=lambda texts: letters(texts)[1:])


def test_cl100k_ranks_may_come_from_tiktokens_own_cache(ranks, tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    file = tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    file.write_bytes(b"something else")
    with pytest.raises(assets.AssetNotCached, match="spae fetch cl100k"):
        Codebook.load("cl100k", encode=letters)
    file.write_bytes(ranks.read_bytes())
    assert len(Codebook.load("cl100k", encode=letters)) == 99_483


def test_interrupted_encoding_goes_on_where_it_stopped(tmp_path, capsys):
    words = [f"word {i}" for i in range(35)]
    calls = []

    def encode(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return letters(texts).float().numpy()

    with pytest.raises(KeyboardInterrupt):
        resumable(encode, words, tmp_path, chunk=10, progress=False)
    vectors = resumable(encode, words, tmp_path, chunk=10, progress=True)
    assert [texts[0] for texts in calls] == ["word 0", "word 10", "word 20", "word 20", "word 30"]
    np.testing.assert_array_equal(vectors, letters(words).float().numpy())
    assert "encoded 35 of 35" in capsys.readouterr().err


def test_minilm_encodes_a_word_alone_as_in_a_batch():
    pytest.importorskip("transformers", reason="needs the package transformers")
    encode = MiniLM.load(progress=False)
    words = [" dog", "Dog", " a considerably longer text", "puppy", "carburettor"]
    vectors = encode(words)
    assert vectors.shape == (5, 384)
    assert vectors[0].equal(vectors[1])  # it reads lower case, without outer spaces
    torch.testing.assert_close(vectors, torch.cat([encode([word]) for word in words]), rtol=1e-4, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(vectors[0], vectors, dim=1)
    assert cosine[3] > 0.5 > cosine[4]
