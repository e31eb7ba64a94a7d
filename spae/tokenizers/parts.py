"""What the tokenizers are put together from, beside what `spae.models` offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from spae.codebook import CodeTable
from spae.models import Decoder, Encoder
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.quantizers import FreeLatents, MatchedNorm, PyramidQuantizer, UnitNorm, latent_norm

if TYPE_CHECKING:
    from spae.models.semantic_features import SemanticFeatures


class Parts(NamedTuple):
    """Pixels to latents: `encoder`, `semantic` and `latent_norm`. Latents to codes and back: `quantizer`.
    Quantized latents to pixels: `decoder`."""

    encoder: Encoder
    semantic: SemanticFeatures | None
    latent_norm: MatchedNorm | UnitNorm | FreeLatents
    quantizer: PyramidQuantizer
    decoder: Decoder


def build_parts(config: SPAEConfig, codebook: CodeTable) -> Parts:
    """The parts that a configuration asks for, of the codebook's width."""
    backbone = config.backbone(codebook.width)
    return Parts(
        encoder=Encoder(backbone),
        semantic=_semantic_features(config, codebook.width),
        latent_norm=latent_norm(config.latent_norm, codebook, config.ndim),
        quantizer=PyramidQuantizer(config.pyramid, config.rule),
        decoder=Decoder(backbone),
    )


class ToLatents(Protocol):
    """The three parts that make latents, of a tokenizer or a `Parts`."""

    @property
    def encoder(self) -> Encoder: ...
    @property
    def semantic(self) -> SemanticFeatures | None: ...
    @property
    def latent_norm(self) -> MatchedNorm | UnitNorm | FreeLatents: ...


def latents_of(parts: ToLatents, images: Tensor, *, inference: bool) -> Tensor:
    """Images [B, C, *image_size] to latents float32 [B, D, *shape], also under autocast.

    inference: use and move no statistics of the batch and drop nothing, whatever mode the parts are in.
    """
    z = parts.encoder(images).float()
    if parts.semantic is not None:
        z = parts.semantic(z, images, inference=inference)
    return parts.latent_norm(z, inference=inference).to(torch.float32)


def _semantic_features(config: SPAEConfig, width: int) -> SemanticFeatures | None:
    if config.semantic_features == "none":
        return None
    from spae.models.semantic_features import SemanticFeatures

    return SemanticFeatures(width, config.pyramid, config.semantic_layers, dropout=config.semantic_dropout)
