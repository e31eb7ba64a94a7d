"""`spae train`: a tokenizer from a preset."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ABOUT = "Train a tokenizer; run it again to go on where it stopped."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mnist", help="a preset's name or a JSON file (default: mnist)")
    parser.add_argument(
        "--data",
        help="in place of the preset's: a folder of images or of shards, a packaged set, or KIND:PLACE; what "
        "has no splits is split",
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override, e.g. train.steps=500 or model.rule=rq",
    )


def run(arguments: argparse.Namespace) -> int:
    from spae.training.presets import load_preset
    from spae.training.run import train

    out = arguments.out or Path("runs") / Path(arguments.preset).stem
    data = [] if arguments.data is None else [f"data={json.dumps(arguments.data)}"]
    finished = train(load_preset(arguments.preset, [*data, *arguments.set]), out)
    print(f"{out / 'model'}: trained" if finished else f"stopped; the same command goes on from {out}")
    return 0 if finished else 130
