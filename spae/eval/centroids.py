"""Few-shot classification without a language model: the class whose examples' mean is nearest."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spae.codebook import WordIds
from spae.eval.episodes import Episode

Words = Mapping[int, tuple[WordIds, ...]] | Sequence[tuple[int, ...]]
_SIZE = 128  # Lite0 sees images so large: it was trained at 224, and maps of 32 pixels are a point
_BATCH = 64


class Features(NamedTuple):
    """A vector [E] of each item that examples, and that queries are drawn from."""

    shown: Mapping[int, Tensor]
    asked: Mapping[int, Tensor]


def histograms(shown: Words, asked: Words) -> Features:
    """How often each word occurs in an image."""
    pairs = [_items(shown), _items(asked)]
    found = {word for of in pairs for words in of.values() for word in words}
    column = {word: i for i, word in enumerate(sorted(found, key=_ids))}

    def count(words: tuple[WordIds, ...]) -> Tensor:
        row = torch.zeros(len(column))
        for word, times in Counter(words).items():
            row[column[word]] = times
        return row

    return Features(*({item: count(words) for item, words in of.items()} for of in pairs))


def _ids(word: WordIds) -> tuple[int, ...]:
    return (word,) if isinstance(word, int) else word


def pixels(images: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Images [C, H, W] as they are."""
    return {item: image.flatten() for item, image in images.items()}


@torch.no_grad()
def lite0_features(images: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """What Lite0, trained on ImageNet, sees in images [3, H, W]: unit vectors [1280]."""
    from spae.models.lite0 import Lite0

    model = Lite0.load()
    stacked = torch.stack(list(images.values()))
    rows = torch.cat([F.normalize(model.embed(batch, size=_SIZE)) for batch in stacked.split(_BATCH)])
    return dict(zip(images, rows, strict=True))


def centroid_guess(features: Features, episode: Episode, generator: random.Random) -> int:
    """The way whose examples' mean is nearest to the query, Euclidean; `generator` breaks ties."""
    of_way: dict[int, list[Tensor]] = {}
    for shot in episode.shots:
        of_way.setdefault(shot.way, []).append(features.shown[shot.item])
    query = features.asked[episode.query.item]
    distances = {
        way: (torch.stack(vectors).mean(0) - query).square().sum().item() for way, vectors in of_way.items()
    }
    least = min(distances.values())
    return generator.choice(sorted(way for way, distance in distances.items() if distance == least))


def _items(words: Words) -> dict[int, tuple[WordIds, ...]]:
    return dict(words.items() if isinstance(words, Mapping) else enumerate(words))
