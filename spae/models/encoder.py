"""Pixels to latents."""

from __future__ import annotations

from torch import Tensor, nn

from spae.models.blocks import BackboneConfig, Downsample, convolution, norm_act_conv, residual_blocks
from spae.models.causal import continues, in_chunks, streamed


class Encoder(nn.Module):
    """VQGAN's residual convolutional encoder without attention, as in MaskGIT (2D) and MAGVIT (3D).

    The last layer is a 1x1 convolution to the width of the codebook.

    Shapes: images [B, in_channels, *shape], float, to latents [B, latent_dim, *config.grid(shape)] in the
    weights' dtype.
    frames_at_once: what a causal one takes in one go, see `in_chunks`; None: whole clips.
    Raises ValueError for any other number of axes or channels, and for sizes that `config.factor` does not
    divide.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        self.frames_at_once: int | None = None
        widths = config.widths
        self.stem = convolution(config.in_channels, widths[0], 3, config.ndim, causal=config.causal)
        self.levels = nn.Sequential(residual_blocks(widths[0], widths[0], config))
        for stride, before, after in zip(config.level_strides, widths, widths[1:], strict=False):
            self.levels.append(Downsample(stride, causal=config.causal))
            self.levels.append(residual_blocks(before, after, config))
        self.bottleneck = residual_blocks(widths[-1], widths[-1], config)
        self.head = norm_act_conv(widths[-1], config.latent_dim, 1, config)

    def forward(self, images: Tensor) -> Tensor:
        cfg = self.config
        if images.ndim != cfg.ndim + 2 or images.shape[1] != cfg.in_channels:
            expected = f"[B, {cfg.in_channels}, {cfg.ndim} axes]"
            raise ValueError(f"images: expected {expected}, got {tuple(images.shape)}")
        if self.frames_at_once is not None and not streamed():
            return self.in_chunks(images, self.frames_at_once)
        frames, *sides = images.shape[2:]
        # Only a clip's first chunk has a frame that stands alone.
        later = cfg.causal and continues(self) and frames and frames % cfg.factor[0] == 0
        cfg.grid([1, *sides] if later else images.shape[2:])
        images = images.to(self.stem.weight.dtype)
        return self.head(self.bottleneck(self.levels(self.stem(images))))

    def in_chunks(self, clip: Tensor, frames: int) -> Tensor:
        """A causal encoder's latents of a clip, the same as at once, in the memory of 1 + `frames` frames.

        frames: how many at a time, a multiple of `config.factor[0]`.
        """
        factor = self.config.factor[0]
        if not self.config.causal or frames < 1 or frames % factor:
            raise ValueError(f"frames: expected a multiple of {factor} for a causal encoder, got {frames}")
        self.config.grid(clip.shape[2:])
        return in_chunks(self, clip, 1 + frames if factor > 1 else frames, frames)
