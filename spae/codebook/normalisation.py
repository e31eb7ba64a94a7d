"""Fixed normalisations of a codebook's rows, the same bits on every host.

A codebook's checksum covers its normalised rows, so their last bit must not depend on threads or vector
width. Every sum below is one that NumPy evaluates in a fixed order: along the first axis of a contiguous
array, row after row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

KINDS = ("none", "centre", "unit", "centre+scale")
_ROWS = 256  # rows per step: bounds the memory, and is part of the order of the sums


def normalise_rows(rows: np.ndarray, kind: str) -> np.ndarray:
    """float32 [K, D] -> float32 [K, D], evaluated in float64; the formulas are in `Codebook.normalised`."""
    mean = _mean_row(rows) if kind in ("centre", "centre+scale") else np.zeros(rows.shape[1])
    scale = np.ones(len(rows))
    if kind == "unit":
        scale = np.concatenate([np.sqrt(_squared_norms(block)) for block in _blocks(rows)])
        if not scale.all():
            raise ValueError(
                "normalise: expected rows that are not zero, for 'unit', "
                f"got zeros in row {int(scale.argmin())}"
            )
    elif kind == "centre+scale":
        squared = np.concatenate([_squared_norms(block - mean) for block in _blocks(rows)])
        rms = math.sqrt(math.fsum(squared) / len(rows))
        if rms == 0:
            raise ValueError("normalise: expected rows that differ, for 'centre+scale', got equal ones")
        scale[:] = rms
    result = np.empty(rows.shape, dtype=np.float32)
    for start, block in zip(range(0, len(rows), _ROWS), _blocks(rows), strict=True):
        result[start : start + _ROWS] = (block - mean) / scale[start : start + _ROWS, None]
    return result


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS].astype(np.float64)


def _mean_row(rows: np.ndarray) -> np.ndarray:
    total = np.zeros(rows.shape[1])
    for block in _blocks(rows):
        total += np.add.reduce(block, axis=0)
    return total / len(rows)


def _squared_norms(block: np.ndarray) -> np.ndarray:
    return np.add.reduce(np.square(np.ascontiguousarray(block.T)), axis=0)
