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
        if torch.compiler.is_exporting():
            return self._scattered(cloud.points)
        voxels = voxelize(cloud.points, cloud.batch_index, self.grid, batch_size=cloud.batch_size)
        parts = [voxels] if cloud.points.is_cuda else voxels.split(_PART)
        features = torch.cat([self._reduce(cloud.points, part) for part in parts])
        return scatter_to_bev(features, voxels, cloud.batch_size, self.grid)

    def _scattered(self, points: torch.Tensor) -> torch.Tensor:
        """The same of one sample, for runtimes without our kernels: with scatters that all have and compute exactly.

        Points of no cell go to a spare one behind the last, which is dropped.
        """
        grid = self.grid
        x, y, z = points[:, :3].unbind(dim=1)
        inside = grid.contains(x, y) & (z >= grid.z_min_m) & (z < grid.z_max_m)
        at = torch.stack(grid.to_cells(x, y), dim=1)
        column, row = at.nan_to_num(0.0).unbind(dim=1)
        column, row = column.clamp(0, grid.columns - 1).long(), row.clamp(0, grid.rows - 1).long()
        cell = torch.where(inside, row * grid.columns + column, grid.cells)
        weighed = torch.cat([points[:, :3], torch.ones_like(points[:, :1])], dim=1).masked_fill(~inside[:, None], 0.0)
        zeros = points.new_zeros(grid.cells + 1, 4)
        total = zeros.scatter_add(0, cell[:, None].expand(-1, 4), weighed).index_select(0, cell)
        count = total[:, 3:].clamp(min=1)
        from_mean = (points[:, :3] - total[:, :3] / count) / grid.cell_size_m
        centre = torch.stack([column, row], dim=1) + 0.5
        described = torch.cat([points / self.scale, from_mean, at - centre, count.log()], dim=1)
        features = self.point(described).masked_fill(~inside[:, None], 0.0)
        canvas = features.new_zeros(grid.cells + 1, features.shape[1])
        canvas = canvas.scatter_reduce(0, cell[:, None].expand_as(features), features, "amax")  # of zeros, too: ReLU
        return canvas[: grid.cells].view(1, *grid.shape, -1).permute(0, 3, 1, 2)

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
