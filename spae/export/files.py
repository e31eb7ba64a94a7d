"""What is written beside exported graphs: what their ids mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spae.processing import FILE as PROCESSOR
from spae.tokenizers import Tokenizer

TOKENS = "tokens.json"


def about(model: Tokenizer, num_layers: int | None = None) -> dict[str, Any]:
    """What the ids of a tokenizer's first layers mean, as JSON values.

    "class", "image" ([C, *image_size], in [-1, 1]), "shape" and "grids" of the pyramid's first `num_layers`
    (None: all); "words" by id, "llm_ids", null for a codebook of no language, and the codebook's "checksum".
    """
    pyramid = model.pyramid if num_layers is None else model.pyramid.upto(num_layers)
    ids = model.codebook.llm_ids
    return {
        "class": type(model).__name__,
        "image": [model.config.in_channels, *model.config.image_size],
        "shape": list(pyramid.shape),
        "grids": [list(grid) for grid in pyramid.grids],
        "words": list(model.codebook.words),
        "llm_ids": None if ids is None else ids.tolist(),
        "checksum": model.codebook.checksum,
    }


def write_about(model: Tokenizer, folder: Path, num_layers: int | None) -> list[Path]:
    """Write `about` and the processor into a folder, made if need be; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about(model, num_layers), ensure_ascii=False)
    (folder / TOKENS).write_text(text + "\n", encoding="utf-8")
    if model.config.ndim != 2 or model.config.in_channels not in (1, 3):
        return [folder / TOKENS]
    model.processor.save(folder)
    return [folder / TOKENS, folder / PROCESSOR]
