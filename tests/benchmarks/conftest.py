import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The benchmarks are no part of the installed package; `python -m pytest` finds them, `pytest` alone does not.
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def bench():
    """bench(question, *arguments) -> CompletedProcess of `python -m benchmarks`, once round, in one thread."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "benchmarks",
            *map(str, arguments),
            "--repeats",
            "1",
            "--threads",
            "1",
        ]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)

    return run
