"""What the tokenizers are put together from, beside what `spae.models` offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from spae.codebook import VectorTable
from spae.models import Decoder, Encoder
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.quantizers import FreeLatents, MatchedNorm, PyramidQuantizer, UnitNorm, latent_norm

if TYPE_CHECKING:
    from spae.models.semantic_features import SemanticFeatures
    from spae.models.semantic_words import SemanticWords


class Parts(NamedTuple):
    """Pixels to latents: `encoder`, `semantic` and `latent_norm`. Latents to codes and back: `quantizer`.
    Quantized latents to pixels: `decoder`."""

    encoder: Encoder
    semantic: SemanticFeatures | SemanticWords | None
    latent_norm: MatchedNorm | UnitNorm | FreeLatents
    quantizer: PyramidQuantizer
    decoder: Decoder


Vocabularies = Mapping[str, Sequence[int] | Tensor]
"""Rows of the codebook by a vocabulary's name."""


def build_parts(config: SPAEConfig, codebook: VectorTable, vocabularies: Vocabularies | None = None) -> Parts:
    """The parts that a configuration asks for, of the codebook's width. vocabularies: see `layer_masks`."""
    backbone = config.backbone(codebook.width)
    return Parts(
        encoder=Encoder(backbone),
        semantic=_semantic(config, codebook),
        latent_norm=latent_norm(config.latent_norm, codebook, config.ndim),
        quantizer=PyramidQuantizer(
            config.pyramid,
            config.rule,
            masks=layer_masks(config, len(codebook), vocabularies),
            layer_dropout=config.layer_dropout,
            word_noise=config.word_noise,
        ),
        decoder=Decoder(backbone),
    )


class ToLatents(Protocol):
    """The three parts that make latents, of a tokenizer or a `Parts`."""

    @property
    def encoder(self) -> Encoder: ...
    @property
    def semantic(self) -> SemanticFeatures | SemanticWords | None: ...
    @property
    def latent_norm(self) -> MatchedNorm | UnitNorm | FreeLatents: ...


def latents_of(parts: ToLatents, images: Tensor, *, inference: bool) -> Tensor:
    """Images [B, C, *image_size] to latents float32 [B, D, *shape], also under autocast.

    inference: use and move no statistics of the batch and drop nothing, whatever mode the parts are in.
    """
    z = parts.encoder(images).float()
    semantic = parts.semantic
    if semantic is not None and not semantic.after_norm:
        z = semantic(z, images, inference=inference)
    z = parts.latent_norm(z, inference=inference).to(torch.float32)
    if semantic is not None and semantic.after_norm:
        z = semantic(z, images, inference=inference)
    return z


def _semantic(config: SPAEConfig, table: VectorTable) -> SemanticFeatures | SemanticWords | None:
    if config.semantic_features == "none":
        return None
    if config.semantic_projection == "words":
        from spae.models.semantic_words import SemanticWords

        assert config.semantic_rank is not None
        return SemanticWords(
            table,
            config.pyramid,
            config.semantic_layers,
            rank=config.semantic_rank,
            pools=config.semantic_pools,
            local=config.semantic_local,
            size=config.semantic_size,
        )
    from spae.models.semantic_features import SemanticFeatures

    return SemanticFeatures(
        table.width,
        config.pyramid,
        config.semantic_layers,
        dropout=config.semantic_dropout,
        rank=config.semantic_rank,
        frozen=config.semantic_projection == "frozen",
        size=config.semantic_size,
    )


def layer_masks(config: SPAEConfig, num_words: int, vocabularies: Vocabularies | None) -> Tensor | None:
    """The words that each layer may take, bool [L, num_words]; None if the configuration names none.

    vocabularies: the rows behind the configuration's names. None: a state dict is still to bring them, and
    until then layers of a name other than "all" take no word.

    Raises ValueError for vocabularies that the configuration does not name, for missing or empty ones and for
    rows that are not in the codebook.
    """
    names = set(config.vocabularies or ()) - {"all"}
    if vocabularies is not None and set(vocabularies) != names:
        raise ValueError(f"vocabularies: expected {sorted(names)}, got {sorted(vocabularies)}")
    if config.vocabularies is None:
        return None
    masks = torch.zeros(len(config.vocabularies), num_words, dtype=torch.bool)
    for layer, name in enumerate(config.vocabularies):
        if name == "all":
            masks[layer] = True
        elif vocabularies is not None:
            masks[layer, _rows(name, vocabularies[name], num_words)] = True
    return masks


def _rows(name: str, vocabulary: Sequence[int] | Tensor, num_words: int) -> Tensor:
    rows = torch.as_tensor(vocabulary, dtype=torch.int64, device="cpu")
    if len(rows) == 0 or rows.min() < 0 or rows.max() >= num_words:
        raise ValueError(
            f"vocabularies: expected rows 0 to {num_words - 1} in {name!r}, at least one, "
            f"got {rows.tolist()!s:.80}"
        )
    return rows
