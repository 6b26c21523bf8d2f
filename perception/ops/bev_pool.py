"""Pooling of image features into BEV cells as one gather, with an index that is made once for every calibration.

Each cell sums the features of the pixels whose frustum points fall into it, each weighted by its depth probability.
That is what ``embedding_bag`` with per-sample weights computes, so the volume of points times channels, which
Lift-Splat-Shoot (Philion & Fidler, 2020) sorts and sums, is never made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class PoolIndex:
    """Which frustum points each cell sums, cell after cell.

    point: int32 [P], index of the point.  pixel: int32 [P], index of the pixel on whose ray it lies.
    offsets: int32 [cells], where each cell's points begin.
    """

    point: torch.Tensor
    pixel: torch.Tensor
    offsets: torch.Tensor


def pool_index(cell: torch.Tensor, bins: int, cells: int) -> PoolIndex:
    """cell: int64 [pixels * bins], the cell of every frustum point, those of one pixel together; -1 for none."""
    point = (cell >= 0).nonzero().squeeze(1)
    cell, permutation = torch.sort(cell[point], stable=True)
    point = point[permutation].int()
    count = torch.bincount(cell, minlength=cells)
    return PoolIndex(point, point // bins, (count.cumsum(0) - count).int())


def bev_pool(features: torch.Tensor, depth: torch.Tensor, index: PoolIndex) -> torch.Tensor:
    """Features [pixels, C] and depth probabilities [pixels, bins] -> sums [cells, C]; differentiable in both."""
    weights = depth.reshape(-1)[index.point]
    return F.embedding_bag(index.pixel, features, index.offsets, mode="sum", per_sample_weights=weights)


class IndexCache:
    """The indices of the last few calibrations. A calibration that changes by a bit is another one."""

    def __init__(self, size: int = 8):
        self.size = size
        self.kept: OrderedDict[tuple, PoolIndex] = OrderedDict()

    def get(self, calibration: tuple[torch.Tensor, ...], make: Callable[[], PoolIndex]) -> PoolIndex:
        key = tuple((value.shape, str(value.device), value.cpu().numpy().tobytes()) for value in calibration)
        if key not in self.kept:
            self.kept[key] = make()
            if len(self.kept) > self.size:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]
