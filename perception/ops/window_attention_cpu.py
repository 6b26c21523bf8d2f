"""The two passes over cells of ``ops.window_attention``, compiled for the CPU on first use.

Cells of a row are innermost in memory, so that one vector instruction works on many of them; ``key_value`` repeats the
border cells ``radius`` times at both ends of a row.
"""

from __future__ import annotations

import math

from perception.ops.compiled import compiled

# Allows sums to be reordered, which vectorisation requires, and checks no divisors.
_fast = compiled(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")


@_fast
def write_logits(query, key_value, bias, m, first, logits):
    """Logits of map ``m`` for a strip of rows that starts at row ``first``.

    query [B, H, heads, d, W], key_value [B, H, 2, heads, d, W + 2 radius], bias [B, heads, maps, n * n]
    -> logits [B, h, heads, maps, n * n, W].
    """
    batch, height, heads, size, width = query.shape
    side = round(math.sqrt(bias.shape[-1]))
    for b in range(batch):
        for row in range(logits.shape[1]):
            for head in range(heads):
                for offset in range(side * side):
                    for x in range(width):
                        logits[b, row, head, m, offset, x] = bias[b, head, m, offset]
                for down in range(side):
                    y = min(max(first + row + down - side // 2, 0), height - 1)
                    for c in range(size):
                        for across in range(side):
                            for x in range(width):
                                logits[b, row, head, m, down * side + across, x] += (
                                    query[b, first + row, head, c, x] * key_value[b, y, 0, head, c, across + x]
                                )


@_fast
def add_values(weight, key_value, m, first, attended):
    """Values of map ``m`` times weight [B, h, heads, maps, n * n, W], added to attended [B, H, heads, d, W]."""
    batch, height, heads, size, width = attended.shape
    side = round(math.sqrt(weight.shape[4]))
    for b in range(batch):
        for row in range(weight.shape[1]):
            for down in range(side):
                y = min(max(first + row + down - side // 2, 0), height - 1)
                for head in range(heads):
                    for c in range(size):
                        for across in range(side):
                            for x in range(width):
                                attended[b, first + row, head, c, x] += (
                                    weight[b, row, head, m, down * side + across, x]
                                    * key_value[b, y, 1, head, c, across + x]
                                )
