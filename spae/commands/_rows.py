"""Arguments of the commands that train a preset in several rows (`spae ablate`, `spae baselines`)."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_rows(parser: argparse.ArgumentParser, *, command: str, preset: str, about: str) -> None:
    """about: of the preset, which is `preset` by default."""
    parser.add_argument("--preset", default=preset, help=f"{about} (default: {preset})")
    parser.add_argument("--out", type=Path, help=f"folder of all runs (default: runs/{command}-PRESET)")
    parser.add_argument("--steps", type=int, help="of each run (default: the preset's)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="by name (default: all)")
    parser.add_argument("--images", type=int, default=500, help="held-out ones measured on (default: 500)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of every row, e.g. train.batch_size=16",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def folder(arguments: argparse.Namespace, command: str) -> Path:
    """Where the runs are."""
    return arguments.out or Path("runs") / f"{command}-{Path(arguments.preset).stem}"


def overrides(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Of every row."""
    steps = () if arguments.steps is None else (f"train.steps={arguments.steps}",)
    return (*steps, *arguments.set)
