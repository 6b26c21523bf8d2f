"""Convolutions of sparse 3D grids, which compute only where there is something.

Two kinds: a *submanifold* convolution computes exactly the cells that are occupied, so that surfaces do not grow
(Graham et al., 2018); an ordinary one, with or without stride, computes every cell that an occupied one reaches, as a
dense convolution would (SECOND, Yan et al., 2018). Both are the same sum: for each offset of the kernel, the rows of
the features that lie there are gathered, multiplied by the offset's weights and added to the rows of their results.
Which rows these are, the *pairs*, depends on the cells alone; submanifold convolutions of the same cells share them.

Implementations share signatures: :mod:`~perception.ops.sparse_conv_reference` in plain torch for every device and
dtype, :mod:`~perception.ops.sparse_conv_cpu` and :mod:`~perception.ops.sparse_conv_triton` for float32 on either. An
offset adds to a row at most once, and offsets follow in order, so the same input gives the same bytes. Gradients are
implemented here, once for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch.autograd.function import once_differentiable

from perception.errors import PerceptionError
from perception.ops import sparse_conv_reference as reference
from perception.ops.choice import compiler_for

Triple = tuple[int, int, int]

# For each offset of the kernel, z slowest, the rows of the source and the rows of the target that they are added to:
# int32 [P], ascending in both, so that an offset at which all rows of both meet leaves them as they are.
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Sites:
    """The occupied cells of a batch of 3D grids.

    cell: int64 [V] ``((sample * layers + z) * rows + y) * columns + x``, ascending, as of ``ops.voxelize``.
    shape: (layers, rows, columns) of one sample's grid.
    pairs: of submanifold convolutions so far, by kernel.
    """

    cell: torch.Tensor
    batch_size: int
    shape: Triple
    pairs: dict[Triple, Pairs] = field(default_factory=dict, repr=False)

    def coordinates(self) -> torch.Tensor:
        """int64 [V, 4] (sample, z, y, x) of each cell."""
        layers, rows, columns = self.shape
        row = self.cell // columns
        return torch.stack([row // (layers * rows), row // rows % layers, row % rows, self.cell % columns], dim=1)


@dataclass(frozen=True)
class SparseFeatures:
    """Features [V, C] of the occupied cells, one row each."""

    features: torch.Tensor
    sites: Sites

    def to_bev(self) -> torch.Tensor:
        """[B, layers * C, rows, columns], zero in empty cells; channel ``z * C + c`` is channel c of layer z."""
        layers, rows, columns = self.sites.shape
        sample, z, y, x = self.sites.coordinates().T
        canvas = self.features.new_zeros(self.sites.batch_size * rows * columns * layers, self.features.shape[1])
        canvas = canvas.index_copy(0, ((sample * rows + y) * columns + x) * layers + z, self.features)
        # Cell-major memory is channels_last, the fastest layout for convolutions on CPU and GPU.
        return canvas.view(self.sites.batch_size, rows, columns, -1).permute(0, 3, 1, 2)


def submanifold_conv3d(x: SparseFeatures, weight: torch.Tensor, kernel: Triple = (3, 3, 3)) -> SparseFeatures:
    """Convolve at the occupied cells, which stay the same; empty cells count as zero.

    Args:
        weight: [kz * ky * kx, C_in, C_out], z slowest.
        kernel: (kz, ky, kx), odd.

    Raises:
        PerceptionError: other shapes.
    """
    _check(x, weight, kernel)
    if not all(size % 2 for size in kernel):
        raise PerceptionError(f"submanifold_conv3d: a kernel of odd sides was expected, found {kernel}")
    if kernel not in x.sites.pairs:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        x.sites.pairs[kernel] = _kernels(x.features).find_pairs(x.sites, x.sites, kernel, (1, 1, 1), padding)
    return SparseFeatures(_convolve(x.features, weight, x.sites.pairs[kernel], len(x.sites.cell)), x.sites)


def sparse_conv3d(
    x: SparseFeatures, weight: torch.Tensor, kernel: Triple = (3, 3, 3), stride: Triple = (2, 2, 2),
    padding: Triple = (1, 1, 1),
) -> SparseFeatures:  # fmt: skip
    """Convolve at all cells that an occupied one reaches: those where a dense convolution may differ from zero.

    Args:
        weight: [kz * ky * kx, C_in, C_out], z slowest.
        kernel, stride, padding: along z, y, x, as of ``F.conv3d``.

    Raises:
        PerceptionError: other shapes, or a grid that is smaller than the kernel.
    """
    _check(x, weight, kernel)
    shape = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.sites.shape, kernel, stride, padding))
    if min(shape) < 1:
        raise PerceptionError(
            f"sparse_conv3d: a grid of at least {kernel} with padding {padding} was expected, found {x.sites.shape}"
        )
    kernels = _kernels(x.features)
    cell = kernels.reached(x.sites, shape, kernel, stride, padding)
    sites = Sites(cell, x.sites.batch_size, (shape[0], shape[1], shape[2]))
    pairs = kernels.find_pairs(x.sites, sites, kernel, stride, padding)
    return SparseFeatures(_convolve(x.features, weight, pairs, len(cell)), sites)


def _check(x: SparseFeatures, weight: torch.Tensor, kernel: Triple) -> None:
    rows, channels = x.features.shape
    if rows != len(x.sites.cell):
        raise PerceptionError(f"sparse convolution: features of {len(x.sites.cell)} cells were expected, found {rows}")
    if weight.ndim != 3 or weight.shape[:2] != (math.prod(kernel), channels):
        wanted = f"[{math.prod(kernel)}, {channels}, out]"
        raise PerceptionError(f"sparse convolution: weights {wanted} were expected, found {list(weight.shape)}")


def _convolve(features: torch.Tensor, weight: torch.Tensor, pairs: Pairs, rows: int) -> torch.Tensor:
    """Features [V_in, C_in], weight [K, C_in, C_out] -> [rows, C_out]; in float32 where autocast would take less."""
    with torch.autocast(features.device.type, enabled=False):
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        return _Convolution.apply(features, weight.to(features.dtype), pairs, rows)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, weight, pairs, rows):
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        return _kernels(features).convolve(features, weight, pairs, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, weight = ctx.saved_tensors
        of_features = of_weight = None
        if ctx.needs_input_grad[0]:
            back = [(target, source) for source, target in ctx.pairs]
            of_features = _kernels(grad).convolve(grad, weight.transpose(1, 2), back, len(features))
        if ctx.needs_input_grad[1]:
            of_weight = reference.weight_gradient(features, grad, ctx.pairs)
        return of_features, of_weight, None, None


def _kernels(tensor: torch.Tensor):
    compiler = compiler_for(tensor)
    if compiler == "numba":
        from perception.ops import sparse_conv_cpu  # numba takes half a second to import

        return sparse_conv_cpu
    if compiler == "triton":
        from perception.ops import sparse_conv_triton

        return sparse_conv_triton
    return reference
