"""Whose answers are right, settled in float64 before any time is looked at.

The judge is `spae.testing.oracles`, NumPy that shares no code with the library, on the values as given.
"""

from __future__ import annotations

import numpy as np

from spae.testing import oracles

SAMPLE = 256
_ROWS, _CODES = 64, 16384  # in float64 at a time: of a million codes all would take gigabytes
_SLACK = 1e-9  # relative; a float64 product of any length below a million is good to 1e-10


def nearest_by_definition(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """x [n, D], codes [K, D] -> int64 [n]: the lowest id of the lowest squared distance, by the oracle.

    The oracle sees all codes that a plain float64 evaluation cannot rule out with a wide margin.
    """
    blocks = [codes[start : start + _CODES] for start in range(0, len(codes), _CODES)]
    largest = np.sqrt(max(np.square(block.astype(np.float64)).sum(1).max() for block in blocks))
    ids = np.empty(len(x), np.int64)
    for start in range(0, len(x), _ROWS):
        q = x[start : start + _ROWS].astype(np.float64)
        norms = np.square(q).sum(1)
        distances = np.concatenate([_distances(q, norms, block) for block in blocks], 1)
        limits = distances.min(1) + _SLACK * np.square(np.sqrt(norms) + largest)
        for row, limit in enumerate(limits):
            candidates = np.flatnonzero(distances[row] <= limit)
            ids[start + row] = candidates[oracles.topk_codes(q[row : row + 1], codes[candidates], 1)[0][0, 0]]
    return ids


def _distances(q: np.ndarray, norms: np.ndarray, codes: np.ndarray) -> np.ndarray:
    table = codes.astype(np.float64)
    return np.square(table).sum(1) - 2 * q @ table.T + norms[:, None]


def count_mismatches(
    x: np.ndarray, codes: np.ndarray, answers: dict[str, np.ndarray], ours: str | None
) -> tuple[dict[str, int], int]:
    """How many ids of each contestant are wrong, and how many rows were compared.

    The oracle decides a sample of 256 rows and up to 256 of the rows on which anyone disagrees with `ours`;
    on the rest, `ours` does. Without `ours` only the sample is compared.
    """
    sample = np.random.default_rng(0).permutation(len(x))[:SAMPLE]
    if ours is None:
        compared, decided = np.sort(sample), sample
        truth = np.full(len(x), -1)
    else:
        compared, truth = np.arange(len(x)), answers[ours].copy()
        disputed = np.any([ids != truth for ids in answers.values()], axis=0)
        decided = np.union1d(sample, np.flatnonzero(disputed)[:SAMPLE])
    truth[decided] = nearest_by_definition(x[decided], codes)
    return {name: int((ids != truth)[compared].sum()) for name, ids in answers.items()}, len(compared)


def loss_and_gradient(
    x: np.ndarray, codes: np.ndarray, target: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance cross-entropies and gradients in float64, on a sample: rows, loss [n], gradient [n, D]."""
    rows = np.sort(np.random.default_rng(0).permutation(len(x))[:SAMPLE])
    table = codes.astype(np.float64)
    centre = table.mean(0)
    table -= centre  # distances do not change, and less of them cancels
    squares = np.square(table).sum(1)
    loss, gradient = np.empty(len(rows)), np.empty((len(rows), codes.shape[1]))
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        own = target[rows[part]]
        q = x[rows[part]].astype(np.float64) - centre
        scores = (2 * q @ table.T - squares) / temperature
        excess = scores - scores[np.arange(len(q)), own][:, None]
        best = excess.max(1, keepdims=True)
        weights = np.exp(excess - best)
        total = weights.sum(1, keepdims=True)
        loss[part] = (best + np.log(total))[:, 0]
        gradient[part] = 2 / temperature * (weights @ table / total - table[own])
    return rows, loss, gradient
