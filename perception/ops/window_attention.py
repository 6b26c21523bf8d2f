"""Attention from each BEV cell to the tokens of several maps in a window around it; linear in the number of cells.

Two equivalent implementations, selected by :func:`window_attention`:

* blocks: dense products of 4 x 4 query blocks with the keys in the block's halo; keys outside a query's own window are
  masked (as in HaloNet, Vaswani et al., 2021). Differentiable, on any device.
* compiled: row by row on the CPU, without duplicating tokens. For inference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

import torch
from torch.nn import functional as F

_BLOCK = 4
_STRIP = 2048  # cells


def window_attention(query: torch.Tensor, key_value: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    """Attended values [B, C, H, W]. Windows that cross the border replicate the border cells.

    Args:
        query: [B, C, H, W]. C is a multiple of heads.
        key_value: keys, then values, [B, 2 C, H, W], of each of S maps.
        bias: [B, heads, S, n, n] added to the logits, by offset (row, column) in the window of odd side n; -inf where
            a sample lacks the map.
    """
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, bias, *key_value))
    traced = torch.compiler.is_compiling()  # by torch.compile or torch.export
    if query.device.type == "cpu" and query.dtype == torch.float32 and not needs_grad and not traced:
        return _compiled(query, key_value, bias)
    return _blocks(query, key_value, bias)


def _blocks(query: torch.Tensor, key_value: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = query.shape
    heads, radius = bias.shape[1], bias.shape[-1] // 2
    pad_h, pad_w = -height % _BLOCK, -width % _BLOCK
    down, across = (height + pad_h) // _BLOCK, (width + pad_w) // _BLOCK
    head = channels // heads

    query = F.pad(query, (0, pad_w, 0, pad_h)).view(batch, heads, head, down, _BLOCK, across, _BLOCK)
    query = query.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, heads, _BLOCK**2, head)
    # The backward pass of an embedding lookup is three times faster than that of ``unfold``.
    rows = torch.cat([kv.permute(0, 2, 3, 1).reshape(-1, 2 * channels) for kv in key_value])
    tokens = F.embedding(_halo_index(len(key_value), batch, height, width, radius, rows.device), rows)
    key, value = tokens.view(len(query), -1, 2, heads, head).permute(2, 0, 3, 1, 4)

    mask = _halo_mask(bias).to(query.dtype)
    logits = (query @ key.transpose(-1, -2) * head**-0.5).unflatten(0, (batch, -1)) + mask[:, None]
    weight = logits.softmax(dim=-1).flatten(0, 1)
    attended = (weight.to(value.dtype) @ value).view(batch, down, across, heads, _BLOCK, _BLOCK, head)
    attended = attended.permute(0, 3, 6, 1, 4, 2, 5).reshape(batch, channels, height + pad_h, width + pad_w)
    return attended[:, :, :height, :width]


def _halo_mask(bias: torch.Tensor) -> torch.Tensor:
    """[B, heads, 16, S * halo ** 2]: the bias of tokens inside the query's window, -inf outside."""
    relative = _relative_position(bias.shape[-1] // 2, bias.device)
    mask = bias.flatten(3)[..., relative.clamp(min=0)].masked_fill(relative < 0, -torch.inf)
    return mask.permute(0, 1, 3, 2, 4).flatten(3)


def _kept(index: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Keeps the last few indices, except those of a traced graph, which have no values."""
    # What inference keeps may be needed in training, too.
    cached = lru_cache(maxsize=8)(torch.inference_mode(False)(index))

    @wraps(index)
    def kept(*arguments):
        return index(*arguments) if torch.compiler.is_compiling() else cached(*arguments)

    return kept


@_kept
def _relative_position(radius: int, device: torch.device) -> torch.Tensor:
    """[16, halo ** 2]: window offset of each halo cell relative to each query of a block, -1 outside the window."""
    query, halo = torch.arange(_BLOCK, device=device), torch.arange(_BLOCK + 2 * radius, device=device)
    offset = halo[None, :] - query[:, None]  # 0 .. 2 radius when inside the window
    inside = (offset >= 0) & (offset <= 2 * radius)
    index = offset[:, None, :, None] * (2 * radius + 1) + offset[None, :, None, :]
    return index.masked_fill(~(inside[:, None, :, None] & inside[None, :, None, :]), -1).reshape(_BLOCK**2, -1)


@_kept
def _halo_index(maps: int, batch: int, height: int, width: int, radius: int, device: torch.device) -> torch.Tensor:
    """[batch * blocks, maps * halo ** 2]: rows of tokens [maps, batch, height, width] in each block's halo."""

    def axis(size):  # [blocks, halo]
        start = torch.arange(0, size, _BLOCK, device=device)[:, None]
        return (start + torch.arange(-radius, _BLOCK + radius, device=device)).clamp(0, size - 1)

    cell = axis(height)[:, None, :, None] * width + axis(width)[None, :, None, :]  # [down, across, halo, halo]
    stacked = torch.arange(maps * batch, device=device).view(maps, batch).T * (height * width)
    index = cell.flatten(0, 1).flatten(1)[None, :, None, :] + stacked[:, None, :, None]
    return index.flatten(2).flatten(0, 1)


def _compiled(query: torch.Tensor, key_value: list[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    from perception.ops.window_attention_cpu import add_values, write_logits

    batch, channels, height, width = query.shape
    heads, maps, side = bias.shape[1:4]
    split = (heads, channels // heads)
    queries = _rows(query * split[1] ** -0.5, 0).unflatten(2, split).numpy()
    tokens = [_rows(kv, side // 2).unflatten(2, (2, *split)).numpy() for kv in key_value]
    biases = bias.flatten(3).contiguous().numpy()
    attended = torch.zeros(batch, height, *split, width)
    strip = max(1, _STRIP // width)
    for first in range(0, height, strip):  # so that logits stay in the cache
        logits = torch.empty(batch, min(strip, height - first), heads, maps, side**2, width)
        for m, kv in enumerate(tokens):
            write_logits(queries, kv, biases, m, first, logits.numpy())
        weight = logits.flatten(3, 4).softmax(dim=3).view_as(logits).numpy()
        for m, kv in enumerate(tokens):
            add_values(weight, kv, m, first, attended.numpy())
    return attended.flatten(2, 3).transpose(1, 2)


def _rows(x: torch.Tensor, radius: int) -> torch.Tensor:
    """[B, C, H, W] -> contiguous [B, H, C, W + 2 radius], with border cells repeated at both ends of each row."""
    batch, channels, height, width = x.shape
    rows = x.new_empty(batch, height, channels, width + 2 * radius)
    rows[..., radius : radius + width] = x.transpose(1, 2)
    rows[..., :radius] = rows[..., radius, None]
    rows[..., radius + width :] = rows[..., radius + width - 1, None]
    return rows
