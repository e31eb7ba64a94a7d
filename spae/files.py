"""Images as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from spae.data.images import to_bytes
from spae.data.sound import SoundProcessor, write_wav
from spae.optional import needs
from spae.processing import ImageProcessor
from spae.tokenizers import SPAEConfig, Tokenizer

__all__ = ["load_images", "save_image", "save_sound", "to_bytes", "writer"]


def load_images(paths: Sequence[Path], config: SPAEConfig) -> Tensor:
    """Image files as a model's images, float32 [B, C, H, W] in [-1, 1], as its default processor reads them
    (`Tokenizer.preprocess` is the model's own)."""
    if config.ndim != 2 or config.in_channels not in (1, 3):
        raise ValueError(f"config: expected that of a 2D model of 1 or 3 channels, got {config}")
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


def save_sound(image: Tensor, path: Path, processor: SoundProcessor) -> None:
    """One image [1, bands, frames] of a model of sound, as a WAV file."""
    (samples,) = processor.postprocess(image[None])
    write_wav(samples, path, processor.rate)


def writer(model: Tokenizer) -> tuple[str, Callable[[Tensor, Path], None]]:
    """How the files of a model's images end, ".png" or ".wav", and what writes one."""
    processor = model.processor
    if isinstance(processor, SoundProcessor):
        return ".wav", lambda image, path: save_sound(image, path, processor)
    return ".png", save_image
