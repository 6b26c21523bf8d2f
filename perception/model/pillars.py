"""Learned pillar features: points relative to their cell, encoded and max-pooled per cell.

PointPillars (Lang et al., 2019) without a limit on the number of points.
"""

from __future__ import annotations

import torch
from torch import nn

from perception.batch import PointBatch
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.ops.voxelize import Voxels, scatter_to_bev, segment_max, segment_mean, voxelize

_PART = 1 << 15  # points per chunk on a CPU, so that intermediate results stay in its cache


class PillarEncoder(nn.Module):
    """Point cloud -> BEV map [B, channels, rows, columns] on ``grid``.

    Args:
        scale: divisor of each point column, which brings the inputs close to one; x, y, z come first.
    """

    scale: torch.Tensor

    def __init__(self, grid: BEVGrid, scale: tuple[float, ...], channels: int):
        super().__init__()
        self.grid = grid
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        # Point columns, offset from the pillar's mean (3), offset from the cell's centre (2), log of the count (1).
        self.point = nn.Sequential(nn.Linear(len(scale) + 6, channels), nn.LayerNorm(channels))

    def forward(self, cloud: PointBatch) -> torch.Tensor:
        if cloud.points.shape[1] != len(self.scale):
            raise PerceptionError(
                f"points with {len(self.scale)} columns were expected, found {', '.join(cloud.fields)}"
            )
        voxels = voxelize(cloud.points, cloud.batch_index, self.grid, batch_size=cloud.batch_size)
        parts = [voxels] if cloud.points.is_cuda else voxels.split(_PART)
        features = torch.cat([self._reduce(cloud.points, part) for part in parts])
        return scatter_to_bev(features, voxels, cloud.batch_size, self.grid)

    def _reduce(self, points: torch.Tensor, voxels: Voxels) -> torch.Tensor:
        """Points [M, C] -> features [V, channels] of pillars, float32 also under autocast.

        A position of fifty metres has steps of a quarter of a metre in bfloat16, which is coarser than a pillar.
        """
        with torch.autocast(points.device.type, enabled=False):
            features = self.point(self._describe(points, voxels)).float()
        # ReLU commutes with the maximum, and there are fewer pillars than points.
        return segment_max(features, voxels).relu()

    def _describe(self, points: torch.Tensor, voxels: Voxels) -> torch.Tensor:
        """Points [M, C] -> features [K, C + 6] of the points inside pillars, in voxel order."""
        points = points.index_select(0, voxels.order)
        mean = segment_mean(points, voxels)[:, :3]
        centre = voxels.coordinates()[:, 2:4].flip(1) + 0.5
        count = voxels.count.to(points.dtype).log()[:, None]
        pillar = torch.cat([mean, centre, count], dim=1).index_select(0, voxels.voxel)
        from_mean = (points[:, :3] - pillar[:, :3]) / self.grid.cell_size_m
        from_centre = torch.stack(self.grid.to_cells(points[:, 0], points[:, 1]), dim=1) - pillar[:, 3:5]
        return torch.cat([points / self.scale, from_mean, from_centre, pillar[:, 5:]], dim=1)
