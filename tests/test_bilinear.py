"""Maps read between their cells: exact positions, borders, and ``grid_sample`` as the oracle."""

import pytest
import torch
from torch.nn import functional as F

from perception.ops.bilinear import displaced


def test_a_cell_read_where_it_is_is_the_cell():
    """To the last bit, whatever its neighbours are."""
    x = torch.randn(2, 3, 7, 5) * 10.0 ** torch.randint(-20, 20, (2, 3, 7, 5))
    assert torch.equal(displaced(x, torch.zeros(2, 7, 5), torch.zeros(2, 7, 5)), x)


def test_by_hand():
    """A quarter of a cell to the right, half a cell down; two cells up is beyond the border and reads the border."""
    x = torch.tensor([[0.0, 4.0], [8.0, 20.0]])[None, None]
    right, down = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    right[0, 0, 0], down[0, 0, 0] = 0.25, 0.5
    down[0, 1, 1] = -2.0
    right[0, 1, 0] = 0.5
    read = displaced(x, right, down)[0, 0]
    assert read.tolist() == [[(0.75 * 0 + 0.25 * 4 + 0.75 * 8 + 0.25 * 20) / 2, 4.0], [14.0, 4.0]]


def test_no_position_reads_no_number_and_the_others_as_before():
    x = torch.randn(2, 3, 4, 5)
    right, down = torch.zeros(2, 4, 5), torch.zeros(2, 4, 5)
    right[0, 1, 2], down[1, 3, 0] = torch.nan, torch.nan
    read = displaced(x, right, down)
    lost = torch.zeros(2, 4, 5, dtype=torch.bool)
    lost[0, 1, 2] = lost[1, 3, 0] = True
    assert read.isnan().all(dim=1)[lost].all()
    assert torch.equal(read.masked_fill(lost[:, None], 0.0), x.masked_fill(lost[:, None], 0.0))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (9, 12)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_as_grid_sample(size, layout):
    height, width = size
    torch.manual_seed(0)
    x = torch.randn(2, 4, height, width, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    right, down = (3 * torch.randn(2, height, width, dtype=torch.float64) for _ in range(2))
    right, down = right.requires_grad_(), down.requires_grad_()
    column, row = torch.arange(width) + right, torch.arange(height)[:, None] + down
    where = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
    want = F.grid_sample(x, where, padding_mode="border", align_corners=False)
    have = displaced(x, right, down)
    torch.testing.assert_close(have, want)
    weight = torch.randn_like(want)
    for ours, theirs in zip(*(torch.autograd.grad((o * weight).sum(), (x, right, down)) for o in (have, want))):
        torch.testing.assert_close(ours, theirs)
