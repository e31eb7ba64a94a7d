"""VQGAN (Esser et al. 2021): a learned codebook instead of an LLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from spae.codebook import CodeTable
from spae.configs import Count, Decay, Weight
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.checkpoints import SavedCodebook
from spae.tokenizers.codes import through_codes
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.learned import LearnedCodebook, Update
from spae.tokenizers.parts import build_parts, latents_of
from spae.tokenizers.registry import register


@dataclass(frozen=True)
class VQGANConfig(SPAEConfig):
    """Architecture of a VQGAN: that of a SPAE, with one full-grid layer and a codebook of its own.

    codebook_size, codebook_dim: K and D. update, decay, revive_below: see `LearnedCodebook`.
    """

    grids: tuple[Count | tuple[Count, ...], ...] = (16,)
    latent_norm: Literal["matched", "none", "unit"] = "none"
    codebook_size: Count = 1024
    codebook_dim: Count = 256
    update: Update = "ema"
    decay: Decay = 0.99
    revive_below: Weight = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabularies is not None:
            raise ValueError(
                f"vocabularies: expected None, for a learned codebook's codes are not chosen, "
                f"got {self.vocabularies}"
            )
        if self.latent_norm == "matched":
            raise ValueError(
                "latent_norm: expected 'none' or 'unit', for a learned codebook follows the latents, "
                "got 'matched'"
            )

    def fresh_codebook(self) -> LearnedCodebook:
        """An untrained codebook of this size."""
        return LearnedCodebook(
            self.codebook_size,
            self.codebook_dim,
            update=self.update,
            decay=self.decay,
            revive_below=self.revive_below,
        )


@register
class VQGAN(Tokenizer):
    """An image as the codes of a learned codebook, and back: the baseline without language.

    It has everything of a VQGAN but what its training brings (an `Objective` with a discriminator and a
    perceptual distance). Its "words" are the codes' names: "<17>". The codebook is part of the state dict.

    config: architecture. codebook: None makes the config's.
    """

    config_class: ClassVar[type[SPAEConfig]] = VQGANConfig
    codebook: LearnedCodebook

    def __init__(self, config: VQGANConfig, codebook: LearnedCodebook | None = None) -> None:
        self._check_config(config)
        codebook = config.fresh_codebook() if codebook is None else codebook
        super().__init__(config, codebook)
        parts = build_parts(config, codebook)
        self.encoder, self.semantic, self.latent_norm, self.quantizer, self.decoder = parts

    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through codes and back, with the unweighted losses "reconstruction" and "commitment".

        In training the codebook learns, with the term "codebook" if it does so by gradient.
        """
        self.check_images(images)
        return through_codes(self, images)

    def latents(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return latents_of(self, images, inference=True)

    def quantize(self, latents: Tensor, num_layers: int | None = None) -> Tensor:
        return self.quantizer.encode(latents, self.codebook, num_layers)

    def pixels(self, ids: Tensor) -> Tensor:
        return self.decoder(self.quantizer.decode(ids, self.codebook))

    @classmethod
    def load_codebook(cls, config: Any, saved: SavedCodebook) -> CodeTable:
        """An untrained one: the trained vectors are in the weights."""
        return config.fresh_codebook()
