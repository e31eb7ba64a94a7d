"""`spae baselines`: other tokenizers trained as a SPAE is, and all of them on one page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spae.commands import own_command

ABOUT = "Train VQGAN, RQ, LQAE and V2L as a preset trains a SPAE; run it again to go on where it stopped."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        default="fashion-baselines",
        help="of a SPAE without vocabularies by layer: a name or a JSON file (default: fashion-baselines)",
    )
    parser.add_argument("--words", type=Path, help="folder of V2L's (spae expand); none: no V2L")
    parser.add_argument("--out", type=Path, help="folder of all runs (default: runs/baselines-PRESET)")
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


def run(arguments: argparse.Namespace) -> int:
    from spae.eval.baselines import Baselines, run_baselines
    from spae.eval.run import find, table_of

    out = arguments.out or Path("runs") / f"baselines-{Path(arguments.preset).stem}"
    steps = [] if arguments.steps is None else [f"train.steps={arguments.steps}"]
    chosen = Baselines(
        arguments.preset,
        out,
        (*steps, *arguments.set),
        arguments.words,
        tuple(arguments.rows),
        arguments.images,
    )
    report = run_baselines(chosen, own_command())
    if report is None:
        print(f"stopped; the same command goes on from {out}")
        return 130
    print(json.dumps(report, indent=2) if arguments.json else table_of(find("reconstruction"), report))
    return 0
