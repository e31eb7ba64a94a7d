"""Images and tokens as files: PNG and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spae.tokenizers import PyramidTokens, SPAEConfig, Tokenizer

FORMAT = "spae-tokens-1"


def load_images(paths: Sequence[Path], config: SPAEConfig) -> Tensor:
    """Image files as float32 [B, C, H, W] in [-1, 1], resized to the model's size (bicubic, aspect not
    kept)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "spae[demo]"') from error
    if config.ndim != 2 or config.in_channels not in (1, 3):
        raise ValueError(f"config: image files are for 2D models of 1 or 3 channels, got {config}")
    height, width = config.image_size
    arrays = []
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB" if config.in_channels == 3 else "L")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            arrays.append(np.asarray(image, np.float32).reshape(height, width, -1))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def save_image(image: Tensor, path: Path) -> None:
    """One image [C, H, W] in [-1, 1], C = 1 or 3, as an 8-bit file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('writing images needs Pillow: pip install "spae[demo]"') from error
    pixels = to_bytes(image)
    Image.fromarray(pixels if len(image) == 3 else pixels[..., 0]).save(path)


def to_bytes(image: Tensor) -> np.ndarray:
    """[C, H, W] in [-1, 1] -> uint8 [H, W, C]."""
    return ((image.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


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
