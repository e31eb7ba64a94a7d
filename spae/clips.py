"""Clips beside their reconstructions as an animated page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spae.data.images import to_bytes
from spae.figures import shown
from spae.optional import needs
from spae.tokenizers import PyramidTokens, Tokenizer
from spae_ops import Pyramid

_LEAST_SIDE = 96  # pixels of a clip on the page, so that a title fits over it
_LINE, _GAP = 14, 6
_MILLISECONDS = 120  # a frame


def clip_page(model: Tokenizer, clips: Tensor, tokens: PyramidTokens, path: Path) -> None:
    """Draw an animated GIF: a row for each clip, with the original, its reconstructions from 1..L layers and,
    below, what its words of layers with one word a frame say of the frame that is shown.

    clips: [B, C, T, H, W] in [-1, 1]; tokens: all layers of them.
    """
    Image, ImageDraw, font = _pillow()
    counts = [tokens.pyramid.num_tokens_upto(number) for number in range(1, tokens.num_layers + 1)]
    shown_clips = [clips, *(model.decode(tokens.upto(n)).detach() for n in range(1, tokens.num_layers + 1))]
    titles = ["original", *(f"{count} word{'s' * (count > 1)}" for count in counts)]
    scale = max(1, -(-_LEAST_SIDE // clips.shape[-1]))
    height, width = clips.shape[-2] * scale, clips.shape[-1] * scale
    columns, row = width + _GAP, height + _LINE + _GAP
    causal = getattr(model.config, "causal", False)
    words = [
        frame_words(layers, tokens.pyramid, clips.shape[2], causal=causal) for layers in model.words(tokens)
    ]
    pages = []
    for time in range(clips.shape[2]):
        page = Image.new("RGB", (columns * len(titles) + _GAP, row * len(clips) + _LINE + _GAP), "white")
        draw = ImageDraw.Draw(page)
        for column, (title, videos) in enumerate(zip(titles, shown_clips, strict=True)):
            left = _GAP + column * columns
            draw.text((left, 2), title, fill="black", font=font)
            for number, pixels in enumerate(_enlarged(videos[:, :, time], scale)):
                page.paste(Image.fromarray(pixels), (left, _LINE + _GAP + number * row))
        for number, said in enumerate(words):
            place = (_GAP, _LINE + _GAP + number * row + height + 1)
            draw.text(
                place, said[time].encode("latin-1", "replace").decode("latin-1"), fill="black", font=font
            )
        pages.append(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=_MILLISECONDS, loop=0)


def frame_words(layers: list[list[str]], pyramid: Pyramid, frames: int, *, causal: bool) -> list[str]:
    """For each of a clip's frames its words of the layers that have one a frame or one in all.

    layers: of one clip (`words(tokens)[clip]`). frames: T. causal: of T' latent frames the first stands
    alone, for T is 1 + f (T' - 1); otherwise all span as many.
    """
    cells = pyramid.shape[0]
    factor = max(1, frames - 1) // max(1, cells - 1) if causal else frames // cells
    said = []
    for time in range(frames):
        cell = -(-time // factor) if causal else time // factor
        spoken = [
            shown(words[cell * grid[0] // cells])
            for words, grid in zip(layers, pyramid.grids, strict=False)
            if set(grid[1:]) == {1}
        ]
        said.append("  ".join(spoken))
    return said


def _enlarged(images: Tensor, scale: int) -> list[Any]:
    """Images [B, 1 or 3, H, W] as uint8 [H * scale, W * scale, 3] each."""
    wide = F.interpolate(images.float().cpu().expand(-1, 3, -1, -1), scale_factor=float(scale))
    return list(to_bytes(torch.as_tensor(wide)))


def _pillow() -> tuple[Any, Any, Any]:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(needs("drawing clips", "pillow")) from error
    return Image, ImageDraw, ImageFont.load_default()
