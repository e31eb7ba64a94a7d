"""A batch of images as pyramids of codebook ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spae_ops import Pyramid


@dataclass(frozen=True)
class PyramidTokens:
    """ids: int64 [B, n], codebook rows of the first layers of `pyramid`, layer by layer and raster order
    inside a layer.

    n must be a whole number of layers. An id is a row of the codebook (`codebook.llm_ids[id]` is the LLM's
    own id).

    >>> tokens = PyramidTokens(torch.arange(5).reshape(1, 5), Pyramid.square(4, (1, 2, 4)))
    >>> tokens.num_layers, tokens.layer(1).tolist(), tokens.upto(1).ids.tolist()
    (2, [[1, 2, 3, 4]], [[0]])
    """

    ids: Tensor
    pyramid: Pyramid

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.dtype != torch.int64:
            raise ValueError(f"ids: expected int64 [B, n], got {self.ids.dtype} {list(self.ids.shape)}")
        self.pyramid.num_layers_of(self.ids.shape[1])

    @property
    def num_layers(self) -> int:
        return self.pyramid.num_layers_of(self.ids.shape[1])

    def layer(self, layer: int) -> Tensor:
        """The ids of one layer (0-based), int64 [B, n_l] in raster order of `pyramid.grids[layer]`."""
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer: expected 0..{self.num_layers - 1}, got {layer}")
        start = self.pyramid.num_tokens_upto(layer)
        return self.ids[:, start : self.pyramid.num_tokens_upto(layer + 1)]

    def layers(self) -> list[Tensor]:
        """The ids of every layer held, one int64 [B, n_l] each."""
        return [self.layer(layer) for layer in range(self.num_layers)]

    def upto(self, num_layers: int) -> PyramidTokens:
        """The same images in the first `num_layers` layers only, 1 <= num_layers <= the layers held."""
        if not 1 <= num_layers <= self.num_layers:
            raise ValueError(f"num_layers: expected 1..{self.num_layers}, got {num_layers}")
        return PyramidTokens(self.ids[:, : self.pyramid.num_tokens_upto(num_layers)], self.pyramid)

    def to(self, device: torch.device | str) -> PyramidTokens:
        return PyramidTokens(self.ids.to(device), self.pyramid)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, images: slice) -> PyramidTokens:
        """Some of the images: ``tokens[:4]``."""
        if not isinstance(images, slice):
            raise TypeError(f"images: expected a slice, got {type(images).__name__}")
        return PyramidTokens(self.ids[images], self.pyramid)
