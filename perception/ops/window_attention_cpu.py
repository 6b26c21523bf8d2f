"""The two passes over cells of ``ops.window_attention``, compiled for the CPU on first use."""

from __future__ import annotations

import math

import numba

from perception.ops.compiled import compiled

# Allows sums to be reordered, which vectorisation requires.
_fast = compiled(fastmath={"reassoc", "contract", "nsz"})


@_fast
def write_logits(query, key_value, bias, first, logits):
    """logits [B, h, W, heads, n * n] of query [B, h, W, heads, d] and key_value [B, H, W, 2, heads, d].

    The query is a strip of rows of the map, starting at row ``first``.
    """
    batch, strip, width, heads, size = query.shape
    height = key_value.shape[1]
    side = round(math.sqrt(bias.shape[-1]))
    radius = side // 2
    for b in range(batch):
        for row in range(strip):
            for column in range(width):
                for offset in range(side * side):
                    y = min(max(first + row + offset // side - radius, 0), height - 1)
                    x = min(max(column + offset % side - radius, 0), width - 1)
                    for head in range(heads):
                        total = numba.float32(0)
                        for c in range(size):
                            total += query[b, row, column, head, c] * key_value[b, y, x, 0, head, c]
                        logits[b, row, column, head, offset] = total + bias[b, head, offset]


@_fast
def add_values(weight, key_value, first, attended):
    """Add values weighted by weight [B, h, W, heads, n * n] to attended [B, h, W, heads, d], a strip as above."""
    batch, strip, width, heads, size = attended.shape
    height = key_value.shape[1]
    side = round(math.sqrt(weight.shape[-1]))
    radius = side // 2
    for b in range(batch):
        for row in range(strip):
            for column in range(width):
                for offset in range(side * side):
                    y = min(max(first + row + offset // side - radius, 0), height - 1)
                    x = min(max(column + offset % side - radius, 0), width - 1)
                    for head in range(heads):
                        share = weight[b, row, column, head, offset]
                        for c in range(size):
                            attended[b, row, column, head, c] += share * key_value[b, y, x, 1, head, c]
