"""Latents to pixels."""

from __future__ import annotations

from torch import Tensor, nn

from spae.models.blocks import BackboneConfig, Upsample, convolution, norm_act_conv, residual_blocks
from spae.models.causal import in_chunks, streamed


class Decoder(nn.Module):
    """The mirror of `Encoder`: a 1x1 convolution from the codebook's width, residual blocks, upsampling.

    Shapes: latents [B, latent_dim, *grid], float, to images [B, in_channels, *(grid * config.factor)], which
    are not clamped, in the weights' dtype; a causal one makes 1 + f k frames of 1 + k.
    cells_at_once: latent frames that a causal one takes in one go, see `in_chunks`; None: whole clips.
    Raises ValueError for any other number of axes or channels.
    """

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config
        self.cells_at_once: int | None = None
        widths = config.widths[::-1]
        self.stem = convolution(config.latent_dim, widths[0], 1, config.ndim)
        self.bottleneck = residual_blocks(widths[0], widths[0], config)
        self.levels = nn.Sequential(residual_blocks(widths[0], widths[0], config))
        for stride, before, after in zip(config.level_strides[::-1], widths, widths[1:], strict=False):
            self.levels.append(Upsample(before, stride, causal=config.causal))
            self.levels.append(residual_blocks(before, after, config))
        self.head = norm_act_conv(widths[-1], config.in_channels, 3, config)

    def forward(self, latents: Tensor) -> Tensor:
        self._check(latents)
        if self.cells_at_once is not None and not streamed():
            return self.in_chunks(latents, self.cells_at_once)
        latents = latents.to(self.stem.weight.dtype)
        return self.head(self.levels(self.bottleneck(self.stem(latents))))

    def _check(self, latents: Tensor) -> None:
        cfg = self.config
        if latents.ndim != cfg.ndim + 2 or latents.shape[1] != cfg.latent_dim:
            expected = f"[B, {cfg.latent_dim}, {cfg.ndim} axes]"
            raise ValueError(f"latents: expected {expected}, got {tuple(latents.shape)}")

    def in_chunks(self, latents: Tensor, cells: int) -> Tensor:
        """A causal decoder's clip, the same as at once, in the memory of `cells` latent frames at a time."""
        if not self.config.causal:
            raise ValueError("latents: expected a causal decoder for chunks, got one that looks ahead")
        return in_chunks(self, latents, cells, cells)
