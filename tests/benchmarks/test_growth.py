"""The benchmark of the lookup's growth, at sizes that say nothing about time."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import contest, curves, exactness, inputs, report
from benchmarks.contest import Case, Setting
from benchmarks.peers import growth as peers
from benchmarks.question import Inexact
from benchmarks.questions import growth
from benchmarks.questions.growth import FACTOR, Growth
from spae.testing import oracles

TINY = ("growth", "--codebook", "random:300x8", "--queries", "20", "--largest", "4096")


def test_a_run_grows_each_size_with_the_others_held(bench, tmp_path):
    done = bench(*TINY, "--only", "spae_ops", "--out", tmp_path / "tiny")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "tiny.json").read_text())
    ours = [row for row in record["rows"] if row["role"] == "ours"]
    sizes = {(row["axis"], row["value"], row["queries"], row["num_codes"]) for row in ours}
    assert sizes == {
        *(("queries", n, n, 300) for n in (64, 256, 1024, 4096)),
        ("codes", 4096, 20, 4096),
        *(("width", d, 20, 300) for d in (64, 256, 1024, 4096)),
    }
    for row in ours:
        assert (row["mismatches"], row["compared"], row["threads"]) == (0, row["queries"], 1)
        assert row["prepare_seconds"] > 0
        assert row["gflops"] > 0
    assert {row["contestant"] for row in record["rows"]} == {"spae_ops auto", "gemm"}
    assert record["load_before"] >= 0
    text = (tmp_path / "tiny.md").read_text()
    assert "## Growth with K; random codes, N = 20, D = 8" in text
    assert "## Growth with N; random:300x8, K = 300, D = 8" in text
    assert "## Preparation" not in text
    if (tmp_path / "tiny.png").exists():
        assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")


WRONG = """
from benchmarks.contestants import Contestant

def prepare(codes):
    return lambda x: (codes - x[:, None]).square().sum(-1).argmax(1)

CONTESTANTS = [Contestant("furthest code", "ours", "cpu", prepare)]
"""


def test_a_wrong_answer_of_ours_ends_the_run_without_times(bench, tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    also = ("--also", tmp_path / "wrong.py", "--only", "furthest", "--axes", "queries")
    done = bench(*TINY, *also, "--out", tmp_path / "tiny")
    assert done.returncode == 1
    assert "| furthest code | 64 of 64 |" in done.stdout
    assert not list(tmp_path.glob("tiny*"))


def test_one_thread_and_all_have_processes_of_their_own():
    setting = Setting("growth", "cpu", "float32", 3, 1)
    assert [one.threads for one in Growth().settings(setting)] == [1, 3]
    assert [one.threads for one in Growth().settings(Setting("growth", "cpu", "float32", 1, 1))] == [1]
    assert [one.threads for one in Growth().settings(Setting("growth", "cuda", "float32", 3, 1))] == [3]


class Answers:
    """A worker that answers like a process, without one, and says how long that took."""

    def __init__(self, seconds: float, kind: str = "peer", name: str = "one") -> None:
        self.contestant = SimpleNamespace(name=name, kind=kind)
        self.setting = SimpleNamespace(threads=2)
        self.seconds, self.asked = seconds, []

    def ask(self, **request):
        self.asked.append(next(iter(request)))
        if "inputs" in request:
            return {"peak_bytes": 5, "seconds": self.seconds}
        return {"samples": [0.2]} if "seconds" in request else {"prepare_seconds": 1.0}


def test_each_contestant_lets_go_before_the_next_and_a_long_answer_is_its_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(contest, "REST", 0)
    for seconds, samples in ((0.7, [0.7]), (0.1, [0.2, 0.2, 0.2])):
        worker, case = Answers(seconds), Case({}, [])
        contest.one_by_one(case, [worker], tmp_path / "codes.npy", tmp_path / "inputs.npz", 7)
        assert case.samples == {"one": samples}
        assert (case.peaks, case.prepared) == ({"one": 5}, {"one": {"prepare_seconds": 1.0}})
        assert worker.asked[:3] == ["codes", "prepare", "inputs"]
        assert worker.asked[-1] == "forget"


def test_a_peer_ends_where_it_would_take_too_long_and_ours_goes_on():
    question = Growth()
    question._longest = 10.0
    labels = {"axis": "queries", "value": 4096, "threads": 2}
    question._took = {question._key(name, labels): (1024, 3.0) for name in ("one", "ours")}
    notes = []
    assert question._too_long(Answers(0), labels, notes)
    assert not question._too_long(Answers(0, "ours", "ours"), labels, notes)
    assert not question._too_long(Answers(0), {**labels, "threads": 1}, notes)
    assert question._too_long(Answers(0), {**labels, "value": 4096 * FACTOR}, notes)
    assert notes == [{"name": "one", "absent": "N = 4,096, 2 threads and beyond: a call would take 12 s"}]


def test_other_codes_are_judged_by_themselves(monkeypatch):
    codes = np.arange(8, dtype=np.float32)[:, None]
    labels = {"axis": "codes", "value": 8, "threads": 1}
    case = Case(labels, [codes], answers={"one": [np.arange(8)]}, truth=codes)
    assert Growth().judge(case, codes, ["one"])["one"]["mismatches"] == 0
    case.answers["one"][0][3] = 4
    with pytest.raises(Inexact, match=r"\| K = 8, 1 thread \| wrong ids \|\n.*\n\| one \| 1 of 8 \|"):
        Growth().judge(case, codes, ["one"])


def test_blocks_of_codes_and_of_queries_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    codes, x = random.standard_normal((70, 3)).astype(np.float32), random.standard_normal((50, 3))
    codes[40] = codes[3]
    x[:10] = codes[3]
    expected = oracles.topk_codes(x, codes, 1)[0][:, 0]
    whole = inputs.make_queries("random", 33, codes, "random:70x3")
    monkeypatch.setattr(exactness, "_CODES", 16)
    monkeypatch.setattr(inputs, "_ROWS", 8)
    np.testing.assert_array_equal(exactness.nearest_by_definition(x, codes), expected)
    np.testing.assert_array_equal(inputs.make_queries("random", 33, codes, "random:70x3"), whole)
    product = peers.lookup.peers_of.gemm
    seen = []
    monkeypatch.setattr(peers.lookup.peers_of, "gemm", lambda table: lambda q: seen.append(len(q)))
    monkeypatch.setattr(peers, "PRODUCT_BYTES", 4 * 70 * 20)
    peers.gemm(torch.from_numpy(codes))(torch.from_numpy(x))
    assert seen == [20, 20, 10]
    assert product is not peers.lookup.peers_of.gemm


def test_sizes_that_leave_nothing_are_an_error(bench, tmp_path):
    done = bench(*TINY[:-1], "32", "--axes", "queries", "--only", "spae_ops", "--out", tmp_path / "tiny")
    assert done.returncode == 2
    assert "largest: expected at least 64, got 32" in done.stderr


def test_cores_are_kept_busy_for_the_run_alone(monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        growth.subprocess, "Popen", lambda *given: started.append(popen(*given)) or started[-1]
    )
    with growth._busy(1):
        assert started[0].poll() is None
    assert len(started) == 1
    assert started[0].poll() is not None
    with growth._busy(0):
        assert len(started) == 1


def test_slopes_and_memory_are_of_each_curve():
    rows = [
        {"axis": axis, "contestant": "ours", "threads": threads, "role": "ours", "value": n}
        | {"median_ms": 3.0 * n / threads, "peak_extra_bytes": 2**20 * (1 if axis == "queries" else n)}
        | {"queries": 2**19 // 20 if n == 16 else 0}
        for axis in ("codes", "queries")
        for threads in (1, 2)
        for n in (16, 4, 1)
    ]
    assert list(curves.curves(rows)) == [(a, "ours", t) for a in ("queries", "codes") for t in (2, 1)]
    lines = Growth().closing({"rows": rows})
    assert "| N | 2 | ours | 1 | 16 | 1.00 | 1.0 to 1.0 | 1.0 to 0.5 |" in lines
    assert "| K | 1 | ours | 1 | 16 | 1.00 | 1.0 to 16.0 | 1.0 to 15.5 |" in lines
    assert curves.time_slope(rows[:1]) == "-"


def test_a_record_says_whether_the_machine_was_idle():
    host = {"host": {"load": 1.9}}
    assert report.load(host) == "load 1.9"
    assert report.load({**host, "load_before": 0.1}) == "idle (load 0.1 before the run, 1.9 after it)"
    assert report.load({**host, "load_before": 1.1}).startswith("busy (load 1.1")
    assert report.load({**host, "load_before": 0.1, "busy": 2}).startswith("busy: 2 cores kept so")
