"""Codebooks and queries, the same on every run: everything random is drawn by NumPy from a fixed seed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spae.tokenizers import SPAE

SEED = 20230630
KINDS = ("random", "near-code", "latents")
NOISE = 0.3
_ROWS = 16384
BUNDLED = "bundled:"


def load_codes(source: str) -> tuple[str, np.ndarray]:
    """The codebook's name in the results, and its codes, float32 [K, D].

    source: "random:KxD" (standard normal), "bundled:NAME" (the codebook of a bundled tokenizer, normalised as
    that was trained), or what `Codebook.load` takes: "smollm2", "gemma3-65k", a folder.
    """
    if match := re.fullmatch(r"random:([1-9]\d*)x([1-9]\d*)", source):
        shape = int(match[1]), int(match[2])
        return source, np.random.default_rng(SEED).standard_normal(shape, np.float32)
    if source.startswith(BUNDLED):
        return source, _bundled(source).codebook.vectors.numpy()
    from spae.codebook import Codebook

    codebook = Codebook.load(source)
    return codebook.name, codebook.vectors.numpy()


def make_queries(kind: str, count: int, codes: np.ndarray, source: str) -> np.ndarray:
    """Queries, float32 [count, D].

    - random: each dimension normal, with the mean and standard deviation that the codes have in it;
    - near-code: a code drawn at random plus normal noise of expected norm 0.3 R, where R is the root mean
      square distance of the codes from their mean (for random codes, whose neighbours are about 1.4 R away,
      every query's nearest code is the one it was made from);
    - latents: what a bundled tokenizer computes from held-out digits, a sample without replacement of all
      positions of all images; only for "bundled:NAME", as they mean nothing to another codebook.
    """
    random = np.random.default_rng([SEED, KINDS.index(kind), count])
    if kind == "latents":
        rows = _latents(source)
        if count > len(rows):
            raise ValueError(f"queries: only {len(rows)} latents, got {count}")
        return rows[random.choice(len(rows), count, replace=False)]
    centre = codes.mean(0, dtype=np.float64)
    spread = codes.std(0, dtype=np.float64)
    if kind == "random":
        x = np.empty((count, codes.shape[1]), np.float32)
        for start in range(0, count, _ROWS):  # float64 of a million rows would be too much at once
            block = x[start : start + _ROWS]
            block[:] = centre + spread * random.standard_normal(block.shape)
        return x
    normal = random.standard_normal((count, codes.shape[1]))
    radius = np.sqrt(np.square(spread).sum())
    chosen = codes[random.integers(len(codes), size=count)]
    return (chosen + NOISE * radius / np.sqrt(codes.shape[1]) * normal).astype(np.float32)


def _bundled(source: str) -> SPAE:
    from spae.tokenizers import SPAE

    return SPAE.from_pretrained(source.removeprefix(BUNDLED))  # type: ignore[return-value]


def _latents(source: str) -> np.ndarray:
    if not source.startswith(BUNDLED):
        raise ValueError(f"kind: latents need the codebook bundled:NAME of their tokenizer, got {source!r}")
    import torch

    from spae.data import MNISTDigits

    images = MNISTDigits("test").images
    model = _bundled(source)
    with torch.no_grad():
        latents = torch.cat([model.latents(batch) for batch in images.split(50)])
    return latents.flatten(2).transpose(1, 2).flatten(0, 1).contiguous().numpy()


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values rounded to those that `dtype` ("float32", "float16", "bfloat16") can hold."""
    if dtype == "float32":
        return np.ascontiguousarray(values, np.float32)
    import torch

    return torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
