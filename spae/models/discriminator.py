"""Networks that tell images from reconstructions, for 1, 2 or 3 grid axes by one argument.

Neither looks at more than one image at a time (no batch norm, no minibatch statistics), so micro-batches and
processes change no verdict.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae.models.blocks import Conv, convolution, group_norm

_convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017), VQGAN's discriminator: a logit for each overlapping patch.

    With 3 layers a patch is 70 pixels wide. GroupNorm stands where the original has batch norm, and padding
    is 2 as in pix2pixHD, so that no size is too small.

    Shapes: images [B, in_channels, *shape] to logits [B, 1, *about shape / 2**num_layers].
    """

    def __init__(self, *, ndim: int = 2, in_channels: int = 3, channels: int = 64, num_layers: int = 3):
        super().__init__()
        self.ndim, self.in_channels = ndim, in_channels
        widths = [channels * min(2**i, 8) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [Conv[ndim](in_channels, channels, 4, 2, 2), nn.LeakyReLU(_SLOPE)]
        for number, (before, after) in enumerate(pairwise(widths), 1):
            stride = 2 if number < num_layers else 1
            conv = Conv[ndim](before, after, 4, stride, 2, bias=False)
            layers += [conv, group_norm(after, 32), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, Conv[ndim](widths[-1], 1, 4, 1, 2))
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        _check(images, (self.in_channels,), self.ndim)
        return self.layers(images)


class ResidualDiscriminator(nn.Module):
    """StyleGAN2's residual discriminator (Karras et al. 2020), as in MaskGIT and MAGVIT: a logit an image.

    Each block halves every axis that is still at least 8 long, after the filter 1 3 3 1 against aliasing,
    and widens to at most 4 * `channels`.

    Shapes: images [B, in_channels, *image_size] to logits [B, 1].
    """

    def __init__(self, image_size: tuple[int, ...], *, in_channels: int = 3, channels: int = 64):
        super().__init__()
        self.expected = (in_channels, *image_size)
        ndim, size, width = len(image_size), tuple(image_size), channels
        blocks: list[nn.Module] = [convolution(in_channels, channels, 3, ndim), nn.LeakyReLU(_SLOPE)]
        while max(size) >= 8:
            strides = tuple(2 if length >= 8 else 1 for length in size)
            after = min(2 * width, 4 * channels)
            blocks.append(_DownBlock(width, after, strides))
            size, width = tuple(length // s for length, s in zip(size, strides, strict=True)), after
        cells = torch.Size(size).numel()
        self.body = nn.Sequential(*blocks, convolution(width, width, 3, ndim), nn.LeakyReLU(_SLOPE))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * cells, width), nn.LeakyReLU(_SLOPE), nn.Linear(width, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        _check(images, self.expected, len(self.expected) - 1)
        return self.head(self.body(images))


class FrameDiscriminator(nn.Module):
    """A discriminator of images that judges each frame of a clip by itself, and so sees no motion; those
    above, of three axes, see clips as a whole.

    Shapes: clips [B, C, T, H, W] to logits [B, T, *those of one image but the batch].
    """

    def __init__(self, of_images: nn.Module):
        super().__init__()
        self.of_images = of_images

    def forward(self, clips: Tensor) -> Tensor:
        if clips.ndim != 5:
            raise ValueError(f"clips: expected [B, C, T, H, W], got {list(clips.shape)}")
        frames = clips.transpose(1, 2)
        return self.of_images(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class _DownBlock(nn.Module):
    """Two convolutions and a skip, all on a grid that shrinks by `strides`: [B, C_in, *] -> [B, C_out, *]."""

    def __init__(self, in_channels: int, out_channels: int, strides: tuple[int, ...]):
        super().__init__()
        ndim = len(strides)
        self.strides = strides
        self.first = convolution(in_channels, in_channels, 3, ndim)
        self.second = convolution(in_channels, out_channels, 3, ndim)
        self.skip = convolution(in_channels, out_channels, 1, ndim)

    def forward(self, x: Tensor) -> Tensor:
        body = _shrink(F.leaky_relu(self.first(x), _SLOPE), self.strides)
        body = F.leaky_relu(self.second(body), _SLOPE)
        return (body + self.skip(_shrink(x, self.strides))) / 2**0.5


def _shrink(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Blur by 1 3 3 1 and take every second cell, along the axes whose stride is 2."""
    ndim = len(strides)
    taps = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    batch, channels = x.shape[:2]
    for axis, stride in enumerate(strides):
        if stride == 1:
            continue
        at = [4 if other == axis else 1 for other in range(ndim)]
        step = [2 if other == axis else 1 for other in range(ndim)]
        pad = [1 if other == axis else 0 for other in range(ndim)]
        flat = x.reshape(batch * channels, 1, *x.shape[2:])
        x = _convolve[ndim](flat, taps.reshape(1, 1, *at), stride=step, padding=pad)
        x = x.reshape(batch, channels, *x.shape[2:])
    return x


def _check(images: Tensor, expected: tuple[int, ...], ndim: int) -> None:
    if images.ndim != ndim + 2 or tuple(images.shape[1 : 1 + len(expected)]) != expected:
        shape = ", ".join(map(str, expected)) + (f", {ndim} axes" if len(expected) == 1 else "")
        raise ValueError(f"images: expected [B, {shape}], got {list(images.shape)}")
