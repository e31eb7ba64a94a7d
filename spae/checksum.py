"""The one checksum: SHA-256 over texts, bytes and arrays, the same on every device and host."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Part = str | bytes | Tensor | NDArray


def checksum(parts: Iterable[Part]) -> str:
    """SHA-256 (hex) over the parts' bytes, one after another.

    Texts count as UTF-8 (lone surrogates included), tensors and arrays as their values in row-major order,
    little-endian, whatever their strides and device. Lengths, shapes and dtypes do not count: where they may
    differ, a text part should say them.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(_bytes(part))
    return digest.hexdigest()


def state_parts(module: nn.Module) -> Iterator[Part]:
    """The names and values of a module's state dict, by name."""
    for name, value in sorted(module.state_dict().items()):
        yield name
        yield value


def _bytes(part: Part) -> bytes | memoryview:
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return part
    if isinstance(part, Tensor):
        # As bytes first: NumPy has no bfloat16.
        flat = part.detach().cpu().contiguous().flatten()
        part = flat.view(torch.uint8).numpy() if sys.byteorder == "little" else flat.numpy()
    array = np.ascontiguousarray(part)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).data
