"""Correlation of maps over a few shifts, as a convolution."""

from __future__ import annotations

import torch
from torch.nn import functional as F

_TILE = 8  # cells


def correlate(a: torch.Tensor, b: torch.Tensor, reach: int) -> torch.Tensor:
    """Sums over channels and cells p of ``a[p] * b[p + shift]``, [B, N, 2 reach + 1, 2 reach + 1].

    Args:
        a: [B, N, K, h, w].  b: [B, K, h, w], zero outside of its borders.
        reach: largest shift (row, column), in cells, of which the result has one row and column each.

    One convolution in which the maps ``a`` are the kernels. They are cut into tiles, which become channels: kernels of
    ordinary size are what libraries are made for, and their sums are rounded less than those of one of a map's size.
    """
    batch, count = a.shape[:2]
    fill_rows, fill_columns = -b.shape[-2] % _TILE, -b.shape[-1] % _TILE
    a = F.pad(a, (0, fill_columns, 0, fill_rows))
    b = F.pad(b, (reach, reach + fill_columns, reach, reach + fill_rows))
    kernels = a.unflatten(-1, (-1, _TILE)).unflatten(-3, (-1, _TILE)).transpose(-3, -2)  # [B, N, K, down, across, 8, 8]
    windows = b.unfold(2, _TILE + 2 * reach, _TILE).unfold(3, _TILE + 2 * reach, _TILE)  # [B, K, down, across, .., ..]
    found = F.conv2d(windows.flatten(0, 3)[None], kernels.flatten(2, 4).flatten(0, 1), groups=batch)
    return found.view(batch, count, 2 * reach + 1, 2 * reach + 1)
