"""Codebooks of small GGUF files and of a transformers model, made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spae.codebook import Codebook
from spae.codebook.sources import gguf as source

gguf = pytest.importorskip("gguf", reason="needs the package gguf")

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


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
