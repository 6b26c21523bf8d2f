"""Correlation over shifts: by hand, against the FFT, and against a loop over shifts."""

import pytest
import torch
from torch.nn import functional as F

from perception.ops.correlation import correlate


def by_fft(a: torch.Tensor, b: torch.Tensor, reach: int) -> torch.Tensor:
    size = [n + 2 * reach + 1 for n in b.shape[-2:]]  # shifts do not wrap around
    spectrum = torch.fft.rfft2(a, s=size).conj() * torch.fft.rfft2(b[:, None], s=size)
    shifted = torch.fft.irfft2(spectrum.sum(dim=2), s=size).roll((reach, reach), dims=(-2, -1))
    return shifted[..., : 2 * reach + 1, : 2 * reach + 1]


def test_a_cell_is_found_where_it_went():
    """From (2, 3) to (4, 2): two rows down, one column to the left."""
    a, b = torch.zeros(1, 1, 1, 6, 5), torch.zeros(1, 1, 6, 5)
    a[..., 2, 3], b[..., 4, 2] = 2.0, 3.0
    found = correlate(a, b, 2)
    assert found.shape == (1, 1, 5, 5) and found[0, 0, 4, 1] == 6.0 and found.sum() == 6.0


@pytest.mark.parametrize(("height", "width"), [(64, 64), (8, 16), (9, 31), (1, 1), (3, 20)])
@pytest.mark.parametrize("reach", [1, 5])
def test_as_the_fft(height, width, reach):
    """To float rounding: of maps with unit energy, as descriptors are, to a millionth."""
    generator = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(2, 3, 4 * height * width, generator=generator), dim=-1).view(2, 3, 4, height, width)
    b = F.normalize(torch.randn(2, 4 * height * width, generator=generator), dim=-1).view(2, 4, height, width)
    torch.testing.assert_close(correlate(a, b, reach), by_fft(a, b, reach), rtol=1e-5, atol=1e-6)


def test_gradients():
    a, b = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 2, 3, 5, 9), (2, 3, 5, 9)))
    assert torch.autograd.gradcheck(lambda a, b: correlate(a, b, 2), (a.requires_grad_(), b.requires_grad_()))
