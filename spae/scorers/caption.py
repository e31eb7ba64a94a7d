"""Captions in place of images, for data sets that have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spae.checksum import checksum as checksum_of_parts
from spae.data.translations import Language, translations
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
        languages: whose words `text_features` reads as what they mean in English, where a dictionary from the
            names of emoji knows them (`translations`, and what that raises; the first counts most): "Hund"
            gets the feature of "dog". MiniLM itself is English. Captions are not translated. None by default.
    """

    def __init__(
        self,
        encoder: Callable[[Sequence[str]], Tensor] | None = None,
        *,
        name: str = "caption-minilm",
        checksum: str | None = None,
        device: torch.device | str | None = None,
        languages: Sequence[Language] = (),
    ):
        if encoder is not None and not isinstance(encoder, MiniLM) and checksum is None:
            raise ValueError(
                "checksum: expected one for an encoder other than MiniLM, so that caches can tell it apart, "
                "got None"
            )
        self.encoder = MiniLM.load(device=choose_device(device)) if encoder is None else encoder
        self.meanings = translations(tuple(languages))
        self.name = "-".join([name, *languages])
        self._checksum = checksum

    @property
    def checksum(self) -> str:
        if self._checksum is None:
            assert isinstance(self.encoder, MiniLM)
            self._checksum = checksum_of(self.encoder.model.state_dict(), "caption", 1)
        if not self.meanings:
            return self._checksum
        return checksum_of_parts([self._checksum, repr(sorted(self.meanings.items()))])

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """n texts -> unit vectors float32 [n, E]. What the languages' dictionary knows, whatever its case and
        the white space around it, gets what one of its meanings gets, the one most like them all: their mean
        would be a hub, near to whatever is shown."""
        features = self._encoded(texts)
        known = {text: self.meanings.get(text.strip().casefold(), ()) for text in texts}
        english = list(dict.fromkeys(term for terms in known.values() for term in terms))
        if not english:
            return features
        place = {term: row for row, term in enumerate(english)}
        encoded = self._encoded(english)
        for row, text in enumerate(texts):
            if known[text]:
                meanings = encoded[[place[term] for term in known[text]]]
                # Rounded, so that of two the first counts, on every host.
                likeness = (meanings @ meanings.mean(0)).round(decimals=4)
                features[row] = meanings[likeness.argmax()]
        return features

    def caption_features(self, captions: Sequence[str]) -> Tensor:
        """B images' captions -> unit vectors float32 [B, E], as the encoder reads them."""
        return self._encoded(captions)

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        return unit(self.encoder(list(texts)))

    def image_features(self, images: Tensor) -> Tensor:
        """Raises TypeError: there is no caption in pixels."""
        raise TypeError(
            "images: expected captions instead, got pixels: use caption_features(captions), or "
            "dataset_features(scorer, dataset) for a data set with captions"
        )
