"""Which word of its pool guides each position: the paper draws them one by one; here are other ways, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from spae.configs import Count, Weight, checked
from spae.losses.regions import Regions

Draw = Literal["uniform", "distinct", "ranked"]
Sizes = Count | tuple[Count, ...] | None
_MANY = torch.iinfo(torch.int32).max


@dataclass(frozen=True, eq=False)
class TargetRules:
    """How targets are found beyond eqs. 4 and 7; the defaults are the paper's.

    draw: "uniform" draws each position's word from its pool, whatever the others have. "distinct" draws
        without replacement over a layer's positions: a word comes again only where a pool has none left that
        came less often. "ranked" does not draw: positions in raster order take the best word that came least
        often, so that a position of an image has the same target in every step. Where draws change from step
        to step, the same expectation pulls all positions of a layer to the same place; fixed ones pull them
        apart.
    least, most: bounds of a pool's size, beside its threshold: one for all guided layers or one for each,
        None for none. With a threshold of 1 and least = n, a pool is the n best words.
    regions: which part of the image each position's pool is for.
    offset: float [K], taken from the raw scores of each word before anything else, e.g. `hub_offset`.
    allowed: bool [L', K], the words among which each guided layer's pools are found; the others count neither
        as targets nor as the best and worst of eq. 6. None: all.
    mixup: a above 0 trains on mixed pictures (`SemanticLoss.mix`), as Zhang et al. (2018) do for classes: in
        shares from Beta(a, a), with words drawn from either picture's pools in these shares. 0: none.
    """

    draw: Draw = "uniform"
    least: int | tuple[int, ...] | None = None
    most: int | tuple[int, ...] | None = None
    regions: Regions = field(default_factory=Regions)
    offset: Tensor | None = None
    allowed: Tensor | None = None
    mixup: float = 0.0

    def __post_init__(self) -> None:
        checked("draw", self.draw, Draw)
        checked("mixup", self.mixup, Weight)
        for name in ("least", "most"):
            object.__setattr__(self, name, checked(name, getattr(self, name), Sizes))

    def check(self, num_layers: int, num_words: int) -> None:
        """Raises ValueError for rules that do not fit so many guided layers and words."""
        for name, value in (("least", self.least), ("most", self.most)):
            if isinstance(value, tuple) and len(value) != num_layers:
                raise ValueError(f"{name}: expected one for each of {num_layers} layers, got {value}")
        low, high = self.bounds(num_layers)
        if any(a is not None and b is not None and a > b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"least: expected at most {self.most}, the most, got {self.least}")
        for name, value, shape, kind in (
            ("offset", self.offset, (num_words,), "finite"),
            ("allowed", self.allowed, (num_layers, num_words), "bool"),
        ):
            if value is None:
                continue
            fits = value.dtype == torch.bool if kind == "bool" else torch.isfinite(value).all()
            if value.shape != shape or not fits:
                got = f"{value.dtype} {list(value.shape)}"
                raise ValueError(f"{name}: expected {kind} {list(shape)}, got {got}")
        if self.allowed is not None and not self.allowed.any(1).all():
            empty = int((~self.allowed.any(1)).nonzero()[0])
            raise ValueError(f"allowed: expected at least one word for each layer, got none for {empty}")

    def bounds(self, num_layers: int) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """`least` and `most` of every guided layer."""
        low, high = (
            value if isinstance(value, tuple) else (value,) * num_layers for value in (self.least, self.most)
        )
        return low, high


def draw_targets(ranked: Tensor, sizes: Tensor, regions: Tensor, uniform: Tensor | None) -> Tensor:
    """Words for the positions of one layer without replacement (`TargetRules.draw`): int64 [B, n].

    ranked: int64 [B, R, M], each region's words, best first. sizes: int64 [B, R], how many of them make its
    pool. regions: int64 [n], each position's. uniform: numbers in [0, 1) [B, n]; None takes the best word.
    """
    batch, _, most = ranked.shape
    used = torch.zeros(batch, int(ranked.max()) + 1, dtype=torch.int32, device=ranked.device)
    places = torch.arange(most, device=ranked.device)
    chosen = []
    for position, region in enumerate(regions.tolist()):
        words = ranked[:, region]
        uses = used.gather(1, words).masked_fill(places >= sizes[:, region, None], _MANY)
        free = uses == uses.amin(1, keepdim=True)
        if uniform is None:
            place = free.int().argmax(1, keepdim=True)  # the first of them
        else:
            count = free.sum(1, keepdim=True)
            # The product may round up to the count itself.
            number = torch.minimum((uniform[:, position, None].double() * count).long(), count - 1)
            place = (free & (free.cumsum(1) == number + 1)).int().argmax(1, keepdim=True)
        word = words.gather(1, place)
        used.scatter_add_(1, word, torch.ones_like(word, dtype=torch.int32))
        chosen.append(word)
    return torch.cat(chosen, 1)


@torch.no_grad()
def hub_offset(
    features: Tensor, text_features: Tensor, *, weight: float, neighbours: int | None = 10
) -> Tensor:
    """What takes words down that fit many images: `weight` times the mean of each word's raw scores with its
    `neighbours` nearest images (None: with all), float32 [K].

    With weight 1/2 it is the part of cross-domain similarity local scaling (Conneau et al. 2018) that belongs
    to the word; the image's part is the same for all words, and eq. 6 takes it out.

    features: [N, E], of the images of a data set. text_features: [K, E].
    """
    if neighbours is None:
        return weight * (text_features.float() @ features.float().mean(0))
    count = min(checked("neighbours", neighbours, Count), len(features))
    parts = [
        (words.float() @ features.float().T).topk(count, dim=1).values.mean(1)
        for words in text_features.split(1024)
    ]
    return weight * torch.cat(parts)


def same_pools(regions: Sequence[Tensor], allowed: Tensor | None) -> list[list[int]]:
    """Layers that have their regions and their words in common, so that one ranking serves them all."""
    groups: dict[Any, list[int]] = {}
    for layer, region in enumerate(regions):
        words = None if allowed is None else allowed[layer].cpu().numpy().tobytes()
        groups.setdefault((tuple(region.unique().tolist()), words), []).append(layer)
    return list(groups.values())
