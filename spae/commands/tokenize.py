"""`spae tokenize`: any data to a collection of tokens."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from spae.commands import add_model

ABOUT = "Any data to shards of ids, as many as there are, by as many processes."


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The same command goes on where it was interrupted. Under torchrun or accelerate launch, or started "
        "several times, the processes share the work; --ray N makes a Ray Data job of it."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder, tar shards, hf:NAME, cifar10:ARCHIVE, a packaged set's name, or a mapping in JSON",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the shards")
    add_model(parser)
    parser.add_argument("--split", help="of the data; needed where it has its own (default: all)")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument(
        "--form", default="npy", help="of the shards: npy, tar or parquet, which needs pyarrow (default: npy)"
    )
    parser.add_argument("--shard-size", type=int, default=10_000, help="images a shard (default: 10000)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument(
        "--loaders", type=int, default=1, help="processes that read images; 0: a thread (default: 1)"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda (each process its own), cuda:1, .. (default: cpu)"
    )
    parser.add_argument("--ray", type=int, metavar="N", help="as a Ray Data job of N actors")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> None:
    from spae.scale import TokenizeConfig, tokenize_collection, tokenize_on_ray

    config = TokenizeConfig(
        form=arguments.form,
        split=arguments.split,
        layers=arguments.layers,
        shard_size=arguments.shard_size,
        batch_size=arguments.batch_size,
        loaders=arguments.loaders,
    )
    model, source, out = arguments.model, arguments.source, arguments.out
    if arguments.ray is not None:
        gpus = 1 if arguments.device.startswith("cuda") else 0
        report = tokenize_on_ray(model, source, out, config, workers=arguments.ray, num_gpus=gpus)
    else:
        report = tokenize_collection(model, source, out, config, device=arguments.device)
    if arguments.json:
        skipped = [image._asdict() for image in report.skipped]
        print(json.dumps({**report._asdict(), "skipped": skipped}))
        return
    rate = f", {report.encoded / report.seconds:,.1f} a second" if report.encoded and report.seconds else ""
    print(f"{out}: {report.images:,} images; {report.encoded:,} encoded here and now{rate}")
    if report.skipped:
        total = report.images + len(report.skipped)
        print(
            f"spae tokenize: {len(report.skipped):,} of {total:,} images could not be read; "
            f'the shards\' .json files list them under "skipped"',
            file=sys.stderr,
        )
