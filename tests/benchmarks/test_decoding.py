"""The benchmark of progressive decoding, on prompts so short that nothing about time can be learnt."""

import json
import subprocess
import sys

import pytest

from spae import assets


def test_it_times_both_and_says_that_they_agree(tmp_path):
    pytest.importorskip("transformers")
    try:
        assets.path("smollm2")
    except assets.AssetNotCached as error:
        pytest.skip(str(error))
    out = tmp_path / "record.json"
    command = [sys.executable, "-m", "benchmarks", "decoding", "--examples", "2", "--layers", "2"]
    command += ["--queries", "2", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["layout"], row["queries"], row["passes"], row["same"]) for row in rows] == [
        ("segments", 2, 2, True),
        ("examples", 2, 2, True),
    ]
    assert done.stdout.count("\n") == 4
    done = subprocess.run([*command, "--alone"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["reference (s)"], row["same"]) for row in rows] == [(None, None)] * 2
    assert all(row["a digit (s)"] >= 0 for row in rows)
