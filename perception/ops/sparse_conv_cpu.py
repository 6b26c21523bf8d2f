"""Sparse convolution of float32 features on the CPU: rows are found and added by compiled loops, products are BLAS's.

Cells are ascending, and so are the cells that one offset of the kernel asks for: pairs are found by walking along both
lists at once, without a hash table (a merge join). Results are added part by part, so that a part stays in the cache.
"""

from __future__ import annotations

import numpy as np
import torch

from perception.ops.compiled import compiled

_PART = 4096  # rows gathered, multiplied and added at a time


def reached(sites, shape, kernel, stride, padding):
    """See :func:`perception.ops.sparse_conv_reference.reached`."""
    most = len(sites.cell)
    for k, s in zip(kernel, stride):
        most *= -(-k // s)
    cell = np.empty(most, np.int64)
    n = _reach(sites.cell.numpy(), sites.shape, shape, kernel, stride, padding, cell)
    return torch.from_numpy(np.unique(cell[:n]))


def find_pairs(source, target, kernel, stride, padding):
    """See :func:`perception.ops.sparse_conv_reference.find_pairs`."""
    offsets = kernel[0] * kernel[1] * kernel[2]
    # Of a set with itself, in a submanifold convolution, the second half of the offsets mirrors the first.
    found = offsets // 2 + 1 if source is target else offsets
    # Room for every cell at every offset; the system gives memory only to the part that is written.
    rows = np.empty((2, found, len(target.cell)), np.int32)
    counts = np.zeros(found, np.int64)
    cells = source.cell.numpy(), target.cell.numpy()
    _merge(*cells, source.shape, target.shape, kernel, stride, padding, rows, counts)
    pairs = [
        (torch.from_numpy(rows[0, k, :n].copy()), torch.from_numpy(rows[1, k, :n].copy())) for k, n in enumerate(counts)
    ]
    return pairs + [(t, s) for s, t in pairs[: offsets - found][::-1]]


def convolve(features, weight, pairs, rows):
    """See :func:`perception.ops.sparse_conv_reference.convolve`."""
    features, weight = features.detach().contiguous(), weight.detach().contiguous()
    out = features.new_zeros(rows, weight.shape[2])
    gathered, product = features.new_empty(_PART, weight.shape[1]), features.new_empty(_PART, weight.shape[2])
    values, gathered_values, products, sums = (x.numpy() for x in (features, gathered, product, out))  # the same memory
    for (source, target), of_offset in zip(pairs, weight):
        if len(source) == len(features) == rows:  # ascending and complete: every row meets its own
            out.addmm_(features, of_offset)
            continue
        sources, targets = source.numpy(), target.numpy()
        for first in range(0, len(sources), _PART):
            n = min(_PART, len(sources) - first)
            _gather_rows(values, sources[first : first + n], gathered_values)
            torch.mm(gathered[:n], of_offset, out=product[:n])
            _add_rows(products, targets[first : first + n], sums)
    return out


@compiled
def _gather_rows(values, row, out):
    for i in range(len(row)):
        place = np.uint64(row[i])  # unsigned: no check for negative indices
        for c in range(values.shape[1]):
            out[i, c] = values[place, c]


@compiled
def _add_rows(values, row, out):
    for i in range(len(row)):
        place = np.uint64(row[i])
        for c in range(values.shape[1]):
            out[place, c] += values[i, c]


@compiled
def _reach(source, source_shape, target_shape, kernel, stride, padding, cell):
    """Fill ``cell`` with the cells that each source cell reaches, some more than once; returns their number."""
    n = 0
    for own in source:
        line, x = divmod(own, source_shape[2])
        plane, y = divmod(line, source_shape[1])
        sample, z = divmod(plane, source_shape[0])
        for target_z in _outputs(z, target_shape[0], kernel[0], stride[0], padding[0]):
            for target_y in _outputs(y, target_shape[1], kernel[1], stride[1], padding[1]):
                for target_x in _outputs(x, target_shape[2], kernel[2], stride[2], padding[2]):
                    row = (sample * target_shape[0] + target_z) * target_shape[1] + target_y
                    cell[n] = row * target_shape[2] + target_x
                    n += 1
    return n


@compiled
def _outputs(i, size, kernel, stride, padding):
    """The outputs o along an axis with o * stride <= i + padding < o * stride + kernel."""
    return range(max(0, (i + padding - kernel) // stride + 1), min(size, (i + padding) // stride + 1))


@compiled
def _merge(source, target, source_shape, target_shape, kernel, stride, padding, rows, counts):
    """Fill rows [2, K, V_out] with the pairs of the first K offsets, and counts [K] with their number.

    The offsets along x are neighbours in the list of source cells, so that one position serves all of them.
    """
    layers, rows_y, columns = source_shape
    position = np.zeros(kernel[0] * kernel[1], np.int64)
    for t in range(len(target)):
        line, x = divmod(target[t], target_shape[2])
        plane, y = divmod(line, target_shape[1])
        sample, z = divmod(plane, target_shape[0])
        first_x = x * stride[2] - padding[2]
        for kz in range(kernel[0]):
            source_z = z * stride[0] - padding[0] + kz
            if source_z < 0 or source_z >= layers:
                continue
            for ky in range(kernel[1]):
                source_y = y * stride[1] - padding[1] + ky
                if source_y < 0 or source_y >= rows_y:
                    continue
                begin = ((sample * layers + source_z) * rows_y + source_y) * columns
                walk = kz * kernel[1] + ky
                if walk * kernel[2] >= len(counts):
                    break
                at = position[walk]
                while at < len(source) and source[at] < begin + min(max(first_x, 0), columns):
                    at += 1
                position[walk] = at
                end = begin + min(first_x + kernel[2], columns)
                while at < len(source) and source[at] < end:
                    k = walk * kernel[2] + source[at] - begin - first_x
                    if k < len(counts):
                        rows[0, k, counts[k]], rows[1, k, counts[k]] = at, t
                        counts[k] += 1
                    at += 1
