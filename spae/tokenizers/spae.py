"""SPAE, the Semantic Pyramid AutoEncoder (Yu et al., NeurIPS 2023)."""

from __future__ import annotations

from torch import Tensor

from spae.codebook import Codebook, VectorTable
from spae.losses import reconstruction_loss
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.parts import Vocabularies, build_parts, latents_of
from spae.tokenizers.projected import ProjectedTable
from spae.tokenizers.registry import register
from spae.tokenizers.tokens import PyramidTokens


@register
class SPAE(Tokenizer):
    """An image as a pyramid of words of a frozen LLM, and back.

    config: architecture and pyramid. codebook: the frozen table of words; it gets no gradient and enters no
    state dict.
    vocabularies: the codebook's rows behind each name in `config.vocabularies`, ints [n]; part of the state
    dict. None: it names none, or a state dict is to bring them.

    Images are [B, C, H, W] (video [B, C, T, H, W]) in [-1, 1], of `config.image_size`.
    """

    codebook: Codebook

    def __init__(
        self, config: SPAEConfig, codebook: Codebook, vocabularies: Vocabularies | None = None
    ) -> None:
        super().__init__(config, codebook)
        self.projection = None
        if config.word_dim is not None:
            learned = config.word_projector == "learned"
            self.projection = ProjectedTable(codebook, config.word_dim, learned=learned)
        parts = build_parts(config, self.table, vocabularies)
        self.encoder, self.semantic, self.latent_norm, self.quantizer, self.decoder = parts

    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through words and back, with the unweighted losses "reconstruction" and "commitment" (eq.
        8); and "codebook", if a projector trains."""
        self.check_images(images)
        z = latents_of(self, images, inference=False)
        ids, quantized, commitment = self.quantizer(z, self.table)
        reconstruction = self.decoder(quantized)
        losses = {"reconstruction": reconstruction_loss(images, reconstruction), "commitment": commitment}
        if self.projection is not None:
            losses |= self.projection.loss(z, ids, self.pyramid, self.quantizer.rule)
        return SPAEOutput(reconstruction, PyramidTokens(ids, self.pyramid), z, quantized, losses)

    def latents(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return latents_of(self, images, inference=True)

    @property
    def table(self) -> VectorTable:
        return self.codebook if self.projection is None else self.projection

    @property
    def word_masks(self) -> Tensor | None:
        return self.quantizer.masks

    def quantize(self, latents: Tensor, num_layers: int | None = None) -> Tensor:
        return self.quantizer.encode(latents, self.table, num_layers)

    def pixels(self, ids: Tensor) -> Tensor:
        return self.decoder(self.quantizer.decode(ids, self.table))
