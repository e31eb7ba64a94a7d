"""The benchmarks of pyramids and of whole quantizers, at sizes that say nothing about time."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.contest import Case
from benchmarks.question import Inexact
from benchmarks.questions import quantizer
from benchmarks.questions.pyramid import PyramidQuestion
from benchmarks.questions.quantizer import BEFORE, OURS, QuantizerQuestion


def test_a_pyramid_is_measured_by_a_flat_lookup_of_its_queries(bench, tmp_path):
    done = bench(
        *("pyramid", "--codebook", "random:300x8", "--grids", "1", "2", "4", "4", "--batch", "2"),
        *("--rules", "rq", "--only", "torch", "--out", tmp_path / "tiny"),
    )
    assert done.returncode == 0, done.stderr
    rows = {row["contestant"]: row for row in json.loads((tmp_path / "tiny.json").read_text())["rows"]}
    assert set(rows) == {"spae_ops torch", "torch, one flat lookup"}
    ours, flat = rows["spae_ops torch"], rows["torch, one flat lookup"]
    assert ours["mismatches"] == 0
    assert ours["compared"] == 2 * 37
    assert ours["yardstick_share"] == pytest.approx(flat["median_ms"] / ours["median_ms"])
    assert PyramidQuestion().ratio(list(rows.values())) == ours["yardstick_share"]
    assert f"| {1 / ours['yardstick_share']:.2f} |" in (tmp_path / "tiny.md").read_text()


def test_a_wrong_id_in_a_pyramid_ends_the_run():
    case = Case({"kind": "random", "rule": "saq", "batch": 1}, [], truth=np.arange(5)[None])
    case.answers["one"] = [np.array([[0, 1, 2, 3, 3]])]
    assert PyramidQuestion().judge(case, np.zeros((5, 1)), [])["one"]["mismatches"] == 1
    with pytest.raises(Inexact, match=r"\| one \| 1 of 5 \|"):
        PyramidQuestion().judge(case, np.zeros((5, 1)), ["one"])


def test_a_quantizer_is_measured_in_its_model_and_alone(bench, tmp_path):
    done = bench(
        *("quantizer", "--codebook", "random:80x8", "--sizes", "32", "--channels", "4", "--batch", "1"),
        *("--axes", "codes", "--side", "4", "--out", tmp_path / "tiny"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "tiny.json").read_text())
    works = {(row["work"], row["contestant"]) for row in record["rows"]}
    everyone = {OURS, BEFORE, "without quantizer"}
    assert works == {(work, name) for work in quantizer.WORKS for name in everyone} | {
        ("pyramid", OURS),
        ("pyramid", BEFORE),
    }
    assert record["models"]["32"]["grids"] == [1, 2, 4, 4]
    sizes = {row["value"] for row in record["rows"] if row["axis"] == "codes"}
    assert sizes == {10, 20, 40, 80}
    text = (tmp_path / "tiny.md").read_text()
    assert "grids (1, 2, 4, 4), channels 4" in text
    assert "## Growth" in text


def test_slopes_are_those_of_the_logarithms():
    rows = [
        {"axis": "codes", "contestant": OURS, "value": n, "median_ms": 3 * n**2, "p20_ms": 0, "p80_ms": 0}
        for n in (1, 2, 4)
    ]
    assert quantizer._slopes(rows) == {("codes", OURS): pytest.approx(2.0)}
    assert quantizer._slopes(rows[:1]) == {}


def test_the_ratio_is_torch_over_auto():
    rows = [{"contestant": OURS, "median_ms": 2.0}, {"contestant": BEFORE, "median_ms": 5.0}]
    assert QuantizerQuestion().ratio(rows) == 2.5
    assert QuantizerQuestion().ratio(rows[:1]) is None


def test_losses_that_differ_end_the_run():
    case = Case({"work": "step", "axis": "pixels", "value": 32}, [])
    case.answers = {BEFORE: [np.array([1.0]), np.array([2.0])], OURS: [np.array([1.0]), np.array([2.1])]}
    with pytest.raises(Inexact, match=rf"\| {OURS} \| 1 \|"):
        QuantizerQuestion().judge(case, np.zeros((3, 2)), [BEFORE, OURS])
