"""How fast `spae tokenize` is beside `SPAE.encode` alone, by processor time, so that other work on the same
machine does not count.

    python tests/users/rate.py 'cifar10/test-*.tar.gz' --model cifar10 --images 2000

Not a test: it takes minutes. `encode` is the same images, in memory, in the same batches. It prints a table
(Markdown) of seconds of processor time by how images are read, in turns with `encode`, and fails if either
rate is below 0.8 of `encode`'s.
"""

from __future__ import annotations

import argparse
import glob
import platform
import resource
import statistics
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

import spae
from spae.data import open_data
from spae.eval.images import stack
from spae.scale import TokenizeConfig, tokenize_collection
from spae.tokenizers.batches import encode_all

LEAST = 0.8


def seconds() -> tuple[float, float]:
    """Processor time of this process, and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def first(source: str, count: int, into: Path) -> str:
    """The first samples of webdataset's shards, byte by byte, as one shard; its specification."""
    names: set[str] = set()
    with tarfile.open(into, "w") as out:
        for shard in sorted(glob.glob(source)):
            with tarfile.open(shard) as archive:
                for entry in archive:
                    sample = entry.name.split(".")[0]
                    if sample not in names and len(names) == count:
                        return f"tar:{into}"
                    names.add(sample)
                    out.addfile(entry, archive.extractfile(entry))
    return f"tar:{into}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", help="webdataset's shards, a pattern")
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--loaders", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = spae.load(arguments.model)
    found: dict[int, list[tuple[float, float, float]]] = {loaders: [] for loaders in arguments.loaders}
    with tempfile.TemporaryDirectory() as temporary:
        source = first(arguments.source, arguments.images, Path(temporary, "first.tar"))
        data = open_data(source, None, image_size=model.config.image_size)
        images = stack(data, range(len(data)))
        encode_all(model, images[:64])  # what only the first batch pays
        for turn in range(arguments.rounds):
            for loaders, times in found.items():
                start = seconds()
                encode_all(model, images)
                middle = seconds()
                config = TokenizeConfig(loaders=loaders, progress=False)
                out = Path(temporary, f"{turn}-{loaders}")
                report = tokenize_collection(model, source, out, config)
                end = seconds()
                if report.encoded != len(images):
                    sys.exit(f"images: expected {len(images)} encoded, got {report.encoded}")
                times.append((middle[0] - start[0], end[0] - middle[0], end[1] - middle[1]))
    print(
        f"{arguments.model}, {len(images)} images, torch {version('torch')}, Python {platform.python_version()}\n"
    )
    print("| loaders | `encode`, s | `tokenize`, s | its loaders, s | rate of all over `encode`'s |")
    print("| --- | --- | --- | --- | --- |")
    low = 1.0
    for loaders, times in found.items():
        own, run, children = (statistics.median(column) for column in zip(*times, strict=True))
        rate = statistics.median(one / (two + three) for one, two, three in times)
        low = min(low, rate)
        print(f"| {loaders} | {own:.2f} | {run:.2f} | {children:.2f} | {rate:.2f} |")
    if low < LEAST:
        sys.exit(f"rate: expected at least {LEAST} of encode's, got {low:.2f}")


if __name__ == "__main__":
    main()
