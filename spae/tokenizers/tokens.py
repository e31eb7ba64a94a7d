"""A batch of images as pyramids of codebook ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spae_ops import Pyramid


@dataclass(frozen=True, eq=False)
class PyramidTokens:
    """ids: int64 [B, n], codebook rows of the first layers of `pyramid`, layer by layer and raster order
    inside a layer.

    n must be a whole number of layers. An id is a row of the codebook (`codebook.llm_ids[id]` is the LLM's
    own id). A batch is a sequence of its images, each again tokens of one image; `cat` and `stack` put them
    together, `stack` also as a DataLoader's `collate_fn`. `torch.load(.., weights_only=True)` reads them.

    >>> tokens = PyramidTokens(torch.arange(10).reshape(2, 5), Pyramid.square(4, (1, 2, 4)))
    >>> tokens.num_layers, tokens.layer(1).tolist(), tokens.upto(1).ids.tolist()
    (2, [[1, 2, 3, 4], [6, 7, 8, 9]], [[0], [5]])
    >>> tokens[1].ids.tolist(), PyramidTokens.stack(list(tokens)) == tokens
    ([[5, 6, 7, 8, 9]], True)
    """

    ids: Tensor
    pyramid: Pyramid

    def __post_init__(self) -> None:
        if not isinstance(self.ids, Tensor):
            raise TypeError(f"ids: expected int64 [B, n], got {type(self.ids).__name__}")
        if self.ids.ndim != 2 or self.ids.dtype != torch.int64:
            raise ValueError(f"ids: expected int64 [B, n], got {self.ids.dtype} {list(self.ids.shape)}")
        if not isinstance(self.pyramid, Pyramid):
            raise TypeError(f"pyramid: expected a spae_ops.Pyramid, got {type(self.pyramid).__name__}")
        self.pyramid.num_layers_of(self.ids.shape[1], name="ids")

    @classmethod
    def from_ids(
        cls, ids: Tensor | Sequence[int] | Sequence[Sequence[int]], pyramid: Pyramid
    ) -> PyramidTokens:
        """From integers [B, n], or [n] for one image, in a tensor of any integer dtype or in lists."""
        values = torch.as_tensor(ids)
        if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
            raise ValueError(f"ids: expected integers, got {values.dtype}")
        return cls(values.to(torch.int64).reshape(1, -1) if values.ndim == 1 else values.long(), pyramid)

    @classmethod
    def cat(cls, parts: Sequence[PyramidTokens]) -> PyramidTokens:
        """The images of several batches, of the same pyramid and number of layers, one after another."""
        parts = list(parts)
        if not parts:
            raise ValueError("parts: expected at least one, got none")
        first = parts[0]
        for number, part in enumerate(parts):
            if part.pyramid != first.pyramid or part.num_layers != first.num_layers:
                raise ValueError(
                    f"parts[{number}]: expected {first.num_layers} layers of {first.pyramid} as in parts[0], "
                    f"got {part.num_layers} of {part.pyramid}"
                )
        return cls(torch.cat([part.ids for part in parts]), first.pyramid)

    @classmethod
    def stack(cls, images: Sequence[PyramidTokens]) -> PyramidTokens:
        """A batch of images, each tokens of exactly one."""
        for number, image in enumerate(images):
            if len(image) != 1:
                raise ValueError(f"images[{number}]: expected tokens of one image, got {len(image)}")
        return cls.cat(images)

    @property
    def num_layers(self) -> int:
        return self.pyramid.num_layers_of(self.ids.shape[1])

    @property
    def shape(self) -> torch.Size:
        """Of the ids: images, tokens of each."""
        return self.ids.shape

    @property
    def device(self) -> torch.device:
        return self.ids.device

    def layer(self, layer: int) -> Tensor:
        """The ids of one layer (0-based), int64 [B, n_l] in raster order of `pyramid.grids[layer]`."""
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.num_layers:
            raise ValueError(f"layer: expected 0..{self.num_layers - 1}, got {layer!r}")
        start = self.pyramid.num_tokens_upto(layer)
        return self.ids[:, start : self.pyramid.num_tokens_upto(layer + 1)]

    def layers(self) -> list[Tensor]:
        """The ids of every layer held, one int64 [B, n_l] each."""
        return [self.layer(layer) for layer in range(self.num_layers)]

    def upto(self, num_layers: int) -> PyramidTokens:
        """The same images in the first `num_layers` layers only, 1 <= num_layers <= the layers held."""
        held = self.num_layers
        if isinstance(num_layers, bool) or not isinstance(num_layers, int) or not 1 <= num_layers <= held:
            raise ValueError(f"num_layers: expected 1..{held}, got {num_layers!r}")
        return PyramidTokens(self.ids[:, : self.pyramid.num_tokens_upto(num_layers)], self.pyramid)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PyramidTokens:
        return PyramidTokens(self.ids.to(device, non_blocking=non_blocking), self.pyramid)

    def cpu(self) -> PyramidTokens:
        return self.to("cpu")

    def pin_memory(self) -> PyramidTokens:
        return PyramidTokens(self.ids.pin_memory(), self.pyramid)

    def check_rows(self, num_words: int) -> None:
        """Raises ValueError for an id that is no row of a codebook of so many words."""
        wrong = (self.ids < 0) | (self.ids >= num_words)
        if wrong.any():
            image, position = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"tokens: expected ids 0 to {num_words - 1}, got {int(self.ids[image, position])} at "
                f"position {position} of image {image}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, images: int | slice | Sequence[int] | Tensor) -> PyramidTokens:
        """Some of the images: by number, ``tokens[:4]``, numbers in a list or tensor, or a bool mask [B]."""
        if isinstance(images, int) and not isinstance(images, bool):
            row = range(len(self))[images]  # raises IndexError, which ends a loop; and counts from the end
            return PyramidTokens(self.ids[row : row + 1], self.pyramid)
        if not isinstance(images, slice):
            images = self._chosen(images)
        return PyramidTokens(self.ids[images], self.pyramid)

    def _chosen(self, images: Any) -> Tensor:
        expected = "expected a number, a slice, or numbers or a mask [n]"
        try:
            chosen = torch.as_tensor(images, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"images: {expected}, got {images!r:.80}") from error
        if chosen.ndim != 1 or chosen.is_floating_point():
            raise TypeError(f"images: {expected}, got {chosen.dtype} {list(chosen.shape)}")
        count = len(self)
        if chosen.dtype == torch.bool and len(chosen) != count:
            raise ValueError(f"images: expected a mask [{count}], got [{len(chosen)}]")
        if chosen.dtype != torch.bool and not ((chosen >= -count) & (chosen < count)).all():
            raise IndexError(f"images: expected numbers from {-count} to {count - 1}, got {chosen.tolist()}")
        return chosen

    def __iter__(self) -> Iterator[PyramidTokens]:
        return (self[image] for image in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """The same words at the same places, on whatever devices."""
        if not isinstance(other, PyramidTokens):
            return NotImplemented
        return self.pyramid == other.pyramid and torch.equal(self.ids, other.ids.to(self.device))

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # equal by values, and those are in a tensor


torch.serialization.add_safe_globals([PyramidTokens, Pyramid])
