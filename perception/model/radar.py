"""Radar encoder: pillars with cross-section, velocity over ground and age, followed by wide convolutions.

A radar frame has tens to hundreds of points with about a metre of error across the beam, so receptive field matters
more than resolution and the pillars use the coarse cells of the fusion grid.
"""

from __future__ import annotations

import torch
from torch import nn

from perception.batch import PointBatch
from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, ResidualBlock
from perception.model.pillars import PillarEncoder

RADAR_SCALE = (51.2, 51.2, 3.0, 20.0, 10.0, 10.0, 0.5)  # x, y, z, rcs_dbsm, vx, vy, age_s


class RadarEncoder(nn.Module):
    """Points [M, 7] -> BEV features [B, channels, rows, columns] on ``grid``."""

    def __init__(self, grid: BEVGrid, point_channels: int, channels: int):
        super().__init__()
        self.pillars = PillarEncoder(grid, RADAR_SCALE, point_channels)
        self.backbone = nn.Sequential(
            ConvBlock(point_channels, point_channels, kernel=5),
            ResidualBlock(point_channels),
            ConvBlock(point_channels, channels),
        )

    def forward(self, cloud: PointBatch) -> torch.Tensor:
        return self.backbone(self.pillars(cloud))
