"""Pixels to latents."""

from __future__ import annotations

from torch import Tensor, nn

from spae.models.blocks import BackboneConfig, Downsample, convolution, norm_act_conv, residual_blocks


class Encoder(nn.Module):
    """VQGAN's residual convolutional encoder without attention, as in MaskGIT (2D) and MAGVIT (3D).

    The last layer is a 1x1 convolution to the width of the codebook.

    Shapes: images [B, in_channels, *shape], float, to latents [B, latent_dim, *config.grid(shape)] in the
    weights' dtype.
    Raises ValueError for any other number of axes or channels, and for sizes that `config.factor` does not
    divide.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = convolution(config.in_channels, widths[0], 3, config.ndim)
        self.levels = nn.Sequential(residual_blocks(widths[0], widths[0], config))
        for stride, before, after in zip(config.level_strides, widths, widths[1:], strict=False):
            self.levels.append(Downsample(stride))
            self.levels.append(residual_blocks(before, after, config))
        self.bottleneck = residual_blocks(widths[-1], widths[-1], config)
        self.head = norm_act_conv(widths[-1], config.latent_dim, 1, config)

    def forward(self, images: Tensor) -> Tensor:
        cfg = self.config
        if images.ndim != cfg.ndim + 2 or images.shape[1] != cfg.in_channels:
            expected = f"[B, {cfg.in_channels}, {cfg.ndim} axes]"
            raise ValueError(f"images: expected {expected}, got {tuple(images.shape)}")
        cfg.grid(images.shape[2:])
        images = images.to(self.stem.weight.dtype)
        return self.head(self.bottleneck(self.levels(self.stem(images))))
