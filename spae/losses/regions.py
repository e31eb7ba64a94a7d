"""Which part of an image or clip guides which cell: crops or frames under the grids of a pyramid's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from spae.configs import Config, Count, Range, Share
from spae_ops import Pyramid


@dataclass(frozen=True)
class Regions(Config):
    """The image as a whole, and crops of it; or the clip as a whole, and frames of it.

    grids: numbers of cells a side, ascending from 1, the image as a whole: (1, 2, 4) is 1 + 4 + 16 regions,
        in raster order grid after grid. (1,) is the paper's: every word is about the whole image.
    context: a crop's side in cells of its grid. 1: crops just touch; with 2 each sees as much around itself.
        Crops never reach out of the image: those at its edge are moved inwards.
    blend: the share of the whole's feature in that of each crop or frame, and so in its raw scores.
    moments: frames of a clip that are seen, evenly from the first to the last, or the middle one. The whole's
        feature is their mean; where there are several, a layer with as many cells in time, or a multiple,
        has each guided by the frame in it.
    """

    section = "objective.semantic.regions"

    grids: tuple[Count, ...] = (1,)
    context: Annotated[float, Range(1)] = 1.5
    blend: Share = 0.0
    moments: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grids[:1] != (1,) or list(self.grids) != sorted(set(self.grids)):
            raise ValueError(
                f"{self.section}.grids: expected numbers ascending from 1, as in [1, 2, 4], got {self.grids}"
            )
        if self.moments > 1 and len(self.grids) > 1:
            raise ValueError(
                f"{self.section}.moments: expected 1 beside grids of crops, {self.grids}, got {self.moments}"
            )

    def __len__(self) -> int:
        frames = self.moments if self.moments > 1 else 0
        return frames + sum(grid * grid for grid in self.grids)

    def frames(self, count: int) -> list[int]:
        """Which of a clip's frames are seen. Raises ValueError where it has fewer.

        >>> Regions(moments=5).frames(17), Regions().frames(17)
        ([0, 4, 8, 12, 16], [8])
        """
        if count < self.moments:
            raise ValueError(f"{self.section}.moments: expected at most {count}, got {self.moments}")
        if self.moments == 1:
            return [count // 2]
        return [round(i * (count - 1) / (self.moments - 1)) for i in range(self.moments)]

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

        In a pyramid of three axes it is the frame (`moments`), or the whole where the layer's cells in time
        are no multiple of those; in one of a single axis the whole.
        """
        size = pyramid.grids[layer]
        if len(self.grids) > 1 and pyramid.ndim != 2:
            raise ValueError(
                f"{self.section}.grids: expected (1,) for a grid of {size}, which is no image's, "
                f"got {self.grids}"
            )
        if self.moments > 1 and pyramid.ndim != 3:
            raise ValueError(
                f"{self.section}.moments: expected 1 for a grid of {size}, which is no clip's, "
                f"got {self.moments}"
            )
        if pyramid.ndim != 2:
            if self.moments == 1 or size[0] % self.moments:
                return torch.zeros(pyramid.tokens_per_layer[layer], dtype=torch.int64)
            times = 1 + torch.arange(size[0]) // (size[0] // self.moments)
            return times.repeat_interleave(size[1] * size[2])
        grid = max(grid for grid in self.grids if size[0] % grid == 0 and size[1] % grid == 0)
        first = sum(coarser * coarser for coarser in self.grids if coarser < grid)
        rows, columns = (torch.arange(length) // (length // grid) for length in size)
        return (first + rows[:, None] * grid + columns).flatten()

    def blended(self, features: Tensor) -> Tensor:
        """Features of every region [.., R, E] with the whole's share in those of the crops or frames."""
        whole = features[..., :1, :]
        return torch.cat([whole, torch.lerp(features[..., 1:, :], whole, self.blend)], dim=-2)

    def mirrored(self) -> Tensor:
        """For each region the one that lies there in an image mirrored left to right, int64 [R]; the frames
        of a clip stay where they are."""
        if self.moments > 1:
            return torch.arange(len(self))
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
