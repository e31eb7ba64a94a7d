"""Captions in place of images, for data sets that have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spae.models.minilm import MiniLM
from spae.scorers.protocol import checksum_of, choose_device, unit


class CaptionScorer:
    """Scores words against an image's caption (or label), not against its pixels: text to text, by MiniLM.

    It is no image-text model, and gives the upper end of what one could know of the image. It satisfies
    `ImageTextScorer` with one restriction: pixels alone tell it nothing, so `image_features` raises, and
    captions go to `caption_features`. `dataset_features` calls whichever of the two a scorer has.

    Args:
        encoder: n texts -> [n, E]; None loads MiniLM. It lower-cases: "Turkey" is "turkey".
        name, checksum: of an encoder other than MiniLM.
        device: of the MiniLM that is loaded; None: the accelerator's, the CPU without one.
    """

    def __init__(
        self,
        encoder: Callable[[Sequence[str]], Tensor] | None = None,
        *,
        name: str = "caption-minilm",
        checksum: str | None = None,
        device: torch.device | str | None = None,
    ):
        if encoder is not None and not isinstance(encoder, MiniLM) and checksum is None:
            raise ValueError(
                "checksum: expected one for an encoder other than MiniLM, so that caches can tell it apart, "
                "got None"
            )
        self.encoder = MiniLM.load(device=choose_device(device)) if encoder is None else encoder
        self.name = name
        self._checksum = checksum

    @property
    def checksum(self) -> str:
        if self._checksum is None:
            assert isinstance(self.encoder, MiniLM)
            self._checksum = checksum_of(self.encoder.model.state_dict(), "caption", 1)
        return self._checksum

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """n texts -> unit vectors float32 [n, E]."""
        return unit(self.encoder(list(texts)))

    def caption_features(self, captions: Sequence[str]) -> Tensor:
        """B images' captions -> unit vectors float32 [B, E]: their `text_features`."""
        return self.text_features(captions)

    def image_features(self, images: Tensor) -> Tensor:
        """Raises TypeError: there is no caption in pixels."""
        raise TypeError(
            "images: expected captions instead, got pixels: use caption_features(captions), or "
            "dataset_features(scorer, dataset) for a data set with captions"
        )
