"""Measures of reconstructions and of how a codebook is used."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Usage(NamedTuple):
    """distinct: how many codes occur. perplexity: exp of the entropy of their frequencies, at most
    `distinct`."""

    distinct: int
    perplexity: float


def psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, float32 [B]; both [B, C, *shape] in [-1, 1] (peak 2).

    >>> psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.2))
    tensor([20.])
    """
    if images.shape != reconstruction.shape:
        raise ValueError(
            f"reconstruction: expected shape {list(images.shape)}, got {list(reconstruction.shape)}"
        )
    mse = (images.float() - reconstruction.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse)


def ssim(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), float32 [B]; both [B, C, H, W] in [-1, 1].

    As published: a Gaussian window of 11 x 11 pixels (of fewer where a side is shorter) with standard
    deviation 1.5, K1 = 0.01, K2 = 0.03, the mean over all whole windows and channels.

    >>> ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    tensor([1.])
    """
    if images.shape != reconstruction.shape or images.ndim != 4:
        raise ValueError(
            f"reconstruction: expected shape {list(images.shape)}, that of images [B, C, H, W], got "
            f"{list(reconstruction.shape)}"
        )
    x, y = images.double().flatten(0, 1)[:, None], reconstruction.double().flatten(0, 1)[:, None]
    weights = [_gaussian(min(11, side), x) for side in x.shape[-2:]]
    kernel = torch.outer(*weights)[None, None]

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.flatten(1).mean(1).reshape(images.shape[:2]).mean(1).float()


def _gaussian(count: int, like: Tensor) -> Tensor:
    places = torch.arange(count, dtype=like.dtype, device=like.device) - (count - 1) / 2
    weights = torch.exp(-places.square() / (2 * 1.5**2))
    return weights / weights.sum()


def codebook_usage(ids: Tensor) -> Usage:
    """Distinct codes and perplexity of int64 ids of any shape.

    >>> codebook_usage(torch.tensor([[7, 7, 3, 5]]))
    Usage(distinct=3, perplexity=2.82842712474619)
    """
    counts = torch.unique(ids, return_counts=True)[1].double()
    p = counts / counts.sum()
    return Usage(len(counts), float(torch.exp(-(p * p.log()).sum())))
