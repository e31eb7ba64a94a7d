"""Floors: which of them a run is judged by, and that those of the library hold for its own records."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import spae_ops
from benchmarks import __main__ as benchmarks
from benchmarks import guard, host
from benchmarks.question import RESULTS
from benchmarks.questions.lookup import Lookup

FLOOR = {"codebook": "toy", "queries": 20, "kind": "random", "ratio": {"avx2": 1.5, "amx": 2.5}}
ROWS = [
    {"kind": "random", "queries": 20, "contestant": name, "role": role, "median_ms": time}
    for name, role, time in (("a", "ours", 1.0), ("b", "peer", 2.0))
]
RECORD = {"codebook": "toy", "device": "cpu", "rows": ROWS}


@pytest.fixture
def failures(tmp_path):
    def judge(floor, **facts):
        file = tmp_path / "floors.json"
        file.write_text(json.dumps({"lookup": {"cpu": [floor]}}))
        return guard.failures(Lookup(), {**RECORD, **facts}, file)

    return judge


def test_a_run_is_judged_by_the_floors_of_its_instructions(failures):
    assert failures(FLOOR, instructions="avx2") == []
    assert failures(FLOOR, instructions="amx") == [
        "toy, 20 random queries: the ratio is 2.00, the floor is 2.5"
    ]


def test_instructions_without_floors_do_not_pass(failures):
    reason = "no floor in floors.json applies to this run"
    assert failures(FLOOR, instructions="portable") == [f"{reason} by portable"]
    assert failures(FLOOR, instructions=None) == [reason]
    assert failures({**FLOOR, "ratio": 1.5}, instructions="portable") == []
    assert failures({**FLOOR, "ratio": 2.5}) == [
        "toy, 20 random queries: the ratio is 2.00, the floor is 2.5"
    ]


def test_a_floor_applies_only_where_the_record_says_what_it_says(failures):
    floor = {**FLOOR, "channels": 32}
    assert failures(floor, instructions="avx2", channels=32) == []
    assert "no floor" in failures(floor, instructions="avx2", channels=128)[0]
    assert "no floor" in failures(floor, instructions="avx2")[0]
    assert "no floor" in failures({**FLOOR, "codebook": "other"}, instructions="avx2")[0]


def test_instructions_are_the_fastest_here_or_those_named(monkeypatch):
    found = "avx512, avx2, portable (AMX: this processor has none)"
    rows = [SimpleNamespace(name="torch", instructions=""), SimpleNamespace(name="cpu", instructions=found)]
    monkeypatch.setattr(spae_ops, "implementations", lambda op: rows)
    monkeypatch.setattr(host, "host", lambda device: {"isa": ["avx512f", "avx512_vnni"]})
    for named, instructions in (
        (None, "avx512_vnni"),
        ("auto", "avx512_vnni"),
        ("avx512", "avx512_vnni"),
        ("avx2", "avx2"),
        ("amx-emulated", "amx-emulated"),
    ):
        monkeypatch.delenv("SPAE_ISA", raising=False)
        if named is not None:
            monkeypatch.setenv("SPAE_ISA", named)
        assert host.instructions() == instructions
    monkeypatch.delenv("SPAE_ISA")
    monkeypatch.setattr(host, "host", lambda device: {"isa": ["avx512f"]})
    assert host.instructions() == "avx512"
    rows[1].instructions = ""
    assert host.instructions() is None


def test_a_run_by_named_instructions_is_judged_by_theirs(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_ISA", "portable")
    (tmp_path / "floors.json").write_text(
        json.dumps({"lookup": {"cpu": [{**FLOOR, "codebook": "random:300x8", "ratio": {"portable": 1e9}}]}})
    )
    done = bench(
        *("lookup", "--codebook", "random:300x8", "--queries", "20", "--only", "spae_ops cpu", "chunked"),
        *("--guard", "--floors", tmp_path / "floors.json", "--out", tmp_path / "tiny"),
    )
    if "spae_ops cpu" not in done.stdout:
        pytest.skip("needs the extension")
    assert done.returncode == 1
    assert "the floor is 1000000000.0" in done.stderr
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert record["instructions"] == "portable"
    assert "ours by portable." in (tmp_path / "tiny.md").read_text()


RECORDS = [
    (file.name, record)
    for file in sorted(RESULTS.glob("*.json"))
    if (record := json.loads(file.read_text())).get("question")
    in ("lookup", "cross-entropy", "pyramid", "quantizer")
]


@pytest.mark.parametrize("record", [record for _, record in RECORDS], ids=[name for name, _ in RECORDS])
def test_floors_hold_for_the_committed_records(record):
    if any(config["channels"] != 32 for config in record.get("models", {}).values()):
        pytest.skip("floors are of the narrower models")
    # What records of before they said it are of.
    known = {"instructions": "avx512_vnni", "channels": 32, "res_blocks": 1, "side": 16}
    question = benchmarks.QUESTIONS[record["question"]]
    assert guard.failures(question, {**known, **record}, guard.FLOORS) == []
