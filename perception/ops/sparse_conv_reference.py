"""Sparse convolution in plain torch, for any device and floating dtype; reference for the kernels."""

from __future__ import annotations

import torch


def reached(sites, shape, kernel, stride, padding):
    """int64 [V_out] cells, ascending, of the grids of ``shape`` that the occupied cells reach.

    Along an axis the input at position i lies under the kernel of output o if ``o * stride <= i + padding`` and
    ``i + padding < o * stride + kernel``: that is the output ``(i + padding) // stride`` and some before it.
    """
    sample, *positions = sites.coordinates().T
    cell, valid = sample[:, None], torch.ones_like(sample, dtype=torch.bool)[:, None]
    for i, size, k, s, p in zip(positions, shape, kernel, stride, padding):
        output = ((i + p) // s)[:, None] - torch.arange(-(-k // s), device=i.device)
        holds = (output >= 0) & (output < size) & ((i + p)[:, None] < output * s + k)
        cell = (cell[:, :, None] * size + output[:, None]).flatten(1)
        valid = (valid[:, :, None] & holds[:, None]).flatten(1)
    return torch.unique(cell[valid])


def find_pairs(source, target, kernel, stride, padding):
    """The ``Pairs`` of :mod:`~perception.ops.sparse_conv` of two sets of sites, [K] of (source, target)."""
    device = source.cell.device
    offsets = torch.cartesian_prod(*(torch.arange(k, device=device) for k in kernel)).view(-1, 3)
    sample, *positions = target.coordinates().T
    cell = sample.expand(len(offsets), -1)
    inside = torch.ones_like(cell, dtype=torch.bool)
    for position, offset, s, p, size in zip(positions, offsets.T, stride, padding, source.shape):
        place = position * s - p + offset[:, None]
        inside = inside & (place >= 0) & (place < size)
        cell = cell * size + place
    row = torch.searchsorted(source.cell, cell).clamp(max=len(source.cell) - 1)
    met = inside & (source.cell[row] == cell)
    counts = met.sum(dim=1).tolist()
    return list(zip(row[met].int().split(counts), met.nonzero()[:, 1].int().split(counts)))


def convolve(features, weight, pairs, rows):
    """Features [V_in, C_in] and weight [K, C_in, C_out] -> [rows, C_out]."""
    out = features.new_zeros(rows, weight.shape[2])
    for (source, target), of_offset in zip(pairs, weight):
        out.index_add_(0, target, features.index_select(0, source) @ of_offset)
    return out


def weight_gradient(features, grad, pairs):
    """Features [V_in, C_in] and gradients [V_out, C_out] -> gradients [K, C_in, C_out] of the weights."""
    return torch.stack([features.index_select(0, s).T @ grad.index_select(0, t) for s, t in pairs])
