"""The convolution with a faster gradient, against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from perception.model.layers import ConvBlock
from perception.ops.convolution import Conv2d


def gradients(module: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    (module(x) * weight).sum().backward()
    return [x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride, padding, kernel", [(1, 1, 3), (1, 0, 3), (1, 2, 5), (2, 1, 3)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_those_of_pytorch(bias, stride, padding, kernel, memory_format):
    torch.manual_seed(0)
    ours = Conv2d(8, 16, kernel, stride, padding, bias=bias).double().to(memory_format=memory_format)
    theirs = nn.Conv2d(8, 16, kernel, stride, padding, bias=bias).double().to(memory_format=memory_format)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 13, dtype=torch.float64).to(memory_format=memory_format)
    weight = torch.randn_like(theirs(x))
    for a, b in zip(gradients(ours, x, weight), gradients(theirs, x, weight), strict=True):
        torch.testing.assert_close(a, b)
        assert a.stride() == b.stride()


def test_what_does_not_learn_has_no_gradient():
    conv = Conv2d(3, 4, 3, padding=1)
    conv(torch.randn(1, 3, 5, 5)).sum().backward()  # images: no gradient is asked for
    assert conv.weight.grad is not None
    frozen = copy.deepcopy(conv).requires_grad_(False)
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None


def test_a_block_in_bfloat16_learns():
    block, x = ConvBlock(8, 8), torch.randn(1, 8, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.float().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
