"""The words of a V2L tokenizer, made once and kept in a folder: vectors, which are global and which local,
and the image encoder that they belong to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spae.codebook import Codebook
from spae.codebook.expansion import Expansion, describing
from spae.configs import Count, checked, read_object
from spae.models.global_features import GlobalFeatures
from spae.scorers import ConSEScorer, TextFeatureCache
from spae.scorers.protocol import ImageTextScorer
from spae.tokenizers.v2l import GLOBAL, LOCAL, lite0_features

_FORMAT = 1
_ABOUT, _ENCODER = "v2l.json", "image_encoder.safetensors"


@dataclass(frozen=True)
class V2LWords:
    """codebook: words and phrases with the vectors of a text encoder. vocabularies: rows of the "global" and
    the "local" ones. image_encoder: on the images' side, where it is made of Lite0, else None. about: where
    all of it comes from, as JSON.
    """

    codebook: Codebook
    vocabularies: dict[str, list[int]]
    image_encoder: GlobalFeatures | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        expansion: Expansion,
        scorer: ImageTextScorer,
        images: Tensor,
        *,
        keep: Count = 5,
        progress: bool = False,
    ) -> V2LWords:
        """V2L's two codebooks: local words are the expansion's of one id, global ones those of all its
        phrases that describe some image.

        scorer: its text features are the vectors; kept in the cache. images: its features of the training
        images, unit vectors [N, E] (`spae.scorers.dataset_features`). keep: phrases of each image.
        """
        vectors = TextFeatureCache(scorer, progress=progress).features(expansion.words)
        best = describing(vectors, images.cpu(), keep=keep)
        single = ((expansion.llm_ids >= 0).sum(1) == 1).nonzero()[:, 0]
        rows = torch.cat([single, best]).unique()
        lengths = (expansion.llm_ids[best] >= 0).sum(1)
        counts = [int((lengths == n).sum()) for n in range(1, expansion.llm_ids.shape[1] + 1)]
        about = {
            "scorer": scorer.name,
            "scorer_checksum": scorer.checksum,
            "images": len(images),
            "keep": keep,
        }
        conse = isinstance(scorer, ConSEScorer)
        kind = "" if not conse else "conse" if scorer.ridge is None else "ridge"
        return cls(
            expansion.subset(rows).codebook(vectors[rows]),
            {
                GLOBAL: torch.searchsorted(rows, best).tolist(),
                LOCAL: torch.searchsorted(rows, single).tolist(),
            },
            lite0_features(kind, vectors.shape[1], scorer) if conse else None,
            {"expansion": {**expansion.about, "checksum": expansion.checksum}, **about, "counts": counts},
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all of it into a folder, made if need be."""
        folder = Path(folder)
        self.codebook.save(folder)
        encoder = None
        if self.image_encoder is not None:
            tensors = {k: v for k, v in self.image_encoder.state_dict().items() if isinstance(v, Tensor)}
            save_file(tensors, folder / _ENCODER)
            encoder = {"kind": self.image_encoder.kind, "top": self.image_encoder.top}
        saved = {
            "format": _FORMAT,
            "codebook": self.codebook.checksum,
            "vocabularies": self.vocabularies,
            "image_encoder": encoder,
            "about": self.about,
        }
        (folder / _ABOUT).write_text(json.dumps(saved), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> V2LWords:
        """What `save` wrote. Raises FileNotFoundError, or ValueError for anything else."""
        file = Path(folder) / _ABOUT
        saved = read_object(file, "the words of a V2L tokenizer")
        if saved.get("format") != _FORMAT:
            raise ValueError(f"{file}: expected format {_FORMAT}, got {saved.get('format')!r}")
        rows = checked(f"{file}: vocabularies", saved.get("vocabularies"), dict[str, list[int]])
        codebook = Codebook.load(folder)
        if codebook.checksum != saved.get("codebook"):
            raise ValueError(
                f"{file}: expected the codebook of checksum {saved.get('codebook')}, got {codebook.checksum}"
            )
        encoder = saved.get("image_encoder")
        if encoder is not None:
            tensors = load_file(Path(folder) / _ENCODER)
            encoder = GlobalFeatures(encoder["kind"], codebook.width, tensors, top=encoder["top"])
        return cls(codebook, rows, encoder, saved.get("about") or {})
