"""Words that a regression reads off pretrained image features, as the first layers' latents: a departure from
the paper, for words that say something of pictures of a kind that training never saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spae.models.lite0 import EMBED_DIM
from spae.models.seen_images import SeenImages
from spae.models.semantic_features import FrozenFeatures, Moments
from spae_ops import Pyramid


class _Table(Protocol):
    @property
    def vectors(self) -> Tensor: ...
    def __len__(self) -> int: ...


class SemanticWords(FrozenFeatures):
    """Puts words' own vectors in place of the latents at the positions of the first layers.

    Latents float [B, D, h, w], after their norm, and images float [B, 3, H, W] in [-1, 1] -> latents float
    [B, D, h, w].

    A linear map takes the frozen network's last map, pooled, to the space in which a scorer compares images
    and words; a position takes the word of the largest product there. Its latent then is that word's vector,
    so that streaming average quantization looks up that word in every layer that has the position: what is
    left over after it is zero. Words are so chosen where the scorer tells them apart, not by nearness in the
    table, whose hubs lie near to every mean of words.

    Layer after layer, in raster order, a position takes from among its `pools[layer]` best words the best of
    those that the layer's other positions took least often; one that an earlier layer has, too, keeps its
    word.

    Nothing here trains: `fit` makes it. In training an image's words are looked for once (`SeenImages`).

    Args:
        table: of the words' vectors [K, D].
        pyramid: of two axes. layers: how many; from 1 to the pyramid's.
        rank: of the map, to so many of the directions that tell words' features apart best.
        pools: for each of these layers from how many words its positions choose. None: as many as it has
            positions, so that all its words differ.
        local: the share of a position's own cell in what it is chosen by; the rest is the whole image's. A
            cell of the first layer with that position is meant; a grid of 1 has the image as its cell.
        size: images below so many pixels a side are enlarged to it for the network.

    Raises:
        spae.assets.AssetNotCached: the weights are not cached and may not be fetched.
    """

    after_norm = True
    places: Tensor
    mean: Tensor
    scale: Tensor
    weight: Tensor
    centre: Tensor
    words: Tensor

    def __init__(
        self,
        table: _Table,
        pyramid: Pyramid,
        layers: int,
        *,
        rank: int,
        pools: Sequence[int] | None = None,
        local: float = 0.0,
        size: int = 128,
    ) -> None:
        super().__init__(size)
        self._table = (table,)  # in a tuple, so that it is no part of this module
        self._grids = pyramid.grids[:layers]
        self._pools = tuple(pyramid.tokens_per_layer[:layers] if pools is None else pools)
        self._local = local
        self._seen = SeenImages()
        columns = pyramid.shape[1]
        self._layers = [
            [row * columns + column for row, column in pyramid.positions(layer).tolist()]
            for layer in range(layers)
        ]
        self._places = list(dict.fromkeys(place for layer in self._layers for place in layer))
        self.register_buffer("places", torch.tensor(self._places), persistent=False)
        for name, shape in (
            *(("mean", (EMBED_DIM,)), ("scale", (EMBED_DIM,)), ("weight", (EMBED_DIM, rank))),
            *(("centre", (rank,)), ("words", (len(table), rank))),
        ):
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, latents: Tensor, images: Tensor, *, inference: bool = False) -> Tensor:
        """inference: as in evaluation mode, whatever the mode."""
        once = self.training and not inference and not torch.compiler.is_compiling()
        if once:
            # Words that mixed precision moves would be other ones than those of inference.
            with torch.autocast(images.device.type, enabled=False):
                ids = self._seen.ids(images, self.choose)
        else:
            ids = self.choose(images)
        vectors = self._table[0].vectors[ids].to(latents).mT
        places = self.places.expand(vectors.shape)
        return latents.flatten(2).scatter(2, places, vectors).reshape(latents.shape)

    @torch.no_grad()
    def choose(self, images: Tensor) -> Tensor:
        """The words of the positions, of the first layer first, then of what the second adds ..: int64 [B,
        n]."""
        return self.choose_from(self.last_map(images))

    @torch.no_grad()
    def last_map(self, images: Tensor) -> Tensor:
        """What is pooled, float [B, 1280, h, w]."""
        return self.network.head(self.maps(images)[self.last_stride])

    def choose_from(self, seen: Tensor) -> Tensor:
        """`choose` for the network's last maps."""
        whole = seen.mean((2, 3))[:, None]
        chosen: dict[int, Tensor] = {}
        for grid, places, pool in zip(self._grids, self._layers, self._pools, strict=True):
            cells = [cell for cell, place in enumerate(places) if place not in chosen]
            features = F.adaptive_avg_pool2d(seen, (grid[0], grid[1])).flatten(2).mT[:, cells]
            scores = self.scores(torch.lerp(whole.expand_as(features), features, self._local))
            ranked = scores.topk(min(pool, scores.shape[2]), dim=2).indices
            uses = torch.zeros_like(scores[:, 0], dtype=torch.int64)
            for place in set(places) & set(chosen):
                uses = _count(uses, chosen[place])
            order = torch.arange(ranked.shape[2], device=ranked.device)
            for cell, best in zip(cells, ranked.unbind(1), strict=True):
                rank = (uses.gather(1, best) * len(order) + order).argmin(1, keepdim=True)
                chosen[places[cell]] = word = best.gather(1, rank)
                uses = _count(uses, word)
        return torch.cat([chosen[place] for place in self._places], 1)

    def scores(self, features: Tensor) -> Tensor:
        """The network's pooled features float [.., 1280] -> how well each word fits, float [.., K]."""
        return ((features - self.mean) / self.scale @ self.weight + self.centre) @ self.words.T

    def fit(
        self, batches: Iterable[tuple[Tensor, Tensor]], text_features: Tensor, *, ridge: float = 3.0
    ) -> None:
        """Make the map by a ridge regression from the images' features to what the scorer sees in them.

        batches: of images float [B, 3, H, W] and the scorer's features float [B, E]; at least two images in
            all. text_features: the scorer's, of the table's words [K, E]. ridge: weight of the penalty for
            each image's square, in units of the standardised features' variance.
        """
        pooled = ((self.last_map(images).mean((2, 3)), guidance) for images, guidance in batches)
        self.fit_pooled(pooled, text_features, ridge=ridge)

    @torch.no_grad()
    def fit_pooled(
        self, batches: Iterable[tuple[Tensor, Tensor]], text_features: Tensor, *, ridge: float = 3.0
    ) -> None:
        """`fit` to the network's pooled features [B, 1280] in place of images."""
        words = text_features.double().to(self.words.device)
        words = words - words.mean(0)  # what all have in common tells no word from another
        directions = torch.linalg.svd(words, full_matrices=False).Vh[: self.words.shape[1]].T
        moments = Moments()
        for pooled, guidance in batches:
            moments.add(pooled[:, :, None, None], guidance.double().to(directions.device) @ directions)
        rank = directions.shape[1]  # fewer where there are fewer words or features
        weight, _ = moments.ridge(ridge)
        for buffer, value in (
            (self.mean, moments.mean),
            (self.scale, moments.deviation),
            (self.weight[:, :rank], weight),
            (self.centre[:rank], moments.target / moments.cells),
            (self.words[:, :rank], words @ directions),
        ):
            buffer.copy_(value)
        self._seen.clear()


def _count(uses: Tensor, word: Tensor) -> Tensor:
    """uses: int64 [B, K]. word: int64 [B, 1], one more of which was used."""
    return uses.scatter_add(1, word, torch.ones_like(word))
