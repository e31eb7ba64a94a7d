"""A tokenizer with the face of an autoencoder of diffusers, which is not needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spae.tokenizers.base import Tokenizer
from spae.tokenizers.v2l import V2LTokenizer


class AutoencoderConfig(dict[str, Any]):
    """Settings by name: `config["scaling_factor"]`, or `config.scaling_factor`, as diffusers has them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


@dataclass(frozen=True)
class Latents:
    """latents: float32 [B, D, *shape], not quantized. It stands for its own distribution, of no width, where
    `AutoencoderKL` gives one: ``encode(x).latent_dist.sample()``."""

    latents: Tensor

    @property
    def latent_dist(self) -> Latents:
        return self

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.latents

    def mode(self) -> Tensor:
        return self.latents


@dataclass(frozen=True)
class Decoded:
    """sample: float32 [B, C, *image_size], not clamped."""

    sample: Tensor


class Autoencoder(nn.Module):
    """A tokenizer between images and latents, as pipelines and trainers of diffusers call `VQModel` and
    `AutoencoderKL`: ``encode(x).latents``, ``decode(z).sample``.

    What is decoded is quantized first: latents of a generative model become the nearest words. Neither
    direction uses or moves batch statistics. Gradients reach images through `encode`, and no latents through
    `decode`, whose lookups have none.

    config: "in_channels", "out_channels", "latent_channels" (D), "sample_size", "block_out_channels" and
        "scaling_factor", by which pipelines multiply latents so that their variance is 1: one over the root
        mean square deviation of the vectors that latents are looked up in, channel by channel from their
        mean, which latents of `latent_norm` "matched" and "unit" have about and "none" may not.
        "shift_factor" is None: means stay.

    tokenizer: of any class whose latents are looked up in the codebook itself, so not V2L, whose are looked
    up in projected words and carry a feature of the whole image; held as it is, and the only part.
    num_layers: how many layers latents are quantized to; None: all.

    >>> import torch, spae
    >>> codebook = spae.Codebook.from_arrays([" a", " b", " c"], torch.eye(3))
    >>> config = spae.SPAEConfig((16, 16), (1, 2), channels=8, multipliers=(1, 1, 1))
    >>> vae = Autoencoder(spae.SPAE(config, codebook))
    >>> z = vae.encode(torch.zeros(2, 3, 16, 16)).latents
    >>> z.shape, vae.decode(z).sample.shape
    (torch.Size([2, 3, 4, 4]), torch.Size([2, 3, 16, 16]))
    """

    def __init__(self, tokenizer: Tokenizer, num_layers: int | None = None) -> None:
        super().__init__()
        if not isinstance(tokenizer, Tokenizer):
            raise TypeError(f"tokenizer: expected a spae.Tokenizer, got {type(tokenizer).__name__}")
        if isinstance(tokenizer, V2LTokenizer):
            raise TypeError("tokenizer: expected one of the codebook's own latents, got V2LTokenizer")
        if num_layers is not None:
            tokenizer.pyramid.upto(num_layers)  # raises for one that is not there
        self.tokenizer, self.num_layers = tokenizer, num_layers

    @property
    def config(self) -> AutoencoderConfig:
        config, table = self.tokenizer.config, self.tokenizer.table
        backbone = config.backbone(table.width)
        deviation = table.vectors.detach().double().var(0, correction=0).mean().sqrt().item()
        size = config.image_size
        return AutoencoderConfig(
            in_channels=config.in_channels,
            out_channels=config.in_channels,
            latent_channels=table.width,
            vq_embed_dim=table.width,
            num_vq_embeddings=len(table),
            block_out_channels=backbone.widths,
            sample_size=size[0] if len(set(size)) == 1 else size,
            scaling_factor=1 / deviation if deviation > 0 else 1.0,
            shift_factor=None,
            force_upcast=False,
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.tokenizer.dtype

    @property
    def device(self) -> torch.device:
        return self.tokenizer.device

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Images [B, C, *image_size] in [-1, 1] to `Latents`; without `return_dict` to (latents,)."""
        latents = self.tokenizer.latents(x.float())
        return Latents(latents) if return_dict else (latents,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Latents [B, D, *shape] to `Decoded`; without `return_dict` to (sample,). generator: not used."""
        sample = self.tokenizer.pixels(self.ids(z)).float()
        return Decoded(sample) if return_dict else (sample,)

    def ids(self, z: Tensor) -> Tensor:
        """The words that latents [B, D, *shape] are nearest to, int64 [B, n]."""
        return self.tokenizer.quantize(z.detach().float(), self.num_layers)

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        """Images through words and back: ``decode(encode(sample).latents)``."""
        return self.decode(self.encode(sample).latents, return_dict)
