"""Dynamic voxelization: which cell of the grid each point falls into, with no point dropped and no cap to tune.

Points are sorted by cell, so that every later reduction (max, mean, sum) is one pass over contiguous segments and is
deterministic. The method is the dynamic voxelization of MVF (Zhou et al., 2019), written as one stable sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from perception.grid import BEVGrid


@dataclass
class Voxels:
    """The occupied cells of a batch and the points in them.

    cell: int64 [V] ``sample * grid.cells + row * grid.columns + column``, ascending.
    count: int64 [V] points per cell, all >= 1.
    order: int64 [K] indices into the points given, those of cell 0 first, then cell 1, ...; input order within a cell.
    voxel: int64 [K] which of the V cells ``order``'s points are in, ascending.
    """

    cell: torch.Tensor
    count: torch.Tensor
    order: torch.Tensor
    voxel: torch.Tensor


def voxelize(xyz: torch.Tensor, batch_index: torch.Tensor, grid: BEVGrid) -> Voxels:
    """Assign points to the pillars of ``grid``.

    Args:
        xyz: [M, >=3] metres, ego frame; columns after the third are ignored.
        batch_index: int64 [M] sample of each point.

    Points outside the region (upper bounds excluded, z included) belong to no cell.
    """
    x, y, z = xyz[:, 0], xyz[:, 1], xyz[:, 2]
    inside = grid.contains(x, y) & (z >= grid.z_min_m) & (z < grid.z_max_m)
    kept = inside.nonzero().squeeze(1)
    column, row = grid.cell_index(x[kept], y[kept])
    cell = batch_index[kept] * grid.cells + row * grid.columns + column
    cell, permutation = torch.sort(cell, stable=True)
    unique, voxel, count = torch.unique_consecutive(cell, return_inverse=True, return_counts=True)
    return Voxels(unique, count, kept[permutation], voxel)


def segment_mean(values: torch.Tensor, voxels: Voxels) -> torch.Tensor:
    """Mean of values [K, C], given in ``voxels.order``, over each cell: [V, C]."""
    return torch.segment_reduce(values, "mean", lengths=voxels.count, unsafe=True)


def segment_max(values: torch.Tensor, voxels: Voxels) -> torch.Tensor:
    """Maximum of values [K, C], given in ``voxels.order``, over each cell: [V, C]."""
    return torch.segment_reduce(values, "max", lengths=voxels.count, unsafe=True)


def scatter_to_bev(features: torch.Tensor, voxels: Voxels, batch_size: int, grid: BEVGrid) -> torch.Tensor:
    """Features [V, C] of the occupied cells as a BEV map [B, C, rows, columns]; zeros where no point fell."""
    canvas = features.new_zeros(batch_size * grid.cells, features.shape[1])
    canvas = canvas.index_copy(0, voxels.cell, features)
    # Cells-major memory is exactly the channels_last layout that convolutions on CPU and GPU like best.
    return canvas.view(batch_size, *grid.shape, -1).permute(0, 3, 1, 2)
