"""Building blocks of the convolutional backbone, for 1, 2 or 3 grid axes by one `ndim` argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae.configs import Config, Count, Range
from spae.models.causal import TIME, CausalConv, FrameNorm, continues

Conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_avg_pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

# 32 groups over 128 channels in VQGAN. Narrower layers keep this many channels a group: one channel a group
# would be instance norm, which erases the very brightness and contrast an autoencoder has to carry.
_MIN_CHANNELS_PER_GROUP = 4


@dataclass(frozen=True)
class BackboneConfig(Config):
    """Shape of an `Encoder` and of the `Decoder` that mirrors it.

    Level i has `channels * multipliers[i]` channels; between levels i and i + 1 the grid shrinks by
    `strides[i]`. The defaults are MaskGIT's with a factor of 8; `multipliers=(1, 1, 2, 2, 4)` gives 16.

    Args:
        latent_dim: width D of the latents, i.e. of the codebook.
        in_channels: channels of the image or video, going in and coming out.
        channels: width that the multipliers scale.
        multipliers: one per level, from the finest grid to the coarsest.
        num_res_blocks: residual blocks per level (and at the bottleneck).
        ndim: number of grid axes: 2 for images, 3 for video [T, H, W], 1 for signals.
        strides: one per pair of neighbouring levels, each an int for all axes or one int per axis; an int
            alone counts for all pairs. Video that keeps its time axis for one level: `((1, 2, 2), 2, 2)`.
        groups: upper bound on the groups of GroupNorm; narrow layers use fewer.
        causal: no frame sees a later one, and the first stands alone: 1 + f k frames are 1 + k latents (see
            `spae.models.causal`). Of signals and video.
    """

    latent_dim: Count
    in_channels: Count = 3
    channels: Count = 128
    multipliers: tuple[Count, ...] = (1, 2, 2, 4)
    num_res_blocks: Count = 2
    ndim: Annotated[int, Range(1, 3)] = 2
    strides: Count | Sequence[Count | Sequence[Count]] = 2
    groups: Count = 32
    causal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.multipliers:
            raise ValueError("multipliers: expected at least one, got ()")
        if self.causal and self.ndim not in CausalConv:
            raise ValueError(f"causal: expected False but for {[*CausalConv]} axes, got True for {self.ndim}")
        object.__setattr__(self, "strides", self._expand(self.strides))

    def _expand(self, strides: int | Sequence[int | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        pairs = len(self.multipliers) - 1
        per_pair = [strides] * pairs if isinstance(strides, int) else strides
        per_axis = tuple((s,) * self.ndim if isinstance(s, int) else tuple(s) for s in per_pair)
        if len(per_axis) != pairs or any(len(s) != self.ndim or min(s) < 1 for s in per_axis):
            raise ValueError(
                f"strides: expected {pairs} entries (len(multipliers) - 1), each an int or {self.ndim} ints "
                f"of at least 1, got {strides}"
            )
        return per_axis

    @property
    def level_strides(self) -> tuple[tuple[int, ...], ...]:
        """Stride per axis between each pair of neighbouring levels, finest first."""
        return self._expand(self.strides)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per level, from the finest grid to the coarsest."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def factor(self) -> tuple[int, ...]:
        """How many pixels a latent cell spans, per axis."""
        return tuple(math.prod(axis) for axis in zip(*self.level_strides, strict=True)) or (1,) * self.ndim

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Latent grid of an image or video of this `shape` (its grid axes alone, e.g. (H, W))."""
        rest = [1 if self.causal and axis == 0 and f > 1 else 0 for axis, f in enumerate(self.factor)]
        if len(shape) != self.ndim or any(
            n < 1 or n % f != r for n, f, r in zip(shape, self.factor, rest, strict=True)
        ):
            frames = f", the first 1 more than a multiple of {self.factor[0]}" if any(rest) else ""
            divisors = self.factor[any(rest) :]
            raise ValueError(
                f"shape: expected {self.ndim} sizes divisible by {divisors}{frames}, got {tuple(shape)}"
            )
        return tuple(n // f + r for n, f, r in zip(shape, self.factor, rest, strict=True))


def convolution(
    in_channels: int, out_channels: int, kernel: int, ndim: int, *, causal: bool = False
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the grid: [B, in_channels, *grid] -> [B, out_channels, *grid], odd `kernel`.

    causal: along the first axis no output sees a later input.

    Weights are LeCun-normal (variance 1 / fan-in, the default of MaskGIT's framework), biases zero. PyTorch's
    own default has a third of that variance.
    """
    if causal and kernel > 1:
        layer = CausalConv[ndim](in_channels, out_channels, kernel)
    else:
        layer = Conv[ndim](in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int, groups: int, *, causal: bool = False) -> nn.GroupNorm:
    """GroupNorm with as many groups as divide `channels`, at most `groups`, of at least 4 channels each.

    causal: of each frame by itself.
    """
    most = min(groups, max(1, channels // _MIN_CHANNELS_PER_GROUP))
    count = next(g for g in range(most, 0, -1) if channels % g == 0)
    return (FrameNorm if causal else nn.GroupNorm)(count, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Twice GroupNorm, SiLU, 3-wide convolution, plus the input: [B, C_in, *grid] -> [B, C_out, *grid]."""

    def __init__(self, in_channels: int, out_channels: int, *, ndim: int, groups: int, causal: bool = False):
        super().__init__()
        self.body = nn.Sequential(
            group_norm(in_channels, groups, causal=causal),
            nn.SiLU(),
            convolution(in_channels, out_channels, 3, ndim, causal=causal),
            group_norm(out_channels, groups, causal=causal),
            nn.SiLU(),
            convolution(out_channels, out_channels, 3, ndim, causal=causal),
        )
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else convolution(in_channels, out_channels, 1, ndim)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class Downsample(nn.Module):
    """Average pooling, as in MaskGIT: [B, C, *grid] -> [B, C, *(grid / stride)], one stride per axis.

    causal: the first frame is pooled with itself, the others in groups of `stride[0]` after it.
    """

    def __init__(self, stride: tuple[int, ...], *, causal: bool = False):
        super().__init__()
        self.stride, self.causal = stride, causal

    def forward(self, x: Tensor) -> Tensor:
        if self.causal and not continues(self):
            first = x[:, :, :1]
            x = torch.cat([*[first] * (self.stride[0] - 1), x], TIME)
        return _avg_pool[len(self.stride)](x, self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, causal={self.causal}"


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, then a 3-wide convolution: [B, C, *grid] -> [B, C, *(grid * stride)].

    causal: the first frame stays one, the others become `stride[0]` each.
    """

    def __init__(self, channels: int, stride: tuple[int, ...], *, causal: bool = False):
        super().__init__()
        self.stride, self.causal = stride, causal
        self.conv = convolution(channels, channels, 3, len(stride), causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=[float(s) for s in self.stride], mode="nearest")
        if self.causal and not continues(self):
            x = x[:, :, self.stride[0] - 1 :]
        return self.conv(x)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, causal={self.causal}"


def residual_blocks(in_channels: int, out_channels: int, config: BackboneConfig) -> nn.Sequential:
    """`config.num_res_blocks` residual blocks in a row; the first one changes the width."""
    inputs = [in_channels] + [out_channels] * (config.num_res_blocks - 1)
    return nn.Sequential(
        *(
            ResidualBlock(c, out_channels, ndim=config.ndim, groups=config.groups, causal=config.causal)
            for c in inputs
        )
    )


def norm_act_conv(in_channels: int, out_channels: int, kernel: int, config: BackboneConfig) -> nn.Sequential:
    """The head of both networks: GroupNorm, SiLU, convolution to `out_channels`."""
    conv = convolution(in_channels, out_channels, kernel, config.ndim, causal=config.causal)
    norm = group_norm(in_channels, config.groups, causal=config.causal)
    return nn.Sequential(norm, nn.SiLU(), conv)
