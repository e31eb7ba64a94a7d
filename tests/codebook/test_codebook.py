"""The Codebook itself, on small tables (and the real one where size matters)."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spae.codebook import Codebook, selection


def test_what_it_holds(small, small_words):
    codebook = small()
    assert (len(codebook), codebook.width) == (11, 5)
    assert codebook.words == small_words
    assert codebook.vectors.dtype == torch.float32
    assert not codebook.vectors.requires_grad
    assert codebook.llm_ids.tolist() == [7 + 3 * i for i in range(11)]
    assert codebook.llm_ids.dtype == torch.int64
    assert codebook.round_trips.tolist() == [False] * 11
    assert codebook.normalisation == "none"
    torch.testing.assert_close(
        codebook(torch.tensor([[3, 1]])), codebook.vectors[[3, 1]][None], rtol=0, atol=0
    )


def test_arrays_are_copied_and_may_be_numpy_or_half():
    vectors = np.arange(6, dtype=np.float16).reshape(3, 2)
    vectors.flags.writeable = False
    codebook = Codebook.from_arrays(["a", "b", "c"], vectors, [5, 6, 7], round_trips=[True, False, True])
    assert codebook.vectors.tolist() == vectors.tolist()
    assert codebook.round_trips.tolist() == [True, False, True]
    tensor = torch.ones(3, 2, requires_grad=True)
    codebook = Codebook.from_arrays(["a", "b", "c"], tensor)
    with torch.no_grad():
        tensor.zero_()
    assert codebook.vectors.eq(1).all()
    assert codebook.llm_ids.tolist() == [0, 1, 2]


@given(st.lists(st.text(max_size=4), min_size=1, max_size=20, unique=True), st.data())
def test_ids_of_inverts_words(small, words, data):
    codebook = small(words=words)
    rows = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=8))
    found = codebook.ids_of([codebook.words[row] for row in rows])
    assert found.dtype == torch.int64
    assert found.tolist() == rows


def test_an_unknown_word_is_named_with_its_position(small):
    with pytest.raises(ValueError, match=r"expected words of codebook 'small', got 'bird' at position 1"):
        small().ids_of(["dog", "bird"])
    with pytest.raises(TypeError, match="one string 'dog'"):
        small().ids_of("dog")


@pytest.mark.parametrize(
    ("words", "vectors", "options", "message"),
    [
        (
            ["a", "b"],
            torch.ones(2),
            {},
            r"vectors: expected \[K, D\].*got torch.float32|vectors: .* got \[2\]",
        ),
        (["a"], torch.ones(1, 0), {}, r"vectors: .* got \[1, 0\]"),
        ([], torch.ones(0, 2), {}, r"vectors: .* got \[0, 2\]"),
        (["a"], torch.ones(1, 2, dtype=torch.int64), {}, "vectors: .* torch.int64"),
        (["a"], torch.ones(2, 2), {}, r"words: expected one per row of vectors \(2\), got 1"),
        (["a", "b", "a"], torch.ones(3, 2), {}, "distinct words, got 'a' at positions 0 and 2"),
        (
            ["a", "b"],
            torch.tensor([[1.0], [math.nan]]),
            {},
            r"vectors: expected finite rows, got 'b' \(row 1\)",
        ),
        (["a"], torch.ones(1, 2), {"llm_ids": [1, 2]}, r"llm_ids: expected torch.int64 \[1\], got .* \[2\]"),
        (["a"], torch.ones(1, 2), {"llm_ids": [1.5]}, "llm_ids: expected torch.int64"),
        (["a"], torch.ones(1, 2), {"round_trips": [1]}, "round_trips: expected torch.bool"),
    ],
)
def test_wrong_arguments_are_named(words, vectors, options, message):
    with pytest.raises(ValueError, match=message):
        Codebook.from_arrays(words, vectors, **options)


def test_words_must_be_strings():
    with pytest.raises(TypeError, match="expected strings, got bytes at position 1"):
        Codebook.from_arrays(["a", b"b"], torch.ones(2, 1))


def test_duplicates_are_rows_equal_in_every_bit(small):
    vectors = torch.tensor([[1.0, 0.0], [2, 3], [1, -0.0], [2, 3], [1, 0], [4, 4]])
    codebook = Codebook.from_arrays(list("abcdef"), vectors)
    assert codebook.duplicates() == [(0, 4), (1, 3)]
    assert "2 rows repeat an earlier one" in repr(codebook)
    assert "0 rows repeat" in repr(small())


# Normalisation


@pytest.mark.parametrize("kind", ["centre", "unit", "centre+scale"])
def test_normalisation_is_the_float64_formula_rounded_once(small, kind):
    codebook = small(width=37)
    rows = codebook.vectors.double()
    centred = rows - rows.mean(dim=0)
    expected = {
        "centre": centred,
        "unit": rows / rows.norm(dim=1, keepdim=True),
        "centre+scale": centred / centred.square().sum(dim=1).mean().sqrt(),
    }[kind]
    normalised = codebook.normalised(kind)
    assert normalised.normalisation == kind
    assert normalised.words == codebook.words
    assert normalised.llm_ids.equal(codebook.llm_ids)
    # Within one unit in the last place: the order of the float64 sums may decide a rounding.
    torch.testing.assert_close(normalised.vectors, expected.float(), rtol=2**-23, atol=1e-12)
    assert codebook.normalisation == "none"
    assert codebook.checksum != normalised.checksum


def test_normalised_tables_have_the_stated_properties(smollm2):
    centred = smollm2.normalised("centre").vectors.double()
    assert centred.mean(dim=0).abs().max() < 1e-7
    unit = smollm2.normalised("unit").vectors.double()
    assert (unit.norm(dim=1) - 1).abs().max() < 1e-6
    scaled = smollm2.normalised("centre+scale").vectors.double()
    assert scaled.mean(dim=0).abs().max() < 1e-7
    assert scaled.square().sum(dim=1).mean().item() == pytest.approx(1, abs=1e-6)


def test_normalisation_does_not_depend_on_threads():
    script = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[1]))\n"
        "from spae.codebook import Codebook\n"
        "rows = torch.randn(3000, 65, generator=torch.Generator().manual_seed(0))\n"
        "codebook = Codebook.from_arrays([str(i) for i in range(3000)], rows)\n"
        "print([codebook.normalised(k).checksum for k in ('centre', 'unit', 'centre+scale')])"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", script, n], capture_output=True, text=True, check=True).stdout
        for n in ("1", "2")
    }
    assert len(outputs) == 1


def test_normalising_twice_is_refused_unless_it_is_the_same(small):
    unit = small().normalised("unit")
    assert unit.normalised("unit") is unit
    assert unit.normalised("none") is unit
    with pytest.raises(ValueError, match="normalised already, or 'none', got 'centre'"):
        unit.normalised("centre")
    with pytest.raises(ValueError, match=r"expected one of none, centre, unit, centre\+scale, got 'center'"):
        small().normalised("center")


def test_norms_of_zero_are_refused():
    with pytest.raises(ValueError, match="got zeros in row 1"):
        Codebook.from_arrays(["a", "b"], torch.tensor([[1.0], [0.0]])).normalised("unit")
    with pytest.raises(ValueError, match="got equal ones"):
        Codebook.from_arrays(["a", "b"], torch.ones(2, 2)).normalised("centre+scale")


# Subsets


def test_subset_keeps_order_ids_and_vectors(small):
    codebook = small()
    part = codebook.subset([4, 0, 9])
    assert part.words == ["\x00", " cat", "漢字"]
    assert part.vectors.equal(codebook.vectors[[4, 0, 9]])
    assert part.llm_ids.tolist() == [19, 7, 34]
    assert part.ids_of([" cat"]).tolist() == [1]
    assert part.name == "small[3]"
    assert part.checksum != codebook.checksum
    assert codebook.subset(torch.tensor([4, 0, 9], dtype=torch.int32), name="mine").name == "mine"


def test_subset_takes_a_mask():
    codebook = Codebook.from_arrays(list("abc"), torch.eye(3), round_trips=[True, False, True])
    assert codebook.subset(codebook.round_trips).words == ["a", "c"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "at least one row"),
        ([0.5], "expected integers"),
        ([[1]], "expected integers"),
        ([11], "expected 0 to 10, got 11"),
        ([-1], "expected 0 to 10, got -1"),
        ([1, 1], "distinct"),
        (torch.ones(3, dtype=torch.bool), r"bool \[11\]"),
        (torch.zeros(11, dtype=torch.bool), "at least one row"),
    ],
)
def test_subset_refuses(small, ids, message):
    with pytest.raises(ValueError, match=f"ids: .*{message}"):
        small().subset(ids)


def test_word_like(small, small_words):
    words = [" cat", "cat", " Cat", " at", " c4t", " été", " cat dog", " the_", " 漢字漢", "  cats", " cats"]
    assert small(words=words).word_like().words == [" cat", " été", " 漢字漢", " cats"]
    assert small(words=words).word_like(2).words == [" cat", " été"]
    with pytest.raises(ValueError, match=r"words: expected a kind that codebook .small. has words of"):
        small(words=["a"]).word_like()
    with pytest.raises(
        ValueError, match="limit: expected 1 to 4 \\(word-like words\\) of codebook 'small', got 5"
    ):
        small(words=words).word_like(5)
    with pytest.raises(ValueError, match="words: expected one of all, word-like, nouns, got 'verbs'"):
        small().select("verbs")
    whole = small()
    assert whole.select("all") is whole
    assert whole.select("all", 3).words == small_words[:3]


def test_nouns_are_singular_and_known(small, tmp_path, monkeypatch):
    index = tmp_path / "index.noun"
    lemmas = ["cat", "bus", "box", "man", "berry", "gas", "glass", "news", "new_york", "church"]
    index.write_text("  1 This software and database\n" + "".join(f"{lemma} n 1 0\n" for lemma in lemmas))
    monkeypatch.setattr("spae.assets.require", lambda name, **_: {"wordnet": index}[name])
    selection._nouns.cache_clear()
    words = [" cat", " cats", " bus", " buses", " boxes", " men", " berries", " gas", " glass", " run", "man"]
    assert small(words=words).select("nouns").words == [" cat", " bus", " gas", " glass"]
    selection._nouns.cache_clear()


def test_subsets_know_their_rows_of_the_source(small):
    assert small().source is None
    whole = Codebook.from_data(small().data.from_source("somewhere"))
    assert whole.rows is None
    part = whole.subset([7, 2, 5]).subset([2, 0])
    assert part.source == "somewhere"
    assert part.rows.tolist() == [5, 7]
    centred = part.normalised("centre")
    assert centred.source == "somewhere"
    assert torch.equal(whole.subset(centred.rows).normalised("centre").vectors, centred.vectors)
    # What is left of a centred whole cannot be made from the rows alone.
    assert whole.normalised("centre").source == "somewhere"
    assert whole.normalised("centre").subset([1]).source is None
    assert whole.normalised("unit").subset([1]).source == "somewhere"
    twin = copy.deepcopy(part)
    assert torch.equal(twin.rows, part.rows)


# Disk


@pytest.mark.parametrize("kind", ["none", "centre+scale"])
def test_save_and_load(small, small_words, tmp_path, kind):
    codebook = small().normalised(kind)
    codebook.save(tmp_path / "deep" / "folder")
    loaded = Codebook.load(tmp_path / "deep" / "folder")
    assert loaded.words == small_words
    assert loaded.vectors.equal(codebook.vectors)
    assert loaded.llm_ids.equal(codebook.llm_ids)
    assert loaded.round_trips.equal(codebook.round_trips)
    assert (loaded.name, loaded.normalisation) == ("small", kind)
    assert loaded.checksum == codebook.checksum
    assert loaded.duplicates() == codebook.duplicates()
    assert sorted(file.name for file in (tmp_path / "deep" / "folder").iterdir()) == [
        "codebook.json",
        "codebook.safetensors",
    ]


def test_saving_over_the_file_it_is_mapped_from(small, tmp_path):
    codebook = small()
    codebook.save(tmp_path)
    loaded = Codebook.load(str(tmp_path))
    loaded.save(tmp_path)
    assert loaded.vectors.equal(codebook.vectors)
    assert Codebook.load(tmp_path).checksum == codebook.checksum


def test_loading_changed_content_is_refused(small, tmp_path):
    small().save(tmp_path)
    small(seed=1).save(tmp_path / "other")
    (tmp_path / "other" / "codebook.safetensors").replace(tmp_path / "codebook.safetensors")
    with pytest.raises(ValueError, match=r"expected content of checksum .*, got"):
        Codebook.load(tmp_path)


def test_loading_what_is_no_codebook(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"codebook\.json: expected a codebook, got no such file"):
        Codebook.load(tmp_path)
    with pytest.raises(
        ValueError, match=r"one of smollm2, gemma3-65k, llama2, cl100k, a folder or a GGUF file, got 'smol'"
    ):
        Codebook.load("smol")
    with pytest.raises(ValueError, match=r"encode: expected None but for .cl100k."):
        Codebook.load("smollm2", encode=lambda words: torch.ones(len(words), 2))


def test_checksum_covers_everything(small, small_words):
    base = small()
    words = [*small_words[:-1], "other"]
    others = [
        Codebook.from_arrays(words, base.vectors, base.llm_ids),
        Codebook.from_arrays(small_words, base.vectors + 1, base.llm_ids),
        Codebook.from_arrays(small_words, base.vectors, base.llm_ids + 1),
        base.normalised("unit"),
        Codebook(small_words, base.vectors, base.llm_ids, normalisation="unit"),
    ]
    assert len({codebook.checksum for codebook in [base, *others]}) == 6
    assert (
        base.checksum == Codebook.from_arrays(small_words, base.vectors, base.llm_ids, name="else").checksum
    )
