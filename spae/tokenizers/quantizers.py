"""From latents to codes of a frozen table: matching the table's statistics, lookup, straight-through."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spae.codebook import VectorTable
from spae.losses import commitment_loss
from spae.models.batch_norm import BatchNorm, same_dtype
from spae_ops import Pyramid, pyramid_dequantize, pyramid_quantize


class Quantized(NamedTuple):
    """ids: int64 [B, n]. features: float32 [B, D, *shape], the quantized latents, whose gradient passes
    straight to the latents. commitment: scalar."""

    ids: Tensor
    features: Tensor
    commitment: Tensor


class MatchedNorm(nn.Module):
    """Latents [B, D, *shape] with the codebook's mean and standard deviation in every channel.

    A batch norm without affine part, then the table's own statistics. A frozen table cannot follow the
    latents as a learned codebook does: left free, they drift to another scale and a handful of words is used.
    Not in the paper.

    In training the statistics are those of one call's images: of each micro-batch by itself, not of the whole
    batch whose gradients add up. Each call also moves the running statistics, which evaluation and inference
    use. Several processes each see their own images, unless `synchronise` joined their norms, as the trainer
    does: then they are those of all processes' images of that call.
    """

    def __init__(self, codebook: VectorTable, ndim: int) -> None:
        super().__init__()
        width = codebook.width
        self.norm = BatchNorm(width, affine=False)
        std, mean = torch.std_mean(codebook.vectors.double(), dim=0, correction=0)
        shape = (1, width) + (1,) * ndim
        # Not in the state dict: they follow from the codebook, which checkpoints name.
        self.register_buffer("mean", mean.float().reshape(shape), persistent=False)
        self.register_buffer("std", std.float().reshape(shape), persistent=False)

    def forward(self, z: Tensor, *, inference: bool = False) -> Tensor:
        """inference: by the running statistics, which stay as they are, whatever the mode."""
        return self.norm(z, inference=inference) * self.std + self.mean

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MatchedNorm:
        return super()._apply(same_dtype(fn), recurse)  # the table is float32, and so are its statistics


class UnitNorm(nn.Module):
    """Latents [B, D, *shape] scaled to unit length at every position, in training and inference alike."""

    def forward(self, z: Tensor, *, inference: bool = False) -> Tensor:
        return nn.functional.normalize(z, dim=1)


class FreeLatents(nn.Module):
    """Latents as they are."""

    def forward(self, z: Tensor, *, inference: bool = False) -> Tensor:
        return z


def latent_norm(kind: str, codebook: VectorTable, ndim: int) -> MatchedNorm | UnitNorm | FreeLatents:
    """What brings latents to the codebook: see `SPAEConfig.latent_norm`."""
    if kind == "matched":
        return MatchedNorm(codebook, ndim)
    return UnitNorm() if kind == "unit" else FreeLatents()


class PyramidQuantizer(nn.Module):
    """Latents [B, D, *shape] to codes of a frozen codebook over a pyramid, and back. Holds no parameters.

    masks: bool [L, K], the words that each layer may take; part of the state dict. None: all may be taken.
    layer_dropout, word_noise: see `SPAEConfig`.
    """

    masks: Tensor | None

    def __init__(
        self,
        pyramid: Pyramid,
        rule: str = "saq",
        *,
        masks: Tensor | None = None,
        layer_dropout: float = 0.0,
        word_noise: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.rule = rule
        self.layer_dropout, self.word_noise = layer_dropout, word_noise
        self.register_buffer("masks", masks)

    def forward(self, z: Tensor, codebook: VectorTable) -> Quantized:
        codes = pyramid_quantize(z, codebook.index, self.pyramid, rule=self.rule, mask=self.masks)
        commitment = commitment_loss(z, codes.ids, codebook.index, self.pyramid, rule=self.rule)
        features = straight_through(z, codes.quantized)
        seen = codes.ids
        if self.training and self.word_noise is not None:
            seen = self._replace_words(seen, len(codebook))
            noisy = pyramid_dequantize(seen, codebook.index, self.pyramid, rule=self.rule).quantized
            features = straight_through(z, noisy)
        if self.training and self.layer_dropout > 0:
            features = self._drop_layers(z, seen, features, codebook)
        return Quantized(codes.ids, features, commitment)

    def _replace_words(self, ids: Tensor, num_words: int) -> Tensor:
        """The ids, some of them drawn anew from what their layer may take."""
        assert self.word_noise is not None
        layers = []
        for layer, part in enumerate(ids.split(list(self.pyramid.tokens_per_layer), dim=1)):
            words = torch.arange(num_words) if self.masks is None else self.masks[layer].nonzero()[:, 0].cpu()
            # Drawn on the CPU, as the layers that are dropped.
            drawn = words[torch.randint(len(words), part.shape)].to(part.device)
            replaced = torch.rand(part.shape) < self.word_noise[layer]
            layers.append(torch.where(replaced.to(part.device), drawn, part))
        return torch.cat(layers, 1)

    def _drop_layers(self, z: Tensor, ids: Tensor, features: Tensor, codebook: VectorTable) -> Tensor:
        """The features, of some images from their first layers alone.

        There the gradient reaches only latents that a kept layer looked up: what stands at the other
        positions is not theirs.
        """
        most = self.pyramid.num_layers
        # Drawn on the CPU, whose generator is the one that checkpoints restore everywhere.
        kept = torch.where(
            torch.rand(len(z)) < self.layer_dropout, torch.randint(1, max(most, 2), (len(z),)), most
        )
        for layers in range(1, most):
            rows = (kept == layers).nonzero()[:, 0].to(z.device)
            if len(rows):
                count = self.pyramid.num_tokens_upto(layers)
                cut = pyramid_dequantize(ids[rows, :count], codebook.index, self.pyramid, rule=self.rule)
                seen = torch.where(cut.covered, z[rows], z[rows].detach())
                features = features.index_copy(0, rows, straight_through(seen, cut.quantized))
        return features

    def encode(self, z: Tensor, codebook: VectorTable, num_layers: int | None = None) -> Tensor:
        """Latents to ids int64 [B, n] of the first `num_layers` layers."""
        return pyramid_quantize(
            z, codebook.index, self.pyramid, rule=self.rule, num_layers=num_layers, mask=self.masks
        ).ids

    def decode(self, ids: Tensor, codebook: VectorTable) -> Tensor:
        """Ids of any number of layers to features float32 [B, D, *shape]."""
        return pyramid_dequantize(ids, codebook.index, self.pyramid, rule=self.rule).quantized


def straight_through(z: Tensor, quantized: Tensor) -> Tensor:
    """The value of `quantized` with the gradient of z (Bengio et al. 2013)."""
    return z + (quantized - z).detach()
