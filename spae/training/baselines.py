"""Other tokenizers as overrides of a SPAE's preset: the same data, channels, steps and order, and as many
tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

_WORDS = 4096  # codes of a learned codebook


def baselines(
    size: int, multipliers: Sequence[int], words: str | Path | None = None
) -> dict[str, tuple[str, ...]]:
    """Overrides for `load_preset`, by the row's name, for a preset of a SPAE with latents of size x size.

    Rows are of size^2 tokens: "vqgan", "lqae" and "v2l-local" in one grid; "rq" in four of a side half as
    long, as RQ-VAE spends them; "spae-flat" in three such grids, behind layers of 1, 2, 4 .. tokens (one
    token fewer in all). "spae" and "v2l" have the preset's pyramid: V2L's layers before the last are its
    global words. "v2l-local-text" and "v2l-local-llm" are V2L's ablation of "v2l-local": its local words by
    the text encoder's vectors as they are, and by the language model's. Where the side is halved, the
    backbone has one more downsampling.

    The objective is the preset's, but only a SPAE's words are guided. Nothing has an adversary that the
    preset has not: a VQGAN of that name alone.

    multipliers: the preset's. words: a folder that `V2LWords` saved; None leaves V2L out.

    >>> list(baselines(8, [1, 2, 4]))
    ['vqgan', 'rq', 'lqae', 'spae-flat', 'spae']
    """
    if size < 2 or size & (size - 1):
        raise ValueError(f"size: expected a power of two, at least 2, got {size}")
    half = size // 2
    one, unguided = f"model.grids={[size]}", "objective.semantic=null"
    coarser = f"model.multipliers={[*multipliers, multipliers[-1]]}"
    learned = ("codebook={}", "model.latent_norm=none", f"model.codebook_size={_WORDS}", unguided)
    rows = {
        "vqgan": ("tokenizer=vqgan", *learned, one),
        "rq": ("tokenizer=rq", *learned, f"model.grids={[half] * 4}", coarser, "model.rule=rq"),
        "lqae": ("tokenizer=lqae", "codebook={}", "model.latent_norm=unit", unguided, one),
        "spae-flat": (f"model.grids={[*_halves(half), *[[half, half]] * 3]}", coarser),
        "v2l-local": (one,),
        "v2l-local-text": (one, "model.local_vectors=text"),
        "v2l-local-llm": (one, "model.local_vectors=llm"),
        "spae": (),
        "v2l": (),
    }
    if words is None:
        return {row: changes for row, changes in rows.items() if not row.startswith("v2l")}
    v2l = (
        "tokenizer=v2l",
        f"codebook={json.dumps({'folder': str(words)})}",
        "model.latent_norm=matched",
        "model.image_encoder=conse",
        unguided,
    )
    return {row: (*v2l, *changes) if row.startswith("v2l") else changes for row, changes in rows.items()}


def _halves(size: int) -> list[list[int]]:
    """Grids of 1, 2, 4 .. tokens, each twice the one before, as far as they have fewer than size x size.

    >>> _halves(4)
    [[1, 1], [1, 2], [2, 2], [2, 4]]
    """
    grids = []
    side = 1
    while side < size:
        grids += [[side, side], [side, 2 * side]]
        side *= 2
    return grids
