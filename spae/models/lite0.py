"""EfficientNet-Lite0 (Tan & Le 2019, the Lite variant of 2020) as a frozen source of image features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spae import assets

NUM_CLASSES = 1000
EMBED_DIM = 1280
# (expansion, kernel, stride, channels, blocks) of each stage.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# The deepest map of each grid: pixels per cell -> (index of its stage, channels).
_MAPS = {2: (0, 16), 4: (1, 24), 8: (2, 40), 16: (4, 112), 32: (6, 320)}
CHANNELS = {stride: channels for stride, (_, channels) in _MAPS.items()}


class Lite0(nn.Module):
    """EfficientNet-Lite0: images float [B, 3, H, W] in [-1, 1] -> ImageNet class logits float [B, 1000].

    It was trained at 224 x 224; any size of at least 32 works, at a price in accuracy. `features` gives the
    maps inside, `embed` the pooled vector that the classifier reads; all are differentiable in the images.

    `Lite0()` has random weights; `Lite0.load()` has the ImageNet weights of the asset "efficientnet-lite0".
    """

    def __init__(self):
        super().__init__()
        self.stem = _ConvNorm(3, 32, kernel=3, stride=2)
        stages, width = [], 32
        for expansion, kernel, stride, channels, count in _STAGES:
            blocks = []
            for index in range(count):
                blocks.append(_Block(width, channels, expansion, kernel, stride if index == 0 else 1))
                width = channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = _ConvNorm(width, EMBED_DIM)
        self.classifier = nn.Linear(EMBED_DIM, NUM_CLASSES)

    @classmethod
    def load(cls, *, progress: bool = True) -> Lite0:
        """The ImageNet weights, frozen: in eval mode, no parameter requires a gradient.

        Batch norms are folded into the convolutions before them (a quarter less time), so the state dict is
        smaller than that of `Lite0()`. The weights are fetched into the cache if they are missing there.

        Raises:
            AssetNotCached, AssetError: they are not cached and could not be fetched.
        """
        weights = torch.load(assets.require("efficientnet-lite0", progress=progress), weights_only=True)
        model = cls()
        # The file names its tensors otherwise but lists them in the order of the layers, which is ours too.
        model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
        model.eval().requires_grad_(False)
        for layer in model.modules():
            if isinstance(layer, _ConvNorm):
                layer.fuse()
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.embed(images))

    def embed(self, images: Tensor, *, size: int | None = None) -> Tensor:
        """The mean of the last map: float [B, 1280], not normalised. `size` as in `features`."""
        return self.head(self._maps(images, size)[-1]).mean((2, 3))

    def features(self, images: Tensor, *, size: int | None = None) -> dict[int, Tensor]:
        """The deepest map of each grid, by its stride (pixels of the network's input per cell).

        images: float [B, 3, H, W] in [-1, 1]. size: the images are first resized to size x size (bilinear,
        antialiased), for small images whose maps would be too coarse.

        Returns float [B, CHANNELS[stride], ceil(H / stride), ceil(W / stride)] for strides 2, 4, 8, 16 and
        32: at `size=128`, 8 x 8 cells of 112 channels and 4 x 4 of 320 for the last two.

        Raises:
            ValueError: another shape, a dtype that is not floating, or fewer than 32 pixels a side.
        """
        maps = self._maps(images, size)
        return {stride: maps[stage] for stride, (stage, _) in _MAPS.items()}

    def _maps(self, images: Tensor, size: int | None) -> list[Tensor]:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images: expected float [B, 3, H, W], got {images.dtype} {list(images.shape)}")
        if size is not None and tuple(images.shape[2:]) != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        if min(images.shape[2:]) < 32:
            raise ValueError(f"images: expected at least 32 x 32 pixels, got {list(images.shape[2:])}")
        x, maps = self.stem(images.contiguous(memory_format=torch.channels_last)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads "same": where the two sides differ, more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for length, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class _ConvNorm(nn.Module):
    """Convolution, batch norm and, with `act`, ReLU6."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ):
        super().__init__()
        self.conv = _SameConv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.act = nn.ReLU6() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))

    def fuse(self) -> None:
        """Fold the norm, which must be in eval mode, into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class _Block(nn.Module):
    """Inverted residual without squeeze-and-excitation: expand, filter each channel, project."""

    def __init__(self, in_channels: int, channels: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        width = in_channels * expansion
        self.expand = _ConvNorm(in_channels, width) if expansion > 1 else nn.Identity()
        self.filter = _ConvNorm(width, width, kernel=kernel, stride=stride, groups=width)
        self.project = _ConvNorm(width, channels, act=False)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.filter(self.expand(x)))
        return x + out if self.residual else out
