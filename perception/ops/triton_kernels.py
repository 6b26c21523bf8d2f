"""Voxelization and segment reductions of float32 tensors on a GPU, in Triton, which needs no compilation on install.

There are no atomic operations, so results are deterministic. Sorting uses PyTorch's radix sort. Indices are
bit-identical to the reference: division is IEEE 754 rounded, whereas ``/`` in a kernel is approximate. With
``TRITON_INTERPRET=1`` in the environment before the import, the kernels run on CPU tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024
_ROWS, _COLUMNS = 16, 32  # tile of a segment that one program processes at a time
_LOWEST = tl.constexpr(-(2**63))


def sort_by_cell(xyz, batch_index, axes, batch_size):
    """See :func:`perception.ops.reference.sort_by_cell`; synchronises with the GPU once, for the output sizes."""
    cells = batch_size * axes[0].cells * axes[1].cells * axes[2].cells
    key_type, outside = (torch.int32, 2**31 - 1) if cells < 2**31 - 1 else (torch.int64, 2**63 - 1)
    xyz, batch_index = xyz.detach().contiguous(), batch_index.contiguous()
    key = torch.empty(len(xyz), dtype=key_type, device=xyz.device)
    blocks = (triton.cdiv(len(xyz), _BLOCK),)
    if len(xyz) == 0:
        return (*(batch_index.new_empty(0) for _ in range(4)), 0)
    with torch.cuda.device_of(xyz):
        limits = [value for axis in axes for value in axis]
        _keys[blocks](xyz, xyz.stride(0), batch_index, key, len(xyz), batch_size, outside, *limits, BLOCK=_BLOCK)
        key, order = torch.sort(key, stable=True)
        head = torch.empty(len(xyz), dtype=torch.int32, device=xyz.device)
        _heads[blocks](key, head, len(xyz), outside, BLOCK=_BLOCK)
        voxel = head.cumsum(0) - 1
        out_of_batch = ((batch_index < 0) | (batch_index >= batch_size)).sum()
        kept, occupied, out_of_batch = torch.stack([(key < outside).sum(), voxel[-1] + 1, out_of_batch]).tolist()
        cell, start = batch_index.new_empty(occupied), batch_index.new_full((occupied + 1,), kept)
        _starts[blocks](key, voxel, cell, start, kept, BLOCK=_BLOCK)
    return cell, start.diff(), order[:kept], voxel[:kept], out_of_batch


def segment_sum(values, count, index=None, mean=False):
    """See :func:`perception.ops.reference.segment_sum`."""
    values, channels = values.detach().contiguous(), values.shape[1]
    out = values.new_empty(len(count), channels)
    if out.numel():
        with torch.cuda.device_of(values):
            _sums[(len(count), triton.cdiv(channels, _COLUMNS))](
                values,
                values if index is None else index,
                count.cumsum(0),
                count,
                out,
                channels,
                INDEXED=index is not None,
                MEAN=mean,
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
                num_warps=1,
            )
    return out


def segment_max(values, count):
    """See :func:`perception.ops.reference.segment_max`."""
    values, channels = values.detach().contiguous(), values.shape[1]
    maximum, first = values.new_empty(len(count), channels), count.new_empty(len(count), channels)
    if first.numel():
        with torch.cuda.device_of(values):
            _maxima[(len(count), triton.cdiv(channels, _COLUMNS))](
                values, count.cumsum(0), count, maximum, first, channels, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=1
            )
    return maximum, first


@triton.jit
def _keys(
    xyz,
    stride,
    batch_index,
    key,
    points,
    batch_size,
    outside,
    x_low,
    x_high,
    x_size,
    columns,
    y_low,
    y_high,
    y_size,
    rows,
    z_low,
    z_high,
    z_size,
    layers,
    BLOCK: tl.constexpr,
):
    """The cell index of each point, or ``outside``, which is larger than any cell index."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    given = i < points
    place = i.to(tl.int64) * stride
    x = tl.load(xyz + place, mask=given, other=0.0)
    y = tl.load(xyz + place + 1, mask=given, other=0.0)
    z = tl.load(xyz + place + 2, mask=given, other=0.0)
    sample = tl.load(batch_index + i, mask=given, other=-1)
    inside = (x >= x_low) & (x < x_high) & (y >= y_low) & (y < y_high) & (z >= z_low) & (z < z_high)
    # NaN and infinity cannot be converted to integers; their placeholders are discarded.
    column = tl.minimum(tl.div_rn(tl.where(inside, x, x_low) - x_low, x_size).to(tl.int32), columns - 1)
    row = tl.minimum(tl.div_rn(tl.where(inside, y, y_low) - y_low, y_size).to(tl.int32), rows - 1)
    layer = tl.minimum(tl.div_rn(tl.where(inside, z, z_low) - z_low, z_size).to(tl.int32), layers - 1)
    cell = ((sample * layers + layer) * rows + row) * columns + column
    inside &= (sample >= 0) & (sample < batch_size)
    tl.store(key + i, tl.where(inside, cell, outside).to(key.dtype.element_ty), mask=given)


@triton.jit
def _heads(key, head, points, outside, BLOCK: tl.constexpr):
    """1 where a new cell begins in the sorted keys, else 0."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(key + i, mask=i < points, other=0)
    before = tl.load(key + i - 1, mask=(i > 0) & (i < points), other=-1)
    tl.store(head + i, ((own != before) & (own < outside)).to(tl.int32), mask=i < points)


@triton.jit
def _starts(key, voxel, cell, start, kept, BLOCK: tl.constexpr):
    """Each occupied cell, and the offset of its points."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(key + i, mask=i < kept, other=0)
    before = tl.load(key + i - 1, mask=(i > 0) & (i < kept), other=-1)
    head = (own != before) & (i < kept)
    v = tl.load(voxel + i, mask=head, other=0)
    tl.store(cell + v, own.to(tl.int64), mask=head)
    tl.store(start + v, i.to(tl.int64), mask=head)


@triton.jit
def _sums(
    values,
    index,
    stop,
    count,
    out,
    channels,
    INDEXED: tl.constexpr,
    MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum of one segment for a block of columns, in a fixed order."""
    v = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    n = tl.load(count + v)
    begin = tl.load(stop + v) - n
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(0, n, ROWS):
        row = k + tl.arange(0, ROWS)
        place = begin + row
        if INDEXED:
            place = tl.load(index + place, mask=row < n, other=0)
        there = (row[:, None] < n) & (column[None, :] < channels)
        total += tl.load(values + place[:, None] * channels + column[None, :], mask=there, other=0.0)
    result = tl.sum(total, 0)
    if MEAN:
        result = tl.div_rn(result, tl.zeros([COLUMNS], tl.float32) + n.to(tl.float32))
    tl.store(out + v * channels + column, result, mask=column < channels)


@triton.jit
def _maxima(values, stop, count, maximum, first, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Maximum of one segment and its first row, via one integer key: the value's rank above the row index."""
    v = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    n = tl.load(count + v)
    begin = tl.load(stop + v) - n
    best = tl.full([ROWS, COLUMNS], _LOWEST, tl.int64)
    for k in range(0, n, ROWS):
        row = k + tl.arange(0, ROWS)
        there = (row[:, None] < n) & (column[None, :] < channels)
        value = tl.load(values + (begin + row)[:, None] * channels + column[None, :], mask=there, other=0.0)
        bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)  # merge -0 and +0
        place = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # IEEE 754 floats sort as integers, except for the sign
        place = tl.where(value != value, 0x7FFFFFFF, place)  # NaN ranks highest
        ranked = (place.to(tl.int64) << 32) + (0x7FFFFFFF - row)[:, None]
        best = tl.maximum(best, tl.where(there, ranked, _LOWEST))
    holder = begin + 0x7FFFFFFF - (tl.max(best, 0) & 0x7FFFFFFF)
    there = column < channels
    tl.store(maximum + v * channels + column, tl.load(values + holder * channels + column, mask=there), mask=there)
    tl.store(first + v * channels + column, holder, mask=there)
