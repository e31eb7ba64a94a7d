"""Many images through a tokenizer, a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from spae.tokenizers.base import Tokenizer
from spae.tokenizers.tokens import PyramidTokens


@torch.no_grad()
def encode_all(model: Tokenizer, images: Tensor, *, batch_size: int = 64) -> PyramidTokens:
    """Tokens of images [N, C, *image_size], in batches on the model's device."""
    ids = [model.encode(batch.to(model.device)).ids for batch in images.split(batch_size)]
    return PyramidTokens(torch.cat(ids), model.pyramid)


@torch.no_grad()
def decode_all(model: Tokenizer, tokens: PyramidTokens, *, batch_size: int = 64) -> Tensor:
    """Images [N, C, *image_size] of tokens of any number of layers, in batches."""
    parts = [model.decode(tokens[i : i + batch_size]) for i in range(0, len(tokens), batch_size)]
    return torch.cat(parts).cpu()
