"""The Codebook itself, on small tables (and the real one where size matters)."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spae.codebook import Codebook, selection

WORDS = [" cat", "dog", "", "\n", "\x00", "\ud800", '"quoted"', "<0xE2>", "naïve", "漢字", " The"]


def small(seed: int = 0, width: int = 5, words: list[str] = WORDS) -> Codebook:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(words), width, generator=generator) + 2
    return Codebook.from_arrays(words, vectors, torch.arange(len(words)) * 3 + 7, name="small")


class Parent(nn.Module):
    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.codebook = codebook


def test_what_it_holds():
    codebook = small()
    assert (len(codebook), codebook.width) == (11, 5)
    assert codebook.words == WORDS
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
def test_ids_of_inverts_words(words, data):
    codebook = small(words=words)
    rows = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=8))
    found = codebook.ids_of([codebook.words[row] for row in rows])
    assert found.dtype == torch.int64
    assert found.tolist() == rows


def test_an_unknown_word_is_named_with_its_position():
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


def test_duplicates_are_rows_equal_in_every_bit():
    vectors = torch.tensor([[1.0, 0.0], [2, 3], [1, -0.0], [2, 3], [1, 0], [4, 4]])
    codebook = Codebook.from_arrays(list("abcdef"), vectors)
    assert codebook.duplicates() == [(0, 4), (1, 3)]
    assert "2 rows repeat an earlier one" in repr(codebook)
    assert "0 rows repeat" in repr(small())


# Normalisation


@pytest.mark.parametrize("kind", ["centre", "unit", "centre+scale"])
def test_normalisation_is_the_float64_formula_rounded_once(kind):
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


def test_normalising_twice_is_refused_unless_it_is_the_same():
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


def test_subset_keeps_order_ids_and_vectors():
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
def test_subset_refuses(ids, message):
    with pytest.raises(ValueError, match=f"ids: .*{message}"):
        small().subset(ids)


def test_word_like():
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
    assert whole.select("all", 3).words == WORDS[:3]


def test_nouns_are_singular_and_known(tmp_path, monkeypatch):
    index = tmp_path / "index.noun"
    lemmas = ["cat", "bus", "box", "man", "berry", "gas", "glass", "news", "new_york", "church"]
    index.write_text("  1 This software and database\n" + "".join(f"{lemma} n 1 0\n" for lemma in lemmas))
    monkeypatch.setattr("spae.assets.require", lambda name, **_: {"wordnet": index}[name])
    selection._nouns.cache_clear()
    words = [" cat", " cats", " bus", " buses", " boxes", " men", " berries", " gas", " glass", " run", "man"]
    assert small(words=words).select("nouns").words == [" cat", " bus", " gas", " glass"]
    selection._nouns.cache_clear()


def test_subsets_know_their_rows_of_the_source():
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
def test_save_and_load(tmp_path, kind):
    codebook = small().normalised(kind)
    codebook.save(tmp_path / "deep" / "folder")
    loaded = Codebook.load(tmp_path / "deep" / "folder")
    assert loaded.words == WORDS
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


def test_saving_over_the_file_it_is_mapped_from(tmp_path):
    codebook = small()
    codebook.save(tmp_path)
    loaded = Codebook.load(str(tmp_path))
    loaded.save(tmp_path)
    assert loaded.vectors.equal(codebook.vectors)
    assert Codebook.load(tmp_path).checksum == codebook.checksum


def test_loading_changed_content_is_refused(tmp_path):
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


def test_checksum_covers_everything():
    base = small()
    words = [*WORDS[:-1], "other"]
    others = [
        Codebook.from_arrays(words, base.vectors, base.llm_ids),
        Codebook.from_arrays(WORDS, base.vectors + 1, base.llm_ids),
        Codebook.from_arrays(WORDS, base.vectors, base.llm_ids + 1),
        base.normalised("unit"),
        Codebook(WORDS, base.vectors, base.llm_ids, normalisation="unit"),
    ]
    assert len({codebook.checksum for codebook in [base, *others]}) == 6
    assert base.checksum == Codebook.from_arrays(WORDS, base.vectors, base.llm_ids, name="else").checksum


# As a module


def test_no_state_dict_parameters_or_buffers():
    parent = Parent(small())
    assert set(parent.state_dict()) == {"linear.weight", "linear.bias"}
    assert set(dict(parent.named_parameters())) == {"linear.weight", "linear.bias"}
    assert not list(parent.buffers())
    parent.load_state_dict(nn.ModuleDict({"linear": nn.Linear(2, 2)}).state_dict(), strict=True)


@pytest.mark.parametrize(
    "convert",
    [
        nn.Module.half,
        nn.Module.double,
        nn.Module.bfloat16,
        lambda module: module.to(torch.float16),
        lambda module: module.to("cpu", torch.float16),
        lambda module: module.to_empty(device="cpu"),
        lambda module: module.requires_grad_(True),
    ],
)
def test_conversions_leave_values_and_type(convert):
    codebook = small()
    before, address = codebook.vectors.clone(), codebook.vectors.data_ptr()
    parent = convert(Parent(codebook))
    assert parent.codebook.vectors.dtype == torch.float32
    assert parent.codebook.vectors.equal(before)
    assert parent.codebook.vectors.data_ptr() == address
    assert parent.codebook.llm_ids.dtype == torch.int64
    assert not parent.codebook.vectors.requires_grad


def test_it_follows_the_device():
    codebook = small()
    index = codebook.index
    assert codebook.index is index
    assert codebook.to("cpu").index is index
    twin = copy.deepcopy(codebook)
    twin.to("meta", torch.float16)
    assert {twin.vectors.device.type, twin.llm_ids.device.type, twin.round_trips.device.type} == {"meta"}
    assert twin.vectors.dtype == torch.float32
    assert codebook.device.type == "cpu"
    assert "small" in repr(twin)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_moves_to_cuda_and_back():
    codebook = small()
    before, checksum = codebook.vectors.clone(), codebook.checksum
    parent = Parent(codebook).cuda().half()
    assert codebook.index.device.type == "cuda"
    assert codebook.ids_of([" cat"]).device.type == "cuda"
    assert codebook.subset([1, 0]).normalised("unit").device.type == "cuda"
    parent.cpu()
    assert codebook.index.device.type == "cpu"
    assert codebook.vectors.equal(before)
    assert codebook.checksum == checksum


def test_index_holds_the_vectors():
    codebook = small()
    assert codebook.index.codes.equal(codebook.vectors)


def test_deepcopy_shares_the_table_but_not_the_hooks():
    parent = Parent(small())
    twin = copy.deepcopy(parent)
    assert twin.codebook is not parent.codebook
    assert twin.codebook.vectors.data_ptr() == parent.codebook.vectors.data_ptr()
    assert twin.linear.weight.data_ptr() != parent.linear.weight.data_ptr()
    twin.codebook.register_forward_hook(lambda *_: None)
    assert not parent.codebook._forward_hooks
    assert twin.eval().codebook.training is False
    assert parent.codebook.training is True


def test_pickle_and_torch_save():
    codebook = small()
    assert codebook.index is not None
    for twin in (pickle.loads(pickle.dumps(codebook)), copy.copy(codebook)):
        assert twin.checksum == codebook.checksum
        assert twin.words == codebook.words
        assert twin.index.codes.equal(codebook.vectors)
    stream = io.BytesIO()
    torch.save(Parent(codebook), stream)
    stream.seek(0)
    assert torch.load(stream, weights_only=False).codebook.vectors.equal(codebook.vectors)


def test_distributed_training_never_broadcasts_it(tmp_path):
    parent = Parent(small())
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(parent)
        assert not wrapped.modules_buffers
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_lookup_takes_the_table_as_it_is():
    codebook = small()
    ids = torch.tensor([2, 0])
    compiled = torch.compile(codebook, fullgraph=True, backend="eager")
    assert compiled(ids).equal(codebook(ids))


def test_the_data_below_the_module():
    """Plain and frozen; what is known of it goes with it to another device, and nothing is computed twice."""
    data = small().data
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
    assert data.checksum == small().checksum
    assert "checksum" in vars(data.to(torch.device("meta")))
    assert data.select("all") is data
    assert data.normalised("none") is data
    named = data.from_source("somewhere").subset([3, 1])
    assert (named.source, named.rows.tolist()) == ("somewhere", [3, 1])
    assert Codebook.from_data(named).words == ["\n", "dog"]
    with pytest.raises(AttributeError, match="source"):
        small().source = "somewhere"


def test_nothing_below_the_module_imports_it():
    """`data` and what it stands on, then storage, then the sources, then the module: no circle."""
    code = "import sys, spae.codebook.{0}; print('spae.codebook.codebook' in sys.modules)"
    source = "import sys, types, pathlib\n" + (
        "for name in ('spae', 'spae.codebook'):\n"
        "    package = types.ModuleType(name); package.__path__ = [str(pathlib.Path(*name.split('.')))]\n"
        "    sys.modules[name] = package\n"
    )
    root = pathlib.Path(__file__).parents[2]
    for module in ("data", "storage", "sources"):
        done = subprocess.run(
            [sys.executable, "-c", source + code.format(module)],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "False", module
