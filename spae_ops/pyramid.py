"""Where the tokens of a pyramid lie: pure data, no learned parts and no users.

What is kept between calls is kept in Python's own numbers. Tensors are made from them on the CPU at each
call: whatever mode that runs in (a default device, inference, fake tensors), later calls see nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product
from math import prod
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Round:
    """Lookups that do not depend on each other, so that they run as one batch.

    tokens: int64 [r], index of each lookup in the pyramid's token order, ascending.
    layers: int64 [r], the layer of each lookup.
    positions: int64 [r, ndim], its position in the latent grid.

    Its length is r, and iterating over it gives (layer, position) pairs.
    """

    tokens: Tensor
    layers: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        return zip(self.layers.tolist(), map(tuple, self.positions.tolist()), strict=True)


@dataclass(frozen=True)
class Pyramid:
    """A latent grid and the grids of tokens that dilation subsampling (SPAE eq. 1) lays over it.

    shape: the latent grid, for instance ``(16, 16)``, or ``(5, 16, 16)`` with time first.
    grids: one tuple per layer with as many axes as `shape`; each must divide the latent grid.

    Tokens are ordered layer by layer and in raster order inside a layer. Positions are 0-based.

    >>> pyramid = Pyramid.square(16, (1, 2, 4, 8, 16, 16))
    >>> pyramid.tokens_per_layer, pyramid.num_tokens
    ((1, 4, 16, 64, 256, 256), 597)
    >>> pyramid.positions(1).tolist()
    [[4, 4], [4, 12], [12, 4], [12, 12]]
    >>> [len(r) for r in pyramid.rounds()]
    [256, 256, 85]
    """

    shape: tuple[int, ...]
    grids: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        shape = _sizes("shape", self.shape)
        if not isinstance(self.grids, Sequence) or len(self.grids) == 0:
            raise ValueError(f"grids: expected at least one layer's grid, got {self.grids!r}")
        grids = tuple(_sizes(f"grids[{layer}]", grid) for layer, grid in enumerate(self.grids))
        for layer, grid in enumerate(grids):
            if len(grid) != len(shape):
                raise ValueError(f"grids[{layer}]: expected {len(shape)} axes like shape {shape}, got {grid}")
            if any(size % cells for size, cells in zip(shape, grid, strict=True)):
                raise ValueError(f"grids[{layer}]: expected a grid that divides shape {shape}, got {grid}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "grids", grids)

    @classmethod
    def square(cls, size: int, grids: Sequence[int]) -> Pyramid:
        """A pyramid on a square 2D latent grid: ``Pyramid.square(16, (1, 2, 4, 8, 16, 16))`` is the
        paper's."""
        if not isinstance(grids, Sequence):
            raise ValueError(f"grids: expected a sequence of sizes, got {grids!r}")
        return cls((size, size), tuple((cells, cells) for cells in grids))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def num_layers(self) -> int:
        return len(self.grids)

    @property
    def tokens_per_layer(self) -> tuple[int, ...]:
        return tuple(prod(grid) for grid in self.grids)

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens_per_layer)

    def num_tokens_upto(self, num_layers: int) -> int:
        """Tokens in the first `num_layers` layers, 0 <= num_layers <= L."""
        if not _is_whole(num_layers) or not 0 <= num_layers <= self.num_layers:
            raise ValueError(f"num_layers: expected 0..{self.num_layers}, got {num_layers!r}")
        return sum(self.tokens_per_layer[:num_layers])

    def num_layers_of(self, num_tokens: int, *, name: str = "num_tokens") -> int:
        """How many whole layers hold exactly `num_tokens` tokens; the inverse of `num_tokens_upto`.

        name: what the error for any other number calls it.
        """
        counts = [self.num_tokens_upto(layers) for layers in range(1, self.num_layers + 1)]
        for layers, count in enumerate(counts, start=1):
            if count == num_tokens:  # not `in`: torch.compile may hand a symbolic size
                return layers
        raise ValueError(f"{name}: expected a whole number of layers, one of {counts}, got {num_tokens}")

    def upto(self, num_layers: int) -> Pyramid:
        """The same latent grid with only the first `num_layers` layers, 1 <= num_layers <= L."""
        if not _is_whole(num_layers) or not 1 <= num_layers <= self.num_layers:
            raise ValueError(f"num_layers: expected 1..{self.num_layers}, got {num_layers!r}")
        return Pyramid(self.shape, self.grids[:num_layers])

    def positions(self, layer: int) -> Tensor:
        """Positions of a layer's tokens in the latent grid (eq. 1, 0-based), int64 [n_l, ndim], raster
        order."""
        if not _is_whole(layer) or not 0 <= layer < self.num_layers:
            raise ValueError(f"layer: expected 0..{self.num_layers - 1}, got {layer!r}")
        return int64(positions(self.shape, self.grids[layer])).reshape(-1, self.ndim)

    def flat_positions(self, layer: int) -> Tensor:
        """The same positions as indices into the flattened latent grid, int64 [n_l]."""
        if not _is_whole(layer) or not 0 <= layer < self.num_layers:
            raise ValueError(f"layer: expected 0..{self.num_layers - 1}, got {layer!r}")
        return int64(chains(self).places[layer])

    def depth(self) -> Tensor:
        """Number of lookups at each position of the latent grid, int64 [*shape]."""
        return int64(chains(self).depth).reshape(self.shape)

    def rounds(self) -> tuple[Round, ...]:
        """The lookups in dependency order: round j holds every position's j-th lookup.

        By eqs. 1 and 2 a lookup depends only on earlier lookups at the same position, so all lookups of a
        round are independent. The paper's 6 layers are 3 rounds of 256, 256 and 85.
        """
        layers = [layer for layer, count in enumerate(self.tokens_per_layer) for _ in range(count)]
        where = [place for grid in self.grids for place in positions(self.shape, grid)]
        return tuple(
            Round(
                int64(tokens),
                int64([layers[token] for token in tokens]),
                int64([where[token] for token in tokens]).reshape(-1, self.ndim),
            )
            for tokens in chains(self).rounds
        )


class Chains(NamedTuple):
    """The chain of lookups at each position. Positions are indices into the flattened latent grid.

    places: for each layer the positions of its tokens. order: for each token its place in its position's
    chain (m_l in eq. 2). depth: lookups at each position. rounds: the tokens of each place in a chain,
    ascending.
    """

    places: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    depth: tuple[int, ...]
    rounds: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=256)
def chains(pyramid: Pyramid) -> Chains:
    places = tuple(
        tuple(ravel(place, pyramid.shape) for place in positions(pyramid.shape, grid))
        for grid in pyramid.grids
    )
    depth = [0] * prod(pyramid.shape)
    order = []
    for position in chain.from_iterable(places):
        order.append(depth[position])
        depth[position] += 1
    rounds: list[list[int]] = [[] for _ in range(max(depth))]
    for token, number in enumerate(order):
        rounds[number].append(token)
    return Chains(places, tuple(order), tuple(depth), tuple(map(tuple, rounds)))


@lru_cache(maxsize=1024)
def positions(shape: tuple[int, ...], grid: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The positions of a grid's tokens in the latent grid, in raster order."""
    axes = []
    for size, cells in zip(shape, grid, strict=True):
        ratio = size // cells
        # Eq. 1 is 1-based: h*s - ceil(s/2) + 1 for h = 1..; that is (h*s + floor(s/2)) for h = 0.. .
        axes.append([cell * ratio + ratio // 2 for cell in range(cells)])
    return tuple(product(*axes))


def ravel(position: Sequence[int], shape: Sequence[int]) -> int:
    """A position in a grid as an index into the flattened grid."""
    index = 0
    for place, size in zip(position, shape, strict=True):
        index = index * size + place
    return index


def int64(values: Sequence) -> Tensor:
    """On the CPU, whatever the default device."""
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _sizes(name: str, value: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or len(value) == 0:
        raise ValueError(f"{name}: expected a tuple of positive sizes, got {value!r}")
    if not all(_is_whole(size) and size > 0 for size in value):
        raise ValueError(f"{name}: expected positive sizes, got {tuple(value)!r}")
    return tuple(int(size) for size in value)


__all__ = ["Chains", "Pyramid", "Round", "chains", "int64", "positions", "ravel"]
