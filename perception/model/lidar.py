"""LiDAR encoder: fine pillars, then strided convolutions down to the fusion grid."""

from __future__ import annotations

import math

import torch
from torch import nn

from perception.batch import PointBatch
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, ResidualBlock
from perception.model.pillars import PillarEncoder

LIDAR_SCALE = (51.2, 51.2, 3.0, 255.0, 0.5)  # x, y, z, intensity, age_s


class LidarEncoder(nn.Module):
    """Points [M, 5] -> BEV features [B, channels, rows, columns] on ``grid``."""

    def __init__(self, grid: BEVGrid, pillar_size_m: float, point_channels: int, channels: int):
        super().__init__()
        halvings = math.log2(grid.cell_size_m / pillar_size_m)
        if halvings < 0 or abs(halvings - round(halvings)) > 1e-6:
            raise PerceptionError(
                f"lidar.pillar_size_m: grid.cell_size_m ({grid.cell_size_m}) divided by a power of two was expected, "
                f"found {pillar_size_m}"
            )
        self.pillars = PillarEncoder(grid.with_cell_size(pillar_size_m), LIDAR_SCALE, point_channels)
        widths = [point_channels] + [channels] * max(1, round(halvings))
        down = [
            ConvBlock(a, b, stride=2 if round(halvings) else 1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.backbone = nn.Sequential(*down, ResidualBlock(channels))

    def forward(self, cloud: PointBatch) -> torch.Tensor:
        return self.backbone(self.pillars(cloud))
