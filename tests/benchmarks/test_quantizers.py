"""The benchmarks of pyramids and of whole quantizers, at sizes that say nothing about time."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import report
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


def shares(**of):
    common = {"work": "step", "axis": "pixels", "value": 32, "median_ms": 2.0, "p20_ms": 1.0, "p80_ms": 3.0}
    return [
        {**common, "contestant": name, "role": "ours", "yardstick_share": 1 - share}
        for name, share in of.items()
    ]


def test_a_share_below_nothing_has_its_label_below_its_pale_bar_and_above_the_axis():
    pytest.importorskip("matplotlib")
    for rows, legend in ((shares(**{OURS: -0.18}), False), (shares(**{OURS: -0.18, BEFORE: 0.5}), True)):
        figure = report.new_figure(5, 4)
        axis = figure.subplots()
        quantizer._draw_shares(axis, "step", rows)
        figure.draw_without_rendering()
        label = next(text for text in axis.texts if text.get_text() == "-18%").get_window_extent()
        bar = min(axis.patches, key=lambda patch: patch.get_height())
        assert bar.get_alpha() < 1
        assert axis.get_window_extent().y0 < label.y0 < label.y1 < bar.get_window_extent().y0
        assert (axis.get_legend() is not None) == legend
    figure = report.new_figure(5, 4)
    quantizer._draw_shares(axis := figure.subplots(), "step", shares(**{OURS: 0.2}))
    assert axis.get_ylim()[0] == 0


def test_the_title_says_how_wide_the_models_are_and_who_is_alone():
    results = {"question": "quantizer", "codebook": "c", "num_codes": 5, "width": 2, "dtype": "float32"}
    results |= {"device": "cpu", "rows": shares(**{OURS: 0.2})}
    models = {"32": {"channels": 128, "num_res_blocks": 2}, "64": {"channels": 128, "num_res_blocks": 2}}
    ending = "cpu, models of 128 channels and 2 residual blocks, spae_ops auto"
    assert quantizer._heading({**results, "models": models}).endswith(ending)
    results["rows"] = shares(**{OURS: 0.2, BEFORE: 0.5})
    assert quantizer._heading({**results, "models": models}).endswith("2 residual blocks")
    assert quantizer._heading({**results, "models": {}}).endswith("cpu")


def test_growth_is_spoken_of_where_it_was_measured():
    results = {"rows": shares(**{OURS: 0.2, BEFORE: 0.5}), "models": {}}
    assert QuantizerQuestion().closing(results) == []
    rows = [
        {**row, "axis": "codes", "value": n, "median_ms": float(n)} for n in (1, 2) for row in results["rows"]
    ]
    assert "| K | 1.00 | 1.00 |" in QuantizerQuestion().closing({**results, "rows": rows})
