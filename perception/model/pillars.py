"""Learned pillar features: the points of a cell, seen from the cell, reduced by a maximum.

PointPillars (Lang et al., 2019), with every point kept.
"""

from __future__ import annotations

import torch
from torch import nn

from perception.batch import PointBatch
from perception.grid import BEVGrid
from perception.ops.voxelize import scatter_to_bev, segment_max, segment_mean, voxelize


class PillarEncoder(nn.Module):
    """Point cloud -> BEV map [B, channels, rows, columns] of ``grid``.

    Args:
        scale: what each point column is divided by, so that the network sees numbers near one; x, y, z come first.
    """

    def __init__(self, grid: BEVGrid, scale: tuple[float, ...], channels: int):
        super().__init__()
        self.grid = grid
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        # The columns, then: offset from the pillar's mean (3), offset from the cell's centre (2), log of the count (1).
        self.point = nn.Sequential(nn.Linear(len(scale) + 6, channels), nn.LayerNorm(channels), nn.ReLU(inplace=True))

    def forward(self, cloud: PointBatch, batch_size: int) -> torch.Tensor:
        voxels = voxelize(cloud.points, cloud.batch_index, self.grid)
        if len(voxels.cell) == 0:  # a reduction over no segments has no shape to go by
            empty = self.point(cloud.points.new_zeros(0, self.point[0].in_features))
            return scatter_to_bev(empty, voxels, batch_size, self.grid)
        points = cloud.points[voxels.order]
        features = self.point(self._describe(points, voxels))
        return scatter_to_bev(segment_max(features.float(), voxels), voxels, batch_size, self.grid)

    def _describe(self, points, voxels):
        """Points [K, C] in voxel order -> their features [K, C + 6]."""
        xyz = points[:, :3]
        from_mean = xyz - segment_mean(xyz, voxels)[voxels.voxel]
        column, row = self.grid.to_cells(xyz[:, 0], xyz[:, 1])
        from_centre = torch.stack([column - column.floor() - 0.5, row - row.floor() - 0.5], dim=1)
        count = voxels.count[voxels.voxel].to(points.dtype).log()[:, None]
        return torch.cat([points / self.scale, from_mean / self.grid.cell_size_m, from_centre, count], dim=1)
