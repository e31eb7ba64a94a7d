"""`spae ablate`: the nine rows of the paper's ablation, trained and measured side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spae.commands import own_command

ABOUT = "Train the nine rows of the paper's ablation from a preset; run it again to go on where it stopped."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        default="mnist-semantic",
        help="a preset's name or a JSON file, with semantic guidance and a perceptual loss and without "
        "vocabularies by layer (default: mnist-semantic, with --set objective.perceptual=lite0)",
    )
    parser.add_argument("--out", type=Path, help="folder of all runs (default: runs/ablate-PRESET)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    parser.add_argument("--steps", type=int, help="of each run (default: the preset's)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="by name (default: all nine)")
    parser.add_argument("--images", type=int, default=500, help="held-out ones measured on (default: 500)")
    parser.add_argument("--episodes", type=int, default=500, help="of classification (default: 500)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override of every row, e.g. train.batch_size=16",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from spae.eval.ablation import Ablation, run_ablation, table, write

    out = arguments.out or Path("runs") / f"ablate-{Path(arguments.preset).stem}"
    steps = [] if arguments.steps is None else [f"train.steps={arguments.steps}"]
    chosen = Ablation(
        arguments.preset,
        out,
        (*steps, *arguments.set),
        tuple(arguments.seeds),
        tuple(arguments.rows),
        arguments.images,
        arguments.episodes,
    )
    report = run_ablation(chosen)
    if report is None:
        print(f"stopped; the same command goes on from {out}")
        return 130
    report = {"command": own_command(), **report}
    write(report, out)
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0
