"""VQGAN (Esser et al. 2021): a learned codebook instead of an LLM's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from spae.configs import Count, Decay, Weight
from spae.tokenizers.codes import LearnedTokenizer
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.learned import LearnedCodebook, Update
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
        if self.word_dim is not None:
            raise ValueError(
                f"word_dim: expected None, for a learned codebook has no projector, got {self.word_dim}"
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
class VQGAN(LearnedTokenizer):
    """An image as the codes of a learned codebook, and back: the baseline without language.

    It has everything of a VQGAN but what its training brings (an `Objective` with a discriminator and a
    perceptual distance). Its "words" are the codes' names: "<17>".

    config: architecture. codebook: None makes the config's.
    """

    config_class: ClassVar[type[SPAEConfig]] = VQGANConfig
