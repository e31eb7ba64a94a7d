"""How much memory `spae encode` and `spae decode` take at their most, for more and more images.

    python tests/users/memory.py --model emoji64 --counts 500 1000 5000

Not a test: it takes minutes. It prints a table (Markdown) of the peak resident memory of each command, and
fails if the most images took over a tenth more than the fewest. What is held beyond a batch is an image's path
(`test_nothing_is_held_of_what_was_encoded`); the rest of a difference is memory that the allocator keeps free.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 500  # pictures; further files are links to them


def write_images(folder: Path, count: int) -> None:
    """Pictures of 64x64 pixels: coloured cells, no two of the first 500 alike."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        if number < DISTINCT:
            cells = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number:05}.png")
            made.append(folder / f"{number:05}.png")
        else:
            os.link(made[number % DISTINCT], folder / f"{number:05}.png")


def peak(*command: str) -> tuple[float, float]:
    """Runs `spae` with arguments: its peak resident memory in MB, and seconds."""
    start = time.monotonic()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "spae", *command],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"spae {' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / (1 if sys.platform == "darwin" else 1024), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 1000, 5000])
    arguments = parser.parse_args()
    # torch is not imported here: what a child measures begins with what its parent had at its most.
    print(f"{arguments.model}, torch {version('torch')}, Python {platform.python_version()}\n")
    print("| images | `spae encode`, MB | `spae decode`, MB | seconds |\n| --- | --- | --- | --- |")
    peaks: list[tuple[float, float]] = []
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as temporary:
            folder, tokens = Path(temporary, "images"), Path(temporary, "tokens.jsonl")
            folder.mkdir()
            write_images(folder, count)
            chosen = ("--model", arguments.model)
            encode, encoding = peak("encode", str(folder), "--out", str(tokens), *chosen)
            decode, decoding = peak("decode", str(tokens), "--out", f"{temporary}/decoded", *chosen)
            drawn = sum(1 for _ in Path(temporary, "decoded").rglob("*.png"))
        if drawn != count:
            sys.exit(f"images: expected {count} decoded, got {drawn}")
        print(f"| {count:,} | {encode:.0f} | {decode:.0f} | {encoding:.0f}, {decoding:.0f} |", flush=True)
        peaks.append((encode, decode))
    if any(last > 1.1 * first for first, last in zip(peaks[0], peaks[-1], strict=True)):
        sys.exit("memory: expected as much for the most images as for the fewest, give or take a tenth")


if __name__ == "__main__":
    main()
