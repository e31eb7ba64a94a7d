"""`spae ablate`: the nine rows of the paper's ablation, trained and measured side by side."""

from __future__ import annotations

import argparse
import json

from spae.commands import own_command
from spae.commands._rows import add_rows, folder, overrides

ABOUT = "Train the nine rows of the paper's ablation from a preset; run it again to go on where it stopped."


def add(parser: argparse.ArgumentParser) -> None:
    add_rows(
        parser,
        command="ablate",
        preset="mnist-semantic",
        about="a preset's name or a JSON file, with semantic guidance and a perceptual loss (by default "
        "--set objective.perceptual=lite0) and without vocabularies by layer",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    parser.add_argument("--episodes", type=int, default=500, help="of classification (default: 500)")


def run(arguments: argparse.Namespace) -> int:
    from spae.eval.ablation import Ablation, run_ablation, table, write

    out = folder(arguments, "ablate")
    chosen = Ablation(
        arguments.preset,
        out,
        overrides(arguments),
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
