"""LiDAR encoder: fine pillars, strided residual stages down to the fusion grid, and a feature pyramid below it.

Pillars as in PointPillars (Lang et al., 2019), stages and pyramid as in SECOND (Yan et al., 2018) and PillarNeXt (Li
et al., 2023), all dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from perception.batch import PointBatch
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.encoder import Encoded
from perception.model.head import Trunk
from perception.model.layers import ConvBlock, ResidualBlock
from perception.model.pillars import PillarEncoder

LIDAR_SCALE = (51.2, 51.2, 3.0, 255.0, 0.5)  # x, y, z, intensity, age_s


class LidarEncoder(nn.Module):
    """Points [M, 5] -> BEV features [B, channels, rows, columns] on ``grid``, and those before the last reduction.

    The latter, ``Encoded.fine``, have ``fine_channels`` and half the grid's cell size; where there is no reduction,
    they are the pillars.

    Args:
        pillar_size_m: the grid's cell size divided by a power of two.
        blocks: residual blocks at the grid's cell size and after each halving of resolution below it; the coarser
            levels are twice as wide and are merged back into the first.
        fine_blocks: residual blocks at each cell size between the pillars' and the grid's.
    """

    def __init__(
        self,
        grid: BEVGrid,
        pillar_size_m: float,
        point_channels: int,
        channels: int,
        blocks: Sequence[int] = (1,),
        fine_blocks: int = 0,
    ):
        super().__init__()
        halvings = math.log2(grid.cell_size_m / pillar_size_m)
        if halvings < 0 or abs(halvings - round(halvings)) > 1e-6:
            raise PerceptionError(
                f"lidar.pillar_size_m: grid.cell_size_m ({grid.cell_size_m}) divided by a power of two was expected, "
                f"found {pillar_size_m}"
            )
        self.pillars = PillarEncoder(grid.with_cell_size(pillar_size_m), LIDAR_SCALE, point_channels)
        strides = [2] * round(halvings) or [1]
        layers: list[nn.Module] = []
        width = point_channels
        for level, stride in enumerate(strides, start=1):
            self.last, self.fine_channels = len(layers), width  # of the last stage: where it begins, what it takes
            count = blocks[0] if level == len(strides) else fine_blocks
            layers += [ConvBlock(width, channels, stride=stride), *(ResidualBlock(channels) for _ in range(count))]
            width = channels
        self.backbone = nn.Sequential(*layers)
        coarser = [2 * channels] * (len(blocks) - 1)
        self.pyramid = Trunk(channels, [channels, *coarser], blocks[1:]) if coarser else nn.Identity()

    def forward(self, cloud: PointBatch) -> Encoded:
        fine = self.backbone[: self.last](self.pillars(cloud))
        bev = self.pyramid(self.backbone[self.last :](fine))
        return Encoded(bev, fine=fine)
