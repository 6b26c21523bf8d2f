"""Voxelization: assigns points to grid cells, and reduces over the points of each cell.

Points are sorted by cell, so that every reduction (sum, mean, maximum) is a deterministic pass over contiguous segments
without atomic operations. No points are dropped: this is the dynamic voxelization of MVF (Zhou et al., 2019),
implemented as one stable sort. :func:`capped` applies the limits of VoxelNet (Zhou and Tuzel, 2018) and its successors.

Three implementations share the same signatures: :mod:`~perception.ops.reference` in plain torch for every device and
dtype, :mod:`~perception.ops.numba_kernels` for float32 on the CPU and :mod:`~perception.ops.triton_kernels` for float32
on a GPU. Their indices are bit-identical and their reductions agree to rounding; gradients are implemented here, once
for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.ops import reference
from perception.ops.choice import compiler_for


@dataclass
class Voxels:
    """The occupied cells of a batch and the points in them.

    cell: int64 [V] ``((sample * layers + layer) * rows + row) * columns + column``, ascending.
    count: int64 [V] points per cell, all >= 1.
    order: int64 [K] indices into the input points, sorted by cell; input order within a cell.
    voxel: int64 [K] index into the V cells of each point in ``order``, ascending.
    shape: (layers, rows, columns) of the cells of one sample.
    """

    cell: torch.Tensor
    count: torch.Tensor
    order: torch.Tensor
    voxel: torch.Tensor
    shape: tuple[int, int, int]

    def coordinates(self) -> torch.Tensor:
        """int64 [V, 4] (sample, layer, row, column) of each cell."""
        layers, rows, columns = self.shape
        row, sample = self.cell // columns, self.cell // (layers * rows * columns)
        return torch.stack([sample, row // rows % layers, row % rows, self.cell % columns], dim=1)

    def split(self, points: int) -> list[Voxels]:
        """Consecutive parts of about ``points`` points each, without splitting cells; at least one part."""
        stop = torch.cat([self.count.new_zeros(1), self.count.cumsum(0)])
        marks = torch.arange(points, max(points, len(self.order)), points, device=stop.device)
        cuts = [0, *sorted({*torch.searchsorted(stop, marks).tolist(), len(self.cell)})]
        return [
            Voxels(self.cell[a:b], self.count[a:b], self.order[i:j], self.voxel[i:j] - a, self.shape)
            for a, b, i, j in zip(cuts, cuts[1:], stop[cuts].tolist(), stop[cuts[1:]].tolist())
        ]


class Axis(NamedTuple):
    """Cells along one axis, over the half-open range [low, high)."""

    low: float
    high: float
    size: float
    cells: int


def cell_axes(grid: BEVGrid, layers: int) -> tuple[Axis, Axis, Axis]:
    """The cells along x, y and z."""
    return (
        Axis(float(grid.x_min_m), float(grid.x_max_m), float(grid.cell_size_m), grid.columns),
        Axis(float(grid.y_min_m), float(grid.y_max_m), float(grid.cell_size_m), grid.rows),
        Axis(float(grid.z_min_m), float(grid.z_max_m), (grid.z_max_m - grid.z_min_m) / layers, layers),
    )


def voxelize(
    xyz: torch.Tensor, batch_index: torch.Tensor, grid: BEVGrid, layers: int = 1, batch_size: int | None = None
) -> Voxels:
    """Assign points to the pillars of ``grid`` or, with ``layers`` > 1, to voxels: z is cut into that many layers.

    Args:
        xyz: [M, >=3] metres, ego frame; columns after the third are ignored.
        batch_index: int64 [M] sample of each point.
        batch_size: number of samples; if omitted, a GPU must synchronise to find the largest ``batch_index``.

    Points outside the region (in z, too; upper bounds excluded) and non-finite points belong to no cell.

    Raises:
        PerceptionError: other shapes or dtypes, or a sample index outside the batch.
    """
    if xyz.ndim != 2 or xyz.shape[1] < 3 or not xyz.is_floating_point():
        raise PerceptionError(f"voxelize: xyz: floats [M, >=3] were expected, found {xyz.dtype} {list(xyz.shape)}")
    if batch_index.shape != xyz.shape[:1] or batch_index.dtype != torch.int64:
        found = f"{batch_index.dtype} {list(batch_index.shape)}"
        raise PerceptionError(f"voxelize: batch_index: int64 [{len(xyz)}] was expected, found {found}")
    if layers < 1:
        raise PerceptionError(f"voxelize: at least one layer was expected, found {layers}")
    if batch_size is None:
        batch_size = int(batch_index.max()) + 1 if len(xyz) else 1
    kernels, axes = _implementation(xyz), cell_axes(grid, layers)
    cell, count, order, voxel, out_of_batch = kernels.sort_by_cell(xyz, batch_index, axes, batch_size)
    if out_of_batch:
        found = f"something else in {out_of_batch} points"
        raise PerceptionError(f"voxelize: batch_index: 0 to {batch_size - 1} was expected, found {found}")
    return Voxels(cell, count, order, voxel, (layers, *grid.shape))


def capped(voxels: Voxels, max_points: int, max_voxels: int, generator: torch.Generator | None = None) -> Voxels:
    """Keep at most ``max_points`` points per cell and ``max_voxels`` cells per sample.

    Without a generator, the first points of a cell and the cells whose first points come first are kept, as in the hard
    voxelization of spconv and mmcv. With one, both are random, and reproducible for the same generator.
    """
    if max_points < 1 or max_voxels < 1:
        raise PerceptionError(f"capped: at least one point and voxel was expected, found {max_points} and {max_voxels}")
    layers, rows, columns = voxels.shape
    sample, start = voxels.cell // (layers * rows * columns), voxels.count.cumsum(0) - voxels.count
    if generator is None:
        voxel_rank = _rank(voxels.order[start], sample)
        point_rank = torch.arange(len(voxels.order), device=start.device) - start[voxels.voxel]
    else:
        voxel_rank = _rank(_permutation(sample, generator), sample)
        point_rank = _rank(_permutation(voxels.voxel, generator), voxels.voxel)
    voxel_kept = voxel_rank < max_voxels
    point_kept = (point_rank < max_points) & voxel_kept[voxels.voxel]
    renumbered = voxel_kept.cumsum(0) - 1
    return Voxels(
        voxels.cell[voxel_kept],
        voxels.count[voxel_kept].clamp(max=max_points),
        voxels.order[point_kept],
        renumbered[voxels.voxel[point_kept]],
        voxels.shape,
    )


def _rank(priority: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Rank of each element within its group by ascending priority; groups are sorted, priorities are distinct."""
    by_priority = priority.argsort()
    by_group = by_priority[group[by_priority].argsort(stable=True)]
    place = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
    return torch.empty_like(place).scatter_(0, by_group, place)


def _permutation(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(len(like), generator=generator, device=generator.device).to(like.device)


def segment_sum(values: torch.Tensor, voxels: Voxels, ordered: bool = True) -> torch.Tensor:
    """Sum over each cell: [V, C] of values [K, C] in the order of ``voxels.order``.

    With ``ordered=False``, values [M, C] are in the original order of all points given to :func:`voxelize`, which saves
    a reordered copy.
    """
    return _SegmentSum.apply(values, voxels, ordered, False)


def segment_mean(values: torch.Tensor, voxels: Voxels, ordered: bool = True) -> torch.Tensor:
    """Mean over each cell: [V, C]; values as in :func:`segment_sum`."""
    return _SegmentSum.apply(values, voxels, ordered, True)


def segment_max(values: torch.Tensor, voxels: Voxels) -> torch.Tensor:
    """Maximum over each cell: [V, C] of values [K, C] in the order of ``voxels.order``.

    NaN propagates. The gradient goes only to the first point that attains the maximum.
    """
    return _SegmentMax.apply(values, voxels)


def scatter_to_bev(features: torch.Tensor, voxels: Voxels, batch_size: int, grid: BEVGrid) -> torch.Tensor:
    """Features [V, C] of the occupied pillars -> BEV map [B, C, rows, columns], zero in empty cells."""
    canvas = features.new_zeros(batch_size * grid.cells, features.shape[1])
    canvas.index_copy_(0, voxels.cell, features)
    # Cell-major memory is channels_last, the fastest layout for convolutions on CPU and GPU.
    return canvas.view(batch_size, *grid.shape, -1).permute(0, 3, 1, 2)


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, voxels, ordered, mean):
        ctx.voxels, ctx.ordered, ctx.mean, ctx.rows = voxels, ordered, mean, len(values)
        return _implementation(values).segment_sum(values, voxels.count, None if ordered else voxels.order, mean)

    @staticmethod
    def backward(ctx, grad):
        voxels = ctx.voxels
        of_points = (grad / voxels.count[:, None] if ctx.mean else grad).index_select(0, voxels.voxel)
        if not ctx.ordered:
            of_points = grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, voxels.order, of_points)
        return of_points, None, None, None


class _SegmentMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, voxels):
        maximum, first = _implementation(values).segment_max(values, voxels.count)
        ctx.rows = len(values)
        ctx.save_for_backward(first)
        return maximum

    @staticmethod
    def backward(ctx, grad):
        (first,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, grad.shape[1]).scatter_(0, first, grad), None


def _implementation(tensor: torch.Tensor):
    compiler = compiler_for(tensor)
    if compiler == "numba":
        from perception.ops import numba_kernels  # numba takes half a second to import

        return numba_kernels
    if compiler == "triton":
        from perception.ops import triton_kernels

        return triton_kernels
    return reference
