"""Which part of an image guides which cell: grids of crops under the grids of a pyramid's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from spae.configs import Config, Count, Range, Share
from spae_ops import Pyramid


@dataclass(frozen=True)
class Regions(Config):
    """The image as a whole, and crops of it.

    grids: numbers of cells a side, ascending from 1, the image as a whole: (1, 2, 4) is 1 + 4 + 16 regions,
        in raster order grid after grid. (1,) is the paper's: every word is about the whole image.
    context: a crop's side in cells of its grid. 1: crops just touch; with 2 each sees as much around itself.
        Crops never reach out of the image: those at its edge are moved inwards.
    blend: the share of the whole image's feature in that of each crop, and so in its raw scores.
    """

    section = "objective.semantic.regions"

    grids: tuple[Count, ...] = (1,)
    context: Annotated[float, Range(1)] = 1.5
    blend: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grids[:1] != (1,) or list(self.grids) != sorted(set(self.grids)):
            raise ValueError(
                f"{self.section}.grids: expected numbers ascending from 1, as in [1, 2, 4], got {self.grids}"
            )

    def __len__(self) -> int:
        return sum(grid * grid for grid in self.grids)

    def boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """(top, left, height, width) of every region in pixels, at least one pixel each.

        >>> Regions((1, 2), 1).boxes(8, 6)
        [(0, 0, 8, 6), (0, 0, 4, 3), (0, 3, 4, 3), (4, 0, 4, 3), (4, 3, 4, 3)]
        """
        found = []
        for grid in self.grids:
            rows = [_span(height, grid, cell, self.context) for cell in range(grid)]
            columns = [_span(width, grid, cell, self.context) for cell in range(grid)]
            found += [(top, left, tall, wide) for top, tall in rows for left, wide in columns]
        return found

    def of_layer(self, pyramid: Pyramid, layer: int) -> Tensor:
        """The region that guides each position of a layer, int64 [n_l] in raster order: the cell that holds
        it in the finest grid that divides the layer's, so that no cell of the layer lies in two.

        A pyramid of other than two axes has one region, the whole.
        """
        size = pyramid.grids[layer]
        if pyramid.ndim != 2:
            if len(self) > 1:
                raise ValueError(
                    f"{self.section}.grids: expected (1,) for a grid of {size}, which is no image's, "
                    f"got {self.grids}"
                )
            return torch.zeros(pyramid.tokens_per_layer[layer], dtype=torch.int64)
        grid = max(grid for grid in self.grids if size[0] % grid == 0 and size[1] % grid == 0)
        first = sum(coarser * coarser for coarser in self.grids if coarser < grid)
        rows, columns = (torch.arange(length) // (length // grid) for length in size)
        return (first + rows[:, None] * grid + columns).flatten()

    def blended(self, features: Tensor) -> Tensor:
        """Features of every region [.., R, E] with the whole image's share in those of the crops."""
        whole = features[..., :1, :]
        return torch.cat([whole, torch.lerp(features[..., 1:, :], whole, self.blend)], dim=-2)

    def mirrored(self) -> Tensor:
        """For each region the one that lies there in an image mirrored left to right, int64 [R]."""
        rows, first = [], 0
        for grid in self.grids:
            cells = first + torch.arange(grid * grid).reshape(grid, grid)
            rows.append(cells.flip(1).flatten())
            first += grid * grid
        return torch.cat(rows)


def _span(length: int, grid: int, cell: int, context: float) -> tuple[int, int]:
    """(start, length) of one cell's crop along one side."""
    size = min(length, max(1, round(length * context / grid)))
    start = round(length * (cell + 0.5) / grid - size / 2)
    return min(max(start, 0), length - size), size
