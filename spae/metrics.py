"""Measures of reconstructions and of how a codebook is used."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


def codebook_usage(ids: Tensor) -> Usage:
    """Distinct codes and perplexity of int64 ids of any shape.

    >>> codebook_usage(torch.tensor([[7, 7, 3, 5]]))
    Usage(distinct=3, perplexity=2.82842712474619)
    """
    counts = torch.unique(ids, return_counts=True)[1].double()
    p = counts / counts.sum()
    return Usage(len(counts), float(torch.exp(-(p * p.log()).sum())))
