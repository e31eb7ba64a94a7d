"""A shift and a power of two that bring a codebook into float16 without losing more than rounding must."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_of(codes: Tensor) -> Tensor:
    """The median of a sample of rows by coordinate, where that at least halves the typical norm, else zero.

    codes [K, D] -> float64 [D] of fp32 values. Not the mean, which would follow the few largest rows of a
    table whose norms span decades. Any shift is correct: it only has to keep the norms, hence the error of
    products, small beside the distances.
    """
    count = min(len(codes), 255)
    sample = codes[torch.arange(count, device=codes.device) * len(codes) // count].double()
    # Tensor.median(0) is refused on CUDA where deterministic algorithms are asked for.
    centre = sample.sort(0).values[(count - 1) // 2]
    helps = (sample - centre).square().sum(1).median() < 0.25 * sample.square().sum(1).median()
    return torch.where(helps, centre, torch.zeros_like(centre))


def scale_of(codes: Tensor, shift: Tensor) -> Tensor:
    """The power of two that brings the largest |c - shift| into [2^14, 2^15), float64 [1]."""
    step = max(1, (1 << 22) // codes.shape[1])
    largest = torch.stack([(block.double() - shift).abs().amax() for block in codes.split(step)]).amax()
    exponent = torch.frexp(largest).exponent.long()
    return ((1023 + 15 - exponent) << 52).view(1).view(torch.float64)
