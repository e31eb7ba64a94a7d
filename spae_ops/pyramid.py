"""Where the tokens of a pyramid lie: pure data, no learned parts and no users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from numbers import Integral

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
                raise ValueError(f"grids[{layer}]: {grid} does not divide the latent grid, shape {shape}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "grids", grids)

    @classmethod
    def square(cls, size: int, grids: Sequence[int]) -> Pyramid:
        """A pyramid on a square 2D latent grid: ``Pyramid.square(16, (1, 2, 4, 8, 16, 16))`` is the
        paper's."""
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
        if not 0 <= num_layers <= self.num_layers:
            raise ValueError(f"num_layers: expected 0..{self.num_layers}, got {num_layers}")
        return sum(self.tokens_per_layer[:num_layers])

    def num_layers_of(self, num_tokens: int) -> int:
        """How many whole layers hold exactly `num_tokens` tokens; the inverse of `num_tokens_upto`."""
        counts = [self.num_tokens_upto(layers) for layers in range(1, self.num_layers + 1)]
        for layers, count in enumerate(counts, start=1):
            if count == num_tokens:  # not `in`: torch.compile may hand a symbolic size
                return layers
        raise ValueError(f"num_tokens: expected a whole number of layers, one of {counts}, got {num_tokens}")

    def upto(self, num_layers: int) -> Pyramid:
        """The same latent grid with only the first `num_layers` layers, 1 <= num_layers <= L."""
        if not 1 <= num_layers <= self.num_layers:
            raise ValueError(f"num_layers: expected 1..{self.num_layers}, got {num_layers}")
        return Pyramid(self.shape, self.grids[:num_layers])

    def positions(self, layer: int) -> Tensor:
        """Positions of a layer's tokens in the latent grid (eq. 1, 0-based), int64 [n_l, ndim], raster
        order."""
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer: expected 0..{self.num_layers - 1}, got {layer}")
        axes = []
        for size, cells in zip(self.shape, self.grids[layer], strict=True):
            ratio = size // cells
            # Eq. 1 is 1-based: h*s - ceil(s/2) + 1 for h = 1..; that is (h*s + floor(s/2)) for h = 0.. .
            axes.append(torch.arange(cells) * ratio + ratio // 2)
        return torch.cartesian_prod(*axes).reshape(-1, self.ndim)

    def flat_positions(self, layer: int) -> Tensor:
        """The same positions as indices into the flattened latent grid, int64 [n_l]."""
        return ravel(self.positions(layer), self.shape)

    def depth(self) -> Tensor:
        """Number of lookups at each position of the latent grid, int64 [*shape]."""
        return _chains(self)[1].clone()

    def rounds(self) -> tuple[Round, ...]:
        """The lookups in dependency order: round j holds every position's j-th lookup.

        By eqs. 1 and 2 a lookup depends only on earlier lookups at the same position, so all lookups of a
        round are independent. The paper's 6 layers are 3 rounds of 256, 256 and 85.
        """
        order = _chains(self)[0]
        layers = torch.repeat_interleave(torch.arange(self.num_layers), torch.tensor(self.tokens_per_layer))
        positions = torch.cat([self.positions(layer) for layer in range(self.num_layers)])
        tokens = [torch.nonzero(order == j).flatten() for j in range(int(order.max()) + 1)]
        return tuple(Round(t, layers[t], positions[t]) for t in tokens)


def ravel(positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Positions int64 [n, ndim] in a grid as indices into the flattened grid, int64 [n]."""
    strides = torch.tensor([prod(shape[axis + 1 :]) for axis in range(len(shape))])
    return (positions * strides).sum(-1)


@lru_cache(maxsize=256)
def _chains(pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """For each token its place in its position's chain of lookups (m_l in eq. 2), and lookups per
    position."""
    depth = torch.zeros(prod(pyramid.shape), dtype=torch.int64)
    order = []
    for layer in range(pyramid.num_layers):
        flat = pyramid.flat_positions(layer)
        order.append(depth[flat])
        depth[flat] += 1
    return torch.cat(order), depth.reshape(pyramid.shape)


def _sizes(name: str, value: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or len(value) == 0:
        raise ValueError(f"{name}: expected a tuple of positive sizes, got {value!r}")
    if not all(isinstance(size, Integral) and size > 0 for size in value):
        raise ValueError(f"{name}: expected positive sizes, got {tuple(value)!r}")
    return tuple(int(size) for size in value)


__all__ = ["Pyramid", "Round", "ravel"]
