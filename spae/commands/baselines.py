"""`spae baselines`: other tokenizers trained as a SPAE is, and all of them on one page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spae.commands import own_command
from spae.commands._rows import add_rows, folder, overrides

ABOUT = "Train VQGAN, RQ, LQAE and V2L as a preset trains a SPAE; run it again to go on where it stopped."


def add(parser: argparse.ArgumentParser) -> None:
    add_rows(
        parser,
        command="baselines",
        preset="fashion-baselines",
        about="of a SPAE without vocabularies by layer: a name or a JSON file",
    )
    parser.add_argument("--words", type=Path, help="folder of V2L's (spae expand); none: no V2L")


def run(arguments: argparse.Namespace) -> int:
    from spae.eval.baselines import Baselines, run_baselines
    from spae.eval.run import find, table_of

    out = folder(arguments, "baselines")
    chosen = Baselines(
        arguments.preset,
        out,
        overrides(arguments),
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
