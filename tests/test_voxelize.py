"""Voxelization against answers derived by hand and a float64 dictionary reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.grid import BEVGrid
from perception.ops.voxelize import scatter_to_bev, segment_max, segment_mean, voxelize

GRID = BEVGrid(-2, 2, -1, 1, -1, 1, 1.0)  # 2 rows, 4 columns


def test_cells_by_hand():
    xyz = torch.tensor([[-1.5, -0.5, 0.0], [1.5, 0.5, 0.0], [-1.2, -0.9, 0.5], [0.0, 0.0, 0.0]])
    voxels = voxelize(xyz, torch.zeros(4, dtype=torch.long), GRID)
    assert voxels.cell.tolist() == [0, 6, 7]
    assert voxels.count.tolist() == [2, 1, 1]
    assert voxels.order.tolist() == [0, 2, 3, 1]
    assert voxels.voxel.tolist() == [0, 0, 1, 2]


def test_second_sample_has_cells_of_its_own():
    xyz = torch.tensor([[-1.5, -0.5, 0.0], [-1.5, -0.5, 0.0]])
    assert voxelize(xyz, torch.tensor([0, 1]), GRID).cell.tolist() == [0, 8]


@pytest.mark.parametrize("point", [[2.0, 0, 0], [-2.01, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, -1.01]])
def test_points_outside_belong_to_no_cell(point):
    voxels = voxelize(torch.tensor([point]), torch.zeros(1, dtype=torch.long), GRID)
    assert len(voxels.cell) == len(voxels.order) == 0


def test_no_points():
    voxels = voxelize(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), GRID)
    assert scatter_to_bev(torch.zeros(0, 5), voxels, 2, GRID).shape == (2, 5, 2, 4)


def test_upper_bound_that_rounds_up_stays_in_the_grid():
    grid = BEVGrid(-51.2, 51.2, -51.2, 51.2, -5, 3, 0.4)
    below = np.nextafter(np.float32(51.2), np.float32(0))
    voxels = voxelize(torch.tensor([[below, below, 0.0]]), torch.zeros(1, dtype=torch.long), grid)
    assert voxels.cell.tolist() == [grid.cells - 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31))
def test_matches_a_dictionary(n, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2.5, 2.5, (n, 3))
    batch = np.sort(rng.integers(0, 3, n))
    cells = {}
    for i, (x, y, z) in enumerate(points.astype(np.float32)):
        if -2 <= x < 2 and -1 <= y < 1 and -1 <= z < 1:
            cells.setdefault(batch[i] * 8 + int(np.floor(y + 1)) * 4 + int(np.floor(x + 2)), []).append(i)
    tensor = torch.from_numpy(points.astype(np.float32))
    voxels = voxelize(tensor, torch.from_numpy(batch), GRID)
    assert voxels.cell.tolist() == sorted(cells)
    assert voxels.order.tolist() == [i for cell in sorted(cells) for i in cells[cell]]
    if len(cells):
        values = tensor[voxels.order]
        for reduce, oracle in ((segment_mean, np.mean), (segment_max, np.max)):
            want = np.stack([oracle(points[cells[cell]], axis=0) for cell in sorted(cells)])
            np.testing.assert_allclose(reduce(values, voxels), want, atol=1e-6)
        bev = scatter_to_bev(reduce(values, voxels), voxels, 3, GRID)
        first = sorted(cells)[0]
        assert bev[first // 8, :, first % 8 // 4, first % 4].tolist() == reduce(values, voxels)[0].tolist()


def test_gradients():
    points = torch.rand(20, 3, dtype=torch.float64) * 2 - 1
    voxels = voxelize(points, torch.zeros(20, dtype=torch.long), GRID)
    values = torch.rand(len(voxels.order), 2, dtype=torch.float64, requires_grad=True)
    for reduce in (segment_mean, segment_max):
        assert torch.autograd.gradcheck(lambda v, r=reduce: scatter_to_bev(r(v, voxels), voxels, 1, GRID), values)
