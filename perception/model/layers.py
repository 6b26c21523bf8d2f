"""Convolution blocks shared by all parts of the model.

They use group rather than batch normalisation: its statistics do not depend on the other samples of the batch, nor on
their sensors, so a checkpoint behaves the same for every set of sensors and at batch size one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from perception.ops.convolution import Conv2d


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of about eight channels; a single group if the channels do not divide evenly."""
    groups = max(1, channels // 8)
    return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)


def exact_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The matrix product of small matrices [..., I, K] and [..., K, J], in their own precision.

    Autocast would take ``a @ b`` in bfloat16, where metres and pixels are off by up to 0.4 %.
    """
    return (a[..., :, :, None] * b[..., None, :, :]).sum(dim=-2)


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 weight [out, in, 1, 1] as [out, in].

    Its gradient lies in memory as a weight in channels_last format does; others would be copied wherever several
    processes sum them.
    """
    return weight.permute(0, 2, 3, 1).flatten(1)


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution as a matrix product, several times faster on one thread than PyTorch's convolution.

    [B, in, H, W] -> [B, out, H, W], both fastest in channels_last memory format.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.permute(0, 2, 3, 1), as_matrix(self.weight), self.bias).permute(0, 3, 1, 2)


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, ReLU. [B, in, H, W] -> [B, out, H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1):
        if kernel == 1 and stride == 1:
            conv: nn.Conv2d = PointwiseConv2d(in_channels, out_channels, bias=False)
        else:
            conv = Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(conv, group_norm(out_channels), nn.ReLU(inplace=True))


def heat_head(in_channels: int, channels: int, classes: int) -> nn.Sequential:
    """Features [B, in, H, W] -> logits [B, classes, H, W] that begin low, at 0.01.

    Otherwise false positives dominate the first steps (the prior of the focal loss, Lin et al., 2017).
    """
    enter, last = ConvBlock(in_channels, channels), PointwiseConv2d(channels, classes)
    nn.init.constant_(last.get_parameter("bias"), -4.6)
    return nn.Sequential(enter, last)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity (He et al., 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = nn.Sequential(Conv2d(channels, channels, 3, padding=1, bias=False), group_norm(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


def recomputed(module: nn.Module) -> None:
    """Make ``module`` forget its intermediate results in training and compute them again for the backward pass.

    Gradient checkpointing (Chen et al., 2016): a second forward pass for memory. Names of weights do not change. Batch
    normalisation that collects statistics would count every batch twice.
    """
    plain = module.forward

    def forward(*args, **kwargs):
        if module.training and torch.is_grad_enabled():
            return checkpoint(plain, *args, use_reentrant=False, **kwargs)
        return plain(*args, **kwargs)

    module.forward = forward
