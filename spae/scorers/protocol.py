"""What a scorer is: images and texts in one space, where the inner product says how well they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spae.checksum import checksum
from spae.devices import checked_device


@runtime_checkable
class ImageTextScorer(Protocol):
    """The f_image and f_text of SPAE's semantic guidance (eq. 5); eq. 6 normalises their product.

    Attributes:
        name: which scorer this is, for people.
        checksum: of everything that its features depend on, for caches.
    """

    @property
    def name(self) -> str: ...

    @property
    def checksum(self) -> str: ...

    def image_features(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [-1, 1] -> unit vectors float32 [B, E]."""
        ...

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """n texts (words) -> unit vectors float32 [n, E]; each depends on its text alone."""
        ...


def checksum_of(tensors: Mapping[str, Tensor], *about: object) -> str:
    """SHA-256, hex, of named tensors and of what else matters (by its `repr`)."""
    named = [(f"{name} {tensor.dtype} {list(tensor.shape)}", tensor) for name, tensor in tensors.items()]
    return checksum([repr(about), *(part for pair in named for part in pair)])


def check_images(images: Tensor) -> None:
    """Raises ValueError unless `images` is floating-point [B, 3, H, W]."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected float [B, 3, H, W], got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images: expected float [B, 3, H, W], got {images.dtype} {list(images.shape)}")


def choose_device(device: torch.device | str | None) -> torch.device:
    """The given device; for None the accelerator's, where images are in training, or the CPU without one."""
    if device is not None:
        return checked_device(device)
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found


def unit(vectors: Tensor) -> Tensor:
    """Rows of unit length, float32."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
