"""Images through the codes of a learned codebook and back: what VQGAN and RQ have in common."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from spae.losses import reconstruction_loss
from spae.models import Decoder
from spae.tokenizers.base import SPAEOutput
from spae.tokenizers.learned import LearnedCodebook
from spae.tokenizers.parts import ToLatents, latents_of
from spae.tokenizers.quantizers import PyramidQuantizer
from spae.tokenizers.tokens import PyramidTokens
from spae_ops import layer_queries


class ThroughCodes(ToLatents, Protocol):
    """The parts of a tokenizer whose codebook is its own."""

    @property
    def quantizer(self) -> PyramidQuantizer: ...
    @property
    def decoder(self) -> Decoder: ...
    @property
    def codebook(self) -> LearnedCodebook: ...


def through_codes(parts: ThroughCodes, images: Tensor) -> SPAEOutput:
    """Images [B, C, *image_size] through codes and back, with the unweighted losses "reconstruction" and
    "commitment".

    In training the codebook learns, with the term "codebook" if it does so by gradient.
    """
    z = latents_of(parts, images, inference=False)
    ids, quantized, commitment = parts.quantizer(z, parts.codebook)
    reconstruction = parts.decoder(quantized)
    losses = {"reconstruction": reconstruction_loss(images, reconstruction), "commitment": commitment}
    if (loss := _learn(parts, z.detach(), ids)) is not None:
        losses["codebook"] = loss
    return SPAEOutput(reconstruction, PyramidTokens(ids, parts.quantizer.pyramid), z, quantized, losses)


def _learn(parts: ThroughCodes, z: Tensor, ids: Tensor) -> Tensor | None:
    book, pyramid, rule = parts.codebook, parts.quantizer.pyramid, parts.quantizer.rule
    queries = [layer_queries(z, ids, book.index, pyramid, i, rule=rule) for i in range(pyramid.num_layers)]
    return book.learn(torch.cat(queries, 1).flatten(0, 1), ids.flatten())
