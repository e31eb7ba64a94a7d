"""Between pictures as users have them and images as tokenizers take them: float32 [B, C, H, W] in [-1, 1]."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spae.configs import Count, checked, read_object
from spae.data.images import BACKGROUND, Fit, fit_image, open_image, to_bytes, to_tensor
from spae.data.processor import FILE, Processor
from spae.data.sound import SoundProcessor

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Layout = Literal["chw", "hwc"]

# Resampling overshoots at edges by a tenth of the range; statistics of ImageNet reach 2.1 and beyond.
_MOST = 1.5
_MANY = 8  # images that are all brighter than mid-grey are hardly pictures in [-1, 1]


@dataclass(frozen=True)
class ImageProcessor(Processor):
    """Brings pictures of any kind and size to a tokenizer's images as training does, and images back.

    image_size: (height, width) in pixels. channels: 3, or 1 for grey.
    fit: "crop" scales the shorter side and keeps the middle, as training on folders, shards and Hugging Face
        data sets does; "pad" keeps all of a picture and fills up with the background, as packaged sets do.
    background: what transparent pixels and padding show, a colour as Pillow names them.

    >>> import numpy as np
    >>> processor = ImageProcessor((32, 32))
    >>> images = processor.preprocess(np.zeros((48, 64, 3), np.uint8))
    >>> images.shape, images.min().item()
    (torch.Size([1, 3, 32, 32]), -1.0)
    >>> processor.postprocess(images, "numpy").shape
    (1, 32, 32, 3)
    """

    image_size: tuple[Count, Count]
    channels: int = 3
    fit: Fit = "crop"
    background: str = BACKGROUND

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (1, 3):
            raise ValueError(f"processor.channels: expected 1 or 3, got {self.channels}")
        if self.background != BACKGROUND:
            _check_colour(self.background)

    def preprocess(self, images: Any, *, layout: Layout | None = None) -> Tensor:
        """Pictures to float32 [B, C, H, W] in [-1, 1].

        Args:
            images: one picture, a sequence of them (sizes may differ), or an array of four axes. A picture is
                a path, bytes of a file, a Pillow image (see `open_image`), or an array or tensor: [H, W],
                [H, W, C] or [C, H, W] of 1, 3 or 4 (with alpha) channels; integers in 0..255, uint16 in
                0..65535, bool, or floats in [0, 1]. Everything passes through 8 bits, as in training.
            layout: which axis of arrays holds the channels, "chw" or "hwc"; None: the one of 1, 3 or 4
                entries, and if both are, the last of a NumPy array and the first of a tensor.

        Raises:
            ImportError: Pillow is missing.
            OSError: a file is missing. ValueError: a damaged file, an array of another shape or range.
            TypeError: no picture.
        """
        checked("layout", layout, Layout | None)
        pictures = [
            to_tensor(self._fitted(picture, f"images[{number}]", layout))
            for number, picture in enumerate(_pictures(images))
        ]
        height, width = self.image_size
        return torch.stack(pictures) if pictures else torch.empty(0, self.channels, height, width)

    __call__ = preprocess

    def postprocess(self, images: Tensor, output: Literal["pil", "numpy", "tensor"] = "pil") -> Any:
        """Images float [B, C, H, W] in [-1, 1], of any size and clamped there, to pictures of 8 bits.

        output: "pil", a list of Pillow images; "numpy", uint8 [B, H, W, C]; "tensor", uint8 [B, C, H, W].
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            known = isinstance(images, Tensor)
            got = f"{images.dtype} {list(images.shape)}" if known else type(images).__name__
            raise ValueError(f"images: expected a floating-point tensor [B, C, H, W], got {got}")
        if output not in ("pil", "numpy", "tensor"):
            raise ValueError(f"output: expected 'pil', 'numpy' or 'tensor', got {output!r}")
        if output == "pil" and images.shape[1] not in (1, 3):
            raise ValueError(f"images: expected 1 or 3 channels for 'pil', got {list(images.shape)}")
        if images.isnan().any():
            raise ValueError("images: expected values in [-1, 1], got nan")
        pixels = to_bytes(images)
        if output == "numpy":
            return pixels
        if output == "tensor":
            return torch.from_numpy(pixels).movedim(-1, 1).contiguous()
        from PIL import Image

        return [Image.fromarray(one if one.shape[-1] == 3 else one[..., 0]) for one in pixels]

    def _fitted(self, picture: Any, name: str, layout: Layout | None) -> PILImage:
        if isinstance(picture, np.ndarray | Tensor):
            picture = _from_array(picture, name, layout)
        elif isinstance(picture, str | os.PathLike):
            name = str(picture)
        elif not isinstance(picture, bytes) and not hasattr(picture, "read") and not _is_pillow(picture):
            raise TypeError(
                f"{name}: expected a picture (path, bytes, Pillow image, array or tensor), "
                f"got {type(picture).__name__}"
            )
        image = open_image(picture, name, background=self.background)
        image = fit_image(image, self.image_size, self.fit, background=self.background)
        return image if self.channels == 3 else image.convert("L")


def load_processor(folder: Path) -> ImageProcessor | SoundProcessor | None:
    """The one saved in a folder, or None: models of before there were any have the default's.

    Raises ValueError, naming the file, for one of another type, unknown fields and bad values.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        values = read_object(file, "an image processor")
        if values.get("image_processor_type") == SoundProcessor.__name__:
            return SoundProcessor.from_dict(values)
        return ImageProcessor.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def check_images(images: Tensor, shape: tuple[int, ...]) -> None:
    """Raises unless images are floating-point [B, *shape] with values in [-1, 1], give or take an overshoot.

    Values in [0, 1] cannot be told from those of a bright image, so they pass; a warning is given, once, for
    many images at a time that look like it. Values are not looked at where there are none: under
    torch.compile, in fake and meta tensors, in vmap and in a CUDA graph's capture.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images: expected a floating-point tensor with values in [-1, 1], got {kind}; "
            "`preprocess` makes one of any picture"
        )
    if images.ndim != len(shape) + 1 or tuple(images.shape[1:]) != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"images: expected shape [B, {expected}], got {list(images.shape)}")
    if images.numel() and _has_values(images):
        low, high = torch.aminmax(images.detach())
        _check_range(low.item(), high.item(), len(images))


def _check_range(low: float, high: float, count: int) -> None:
    if not (low >= -_MOST and high <= _MOST):  # nan too
        raise ValueError(
            f"images: expected values in [-1, 1], got {low:.4g} to {high:.4g}; "
            "`preprocess` brings pictures there, and what was made by adding noise needs clamping"
        )
    # [0, 1] is used up to both ends by any few pictures; bright ones in [-1, 1] do not stop at mid-grey.
    if count >= _MANY and 0 <= low < 0.02 and 0.9 < high <= 1:
        warnings.warn(
            f"images: the values of {count} images lie in [{low:.4g}, {high:.4g}], so they look like [0, 1] "
            "where [-1, 1] is expected; `preprocess`, or images * 2 - 1, brings them there",
            stacklevel=5,
        )


def _has_values(images: Tensor) -> bool:
    if torch.compiler.is_compiling() or images.device.type == "meta":
        return False
    batched = torch._C._functorch.is_functorch_wrapped_tensor(images)  # pyright: ignore
    if batched or isinstance(images, torch._subclasses.FakeTensor):
        return False
    return not (images.is_cuda and torch.cuda.is_current_stream_capturing())


def _pictures(images: Any) -> Iterator[Any]:
    """Each picture of what `preprocess` takes."""
    batch = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    yield from images if batch or isinstance(images, list | tuple) else [images]


def _check_colour(background: str) -> None:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise ValueError(f"background: expected a colour as Pillow names them, got {background!r}") from error


def _is_pillow(picture: object) -> bool:
    module = sys.modules.get("PIL.Image")  # who has such an image has imported it
    return module is not None and isinstance(picture, module.Image)


def _from_array(array: NDArray[Any] | Tensor, name: str, layout: Layout | None) -> PILImage:
    from PIL import Image

    first = isinstance(array, Tensor)
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if array.size == 0 or array.dtype.kind not in "biuf":
        got = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{name}: expected numbers or truth values, at least one pixel, got {got}")
    values = _eight_bits(array, name)
    if values.ndim == 2:
        return Image.fromarray(values)
    if values.ndim != 3:
        raise ValueError(f"{name}: expected [H, W], [H, W, C] or [C, H, W], got {list(array.shape)}")
    fitting = [kind for kind, axis in (("chw", 0), ("hwc", 2)) if values.shape[axis] in (1, 3, 4)]
    if len(fitting) == 2 and layout is None:
        layout = "chw" if first else "hwc"
    if not fitting or layout not in (None, *fitting):
        raise ValueError(
            f"{name}: expected an axis of 1, 3 or 4 channels, {layout or 'first or last'}, "
            f"got {list(array.shape)}"
        )
    if (layout or fitting[0]) == "chw":
        values = values.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(values if values.shape[2] > 1 else values[..., 0]))


def _eight_bits(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # nan too
            raise ValueError(
                f"{name}: expected floats in [0, 1], got {low:.4g} to {high:.4g}; images in [-1, 1] are the "
                "model's own already, and values in 0..255 go as uint8"
            )
        return (values.astype(np.float64).clip(0, 1) * 255).round().astype(np.uint8)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return (values / 257).round().astype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer) or low < 0 or high > 255:
        raise ValueError(f"{name}: expected integers in 0..255, got {values.dtype} from {low} to {high}")
    return values.astype(np.uint8)
