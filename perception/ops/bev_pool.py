"""Pooling of image features into BEV cells as a single gather, with an index cached per calibration.

Each cell sums the features of the pixels whose frustum points fall into it, weighted by depth probability. This is
``embedding_bag`` with per-sample weights, so the points x channels volume that Lift-Splat-Shoot (Philion & Fidler,
2020) sorts and sums is never materialised.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

_SPARE_BAG = 32  # points of no cell that are summed together


@dataclass(frozen=True)
class PoolIndex:
    """The frustum points that each cell sums, ordered by cell.

    point: int32 [P], index of the point.  pixel: int32 [P], index of the pixel whose ray it lies on.
    offsets: int32 [cells or more], CSR offsets: where each cell's points begin; behind the cells are bags of points
        that lie in none.
    """

    point: torch.Tensor
    pixel: torch.Tensor
    offsets: torch.Tensor
    cells: int


def pool_index(cell: torch.Tensor, bins: int, cells: int) -> PoolIndex:
    """cell: int64 [pixels * bins], the cell of each frustum point, pixel by pixel; -1 for none."""
    return (of_all_points if cell.is_cuda else of_points_inside)(cell, bins, cells)


def of_points_inside(cell: torch.Tensor, bins: int, cells: int) -> PoolIndex:
    point = (cell >= 0).nonzero().squeeze(1)
    cell, permutation = torch.sort(cell[point], stable=True)
    point = point[permutation].int()
    count = torch.bincount(cell, minlength=cells)
    return PoolIndex(point, point // bins, (count.cumsum(0) - count).int(), cells)


def of_all_points(cell: torch.Tensor, bins: int, cells: int) -> PoolIndex:
    """Nobody waits for a GPU to say how many points lie in cells. The others are spread over many small bags."""
    point = torch.arange(len(cell), device=cell.device)
    spare = len(cell) // _SPARE_BAG + 1
    cell, point = torch.sort(torch.where(cell >= 0, cell, cells + point % spare), stable=True)
    offsets = torch.searchsorted(cell, torch.arange(cells + spare, device=cell.device))
    return PoolIndex(point.int(), (point // bins).int(), offsets.int(), cells)


def bev_pool(features: torch.Tensor, depth: torch.Tensor, index: PoolIndex) -> torch.Tensor:
    """Features [pixels, C] and depth probabilities [pixels, bins] -> sums [cells, C]; differentiable in both."""
    weights = depth.reshape(-1)[index.point]
    bags = F.embedding_bag(index.pixel, features, index.offsets, mode="sum", per_sample_weights=weights)
    return bags[: index.cells]


class IndexCache:
    """LRU cache of indices by calibration; the key is the exact bytes of the calibration, on a CPU."""

    def __init__(self, size: int = 8):
        self.size = size
        self.kept: OrderedDict[tuple, PoolIndex] = OrderedDict()

    def get(
        self, calibration: tuple[torch.Tensor, ...], size: tuple[int, int], make: Callable[[], PoolIndex]
    ) -> PoolIndex:
        key = (size, *((value.shape, value.numpy().tobytes()) for value in calibration))
        if key not in self.kept:
            self.kept[key] = make()
            if len(self.kept) > self.size:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]
