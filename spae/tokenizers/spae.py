"""SPAE, the Semantic Pyramid AutoEncoder (Yu et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spae.codebook import Codebook, VectorTable
from spae.configs import Count, checked
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

    Images are [B, C, H, W] (video [B, C, T, H, W]) in [-1, 1], of `config.image_size`; to a model of causal
    video an image is a clip of one frame, see `resized`.
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

    def set_chunks(self, frames: int | None) -> None:
        """Have causal networks take clips in parts along time: latents and pixels stay, and the layers'
        memory does not grow with the clip.

        frames: at a time, a multiple of the factor in time; None: all.

        Raises ValueError for another number, and for networks that are not causal.
        """
        config = self.encoder.config
        if frames is not None:
            checked("frames", frames, Count)
            if not config.causal or frames % config.factor[0]:
                expected = (
                    f"a multiple of {config.factor[0]}" if config.causal else "None of what is not causal"
                )
                raise ValueError(f"frames: expected {expected}, got {frames}")
        self.encoder.frames_at_once = frames
        self.decoder.cells_at_once = None if frames is None else frames // config.factor[0]

    def resized(self, image_size: Sequence[int], grids: Sequence[int | Sequence[int]]) -> SPAE:
        """A copy with these weights for images or clips of another size, e.g. of one frame or of thousands.

        grids: of its pyramid, as many as here, for layers keep their vocabularies. Raises ValueError for
        sizes or grids that do not fit.
        """
        entries = {**self.config.to_dict(), "image_size": tuple(image_size), "grids": tuple(grids)}
        if len(entries["grids"]) != len(self.config.grids):
            raise ValueError(f"grids: expected {len(self.config.grids)} as here, got {tuple(grids)}")
        other = SPAE(SPAEConfig.from_dict(entries), self.codebook)
        other.load_state_dict(self.state_dict())
        return other.to(device=self.device, dtype=self.dtype).train(self.training)
