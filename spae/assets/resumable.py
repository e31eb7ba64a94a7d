"""Long computations over a list that go on where they stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def resumable(
    compute: Callable[[list[Any]], np.ndarray],
    items: Sequence[Any],
    parts: Path,
    *,
    chunk: int,
    progress: bool,
    what: str = "encoded",
) -> np.ndarray:
    """`compute(items)` chunk by chunk: [n, ...] for n items each, one after the other.

    Each chunk is kept in a file of its own in the folder `parts` as soon as it is done (written beside and
    renamed, so a part is whole or absent), and is not computed again. The caller removes the folder.
    """
    parts.mkdir(parents=True, exist_ok=True)
    done = []
    for number, start in enumerate(range(0, len(items), chunk)):
        part = parts / f"{number:05d}.npy"
        if part.exists():
            done.append(np.load(part))
            continue
        done.append(compute(list(items[start : start + chunk])))
        unfinished = part.with_suffix(".tmp")
        with unfinished.open("wb") as stream:
            np.save(stream, done[-1])
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, part)
        if progress:
            finished = min(start + chunk, len(items))
            end = "\n" if finished == len(items) else ""
            print(f"\rspae: {what} {finished} of {len(items)}", end=end, file=sys.stderr, flush=True)
    return np.concatenate(done)
