"""The benchmark of the lookup, on codebooks so small that nothing about time can be learnt from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import spae_ops
from benchmarks import exactness, guard, host, inputs, peers, registry, report
from benchmarks.questions.lookup import Lookup
from spae.testing import oracles

ROOT = Path(__file__).parents[2]
TINY = ["lookup", "--codebook", "random:300x8", "--queries", "20"]
WRONG = """
from benchmarks.contestants import Contestant

def prepare(codes):
    return lambda x: (codes - x[:, None]).square().sum(-1).argmax(1)

CONTESTANTS = [Contestant("furthest code", "{kind}", "cpu", prepare)]
"""


@pytest.fixture
def wrong(tmp_path):
    def write(kind: str) -> Path:
        file = tmp_path / "wrong.py"
        file.write_text(WRONG.format(kind=kind))
        return file

    return write


def test_a_run_writes_its_record_table_and_plot_and_counts_a_wrong_peer(bench, tmp_path, wrong):
    done = bench(
        *TINY,
        *("--only", "spae_ops torch", "chunked", "furthest"),
        *("--also", wrong("peer"), "--out", tmp_path / "results" / "tiny"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "results" / "tiny.json").read_text())
    rows = {row["contestant"]: row for row in record["rows"]}
    limits = {"gemm", "gemm bf16", "gemm int8"}
    peers = {"torch addmm+argmin, chunked", "torch bf16 addmm+argmin, chunked"}
    assert set(rows) == {"spae_ops torch", "furthest code"} | limits | peers
    assert {name for name, row in rows.items() if row["role"] == "yardstick"} == limits
    assert rows["torch bf16 addmm+argmin, chunked"]["role"] == "inexact"
    assert rows["spae_ops torch"]["mismatches"] == 0
    assert rows["furthest code"]["mismatches"] == rows["furthest code"]["compared"] == 20
    for row in rows.values():
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
    assert record["host"]["cores"] >= 1
    assert "torch" in record["versions"]
    assert str(tmp_path) not in json.dumps(record)
    table = (tmp_path / "results" / "tiny.md").read_text()
    assert "20 of 20" in table
    assert "limit: gemm int8 alone" in table
    assert table in done.stdout
    if (tmp_path / "results" / "tiny.png").exists():
        assert (tmp_path / "results" / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_implementation_of_ours_ends_the_run_without_times(bench, tmp_path, wrong):
    done = bench(
        *TINY, "--only", "spae_ops torch", "furthest", "--also", wrong("ours"), "--out", tmp_path / "tiny"
    )
    assert done.returncode == 1
    assert "| furthest code | 20 of 20 |" in done.stdout
    assert "ms" not in done.stdout
    assert not list(tmp_path.glob("tiny*"))


def test_the_guard_fails_on_an_absurd_floor(bench, tmp_path):
    floor = {"codebook": "random:300x8", "queries": 20, "kind": "random", "ratio": 1e9}
    floors = tmp_path / "floors.json"
    floors.write_text(json.dumps({"lookup": {"cpu": [floor]}}))
    guarded = ["--guard", "--floors", floors, "--out", tmp_path / "tiny"]
    done = bench(*TINY, "--only", "spae_ops torch", "chunked", *guarded)
    assert done.returncode == 1
    assert "the floor is 1000000000.0" in done.stderr
    record = json.loads((tmp_path / "tiny.json").read_text())
    for ratio, passes in ((1e-9, True), (1e9, False)):
        floors.write_text(json.dumps({"lookup": {"cpu": [{**floor, "ratio": ratio}]}}))
        assert (not guard.failures(Lookup(), record, floors)) == passes
    assert "no floor" in guard.failures(Lookup(), record, guard.FLOORS)[0]


def test_a_contestant_that_needs_no_torch_runs_without_it():
    script = "import sys; from benchmarks import worker; worker.find('lookup', 'FAISS IndexFlatL2', 'cpu')"
    check = "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{script}; {check}"], cwd=ROOT, check=True)


@pytest.fixture
def settings():
    """Where a contestant is asked in this process, what it sets for its own is set back."""
    yield
    if "faiss" in sys.modules:
        sys.modules["faiss"].cvar.distance_compute_blas_threshold = 128_000


# Those that torch.compile would take long for are asked by `make bench` alone.
ANSWERING = [
    contestant
    for contestant in registry.contestants("lookup", "cpu")
    if contestant.kind in ("peer", "inexact") and "compiled" not in contestant.name
]


@pytest.mark.parametrize("contestant", ANSWERING, ids=lambda one: one.name)
def test_a_contestant_answers_right_where_rounding_decides_nothing(contestant, settings):
    if reason := contestant.unavailable():
        pytest.skip(reason)
    codes = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    right = np.random.default_rng(1).integers(300, size=70)  # a block of NumKong's, and more
    x = codes[right] + np.float32(0.01)
    array = (lambda values: values) if contestant.takes == "numpy" else torch.from_numpy
    found = contestant.prepare(array(codes))(array(x))
    np.testing.assert_array_equal(np.asarray(found), right)


def test_an_inexact_one_is_no_peer_of_a_ratio_and_its_share_of_wrong_ids_is_shown():
    common = {"p20_ms": 1.0, "p80_ms": 1.0, "peak_extra_bytes": None, "queries": 5, "yardstick_share": 1.0}
    rows = [
        {"contestant": name, "role": role, "median_ms": time, "mismatches": wrong, "compared": 20, **common}
        for name, role, time, wrong in [
            ("a", "ours", 2.0, 0),
            ("b", "peer", 6.0, 0),
            ("c", "inexact", 1.0, 3),
        ]
    ]
    assert report.ratio(rows) == 3.0
    lines = Lookup().table(rows, {"num_codes": 7})
    assert "| 3 of 20 (15.0%) |" in lines[-1]
    assert lines[-1].startswith("| *c* |")


def test_faiss_takes_its_matrix_products_for_few_queries_too(settings):
    faiss = pytest.importorskip("faiss")
    registry.find("lookup", "FAISS IndexFlatL2", "cpu").prepare(np.eye(4, dtype=np.float32))
    assert faiss.cvar.distance_compute_blas_threshold == 1


PEER = """
from benchmarks.contestants import Contestant

def peers(device):
    return [Contestant("mine", "peer", device, lambda codes: lambda x: (x @ codes.T).argmax(1))]
"""


def test_a_peer_is_added_in_a_file_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "lookup_mine.py").write_text(PEER)
    before = [contestant.name for contestant in registry.contestants("lookup", "cpu")]
    monkeypatch.setattr(peers, "__path__", [*peers.__path__, str(tmp_path)])
    assert [contestant.name for contestant in registry.contestants("lookup", "cpu")] == [*before, "mine"]
    codes = np.eye(3, dtype=np.float32)
    call = registry.find("lookup", "mine", "cpu").prepare(codes)
    assert call(codes[[2, 0]]).tolist() == [2, 0]
    with pytest.raises(ValueError, match="contestant: no 'mine' for cpu"):
        registry.find("pyramid", "mine", "cpu")


def test_a_kernel_takes_part_as_soon_as_the_library_lists_it(monkeypatch):
    rows = [*spae_ops.implementations("nearest_code")]
    monkeypatch.setattr(spae_ops, "implementations", lambda op: [*rows, SimpleNamespace(name="new")])
    names = [contestant.name for contestant in registry.contestants("lookup", "cpu")]
    assert "spae_ops new" in names
    assert registry.find("lookup", "spae_ops new", "cpu").kind == "ours"


def test_the_judge_agrees_with_the_oracle_on_ties_and_near_ties():
    random = np.random.default_rng(0)
    codes = random.integers(-2, 3, (200, 3)).astype(np.float32)
    codes[100:] += 1e-6 * random.standard_normal((100, 3)).astype(np.float32)
    x = random.integers(-4, 5, (100, 3)).astype(np.float32) / 2
    expected = oracles.topk_codes(x, codes, 1)[0][:, 0]
    np.testing.assert_array_equal(exactness.nearest_by_definition(x, codes), expected)


def test_mismatches_are_charged_to_whoever_is_wrong():
    codes = np.arange(10, dtype=np.float32)[:, None]
    x = codes[np.arange(400) % 10]
    right = np.arange(400) % 10
    wrong = right.copy()
    wrong[7] = 0
    counts = {"ours": 1, "peer": 0}
    assert exactness.count_mismatches(x, codes, {"ours": wrong, "peer": right}, "ours") == (counts, 400)
    assert exactness.count_mismatches(x, codes, {"peer": right}, None) == ({"peer": 0}, exactness.SAMPLE)


def test_queries_repeat_and_near_code_queries_are_near_their_codes():
    _, codes = inputs.load_codes("random:500x32")
    near = inputs.make_queries("near-code", 50, codes, "random:500x32")
    np.testing.assert_array_equal(near, inputs.make_queries("near-code", 50, codes, "random:500x32"))
    nearest = codes[exactness.nearest_by_definition(near, codes)]
    radius = np.sqrt(np.square(codes - codes.mean(0)).sum(1).mean())
    distances = np.linalg.norm(near - nearest, axis=1) / radius
    assert np.median(distances) == pytest.approx(inputs.NOISE, rel=0.1)
    with pytest.raises(ValueError, match="bundled:NAME"):
        inputs.make_queries("latents", 5, codes, "random:500x32")


def test_paths_are_scrubbed_from_what_is_recorded():
    text = "lookup --out /home/me/results/x, random:3x2, a/b: OSError /opt/lib/x.so: 9 GB/s"
    assert host.scrubbed(text) == "lookup --out x, random:3x2, a/b: OSError x.so: 9 GB/s"


def test_the_ratio_takes_the_fastest_of_each_side():
    rows = [
        {"role": role, "median_ms": time}
        for role, time in [("ours", 9.0), ("ours", 2.0), ("peer", 3.0), ("peer", 8.0), ("yardstick", 1.0)]
    ]
    assert report.ratio(rows) == 1.5
    assert report.ratio(rows[:2]) is None


def test_the_plot_names_the_product_that_its_dashes_are():
    rows = [
        {"contestant": name, "role": role, "median_ms": time, "yardstick_share": 33.0 / time}
        for name, role, time in [
            ("ours", "ours", 5.0),
            ("gemm int8", "yardstick", 6.0),
            ("gemm", "yardstick", 33.0),
        ]
    ]
    assert report._dashed(rows) == "gemm"
    assert report._dashed(rows[:1]) is None
