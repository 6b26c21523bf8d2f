"""LiDAR encoder of voxels: sparse 3D convolutions down to the fusion grid, then columns of voxels become its cells.

The stages of SECOND (Yan et al., 2018) in residual blocks, as in CenterPoint (Yin et al., 2021). Layer instead of batch
normalisation, voxel by voxel, for the reason that ``model.layers`` gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from perception.batch import PointBatch
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.encoder import Encoded
from perception.model.layers import ConvBlock, ResidualBlock
from perception.model.lidar import LIDAR_SCALE
from perception.ops.sparse_conv import Sites, SparseFeatures, Triple, sparse_conv3d, submanifold_conv3d
from perception.ops.voxelize import Voxels, segment_mean, voxelize


class VoxelEncoder(nn.Module):
    """Points [M, 5] -> BEV features [B, channels, rows, columns] on ``grid``, and those before the last stage.

    The latter, ``Encoded.fine``, have ``fine_channels`` and half the grid's cell size; with a single stage, the grid's.

    Args:
        voxel_size_m: along x and y; the grid's cell size divided by 2 ** (number of widths - 1).
        voxel_height_m: the grid's height divided by a whole number.
        widths: channels of each stage; every stage but the first halves the resolution along x, y and z.
        blocks: residual blocks of each stage.
    """

    scale: torch.Tensor

    def __init__(
        self, grid: BEVGrid, voxel_size_m: float, voxel_height_m: float, widths: Sequence[int], blocks: int,
        channels: int,
    ):  # fmt: skip
        super().__init__()
        wanted = grid.cell_size_m / 2 ** (len(widths) - 1)
        if not math.isclose(voxel_size_m, wanted, rel_tol=1e-6):
            raise PerceptionError(
                f"lidar.voxel_size_m: grid.cell_size_m ({grid.cell_size_m}) halved by all of {len(widths)} widths but "
                f"the first, {wanted}, was expected, found {voxel_size_m}"
            )
        height = grid.z_max_m - grid.z_min_m
        self.layers = round(height / voxel_height_m)
        if self.layers < 1 or not math.isclose(self.layers * voxel_height_m, height, rel_tol=1e-6):
            raise PerceptionError(
                f"lidar.voxel_height_m: the grid's height ({height} m) divided by a whole number was expected, "
                f"found {voxel_height_m}"
            )
        self.grid = grid.with_cell_size(wanted)
        self.register_buffer("scale", torch.tensor(LIDAR_SCALE), persistent=False)
        # Means of the point columns, offset of the mean from the voxel's centre (3), log of the count (1).
        layers, width = self.layers, widths[0]
        self.stem = SparseConvBlock(len(LIDAR_SCALE) + 4, width)
        self.stages = nn.ModuleList()
        for level, next_width in enumerate(widths):
            self.fine_channels, fine_layers = width, layers
            down = [SparseConvBlock(width, next_width, stride=(2, 2, 2))] if level else []
            self.stages.append(nn.Sequential(*down, *(SparseResidualBlock(next_width) for _ in range(blocks))))
            layers, width = (layers + 1) // 2 if level else layers, next_width
        self.flat_fine = _flattening(fine_layers, self.fine_channels, self.fine_channels)
        self.flat = _flattening(layers, width, channels)
        self.neck = nn.Sequential(ConvBlock(channels, channels), ResidualBlock(channels))

    def forward(self, cloud: PointBatch) -> Encoded:
        if cloud.points.shape[1] != len(self.scale):
            raise PerceptionError(
                f"points with {len(self.scale)} columns were expected, found {', '.join(cloud.fields)}"
            )
        voxels = voxelize(cloud.points, cloud.batch_index, self.grid, self.layers, cloud.batch_size)
        sites = Sites(voxels.cell, cloud.batch_size, voxels.shape)
        x = self.stem(SparseFeatures(self._describe(cloud.points, voxels), sites))
        for stage in self.stages[:-1]:
            x = stage(x)
        bev = self.flat(self.stages[-1](x)).to_bev()
        return Encoded(self.neck(bev), fine=self.flat_fine(x).to_bev())

    def _describe(self, points: torch.Tensor, voxels: Voxels) -> torch.Tensor:
        """Points [M, C] -> features [V, C + 4] of the voxels."""
        mean = segment_mean(points, voxels, ordered=False)
        _, layer, row, column = voxels.coordinates().T
        grid = self.grid
        height = (grid.z_max_m - grid.z_min_m) / self.layers
        cells = torch.stack([*grid.to_cells(mean[:, 0], mean[:, 1]), (mean[:, 2] - grid.z_min_m) / height], dim=1)
        offset = cells - torch.stack([column, row, layer], dim=1) - 0.5
        return torch.cat([mean / self.scale, offset, voxels.count.to(mean.dtype).log()[:, None]], dim=1)


def _flattening(layers: int, in_channels: int, out_channels: int) -> nn.Module:
    """A grid of ``layers`` becomes one of a single layer: each column of voxels becomes a cell."""
    return SparseConvBlock(in_channels, out_channels, (layers, 1, 1), stride=(1, 1, 1), padding=(0, 0, 0))


class SparseConvBlock(nn.Module):
    """Sparse convolution, normalisation, ReLU; without ``stride``, a submanifold convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple = (3, 3, 3), stride: Triple | None = None,
        padding: Triple = (1, 1, 1),
    ):  # fmt: skip
        super().__init__()
        fan_in = math.prod(kernel) * in_channels
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.weight = nn.Parameter(torch.randn(math.prod(kernel), in_channels, out_channels) * (2 / fan_in) ** 0.5)
        self.norm = nn.LayerNorm(out_channels)

    def convolve(self, x: SparseFeatures) -> SparseFeatures:
        """The convolution and normalisation alone."""
        if self.stride is None:
            x = submanifold_conv3d(x, self.weight, self.kernel)
        else:
            x = sparse_conv3d(x, self.weight, self.kernel, self.stride, self.padding)
        return SparseFeatures(self.norm(x.features), x.sites)

    def forward(self, x: SparseFeatures) -> SparseFeatures:
        x = self.convolve(x)
        return SparseFeatures(x.features.relu(), x.sites)


class SparseResidualBlock(nn.Module):
    """Two submanifold 3 x 3 x 3 convolutions around an identity (He et al., 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = SparseConvBlock(channels, channels), SparseConvBlock(channels, channels)

    def forward(self, x: SparseFeatures) -> SparseFeatures:
        y = self.second.convolve(self.first(x))
        return SparseFeatures((x.features + y.features).relu(), x.sites)
