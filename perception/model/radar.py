"""Radar encoder: pillars with cross-section, velocity over ground and age, followed by wide convolutions.

A radar frame has tens to hundreds of points with about a metre of error across the beam, so receptive field matters
more than resolution and the pillars use the coarse cells of the fusion grid.
"""

from __future__ import annotations

import torch
from torch import nn

from perception.batch import PointBatch
from perception.grid import BEVGrid
from perception.model.encoder import Encoded, Returns
from perception.model.layers import ConvBlock, ResidualBlock
from perception.model.pillars import PillarEncoder

RADAR_SCALE = (51.2, 51.2, 3.0, 20.0, 10.0, 10.0, 0.5)  # x, y, z, rcs_dbsm, vx, vy, age_s


class RadarEncoder(nn.Module):
    """Points [M, 7] -> BEV features [B, channels, rows, columns] on ``grid``, and the points for objects to look at.

    return_features: columns of ``Returns.features``.
    """

    return_features = len(RADAR_SCALE)

    def __init__(self, grid: BEVGrid, point_channels: int, channels: int):
        super().__init__()
        self.pillars = PillarEncoder(grid, RADAR_SCALE, point_channels)
        self.backbone = nn.Sequential(
            ConvBlock(point_channels, point_channels, kernel=5),
            ResidualBlock(point_channels),
            ConvBlock(point_channels, channels),
        )

    def forward(self, cloud: PointBatch) -> Encoded:
        return Encoded(self.backbone(self.pillars(cloud)), returns=self._padded(cloud))

    def _padded(self, cloud: PointBatch) -> Returns:
        count = torch.bincount(cloud.batch_index, minlength=cloud.batch_size)
        slot = torch.arange(len(cloud.points), device=count.device) - (count.cumsum(0) - count)[cloud.batch_index]
        most = max(int(count.max()), 1)
        points = cloud.points.new_zeros(cloud.batch_size, most, cloud.points.shape[1])
        points[cloud.batch_index, slot] = cloud.points
        valid = torch.arange(most, device=count.device) < count[:, None]
        velocity = points[..., cloud.fields.index("vx") :][..., :2]
        return Returns(points[..., :3], velocity, points / self.pillars.scale, valid)
