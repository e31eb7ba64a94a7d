"""SPAE, the Semantic Pyramid AutoEncoder (Yu et al., NeurIPS 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spae.codebook import Codebook
from spae.losses import reconstruction_loss
from spae.models import Decoder, Encoder
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.quantizers import PyramidQuantizer, latent_norm
from spae.tokenizers.tokens import PyramidTokens

if TYPE_CHECKING:
    from spae.models.semantic_features import SemanticFeatures


class SPAE(Tokenizer):
    """An image as a pyramid of words of a frozen LLM, and back.

    config: architecture and pyramid. codebook: the frozen table of words; it gets no gradient and enters no
    state dict.

    Images are [B, C, H, W] (video [B, C, T, H, W]) in [-1, 1], of `config.image_size`.

    Only `forward` knows training: in that mode it uses and moves batch statistics (see `MatchedNorm` for
    whose) and drops features. `encode`, `decode` and `latents` do neither, whatever mode a parent module has
    put this one into.
    """

    def __init__(self, config: SPAEConfig, codebook: Codebook) -> None:
        super().__init__()
        self.config = config
        self.codebook = codebook
        _ = codebook.index  # prepared now, outside of any torch.compile
        self.pyramid = config.pyramid
        backbone = config.backbone(codebook.vectors.shape[1])
        self.encoder = Encoder(backbone)
        self.semantic = _semantic_features(config, backbone.latent_dim)
        self.latent_norm = latent_norm(config.latent_norm, codebook, config.ndim)
        self.quantizer = PyramidQuantizer(self.pyramid, config.rule)
        self.decoder = Decoder(backbone)

    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through words and back, with the unweighted losses "reconstruction" and "commitment" (eq.
        8)."""
        z = self._latents(images, inference=False)
        ids, quantized, commitment = self.quantizer(z, self.codebook)
        reconstruction = self._pixels(quantized, ids, inference=False)
        losses = {"reconstruction": reconstruction_loss(images, reconstruction), "commitment": commitment}
        return SPAEOutput(reconstruction, PyramidTokens(ids, self.pyramid), z, quantized, losses)

    @torch.no_grad()
    def encode(self, images: Tensor, num_layers: int | None = None) -> PyramidTokens:
        """Images to the words of the first `num_layers` layers (None: all)."""
        ids = self.quantizer.encode(self.latents(images), self.codebook, num_layers)
        return PyramidTokens(ids, self.pyramid)

    def decode(self, tokens: PyramidTokens) -> Tensor:
        """Words of any number of layers to images in [-1, 1]."""
        self._check_tokens(tokens)
        features = self.quantizer.decode(tokens.ids, self.codebook)
        return self._pixels(features, tokens.ids, inference=True).float().clamp(-1, 1)

    def latents(self, images: Tensor) -> Tensor:
        """Images to latents float32 [B, D, *shape], what `encode` looks up (also under autocast)."""
        return self._latents(images, inference=True)

    def _latents(self, images: Tensor, *, inference: bool) -> Tensor:
        self._check_images(images)
        z = self.encoder(images).float()
        if self.semantic is not None:
            z = self.semantic(z, images, inference=inference)
        return self.latent_norm(z, inference=inference).float()

    def _pixels(self, quantized: Tensor, ids: Tensor, *, inference: bool) -> Tensor:
        """Quantized latents [B, D, *shape], of these ids, to images that are not clamped."""
        return self.decoder(quantized)


def _semantic_features(config: SPAEConfig, width: int) -> SemanticFeatures | None:
    if config.semantic_features == "none":
        return None
    from spae.models.semantic_features import SemanticFeatures

    return SemanticFeatures(width, config.pyramid, config.semantic_layers, dropout=config.semantic_dropout)
