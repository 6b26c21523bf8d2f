"""Voxelization and segment reductions in plain torch, for any device and floating dtype; reference for the kernels."""

from __future__ import annotations

import torch


def sort_by_cell(xyz, batch_index, axes, batch_size):
    """Sort points by cell.

    Args:
        xyz: [M, >=3].
        batch_index: int64 [M].
        axes: (low, high, size, cells) of x, y and z.

    Returns:
        cell, count, order, voxel: see :class:`~perception.ops.voxelize.Voxels`.
        out_of_batch: int, number of points whose sample index is not in the batch; the caller rejects any.
    """
    inside = torch.ones_like(batch_index, dtype=torch.bool)
    for values, (low, high, _, _) in zip(xyz.T, axes):
        inside &= (values >= low) & (values < high)
    kept = inside.nonzero().squeeze(1)
    x, y, z = (_cell_along(values, axis) for values, axis in zip(xyz[kept, :3].T, axes))
    columns, rows, layers = (axis.cells for axis in axes)
    cell = ((batch_index[kept] * layers + z) * rows + y) * columns + x
    cell, permutation = torch.sort(cell, stable=True)
    cell, voxel, count = torch.unique_consecutive(cell, return_inverse=True, return_counts=True)
    out_of_batch = int(((batch_index < 0) | (batch_index >= batch_size)).sum())
    return cell, count, kept[permutation], voxel, out_of_batch


def _cell_along(values, axis):
    # Divide by a tensor: CUDA replaces division by a scalar with its rounded reciprocal, which moves points on edges.
    cell = ((values - axis.low) / values.new_full((), axis.size)).long()
    return cell.clamp(max=axis.cells - 1)  # rounding just below the upper bound may give the number of cells


def segment_sum(values, count, index=None, mean=False):
    """Sum or mean [V, C] over consecutive segments of ``count`` [V] rows of values [K, C], or of ``values[index]``."""
    values = values if index is None else values.index_select(0, index)
    if len(count) == 0:
        return values[:0].clone()
    return torch.segment_reduce(values, "mean" if mean else "sum", lengths=count, unsafe=True)


def segment_max(values, count):
    """Maximum [V, C] over consecutive segments of values [K, C], and int64 [V, C] the first row that contains it."""
    if len(count) == 0:
        return values[:0].clone(), count.new_empty(0, values.shape[1])
    maximum = torch.segment_reduce(values, "max", lengths=count, unsafe=True)
    segment = torch.repeat_interleave(count)
    held = (values == maximum[segment]) | values.isnan()
    row = torch.arange(len(values), device=values.device)[:, None].where(held, len(values))
    first = count.new_full(maximum.shape, len(values))
    return maximum, first.scatter_reduce(0, segment[:, None].expand_as(row), row, "amin")
