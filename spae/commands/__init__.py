"""The command line's verbs, and what they share. Each imports its floor only when it runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any


def command(commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], about: str):
    """Add a verb that calls `run` with its arguments."""
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="mnist", help="a bundled model's name or a folder (default: mnist)"
    )


def own_command() -> str:
    """The command line as the user gave it, for reports."""
    return shlex.join(["spae", *sys.argv[1:]])
