"""Images and tokens as files: PNG and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spae.data.images import to_bytes
from spae.optional import needs
from spae.processing import ImageProcessor
from spae.tokenizers import PyramidTokens, SPAEConfig, Tokenizer

__all__ = ["load_images", "save_image", "to_bytes", "tokens_from_json", "tokens_to_json"]

FORMAT = "spae-tokens-1"


def load_images(paths: Sequence[Path], config: SPAEConfig) -> Tensor:
    """Image files as a model's images, float32 [B, C, H, W] in [-1, 1], as its default processor reads them
    (`Tokenizer.preprocess` is the model's own)."""
    if config.ndim != 2 or config.in_channels not in (1, 3):
        raise ValueError(f"config: image files are for 2D models of 1 or 3 channels, got {config}")
    height, width = config.image_size
    return ImageProcessor((height, width), config.in_channels).preprocess(list(paths))


def save_image(image: Tensor, path: Path) -> None:
    """One image [C, H, W] in [-1, 1], C = 1 or 3, as an 8-bit file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("writing images", "pillow")) from error
    pixels = to_bytes(image)
    Image.fromarray(pixels if len(image) == 3 else pixels[..., 0]).save(path)


def tokens_to_json(model: Tokenizer, tokens: PyramidTokens, names: Sequence[Path | str]) -> dict[str, Any]:
    """Tokens with their words and the codebook they index, as plain JSON values."""
    rows = [
        {"name": str(name), "ids": ids, "words": words}
        for name, ids, words in zip(names, tokens.ids.tolist(), model.words(tokens), strict=True)
    ]
    return {"format": FORMAT, "codebook": model.codebook_identity(), "images": rows}


def tokens_from_json(model: Tokenizer, values: dict[str, Any]) -> tuple[list[str], PyramidTokens]:
    """The inverse of `tokens_to_json`, by ids. Raises ValueError for tokens of another codebook."""
    if values.get("format") != FORMAT:
        raise ValueError(f"tokens: expected the format {FORMAT!r}, got {values.get('format')!r}")
    own = model.codebook_identity()
    if values["codebook"]["checksum"] != own["checksum"]:
        raise ValueError(f"tokens: made with the codebook {values['codebook']}, the model has {own}")
    rows = values["images"]
    ids = torch.tensor([row["ids"] for row in rows], dtype=torch.int64)
    return [row["name"] for row in rows], PyramidTokens(ids, model.pyramid)
