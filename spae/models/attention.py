"""Attention over a grid's positions, and from them to a few vectors that say something of the whole image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spae.models.blocks import BackboneConfig, convolution, group_norm
from spae.models.decoder import Decoder


class Attention(nn.Module):
    """One head of attention with GroupNorm before and the input added: [B, C, *grid] -> the same.

    Every position attends to all positions, as in VQGAN's non-local block, or with `memory_dim` to the
    vectors of a memory [B, n, memory_dim], which are keys and values.
    """

    def __init__(self, channels: int, config: BackboneConfig, memory_dim: int | None = None) -> None:
        super().__init__()
        self.norm = group_norm(channels, config.groups)
        self.query = convolution(channels, channels, 1, config.ndim)
        self.key_value = (
            convolution(channels, 2 * channels, 1, config.ndim)
            if memory_dim is None
            else nn.Linear(memory_dim, 2 * channels)
        )
        self.out = convolution(channels, channels, 1, config.ndim)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        query = self.query(normed).flatten(2).transpose(1, 2)
        if memory is None:
            pairs = self.key_value(normed).flatten(2).transpose(1, 2)
        else:
            pairs = self.key_value(memory)
        key, value = pairs.chunk(2, dim=-1)
        read = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        return x + self.out(read.transpose(1, 2).reshape(x.shape))


class AttentiveDecoder(Decoder):
    """A `Decoder` with VQGAN's non-local block at the coarsest grid, and in front of it, with `memory_dim`,
    attention to a memory: V2L's decoder (appendix A), whose memory are the vectors of the global words.

    Shapes: latents [B, latent_dim, *grid] and memory [B, n, memory_dim], n >= 1, to images. Raises ValueError
    for another memory.
    """

    def __init__(self, config: BackboneConfig, memory_dim: int | None = None) -> None:
        super().__init__(config)
        width = config.widths[-1]
        self.memory_dim = memory_dim
        self.cross = None if memory_dim is None else Attention(width, config, memory_dim)
        self.attention = Attention(width, config)

    def forward(self, latents: Tensor, memory: Tensor | None = None) -> Tensor:
        self._check(latents)
        if (memory is None) != (self.cross is None):
            raise ValueError(
                f"memory: expected {'none' if self.cross is None else f'[B, n, {self.memory_dim}]'}, got "
                f"{'none' if memory is None else list(memory.shape)}"
            )
        x = self.bottleneck(self.stem(latents.to(self.stem.weight.dtype)))
        if self.cross is not None and memory is not None:
            if memory.ndim != 3 or memory.shape[2] != self.memory_dim or len(memory) != len(x):
                raise ValueError(
                    f"memory: expected [{len(x)}, n, {self.memory_dim}], got {list(memory.shape)}"
                )
            x = self.cross(x, memory.to(x.dtype))
        return self.head(self.levels(self.attention(x)))
