"""The two passes over cells of ``ops.window_attention``, compiled for the CPU when they first run."""

from __future__ import annotations

import math

import numba

# Sums may be reordered, which is what lets them use vector registers.
_jit = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})


@_jit
def write_logits(query, key_value, bias, logits):
    """logits [B, H, W, heads, n * n] of query [B, H, W, heads, d] and key_value [B, H, W, 2, heads, d]."""
    batch, height, width, heads, size = query.shape
    side = round(math.sqrt(bias.shape[-1]))
    radius = side // 2
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                for offset in range(side * side):
                    y = min(max(row + offset // side - radius, 0), height - 1)
                    x = min(max(column + offset % side - radius, 0), width - 1)
                    for head in range(heads):
                        total = numba.float32(0)
                        for c in range(size):
                            total += query[b, row, column, head, c] * key_value[b, y, x, 0, head, c]
                        logits[b, row, column, head, offset] = total + bias[b, head, offset]


@_jit
def add_values(weight, key_value, attended):
    """Adds to attended [B, H, W, heads, d] the values, weighted by weight [B, H, W, heads, n * n]."""
    batch, height, width, heads, size = attended.shape
    side = round(math.sqrt(weight.shape[-1]))
    radius = side // 2
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                for offset in range(side * side):
                    y = min(max(row + offset // side - radius, 0), height - 1)
                    x = min(max(column + offset % side - radius, 0), width - 1)
                    for head in range(heads):
                        share = weight[b, row, column, head, offset]
                        for c in range(size):
                            attended[b, row, column, head, c] += share * key_value[b, y, x, 1, head, c]
