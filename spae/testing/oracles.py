"""What every op must compute, written again from the paper in NumPy and float64: slow, whole, without shared
code.

Arrays may be NumPy arrays or torch tensors of any float dtype; an [N, K] matrix is held, so keep them small.
"""

from __future__ import annotations

from itertools import product
from math import ceil
from typing import Any

import numpy as np

LANES = 32


def as_float64(values: Any) -> np.ndarray:
    """A NumPy array or a torch tensor (bf16 too) as a float64 array of the same values."""
    return (
        values.detach().cpu().double().numpy()
        if hasattr(values, "detach")
        else np.asarray(values, np.float64)
    )


def as_int64(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values, np.int64)


def squared_distances(x: Any, codes: Any) -> np.ndarray:
    """All squared distances by the definition of `spae_ops.squared_distance`: x [N, D], codes [K, D] ->
    float64 [N, K]."""
    x, codes = as_float64(x), as_float64(codes)
    width = -(-x.shape[1] // LANES) * LANES
    lanes = np.zeros((len(x), len(codes), LANES))
    for start in range(0, width, LANES):
        stop = min(start + LANES, x.shape[1])
        t = x[:, None, start:stop] - codes[None, :, start:stop]
        high = round_to_26_bits(t)
        low = t - high
        part = lanes[:, :, : stop - start]
        part += high * high
        part += 2 * high * low
        part += low * low
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    return lanes[:, :, 0]


def round_to_26_bits(t: np.ndarray) -> np.ndarray:
    """float64 values rounded to 26 significant bits, halves away from zero."""
    mantissa, exponent = np.frexp(t)
    scaled = np.ldexp(np.abs(mantissa), 26)
    whole = np.floor(scaled)
    whole += scaled - whole >= 0.5
    return np.copysign(np.ldexp(whole, exponent - 26), t)


def topk_codes(x: Any, codes: Any, k: int, mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The k codes of lowest (squared distance, id) per query: ids int64 [N, k], squared distances float64 [N,
    k]."""
    distances = squared_distances(x, codes)
    if mask is not None:
        distances[:, ~np.asarray(mask, bool)] = np.inf
    ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(distances, ids, axis=1)


def positions(shape: tuple[int, ...], grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Positions of a layer's tokens, 0-based, from eq. 1 as printed (1-based)."""
    axes = []
    for size, cells in zip(shape, grid, strict=True):
        ratio = size // cells
        axes.append([h * ratio - ceil(ratio / 2) + 1 - 1 for h in range(1, cells + 1)])
    return list(product(*axes))


def pyramid_quantize(
    z: Any,
    codes: Any,
    shape: tuple[int, ...],
    grids: tuple[tuple[int, ...], ...],
    rule: str = "saq",
    mask: Any = None,
) -> np.ndarray:
    """Ids int64 [B, num_tokens] of latents [B, D, *shape], one lookup at a time in the paper's order (eqs. 2,
    3). mask: bool [K], or [L, K] with a row for each layer."""
    z, codes = as_float64(z), as_float64(codes)
    masks = [None] * len(grids) if mask is None else np.broadcast_to(mask, (len(grids), len(codes)))
    rows = []
    for image in z:
        chosen: dict[tuple[int, ...], list[int]] = {}
        row = []
        for grid, allowed in zip(grids, masks, strict=True):
            for position in positions(shape, grid):
                earlier = chosen.setdefault(position, [])
                latent = image[(slice(None), *position)]
                total = np.zeros_like(latent)
                for code in earlier:
                    total = total + codes[code]
                query = (len(earlier) + 1) * latent - total if rule == "saq" else latent - total
                query = query.astype(np.float32)
                row.append(int(topk_codes(query[None], codes, 1, allowed)[0][0, 0]))
                earlier.append(row[-1])
        rows.append(row)
    return np.array(rows, np.int64).reshape(len(z), sum(len(positions(shape, grid)) for grid in grids))


def pyramid_dequantize(
    ids: Any,
    codes: Any,
    shape: tuple[int, ...],
    grids: tuple[tuple[int, ...], ...],
    rule: str = "saq",
    fill: str = "nearest",
) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [B, D, *shape] and covered bool [*shape] of ids in the layers `grids` (eq. 3)."""
    ids, codes = as_int64(ids), as_float64(codes)
    features = np.zeros((len(ids), codes.shape[1], *shape), np.float64)
    counts = np.zeros(shape, np.int64)
    order = [position for grid in grids for position in positions(shape, grid)]
    for token, position in enumerate(order):
        features[(slice(None), slice(None), *position)] += codes[ids[:, token]]
        counts[position] += 1
    if rule == "saq":
        features /= np.maximum(counts, 1)
    covered = counts > 0
    if fill == "nearest":
        finest = max(reversed(grids), key=lambda grid: int(np.prod(grid)))  # the deepest, where several are
        cells = positions(shape, finest)
        for position in product(*(range(size) for size in shape)):
            if not covered[position]:
                cell = tuple(p // (s // g) for p, s, g in zip(position, shape, finest, strict=True))
                source = cells[int(np.ravel_multi_index(cell, finest))]
                features[(slice(None), slice(None), *position)] = features[
                    (slice(None), slice(None), *source)
                ]
    return features.astype(np.float32), covered


def distance_cross_entropy(x: Any, codes: Any, target: Any, temperature: float = 1.0) -> np.ndarray:
    """-log softmax of -||x - c||^2 / temperature at the target, float64 [N] (eq. 7)."""
    distances, target = squared_distances(x, codes), as_int64(target)[:, None]
    own = np.take_along_axis(distances, target, 1)
    np.put_along_axis(distances, target, np.inf, 1)
    # log(1 + sum of e^ahead over the others): as accurate where that is 1e-12 as where it is large.
    with np.errstate(over="ignore"):
        ahead = (own - distances) / temperature
    return np.logaddexp.reduce(np.concatenate([np.zeros_like(own), ahead], axis=1), axis=1)


def semantic_pools(scores: Any, thresholds: Any) -> list[list[set[int]]]:
    """For each image and layer the words whose score, from 0 for the worst to 1 for the best, reaches the
    threshold (eqs. 4 to 6)."""
    pools = []
    for row in as_float64(scores):
        span = row.max() - row.min()
        relative = (row - row.min()) / span if span > 0 else np.ones_like(row)
        pools.append([set(np.flatnonzero(relative >= rho).tolist()) for rho in thresholds])
    return pools


def semantic_loss(
    z: Any,
    ids: Any,
    codes: Any,
    shape: tuple[int, ...],
    grids: tuple[tuple[int, ...], ...],
    targets: list[Any],
    rule: str = "saq",
    temperature: float = 1.0,
) -> float:
    """Eq. 7 for targets int64 [B, n_l] of the first layers: the mean over layers of the mean over images and
    positions."""
    z, ids, codes = as_float64(z), as_int64(ids), as_float64(codes)
    layers: list[list[float]] = [[] for _ in targets]
    for image in range(len(z)):
        chosen: dict[tuple[int, ...], np.ndarray] = {}
        counts: dict[tuple[int, ...], int] = {}
        token = 0
        for layer in range(len(targets)):
            for place, position in enumerate(positions(shape, grids[layer])):
                latent = z[(image, slice(None), *position)]
                total, count = chosen.get(position, np.zeros_like(latent)), counts.get(position, 0)
                query = (count + 1) * latent - total if rule == "saq" else latent - total
                target = as_int64(targets[layer])[image, place : place + 1]
                layers[layer].append(distance_cross_entropy(query[None], codes, target, temperature)[0])
                chosen[position], counts[position] = total + codes[ids[image, token]], count + 1
                token += 1
    return float(np.mean([np.mean(values) for values in layers]))
