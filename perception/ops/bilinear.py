"""Maps read at positions between their cells."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def displaced(x: torch.Tensor, right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Each cell of maps [B, C, H, W] read ``right`` and ``down`` [B, H, W] cells from itself, bilinearly.

    Positions beyond the border read the border; one that is not a number reads none. Differentiable in all arguments. A
    displacement of exactly zero reads exactly the cell, unlike ``grid_sample``, whose normalised positions are rounded;
    and channels stay innermost in memory (channels_last), which makes this several times faster.
    """
    batch, channels, height, width = x.shape
    row = (torch.arange(height, device=x.device)[:, None] + down).clamp(0, height - 1)
    column = (torch.arange(width, device=x.device) + right).clamp(0, width - 1)
    top, left = row.floor(), column.floor()
    below, beside = row - top, column - left  # shares of the cells below and to the right
    weight = torch.stack(
        [(1 - below) * (1 - beside), (1 - below) * beside, below * (1 - beside), below * beside], dim=-1
    )
    # The shares keep what is not a number; an index of it would be out of any range, which on a GPU ends the process.
    top, left = top.nan_to_num(0.0).long(), left.nan_to_num(0.0).long()
    bottom, right_of = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    index = torch.stack(
        [top * width + left, top * width + right_of, bottom * width + left, bottom * width + right_of], dim=-1
    )
    index = index + (torch.arange(batch, device=x.device) * height * width)[:, None, None, None]
    cells = x.permute(0, 2, 3, 1).reshape(-1, channels)
    read = _weighted_sum(cells, index.view(-1, 4), weight.view(-1, 4))
    return read.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _weighted_sum(cells: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[N, C] from cells [M, C], index and weight [N, k]."""
    if torch.compiler.is_exporting():  # no runtime has embedding_bag; gathering takes ten times as long on the CPU
        return (F.embedding(index, cells) * weight[..., None]).sum(dim=1)
    return F.embedding_bag(index, cells, mode="sum", per_sample_weights=weight)
