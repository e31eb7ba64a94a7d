"""The benchmark of the distance cross-entropy, at sizes that say nothing about time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import exactness
from benchmarks.contest import Case
from benchmarks.peers import cross_entropy as peers
from benchmarks.peers import cross_entropy_inexact as inexact
from benchmarks.question import Inexact
from benchmarks.questions.cross_entropy import CrossEntropy
from spae.testing import oracles


def test_a_run_judges_losses_and_gradients_and_writes_its_results(bench, tmp_path):
    done = bench(
        *("cross-entropy", "--codebook", "random:300x8", "--queries", "20", "--temperatures", "2.5"),
        *("--kind", "near-code", "--only", "spae_ops torch", "torch addmm", "--out", tmp_path / "tiny"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "tiny.json").read_text())
    rows = {(row["contestant"], row["passes"]): row for row in record["rows"]}
    limits = ("gemm", "gemm bf16", "gemm int8")
    assert set(rows) == {
        (name, passes)
        for name in ("spae_ops torch", "torch addmm", *limits)
        for passes in ("forward", "forward+backward")
    }
    for (name, passes), row in rows.items():
        if name in limits:
            assert row["role"] == "yardstick"
            continue
        assert row["mismatches"] == 0
        assert row["compared"] == 20
        assert row["temperature"] == 2.5
        assert ("gradient_error" in row) == (passes == "forward+backward")
    assert (tmp_path / "tiny.md").read_text() in done.stdout


def test_the_judge_is_the_oracle_with_its_gradient():
    random = np.random.default_rng(0)
    codes, x = random.standard_normal((70, 5)), random.standard_normal((300, 5)) + 1
    target = random.integers(70, size=300)
    rows, loss, gradient = exactness.loss_and_gradient(x, codes, target, 0.7)
    assert len(rows) == exactness.SAMPLE
    expected = oracles.distance_cross_entropy(x[rows], codes, target[rows], 0.7)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    q = torch.from_numpy(x[rows]).requires_grad_()
    scores = -torch.cdist(q, torch.from_numpy(codes)).square() / 0.7
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(target[rows]), reduction="sum").backward()
    np.testing.assert_allclose(gradient, q.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_wrong_loss_or_gradient_of_ours_ends_the_run(spoilt):
    random = np.random.default_rng(0)
    codes, x = random.standard_normal((70, 5)), random.standard_normal((30, 5))
    target = random.integers(70, size=30)
    labels = {"kind": "random", "temperature": 1.0, "queries": 30, "passes": "forward+backward"}
    case = Case(labels, [x, target], {"temperature": 1.0, "gradient": True}, truth="float32")
    answer = list(exactness.loss_and_gradient(x, codes, target, 1.0)[1:])
    case.answers["one"] = answer
    verdict = CrossEntropy().judge(case, codes, ["one"])["one"]
    assert (verdict["mismatches"], verdict["loss_error"], verdict["gradient_error"]) == (0, 0.0, 0.0)
    answer[spoilt][7] += 0.01
    assert CrossEntropy().judge(case, codes, [])["one"]["mismatches"] == 1
    with pytest.raises(Inexact, match=r"\| one \| 1 of 30 \|"):
        CrossEntropy().judge(case, codes, ["one"])
    answer[spoilt][7] = np.nan
    assert CrossEntropy().judge(case, codes, [])["one"]["mismatches"] == 1


def test_bf16_rounds_scores_and_its_products_are_of_the_size_they_stand_for():
    codes, x, target = torch.randn(50, 6), torch.randn(23, 6), torch.arange(23)
    exact = peers._addmm(codes)(x, target, temperature=2.0, gradient=True)
    found = inexact.bf16_addmm(codes)(x, target, temperature=2.0, gradient=True)
    for part, expected in zip(found, exact, strict=True):
        assert 0 < (part - expected).abs().max() < 0.2
    for make in (inexact.gemm, inexact.gemm_bf16, inexact.gemm_int8):
        for gradient in (False, True):
            assert make(codes)(x, target, temperature=2.0, gradient=gradient) is None


def test_a_release_without_an_exact_kernel_is_said_to_have_none():
    cut = pytest.importorskip("cut_cross_entropy", exc_type=ImportError)
    if "CCE_EXACT" in cut.LinearCrossEntropyImpl.__members__:
        pytest.skip("needs a cut-cross-entropy without one")
    with pytest.raises(ValueError, match="cut-cross-entropy has no cce_exact"):
        peers._cut(torch.eye(4), "cce_exact")


def test_peers_give_the_same_by_chunks(monkeypatch):
    codes, x = torch.randn(50, 6), torch.randn(23, 6)
    target = torch.arange(23)
    whole = peers._addmm(codes)(x, target, temperature=2.0, gradient=True)
    monkeypatch.setattr(peers, "LIMIT", 4 * 50 * 5)
    for make in (peers._addmm, peers._cdist):
        parts = make(codes)(x, target, temperature=2.0, gradient=True)
        for part, expected in zip(parts, whole, strict=True):
            torch.testing.assert_close(part, expected)
