"""The terms of SPAE's appearance loss (eq. 8), one function each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from spae_ops import CodeIndex, Pyramid, pyramid_dequantize


def reconstruction_loss(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared error of the pixels, the first term of eq. 8; both [B, C, *shape], computed in float32."""
    return F.mse_loss(reconstruction.float(), images.float())


def commitment_loss(
    z: Tensor, ids: Tensor, codes: Tensor | CodeIndex, pyramid: Pyramid, *, rule: str = "saq"
) -> Tensor:
    """sum over layers of ||Z - sg(Zhat_<=l)||^2, the second term of eq. 8, before its factor beta.

    z: latents [B, D, *pyramid.shape] as they were quantized. ids: int64 [B, n], their codes in a whole number
    of layers. Each layer's square is averaged over images, channels and the positions covered so far. The
    gradient reaches z only.
    """
    total = z.new_zeros((), dtype=z.dtype)
    for num_layers in range(1, pyramid.num_layers_of(ids.shape[1]) + 1):
        target = pyramid_dequantize(ids, codes, pyramid, rule=rule, num_layers=num_layers, fill="zero")
        square = (z - target.quantized).square() * target.covered
        total = total + square.sum() / (target.covered.sum() * z.shape[0] * z.shape[1])
    return total
