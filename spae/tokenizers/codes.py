"""What tokenizers with a learned codebook of their own have in common: VQGAN and RQ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spae.codebook import CodeTable
from spae.losses import reconstruction_loss
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.checkpoints import SavedCodebook
from spae.tokenizers.learned import LearnedCodebook
from spae.tokenizers.parts import build_parts, latents_of
from spae.tokenizers.tokens import PyramidTokens
from spae_ops import layer_queries


class LearnedTokenizer(Tokenizer):
    """An image as the codes of a codebook that learns with it; the codebook is part of the state dict.

    config: architecture, with `fresh_codebook` (`VQGANConfig`). codebook: None makes the config's.
    """

    codebook: LearnedCodebook

    def __init__(self, config: Any, codebook: LearnedCodebook | None = None) -> None:
        self._check_config(config)
        book: LearnedCodebook = config.fresh_codebook() if codebook is None else codebook
        super().__init__(config, book)
        parts = build_parts(config, book)
        self.encoder, self.semantic, self.latent_norm, self.quantizer, self.decoder = parts

    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through codes and back, with the unweighted losses "reconstruction" and "commitment".

        In training the codebook learns, with the term "codebook" if it does so by gradient.
        """
        self.check_images(images)
        z = latents_of(self, images, inference=False)
        ids, quantized, commitment = self.quantizer(z, self.codebook)
        reconstruction = self.decoder(quantized)
        losses = {"reconstruction": reconstruction_loss(images, reconstruction), "commitment": commitment}
        if (loss := self._learn(z.detach(), ids)) is not None:
            losses["codebook"] = loss
        return SPAEOutput(reconstruction, PyramidTokens(ids, self.pyramid), z, quantized, losses)

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

    def _learn(self, z: Tensor, ids: Tensor) -> Tensor | None:
        book, pyramid, rule = self.codebook, self.pyramid, self.quantizer.rule
        queries = [
            layer_queries(z, ids, book.index, pyramid, layer, rule=rule)
            for layer in range(pyramid.num_layers)
        ]
        return book.learn(torch.cat(queries, 1).flatten(0, 1), ids.flatten())
