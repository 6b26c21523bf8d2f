"""Radar encoder: pillars with cross-section, velocity over ground and age, followed by wide convolutions.

A radar frame has tens to hundreds of points with about a metre of error across the beam, so receptive field matters
more than resolution and the pillars use the coarse cells of the fusion grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from perception.batch import PointBatch
from perception.grid import BEVGrid
from perception.model.encoder import Encoded
from perception.model.layers import ConvBlock, ResidualBlock
from perception.model.pillars import PillarEncoder
from perception.sample import RadarCloud

RADAR_SCALE = (51.2, 51.2, 3.0, 20.0, 10.0, 10.0, 0.5)  # x, y, z, rcs_dbsm, vx, vy, age_s
_VELOCITY, _AGE = slice(4, 6), slice(6, 7)
_DIRECTION_SCALE = (1.0, 1.0, 10.0)


class RadarEncoder(nn.Module):
    """Points [M, 7] -> BEV features [B, channels, rows, columns] on ``grid``, and the points for objects to look at.

    Args:
        moved: whether old returns go where their objects are by now, see :func:`moved_to_now`.
        direction: whether pillars see the columns of :func:`with_direction`, too.
    """

    return_scale: ClassVar = dict(zip(RadarCloud.fields, RADAR_SCALE, strict=True))

    def __init__(self, grid: BEVGrid, point_channels: int, channels: int, moved: bool = False, direction: bool = False):
        super().__init__()
        self.moved, self.direction = moved, direction
        scale = RADAR_SCALE + _DIRECTION_SCALE if direction else RADAR_SCALE
        self.pillars = PillarEncoder(grid, scale, point_channels)
        self.backbone = nn.Sequential(
            ConvBlock(point_channels, point_channels, kernel=5),
            ResidualBlock(point_channels),
            ConvBlock(point_channels, channels),
        )

    def forward(self, cloud: PointBatch) -> Encoded:
        cloud = moved_to_now(cloud) if self.moved else cloud
        described = with_direction(cloud) if self.direction else cloud
        return Encoded(self.backbone(self.pillars(described)), returns=cloud)


def moved_to_now(cloud: PointBatch) -> PointBatch:
    """Every point moved by its velocity times its age.

    A radar knows the speed along its beam alone, so an object that crosses the beam is moved too little.
    """
    points = cloud.points
    xy = points[:, :2] + points[:, _VELOCITY] * points[:, _AGE]
    return replace(cloud, points=torch.cat([xy, points[:, 2:]], dim=1))


def with_direction(cloud: PointBatch) -> PointBatch:
    """Three more columns: the direction of the beam (cos, sin) and the speed along it, away from the vehicle, m/s.

    The beam is taken to come from the origin of the ego frame: clouds do not say which radar a point is from.
    """
    points = cloud.points
    direction = F.normalize(points[:, :2], dim=1)  # zero at the origin
    speed = (direction * points[:, _VELOCITY]).sum(dim=1, keepdim=True)
    return replace(
        cloud, points=torch.cat([points, direction, speed], dim=1), fields=(*cloud.fields, "cos", "sin", "speed")
    )
