"""That `make sanitize` can begin: its harness follows the C++ (the run itself takes too long for every change)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parents[2]
HARNESS = Path(__file__).parent / "threads"


def test_the_harness_compiles():
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    includes = [f"-I{path}" for path in (HARNESS, ROOT / "csrc", *include_paths())]
    command = [compiler, "-std=c++20", "-Wall", "-fsyntax-only", *includes, str(HARNESS / "threads.cpp")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]


def test_what_it_plants_and_runs_is_there():
    script = (HARNESS / "sanitize.sh").read_text()
    planted = re.findall(r'^plant \S+ \S+ (\S+) "(.*?)"', script, re.MULTILINE)
    assert len(planted) == 3
    for source, old in planted:
        assert (ROOT / source).read_text().count(old) == 1
    files = re.findall(r"tests/spae_ops/test_\w+\.py", script)
    assert len(files) > 10
    assert all((ROOT / file).is_file() for file in files)
