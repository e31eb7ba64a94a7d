"""`spae bench`: the kernels against their peers."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ABOUT = "Time our kernels against their peers (from a checkout)."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to python -m benchmarks")


def run(arguments: argparse.Namespace) -> int:
    if not Path("benchmarks/__main__.py").is_file():
        raise FileNotFoundError(
            "benchmarks: expected the repository's folder of that name, got none here: run this in a checkout"
        )
    return subprocess.call([sys.executable, "-m", "benchmarks", *arguments.arguments])
