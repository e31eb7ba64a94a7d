"""Where codebooks come from: the real tables, and small GGUF files and models made here."""

from __future__ import annotations

import base64
import random
import re

import numpy as np
import pytest
import torch

from spae import assets
from spae.assets.resumable import resumable
from spae.codebook import Codebook
from spae.codebook.sources import gguf as source
from spae.models.minilm import MiniLM

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


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


# Small GGUF files


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))


def write_gguf(path, tokens, types, *, model, rows=None, quantise=None, **fields):
    """A GGUF file with a vocabulary and an embedding table (row i is i + 1 everywhere, 32 wide)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "merges" in fields:
        writer.add_token_merges(fields["merges"])
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    if "pre" in fields:
        writer.add_tokenizer_pre(fields["pre"])
    if "add_space_prefix" in fields:
        writer.add_add_space_prefix(fields["add_space_prefix"])
    table = np.arange(1, (rows or len(tokens)) + 1, dtype=np.float32)[:, None].repeat(32, axis=1)
    if quantise is None:
        writer.add_tensor("token_embd.weight", table)
    else:
        writer.add_tensor("token_embd.weight", gguf.quants.quantize(table, quantise), raw_dtype=quantise)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BYTE_LEVEL = {
    "tokens": ["<end>", "a", "b", "Ġ", "ab", "Ġab", "é"[:0] + "Ã", "Ã©", "1", "11", "x<end>", "©"],
    "types": [CONTROL] + [NORMAL] * 11,
    "merges": ["a b", "Ġ ab", "Ã ©", "1 1"],
    "model": "gpt2",
    "pre": "smollm",
}
SENTENCE_PIECE = {
    "tokens": [
        "<bos>",
        "<0x0A>",
        "<0x41>",
        "a",
        "b",
        "\u2581",
        "\u2581a",
        "ab",
        "A",
        "\n\n",
        "\u2581ab",
        "bA",
        "abAb",
    ],
    "types": [
        CONTROL,
        BYTE,
        BYTE,
        NORMAL,
        NORMAL,
        NORMAL,
        NORMAL,
        NORMAL,
        NORMAL,
        USER_DEFINED,
        NORMAL,
        NORMAL,
        NORMAL,
    ],
    "scores": [0.0, 0.0, 0.0, -10.0, -11.0, -12.0, -1.0, -2.0, -13.0, 0.0, -3.0, -0.5, -4.0],
    "model": "llama",
    "add_space_prefix": False,
}


def test_byte_level_gguf(tmp_path, own_cache):
    codebook = Codebook.from_gguf(write_gguf(tmp_path / "tiny.gguf", **BYTE_LEVEL))
    assert codebook.name == "tiny"
    expected = {
        "<end>": True,
        "a": True,
        "b": True,
        " ": True,
        "ab": True,
        " ab": True,
        "<0xC3>": False,
        "é": True,
        "1": True,
        "11": False,  # each digit is a piece of its own
        "x<end>": False,  # the control token inside is cut out
        "<0xA9>": False,
    }
    assert dict(zip(codebook.words, codebook.round_trips.tolist(), strict=True)) == expected
    assert codebook.vectors[:, 0].tolist() == list(range(1, 13))


def test_sentence_piece_gguf(tmp_path, own_cache):
    codebook = Codebook.from_gguf(write_gguf(tmp_path / "tiny.gguf", **SENTENCE_PIECE))
    expected = {
        "<bos>": True,
        "\n": True,  # no token writes it, so the tokenizer falls back on the byte
        "<0x41>": False,  # the token "A" writes it
        "a": True,
        "b": True,
        " ": True,
        " a": True,
        "ab": True,
        "A": True,
        "\n\n": True,
        " ab": True,
        "bA": True,
        "abAb": False,  # "bA" is merged first, and joins neither neighbour
    }
    assert dict(zip(codebook.words, codebook.round_trips.tolist(), strict=True)) == expected


def test_gguf_takes_ids_in_order(tmp_path, own_cache):
    file = write_gguf(tmp_path / "tiny.gguf", **BYTE_LEVEL)
    codebook = Codebook.from_gguf(file, ids=[5, 1], name="two")
    assert (codebook.words, codebook.llm_ids.tolist(), codebook.name) == ([" ab", "a"], [5, 1], "two")
    assert codebook.vectors[:, 0].tolist() == [6, 2]
    with pytest.raises(ValueError, match=r"tiny\.gguf: ids: expected 0 to 11, got 12"):
        Codebook.from_gguf(file, ids=[12], cache=False)


@pytest.mark.parametrize("quantisation", ["Q8_0", "F16"])
def test_gguf_is_dequantised(tmp_path, own_cache, quantisation):
    kind = gguf.GGMLQuantizationType[quantisation]
    codebook = Codebook.from_gguf(write_gguf(tmp_path / "tiny.gguf", **BYTE_LEVEL, quantise=kind))
    assert codebook.vectors.dtype == torch.float32
    torch.testing.assert_close(codebook.vectors[:, 31], torch.arange(1.0, 13.0), rtol=0.01, atol=0)


def test_gguf_tables_are_cached_until_the_file_changes(tmp_path, own_cache, monkeypatch):
    file = write_gguf(tmp_path / "tiny.gguf", **BYTE_LEVEL)
    first = Codebook.from_gguf(file)
    with monkeypatch.context() as patch:
        patch.setattr(source, "_open_gguf", lambda file: pytest.fail("the cached table was not used"))
        assert Codebook.load(file).checksum == first.checksum
    write_gguf(file, **(BYTE_LEVEL | {"pre": "gpt-2"}))
    changed = Codebook.from_gguf(file)
    assert changed.round_trips[changed.ids_of(["11"])].all()


def test_padded_tables_are_cut_to_the_vocabulary(tmp_path, own_cache):
    assert len(Codebook.from_gguf(write_gguf(tmp_path / "tiny.gguf", **BYTE_LEVEL, rows=16))) == 12


def test_an_unknown_tokenizer_is_said_not_guessed(tmp_path, own_cache):
    file = write_gguf(tmp_path / "tiny.gguf", **(BYTE_LEVEL | {"pre": "novel"}))
    with pytest.warns(UserWarning, match=r"pre-tokenizer 'novel': round_trips is False everywhere"):
        codebook = Codebook.from_gguf(file)
    assert not codebook.round_trips.any()
    assert codebook.words[5] == " ab"


def test_files_that_are_no_tables_are_named(tmp_path, own_cache):
    with pytest.raises(FileNotFoundError):
        Codebook.from_gguf(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not a GGUF file, but long enough to hold a header")
    with pytest.raises(ValueError, match=r"text\.gguf"):
        Codebook.load(tmp_path / "text.gguf")
    file = write_gguf(tmp_path / "short.gguf", **BYTE_LEVEL, rows=3)
    with pytest.raises(
        ValueError, match=r"short\.gguf: .*expected token_embd\.weight with 12 rows or more, got 3"
    ):
        Codebook.from_gguf(file)


# transformers


@pytest.fixture(scope="module")
def tiny_transformer(tmp_path_factory):
    """A random Llama with 16 padded rows and a byte-level tokenizer of 12 tokens, saved in a folder."""
    transformers = pytest.importorskip("transformers", reason="needs the package transformers")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    merges = [tuple(merge.split(" ")) for merge in BYTE_LEVEL["merges"]]
    tokens = [token for token in BYTE_LEVEL["tokens"] if token != "x<end>"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = transformers.LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, folder


def test_from_transformers(tiny_transformer):
    model, tokenizer, folder = tiny_transformer
    codebook = Codebook.from_transformers(model, tokenizer, name="tiny")
    assert codebook.words == ["<end>", "a", "b", " ", "ab", " ab", "<0xC3>", "é", "1", "11", "<0xA9>"]
    assert codebook.round_trips.tolist() == [word not in ("<0xC3>", "<0xA9>") for word in codebook.words]
    assert codebook.vectors.equal(model.get_input_embeddings().weight[:11].detach())
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1)
    assert Codebook.from_transformers(folder).checksum == codebook.checksum
    with pytest.raises(TypeError, match="tokenizer: "):
        Codebook.from_transformers(model)


# cl100k


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
