"""A convolution that is trained at the speed of its forward pass on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a faster gradient of its weights.

    PyTorch computes that gradient in the memory format of the forward pass, and for maps whose channels are innermost
    its CPU library is up to four times as slow as for contiguous ones. Copies are cheap beside that.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trained = torch.is_grad_enabled() and self.weight.requires_grad and x.device.type == "cpu"
        if trained and self.stride == (1, 1) and self.groups == 1 and not torch.is_autocast_enabled("cpu"):
            return _Convolution.apply(x, self.weight, self.bias, self.padding)
        return super().forward(x)


class _Convolution(torch.autograd.Function):
    """Stride 1, one group."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.biased = padding, bias is not None
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors

        def of(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: list[bool]) -> tuple:
            sizes = [len(weight)] if ctx.biased else None
            ones, zeros = [1, 1], [0, 0]
            return torch.ops.aten.convolution_backward(
                gradient, x, weight, sizes, ones, list(ctx.padding), ones, False, zeros, 1, wanted
            )

        of_x = of(gradient, x, weight, [True, False, False])[0] if ctx.needs_input_grad[0] else None
        plain = gradient.contiguous(), x.contiguous(), weight.contiguous()
        _, of_weight, of_bias = of(*plain, [False, True, ctx.biased])
        return of_x, of_weight, of_bias, None
