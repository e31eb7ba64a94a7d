"""Verdicts, where they are kept and what follows from them, on a CPU that is taken for a GPU."""

from __future__ import annotations

import warnings

import pytest
import torch

import spae_ops
from spae_ops import CodeIndex, _dispatch, nearest_code
from spae_ops._dispatch import Family
from spae_ops._implementation import NothingPrepared
from spae_ops.admission import admit as admission
from spae_ops.admission import process, verdicts
from spae_ops.admission.verdicts import AdmissionWarning, Verdict
from spae_ops.lookup import torch as plain

CPU = torch.device("cpu")


class Fake:
    """A kernel that answers rightly and can run, or cannot."""

    Prepared = NothingPrepared

    def __init__(self, name, reason=None):
        self.LAYOUT, self.reason, self.searched = f"{name}/1", reason, 0

    def unavailable(self, device):
        return self.reason

    def prepare(self, codes):
        return NothingPrepared()

    def search(self, *arguments):
        self.searched += 1
        return plain.search(*arguments)


@pytest.fixture
def search(world, monkeypatch):
    """The search's table with kernels "cuda" and "triton", examined by `outcomes`; what was examined is in `examined`."""
    table = _dispatch.SEARCH
    fakes = {"cuda": Fake("cuda"), "triton": Fake("triton")}
    monkeypatch.setattr(table, "_implementations", {**fakes, "torch": "spae_ops.lookup.torch"})
    for name in list(_dispatch.TABLES):
        if name != "nearest_code":
            monkeypatch.delitem(_dispatch.TABLES, name)
    table.fakes, table.outcomes, table.examined = fakes, {}, []

    def examine(implementation, families, device, dtype, width):
        table.examined.append(implementation)
        outcome, detail = table.outcomes.get(implementation, ("passed", "all is well"))
        return [
            Verdict(*verdicts.case(kind, implementation, dtype, width), str(device), outcome, detail)
            for kind in families
        ]

    monkeypatch.setattr(process, "examine", examine)
    yield table
    del table.fakes, table.outcomes, table.examined


def verdict(
    outcome="passed", detail="", family="nearest_code", implementation="cuda", dtype="float32", width=64
):
    return Verdict(family, implementation, dtype, width, "cpu", outcome, detail)


def forget(monkeypatch):
    """As another process would start."""
    monkeypatch.setattr(verdicts, "_known", {})


class TestChoice:
    def chosen(self, table, codes=None, **options):
        codes = torch.zeros(3, 40) if codes is None else codes
        return table.resolve("nearest_code", "auto", CPU, codes=codes, **options)[0]

    def test_the_first_that_passed(self, search):
        with pytest.warns(
            AdmissionWarning,
            match=r"'torch' runs nearest_code on cpu, because 'cuda' and 'triton' cannot .* spae_ops\.admit\(",
        ):
            assert self.chosen(search) == "torch"
        verdicts.keep(CPU, verdict(implementation="triton"))
        assert self.chosen(search) == "triton"
        verdicts.keep(CPU, verdict())
        assert self.chosen(search) == "cuda"
        verdicts.keep(CPU, verdict("failed"))
        assert self.chosen(search) == "triton"
        verdicts.keep(CPU, verdict("unknown", implementation="triton"))
        assert self.chosen(search) == "torch"

    def test_for_codes_like_these_only(self, search):
        verdicts.keep(CPU, verdict())
        search.fakes["triton"].reason = "not here"
        assert self.chosen(search) == "cuda"
        search.fakes["cuda"].reason = "not here either"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of what is not here nothing is said
            for other in (torch.zeros(3, 40).half(), torch.zeros(3, 65), torch.zeros(3, 40)):
                assert self.chosen(search, other) == "torch"
        assert search.resolve("nearest_code", "auto", CPU)[0] == "torch"

    def test_said_once(self, search):
        with pytest.warns(AdmissionWarning):
            self.chosen(search)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.chosen(search)

    def test_a_preferred_one_needs_admission_unless_vouched_for(self, search):
        with pytest.warns(AdmissionWarning):
            assert self.chosen(search, preferred="triton") == "torch"
        assert self.chosen(search, preferred="triton", vouched=True) == "triton"
        verdicts.keep(CPU, verdict(implementation="triton"))
        verdicts.keep(CPU, verdict(implementation="cuda"))
        assert self.chosen(search, preferred="triton") == "triton"

    def test_by_name_nothing_is_asked(self, search):
        verdicts.keep(CPU, verdict("failed"))
        assert search.resolve("nearest_code", "cuda", CPU)[0] == "cuda"

    def test_never_triton_in_its_interpreter(self, search, monkeypatch):
        verdicts.keep(CPU, verdict(implementation="triton"))
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        with pytest.warns(AdmissionWarning, match="because 'cuda' cannot be taken"):
            assert self.chosen(search) == "torch"

    def test_never_on_other_devices_whatever_was_found(self, search, monkeypatch):
        monkeypatch.setattr(verdicts, "on_trial", lambda device: device.type == "cuda")
        for name in ("cuda", "triton"):
            verdicts.keep(CPU, verdict(implementation=name))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.chosen(search) == "torch"
            assert CodeIndex(torch.zeros(3, 40)).impl == "torch"
        assert not search.examined

    def test_off(self, search, monkeypatch):
        verdicts.keep(CPU, verdict())
        monkeypatch.setenv("SPAE_ADMIT", "off")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.chosen(search) == "torch"
            assert CodeIndex(torch.zeros(3, 40)).impl == "torch"
        assert spae_ops.admit(CPU) == []
        assert not search.examined


class TestExamined:
    def test_an_index_does_it_once(self, search, monkeypatch):
        codes, x = torch.randn(30, 40), torch.randn(5, 40)
        index = CodeIndex(codes)
        assert (index.impl, search.examined) == ("cuda", ["cuda"])  # the first that passes is enough
        assert torch.equal(nearest_code(x, index).ids, nearest_code(x, codes, impl="torch").ids)
        assert search.fakes["cuda"].searched == 1
        forget(monkeypatch)
        assert CodeIndex(codes).impl == "cuda"
        assert nearest_code(x, codes).ids.shape == (5,)  # a tensor's lookup reads the verdict
        assert search.fakes["cuda"].searched == 2
        assert search.examined == ["cuda"]
        CodeIndex(codes.half())
        CodeIndex(torch.randn(30, 65))
        assert search.examined == ["cuda"] * 3

    def test_lookups_never_do(self, search):
        x, codes = torch.randn(5, 40), torch.randn(30, 40)
        with pytest.warns(AdmissionWarning):
            nearest_code(x, codes)
        index = CodeIndex(codes, impl="torch")
        torch.compile(lambda x: nearest_code(x, index).ids, backend="aot_eager", fullgraph=True)(x)
        spae_ops.pyramid_quantize(torch.randn(1, 40, 2, 2), codes, spae_ops.Pyramid.square(2, (1, 2)))
        assert not search.examined

    def test_failed_is_never_taken_again_and_said(self, search, monkeypatch):
        search.outcomes["cuda"] = "failed", "duplicates, ids: 3 of 9 rows are wrong"
        said = r"'cuda' of nearest_code on cpu failed .* width 64: duplicates, ids: 3 of 9 .* report .*spae doctor"
        with pytest.warns(AdmissionWarning, match=said):
            assert CodeIndex(torch.randn(30, 40)).impl == "triton"
        assert search.examined == ["cuda", "triton"]
        forget(monkeypatch)
        with pytest.warns(AdmissionWarning, match=said):
            assert CodeIndex(torch.randn(30, 40)).impl == "triton"
        assert search.examined == ["cuda", "triton"]

    def test_unknown_is_tried_again_by_the_next_process(self, search, monkeypatch):
        search.outcomes["cuda"] = "unknown", "out of memory"
        with pytest.warns(
            AdmissionWarning, match=r"could not be examined .*: out of memory\. .* tries again"
        ):
            assert CodeIndex(torch.randn(30, 40)).impl == "triton"
        CodeIndex(torch.randn(30, 40))
        assert search.examined == ["cuda", "triton"]
        forget(monkeypatch)
        search.outcomes.clear()
        assert CodeIndex(torch.randn(30, 40)).impl == "cuda"
        assert search.examined == ["cuda", "triton", "cuda"]

    def test_all_fail(self, search):
        search.outcomes.update(cuda=("failed", "a"), triton=("failed", "b"))
        with pytest.warns(AdmissionWarning):
            index = CodeIndex(torch.randn(30, 40))
        assert index.impl == "torch"

    def test_admit_examines_all_and_anew(self, search):
        verdicts.keep(CPU, verdict("failed"))
        found = spae_ops.admit("cpu", width=40)
        assert [(v.implementation, v.outcome, v.width) for v in found] == [
            ("cuda", "passed", 64),
            ("triton", "passed", 64),
        ]
        assert verdicts.kept(CPU, verdict().case).outcome == "passed"
        spae_ops.admit("cpu", impl="triton", dtype=torch.float16, width=40)
        assert search.examined == ["cuda", "triton", "triton"]
        search.fakes["triton"].reason = "not here"
        assert [v.implementation for v in spae_ops.admit("cpu")] == ["cuda"]

    def test_force_examines_anew(self, search, monkeypatch):
        CodeIndex(torch.randn(30, 40))
        forget(monkeypatch)
        monkeypatch.setenv("SPAE_ADMIT", "force")
        CodeIndex(torch.randn(30, 40))
        CodeIndex(torch.randn(30, 40))
        assert search.examined == ["cuda", "cuda"]

    def test_not_while_compiling_or_capturing(self, search, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            admission.ensure(CPU, torch.float32, 40)
            with pytest.raises(RuntimeError, match=r"torch\.compile traces or a CUDA graph is captured"):
                spae_ops.admit("cpu")
        assert not search.examined
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        for capturing in (True, False):
            monkeypatch.setattr(
                torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: capturing
            )
            assert admission._busy(torch.device("cuda", 0)) is capturing

    def test_a_pickled_index_is_admitted_where_it_is_loaded(self, search, world, monkeypatch):
        function, arguments = CodeIndex(torch.randn(30, 40)).__reduce__()
        forget(monkeypatch)
        monkeypatch.setitem(world.environment, "device", "another GPU")
        search.outcomes["cuda"] = "failed", "x"
        with pytest.warns(AdmissionWarning):
            assert function(*arguments).impl == "triton"

    def test_what_does_not_fit(self):
        with pytest.raises(ValueError, match="impl: expected one of 'cuda', 'triton' or None, got 'cpu'"):
            spae_ops.admit(impl="cpu")
        with pytest.raises(
            TypeError, match=r"dtype: expected float32 or float16 or bfloat16, got torch\.float64"
        ):
            spae_ops.admit(dtype=torch.float64)
        for width in (0, 1.5, True):
            with pytest.raises(ValueError, match="width: expected an integer of at least 1, got"):
                spae_ops.admit(width=width)
        assert spae_ops.admit("cpu") == []


class TestShown:
    def test_rows_are_triples_with_an_admission(self, search, monkeypatch):
        row = spae_ops.implementations("nearest_code")[0]
        name, available, reason = row
        assert (name, available, reason, row.admission) == ("cuda", True, "", "untested")
        assert row._asdict() == {"name": "cuda", "available": True, "reason": "", "admission": "untested"}
        assert "reason='', admission='untested')" in repr(row)
        assert spae_ops.implementations("nearest_code")[-1].admission == ""
        monkeypatch.setenv("SPAE_ADMIT", "off")
        assert spae_ops.implementations("nearest_code")[0].admission == "off"

    def test_what_was_found(self, world, monkeypatch):
        def said():
            return verdicts.summary_on(CPU, "nearest_code", "cuda")

        assert said() == "untested"
        verdicts.keep(CPU, verdict())
        verdicts.keep(CPU, verdict(dtype="bfloat16", width=640))
        verdicts.keep(CPU, verdict("failed", "unrelated", family="pyramid"))
        assert sorted(said()[len("passed (") : -1].split(", ")) == [
            "bfloat16 to width 640",
            "float32 to width 64",
        ]
        verdicts.keep(CPU, verdict("failed", "a lattice", width=128))
        forget(monkeypatch)
        assert said().startswith("failed: a lattice (float32, width 128); passed (")
        verdicts.keep(CPU, verdict("unknown", "out of memory", width=192))
        assert "unknown: out of memory (float32, width 192)" in said()


def test_a_family_of_ones_own_is_asked_for_verdicts_too(world):
    family = Family("own", {"cuda": Fake("cuda"), "torch": Fake("torch")})
    with pytest.warns(AdmissionWarning):
        assert family.resolve("op", "auto", CPU, codes=torch.zeros(2, 64))[0] == "torch"
    verdicts.keep(CPU, verdict(family="own"))
    assert family.resolve("op", "auto", CPU, codes=torch.zeros(2, 64))[0] == "cuda"
