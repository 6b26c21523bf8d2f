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


@dataclass(frozen=True)
class PoolIndex:
    """The frustum points that each cell sums, ordered by cell.

    point: int32 [P], index of the point.  pixel: int32 [P], index of the pixel whose ray it lies on.
    offsets: int32 [cells], CSR offsets: where each cell's points begin.
    """

    point: torch.Tensor
    pixel: torch.Tensor
    offsets: torch.Tensor


def pool_index(cell: torch.Tensor, bins: int, cells: int) -> PoolIndex:
    """cell: int64 [pixels * bins], the cell of each frustum point, pixel by pixel; -1 for none."""
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
    """LRU cache of indices by calibration; the key is the exact bytes of the calibration."""

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
