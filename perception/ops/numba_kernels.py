"""Voxelization and segment reductions of float32 tensors on the CPU, compiled on first use and cached on disk.

Each point is packed into a 64-bit word, cell index above point index, and the words are sorted by cell with an LSD
radix sort, stable and linear in the number of points (Knuth, The Art of Computer Programming 3, 5.2.5).
"""

from __future__ import annotations

import numpy as np
import torch

from perception.errors import PerceptionError
from perception.ops.compiled import compiled

_BLOCK = 512  # points per block: columns stay in the L1 cache, and loops over them are vectorised
_DIGIT_BITS = 14  # two passes for the 83 million voxels of a nuScenes grid; the counters of a digit fit the cache
_NARROW = 8  # number of sums that fit in registers


def sort_by_cell(xyz, batch_index, axes, batch_size):
    """See :func:`perception.ops.reference.sort_by_cell`."""
    low, high, size = (tuple(np.float32(axis[i]) for axis in axes) for i in range(3))
    cells = tuple(axis.cells for axis in axes)
    index_bits = max(1, (len(xyz) - 1).bit_length())
    cell_bits = max(1, (batch_size * cells[0] * cells[1] * cells[2] - 1).bit_length())
    if cell_bits + index_bits > 64:
        raise PerceptionError(
            f"voxelize: points times cells below 2^64 were expected, found {len(xyz)} points and {batch_size} samples "
            f"of {' x '.join(map(str, cells))} cells"
        )
    passes = -(-cell_bits // _DIGIT_BITS)
    digit_bits = -(-cell_bits // passes)
    words, spare = np.empty(len(xyz), np.uint64), np.empty(len(xyz), np.uint64)
    digits = np.zeros((passes, 1 << digit_bits), np.uint32)
    points, samples = xyz.detach().contiguous().numpy(), batch_index.contiguous().numpy()
    kept, out_of_batch = _words(
        points, samples, batch_size, low, high, size, cells, index_bits, digit_bits, words, digits
    )
    words, spare = _sorted(words[:kept], spare[:kept], index_bits, digit_bits, digits)
    cell, count = np.empty(kept, np.int64), np.empty(kept, np.int64)
    order, voxel = words.view(np.int64), spare.view(np.int64)  # in place: words are read before they are overwritten
    occupied = _runs(words, index_bits, cell, count, order, voxel)
    arrays = (cell[:occupied], count[:occupied], order, voxel)
    return *map(torch.from_numpy, arrays), out_of_batch


def segment_sum(values, count, index=None, mean=False):
    """See :func:`perception.ops.reference.segment_sum`."""
    out = torch.empty(len(count), values.shape[1])
    if index is not None:
        voxel = np.empty(len(values), np.int32)
        _sums_as_given(_array(values), _array(count), _array(index), voxel, mean, out.numpy())
    elif 0 < values.shape[1] <= _NARROW:
        _narrow_sums(_array(values), _array(count), mean, out.numpy())
    else:
        _wide_sums(_array(values), _array(count), mean, out.numpy())
    return out


def segment_max(values, count):
    """See :func:`perception.ops.reference.segment_max`."""
    maximum = torch.empty(len(count), values.shape[1])
    first = torch.empty(maximum.shape, dtype=torch.int64)
    _maxima(_array(values), _array(count), maximum.numpy(), first.numpy())
    return maximum, first


def _array(tensor):
    return tensor.detach().contiguous().numpy()


@compiled
def _words(points, samples, batch_size, low, high, size, cells, index_bits, digit_bits, words, digits):
    """Fill the words of the points inside the region, and the histograms of the digits of their cells.

    Returns the number of points inside, and the number of points whose sample is not in the batch.
    """
    columns, rows, layers = cells
    x_low, y_low, z_low = low
    x_high, y_high, z_high = high
    x_size, y_size, z_size = size
    x, y, z = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    cell, inside = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.bool_)
    mask = np.uint64((1 << digit_bits) - 1)
    kept = out_of_batch = 0
    for first in range(0, len(points), _BLOCK):
        n = min(_BLOCK, len(points) - first)
        for i in range(n):
            x[i], y[i], z[i] = points[first + i, 0], points[first + i, 1], points[first + i, 2]
        for i in range(n):
            px, py, pz, sample = x[i], y[i], z[i], samples[first + i]
            known = (sample >= 0) & (sample < batch_size)
            out_of_batch += not known
            within = (px >= x_low) & (px < x_high) & (py >= y_low) & (py < y_high) & (pz >= z_low) & (pz < z_high)
            inside[i] = within & known
            # NaN and infinity cannot be converted to integers; their placeholders are discarded.
            px, py, pz = px if within else x_low, py if within else y_low, pz if within else z_low
            column = min(np.int32((px - x_low) / x_size), np.int32(columns - 1))
            row = min(np.int32((py - y_low) / y_size), np.int32(rows - 1))
            layer = min(np.int32((pz - z_low) / z_size), np.int32(layers - 1))
            cell[i] = ((sample * layers + layer) * rows + row) * columns + column
        before = kept
        for i in range(n):
            words[kept] = np.uint64(cell[i]) << np.uint64(index_bits) | np.uint64(first + i)
            kept += inside[i]
        for i in range(before, kept):
            digit = words[i] >> np.uint64(index_bits)
            for p in range(len(digits)):
                digits[p, digit & mask] += 1
                digit >>= np.uint64(digit_bits)
    return kept, out_of_batch


@compiled
def _sorted(words, spare, index_bits, digit_bits, digits):
    """Sort the words by cell, alternating between both arrays; returns the sorted array first."""
    mask = np.uint64((1 << digit_bits) - 1)
    for p in range(len(digits)):
        place = digits[p]
        total = 0
        for value in range(len(place)):
            n = place[value]
            place[value] = total
            total += n
        shift = np.uint64(index_bits + p * digit_bits)
        for i in range(len(words)):
            digit = (words[i] >> shift) & mask
            spare[place[digit]] = words[i]
            place[digit] += 1
        words, spare = spare, words
    return words, spare


@compiled
def _runs(words, index_bits, cell, count, order, voxel):
    """Fill the arrays from sorted words; returns the number of distinct cells."""
    mask, shift = np.uint64((1 << index_bits) - 1), np.uint64(index_bits)
    occupied = start = 0
    last = np.uint64(0)
    for i in range(len(words)):
        own = words[i] >> shift
        if i == 0 or own != last:
            if i > 0:
                count[occupied - 1] = i - start
            cell[occupied] = own
            occupied += 1
            start, last = i, own
        order[i] = words[i] & mask
        voxel[i] = occupied - 1
    if occupied > 0:
        count[occupied - 1] = len(words) - start
    return occupied


@compiled
def _sums_as_given(values, count, index, voxel, mean, out):
    """Read values in memory order and add each to its segment; the segments are fewer and fit the cache."""
    voxel[:] = -1
    k = 0
    for v in range(len(count)):
        for _ in range(count[v]):
            voxel[np.uint64(index[k])] = v
            k += 1
    out[:] = 0
    for i in range(len(values)):
        if voxel[i] >= 0:
            own = np.uint64(voxel[i])
            for c in range(values.shape[1]):
                out[own, c] += values[i, c]
    if mean:
        for v in range(len(count)):
            n = np.float32(count[v])
            for c in range(values.shape[1]):
                out[v, c] /= n


@compiled
def _narrow_sums(values, count, mean, out):
    """Sum up to eight channels at once in registers; with fewer, the last channel is summed repeatedly."""
    last = values.shape[1] - 1
    # Unsigned indices avoid a check for negative indices on every access.
    a, b, c, d = np.uint64(0), np.uint64(min(1, last)), np.uint64(min(2, last)), np.uint64(min(3, last))
    e, f, g, h = np.uint64(min(4, last)), np.uint64(min(5, last)), np.uint64(min(6, last)), np.uint64(min(7, last))
    stop = np.uint64(0)
    for v in range(len(count)):
        start = stop
        stop = start + np.uint64(count[v])
        sum_a = sum_b = sum_c = sum_d = sum_e = sum_f = sum_g = sum_h = np.float32(0)
        for i in range(start, stop):
            sum_a, sum_b = sum_a + values[i, a], sum_b + values[i, b]
            sum_c, sum_d = sum_c + values[i, c], sum_d + values[i, d]
            sum_e, sum_f = sum_e + values[i, e], sum_f + values[i, f]
            sum_g, sum_h = sum_g + values[i, g], sum_h + values[i, h]
        n = np.float32(count[v] if mean else 1)
        out[v, a], out[v, b], out[v, c], out[v, d] = sum_a / n, sum_b / n, sum_c / n, sum_d / n
        out[v, e], out[v, f], out[v, g], out[v, h] = sum_e / n, sum_f / n, sum_g / n, sum_h / n


@compiled
def _wide_sums(values, count, mean, out):
    """Sum one row at a time; rows are long enough to be vectorised."""
    stop = np.uint64(0)
    for v in range(len(count)):
        start = stop
        stop = start + np.uint64(count[v])
        row = out[v]
        row[:] = 0
        for i in range(start, stop):
            for c in range(values.shape[1]):
                row[c] += values[i, c]
        n = np.float32(count[v] if mean else 1)
        for c in range(values.shape[1]):
            row[c] /= n


@compiled
def _maxima(values, count, maximum, first):
    best, holder = np.empty(values.shape[1], np.float32), np.empty(values.shape[1], np.int32)
    stop = 0
    for v in range(len(count)):
        start = stop
        stop = start + count[v]
        for c in range(values.shape[1]):
            best[c], holder[c] = values[start, c], 0
        for k in range(start + 1, stop):
            for c in range(values.shape[1]):
                value, so_far = values[k, c], best[c]
                better = (value > so_far) | ((value != value) & (so_far == so_far))
                best[c] = value if better else so_far
                holder[c] = np.int32(k - start) if better else holder[c]
        for c in range(values.shape[1]):
            maximum[v, c], first[v, c] = best[c], start + holder[c]
