"""The one way to read a picture: files, bytes and Pillow images as training, commands and processors see
them."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spae.data.packaged import check_size
from spae.optional import needs

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Fit = Literal["crop", "pad"]
BACKGROUND = "white"
Size = int | tuple[int, ...]
"""Pixels a side; (height, width); or (frames, height, width) for video."""


def open_image(source: Any, name: object = None, *, background: str = BACKGROUND) -> PILImage:
    """A picture as a Pillow image of mode RGB, 8 bits, turned upright.

    - The camera's orientation (EXIF) is applied.
    - What is transparent shows the background.
    - 16 bits a channel count as 0..65535, 32-bit floats as 0..1; both are rounded to 8 bits.
    - CMYK, palettes, grey and the like are converted; colour profiles are not looked at.
    - Of an animation the first frame is taken; of a Pillow image the frame that it is at.

    Args:
        source: path, bytes, binary stream or Pillow image, which is left as it is.
        name: what errors call it; None: the path, or "image".
        background: a colour as Pillow names them.

    Raises:
        ImportError: Pillow is missing.
        OSError: the file is missing or may not be read.
        ValueError: no image, a damaged one, one without a known range of values, or one of more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS` (None there lifts the limit); the message has the name.
    """
    Image = _pillow()
    if name is None:
        name = source if isinstance(source, str | os.PathLike) else "image"
    try:
        if isinstance(source, Image.Image):
            return _on_background(_upright(source), background, name)  # pyright: ignore
        with Image.open(_readable(source)) as image:
            _check_pixels(image, name)
            return _on_background(_upright(image), background, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ValueError(
            f"{name}: expected at most {limit} pixels (PIL.Image.MAX_IMAGE_PIXELS), got more ({error})"
        ) from error
    except _Refused:
        raise
    except OSError as error:
        if error.errno is not None:  # of the file system, which has its own words for it
            raise
        raise ValueError(f"{name}: expected an image, got what cannot be read as one ({error})") from error
    except Exception as error:  # decoders raise anything for damaged files: struct.error, IndexError, ..
        raise ValueError(f"{name}: expected an image, got what cannot be read as one ({error})") from error


def fit_image(
    image: PILImage, size: tuple[int, int], fit: Fit = "crop", *, background: str = BACKGROUND
) -> PILImage:
    """An RGB image brought to (height, width), bicubic and with its proportions kept.

    fit: "crop" fills the frame and keeps the middle, "pad" shows everything on the background.
    """
    from PIL import Image, ImageOps

    height, width = size
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BICUBIC, color=background)
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def to_tensor(image: PILImage) -> Tensor:
    """An RGB or grey (L) Pillow image as float32 [C, H, W] in [-1, 1]."""
    pixels = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1


def to_bytes(image: Tensor) -> NDArray[np.uint8]:
    """Float [.., C, H, W] in [-1, 1], clamped there -> uint8 [.., H, W, C]."""
    values = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return values.movedim(-3, -1).numpy()


def check_shape(size: Size) -> tuple[int, ...]:
    """A `Size` as (height, width) or (frames, height, width).

    Raises ValueError for another number of axes, sides out of range, or no frame.
    """
    shape: tuple[Any, ...] = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(shape) not in (2, 3) or any(not isinstance(n, int) for n in shape) or shape[0] < 1:
        raise ValueError(f"size: expected (height, width) or (frames, height, width), got {size!r}")
    for side in shape[-2:]:
        check_size(side, most=4096)
    return shape


def read_image(source: Any, size: Size, name: object = None) -> Tensor:
    """A picture (`open_image`, which says what may be the source) as float32 [3, height, width] in [-1, 1],
    the middle kept; with (frames, height, width) an animation, of which so many frames are taken in equal
    distances from the first to the last, as float32 [3, frames, height, width].

    Raises what `open_image` does, and ValueError with the name for an animation of too few frames.
    """
    *frames, height, width = check_shape(size)
    if not frames:
        return to_tensor(fit_image(open_image(source, name), (height, width)))
    open_image(source, name)  # raises for what is no sound picture, by its name
    from PIL import Image

    if isinstance(source, Image.Image):
        return _frames(source, frames[0], (height, width), name)
    if hasattr(source, "seek"):
        source.seek(0)
    with Image.open(source) as animation:
        return _frames(animation, frames[0], (height, width), name or source)


def _frames(animation: Any, frames: int, size: tuple[int, int], name: object) -> Tensor:
    found = getattr(animation, "n_frames", 1)
    if found < frames:
        raise ValueError(f"{name}: expected at least {frames} frames, got {found}")
    pictures = []
    for number in np.linspace(0, found - 1, frames).round().astype(int).tolist():
        try:
            animation.seek(number)
        except Exception as error:  # decoders raise anything for damaged files
            raise ValueError(
                f"{name}: expected {frames} frames, got number {number} damaged ({error})"
            ) from error
        pictures.append(to_tensor(fit_image(open_image(animation, name), size)))
    return torch.stack(pictures, 1)


class _Refused(ValueError):
    """A sound file that is refused, with the reason."""


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("reading images", "pillow")) from error
    return Image


def _readable(source: Any) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source


def _check_pixels(image: PILImage, name: object) -> None:
    """Pillow only warns up to twice its limit; a data set's odd giant had better have a name."""
    limit = _pillow().MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _Refused(
            f"{name}: expected at most {limit:,} pixels (PIL.Image.MAX_IMAGE_PIXELS), "
            f"got {image.width} x {image.height}"
        )


def _upright(image: PILImage) -> PILImage:
    from PIL import ImageOps

    image.load()  # what is truncated raises here, not inside the next line
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF beside a sound picture says nothing about its orientation
        return image.copy()


def _on_background(image: PILImage, background: str, name: object) -> PILImage:
    Image = _pillow()
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image, name)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        if image.mode == "La":  # Pillow has no way from here to RGBA but this
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def _eight_bits(image: PILImage, name: object) -> PILImage:
    """Grey of 16-bit integers or 32-bit floats, with its one transparent value if it has one."""
    Image = _pillow()
    values = np.asarray(image)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # nan too
        kind = "floats from 0 to 1" if image.mode == "F" else "integers from 0 to 65535"
        raise _Refused(f"{name}: expected {kind} in an image of mode {image.mode}, got {low} to {high}")
    grey = Image.fromarray((values.astype(np.float64) * (255 / top)).round().astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
