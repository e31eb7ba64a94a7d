"""A scorer's features of whole vocabularies and data sets, computed once."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from spae import assets
from spae.assets.resumable import resumable
from spae.configs import Count, Natural, checked
from spae.scorers.protocol import ImageTextScorer

_VERSION = 1
_FILE = "features.npy"


class TextFeatureCache:
    """A scorer's features of a codebook's words, computed once and then memory-mapped from the cache.

    An entry is known by the scorer's checksum and the words, in their order; of a codebook nothing else
    matters, so tables with the same words share it. An interrupted computation goes on where it stopped.

    Args:
        scorer: whose `text_features`.
        chunk: words per call, and per file that survives an interruption.
        progress: say on stderr how far it is.
    """

    def __init__(self, scorer: ImageTextScorer, *, chunk: int = 1024, progress: bool = True):
        if chunk < 1:
            raise ValueError(f"chunk: expected at least 1, got {chunk}")
        self.scorer, self.chunk, self.progress = scorer, chunk, progress

    def entry(self, words: Sequence[str]) -> str:
        """The name of the words' entry among the derived ones."""
        digest = hashlib.sha256(f"{_VERSION} {self.scorer.checksum}".encode())
        for word in words:
            digest.update(word.encode("utf-8", "surrogatepass") + b"\0")
        slug = re.sub(r"[^\w.-]+", "-", self.scorer.name)
        return f"text-features/{slug}-{len(words)}-{digest.hexdigest()[:16]}"

    def features(self, words: Sequence[str]) -> Tensor:
        """K words -> unit vectors float32 [K, E] on the CPU. Not to be modified.

        Raises:
            ValueError: no words, or the scorer gave something else than finite [n, E] for n words; nothing of
            that is kept.
        """
        if not words:
            raise ValueError("words: expected at least one, got none")
        entry = self.entry(words)
        # Beside the entry, not inside: what is computed already must outlive an interruption.
        parts = assets.cache_root() / "derived" / f"{entry}.parts"

        def build(into: Path) -> None:
            what = f"{self.scorer.name}: words"
            done = resumable(self._compute, words, parts, chunk=self.chunk, progress=self.progress, what=what)
            np.save(into / _FILE, done)

        folder = assets.cached(entry, build)
        shutil.rmtree(parts, ignore_errors=True)
        # Copy on write: torch wants an array that may be written to, and the file must not be.
        return torch.from_numpy(np.load(folder / _FILE, mmap_mode="c"))

    def _compute(self, words: list[str]) -> np.ndarray:
        features = self.scorer.text_features(words)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(words):
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"scorer: expected text_features [{len(words)}, E] for {len(words)} words, got {got}"
            )
        # Before they are kept: what is cached stays.
        return finite(features, self.scorer.name, words).numpy()


@torch.no_grad()
def dataset_features(
    scorer: Any, dataset: Any, *, batch_size: int = 64, num_workers: int = 0, progress: bool = True
) -> Tensor:
    """A scorer's feature of every image of a data set, float32 [N, E] on the CPU.

    A scorer with `caption_features` (CaptionScorer) gets the data set's `captions`, any other one its images.

    Args:
        scorer: an `ImageTextScorer`.
        dataset: of known length, whose items begin with an image float [3, H, W] in [-1, 1].
        batch_size, num_workers: for the images' `DataLoader`.

    Raises:
        ValueError: the scorer reads captions and the data set, or an item of it, has none; or it gave a
            feature that is not finite.
    """
    checked("batch_size", batch_size, Count)
    checked("num_workers", num_workers, Natural)
    if hasattr(scorer, "caption_features"):
        captions = _captions_of(dataset, scorer.name)
        distinct = list(dict.fromkeys(captions))
        place = {caption: i for i, caption in enumerate(distinct)}
        features = finite(scorer.caption_features(distinct), scorer.name, distinct)
        return features[[place[caption] for caption in captions]]
    batches: Iterable[Tensor] = DataLoader(
        dataset, batch_size, num_workers=num_workers, collate_fn=_images_of
    )
    done: list[Tensor] = []
    for images in batches:
        start = sum(map(len, done))
        done.append(finite(scorer.image_features(images), scorer.name, range(start, start + len(images))))
        if progress:
            count = sum(map(len, done))
            end = "\n" if count == len(dataset) else ""
            print(
                f"\rspae: {scorer.name}: images {count} of {len(dataset)}",
                end=end,
                file=sys.stderr,
                flush=True,
            )
    return torch.cat(done)


def finite(features: Tensor, scorer: str, items: Sequence[Any]) -> Tensor:
    """float32 on the CPU. Raises ValueError naming the first item whose feature is not finite."""
    features = features.detach().to("cpu", torch.float32)
    bad = (~torch.isfinite(features)).flatten(1).any(1).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"scorer: expected finite features of {scorer}, got {features[row].tolist()[:3]} .. for "
            f"{items[row]!r}"
        )
    return features


_HOW_TO_NAME = (
    "In a folder, images get theirs from the folders of their classes (cat/1.png), from a text file beside "
    "each (1.txt for 1.png), or from a metadata.csv or metadata.jsonl with file_name and caption; in tar "
    "shards from a .txt for each image; in a Hugging Face data set from the column of captions or the names "
    "of the classes. A scorer that looks at pixels needs none."
)


def _captions_of(dataset: Any, reader: str) -> list[str]:
    captions: list[str] = list(getattr(dataset, "captions", None) or [])
    total = len(dataset)
    count = sum(map(bool, captions))
    if len(captions) != total or count < total:
        first = next((i for i, caption in enumerate(captions) if not caption), 0)
        raise ValueError(
            f"dataset: expected a name for each of the {total} images, for {reader} reads names, got {count} "
            f"(the first without one is item {first}). {_HOW_TO_NAME}"
        )
    return captions


def _images_of(items: list[Any]) -> Tensor:
    return default_collate([item[0] if isinstance(item, tuple | list) else item for item in items])
