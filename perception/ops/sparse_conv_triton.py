"""Sparse convolution of float32 features on a GPU, in Triton.

Each program computes a tile of the result over all offsets of the kernel (an implicit matrix product, TorchSparse++,
Tang et al., 2023), so that nothing is gathered into memory and no row is added to by two programs.
With ``TRITON_INTERPRET=1`` in the environment before the import, the kernel runs on CPU tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from perception.ops.sparse_conv_reference import find_pairs, reached

__all__ = ["convolve", "find_pairs", "reached"]

_ROWS, _INNER, _COLUMNS = 64, 16, 32  # tile of the result, and the channels of one product


def convolve(features, weight, pairs, rows):
    """See :func:`perception.ops.sparse_conv_reference.convolve`; rounds like ``F.conv3d``, to TF32 if that may."""
    features, weight = features.detach().contiguous(), weight.detach().contiguous()
    offsets, channels_in, channels_out = weight.shape
    out = features.new_empty(rows, channels_out)
    if out.numel() == 0:
        return out
    table = torch.full((offsets, rows), -1, dtype=torch.int32, device=features.device)
    for of_offset, (source, target) in zip(table, pairs):
        of_offset[target] = source
    with torch.cuda.device_of(features):
        _products[(triton.cdiv(rows, _ROWS), triton.cdiv(channels_out, _COLUMNS))](
            features,
            weight,
            table,
            out,
            rows,
            offsets,
            channels_in,
            channels_out,
            PRECISION="tf32" if torch.backends.cudnn.allow_tf32 else "ieee",
            ROWS=_ROWS,
            INNER=_INNER,
            COLUMNS=_COLUMNS,
        )
    return out


@triton.jit
def _products(
    features,
    weight,
    table,
    out,
    rows,
    offsets,
    channels_in,
    channels_out,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of the result; ``table`` [K, rows] holds the source of each row at each offset, -1 where there is none."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(offsets):
        source = tl.load(table + tl.cast(k, tl.int64) * rows + row, mask=row < rows, other=-1)
        if tl.max(source, 0) >= 0:
            place = source.to(tl.int64) * channels_in
            for c in range(0, channels_in, INNER):
                inner = c + tl.arange(0, INNER)
                there = (source[:, None] >= 0) & (inner[None, :] < channels_in)
                gathered = tl.load(features + place[:, None] + inner[None, :], mask=there, other=0.0)
                at = (k * channels_in + inner[:, None]) * channels_out + column[None, :]
                known = (inner[:, None] < channels_in) & (column[None, :] < channels_out)
                of_offset = tl.load(weight + at, mask=known, other=0.0)
                total = tl.dot(gathered, of_offset, total, input_precision=PRECISION)
    place = row.to(tl.int64)[:, None] * channels_out + column[None, :]
    tl.store(out + place, total, mask=(row[:, None] < rows) & (column[None, :] < channels_out))
