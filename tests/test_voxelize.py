"""Voxelization against answers derived by hand, a dictionary, and the kernels against the reference in plain torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.ops import numba_kernels, reference
from perception.ops.voxelize import (
    Voxels,
    capped,
    cell_axes,
    scatter_to_bev,
    segment_max,
    segment_mean,
    segment_sum,
    voxelize,
)

GRID = BEVGrid(-2, 2, -1, 1, -1, 1, 1.0)  # 2 rows, 4 columns
FINE = BEVGrid(-54, 54, -54, 54, -5, 3, 0.075)  # neither its bounds nor its cells are exact in binary


def one_sample(xyz, grid=GRID, layers=1) -> Voxels:
    return voxelize(torch.tensor(xyz), torch.zeros(len(xyz), dtype=torch.long), grid, layers)


def test_cells_by_hand():
    voxels = one_sample([[-1.5, -0.5, 0.0], [1.5, 0.5, 0.0], [-1.2, -0.9, 0.5], [0.0, 0.0, 0.0]])
    assert voxels.cell.tolist() == [0, 6, 7]
    assert voxels.count.tolist() == [2, 1, 1]
    assert voxels.order.tolist() == [0, 2, 3, 1]
    assert voxels.voxel.tolist() == [0, 0, 1, 2]


def test_layers_by_hand():
    """Four layers of half a metre, eight cells each; coordinates are sample, layer, row, column."""
    xyz = torch.tensor([[-1.5, -0.5, -1.0], [-1.5, 0.5, 0.99], [1.5, -0.5, -0.5]])
    voxels = voxelize(xyz, torch.tensor([0, 0, 1]), GRID, layers=4)
    assert voxels.cell.tolist() == [0, 3 * 8 + 4, 32 + 1 * 8 + 3]
    assert voxels.coordinates().tolist() == [[0, 0, 0, 0], [0, 3, 1, 0], [1, 1, 0, 3]]


def test_second_sample_has_cells_of_its_own():
    xyz = torch.tensor([[-1.5, -0.5, 0.0], [-1.5, -0.5, 0.0]])
    assert voxelize(xyz, torch.tensor([0, 1]), GRID).cell.tolist() == [0, 8]
    assert voxelize(xyz, torch.tensor([2, 0]), GRID, batch_size=5).cell.tolist() == [0, 16]  # an empty one between


NAN, INF = float("nan"), float("inf")
OUTSIDE = [[2.0, 0, 0], [-2.01, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, -1.01], [NAN, 0, 0], [0, INF, 0], [0, 0, -INF]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("point", OUTSIDE)
def test_points_outside_belong_to_no_cell(point, dtype):
    voxels = voxelize(torch.tensor([point], dtype=dtype), torch.zeros(1, dtype=torch.long), GRID)
    assert len(voxels.cell) == len(voxels.order) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_points(dtype):
    values = torch.zeros(0, 5, dtype=dtype, requires_grad=True)
    voxels = voxelize(values, torch.zeros(0, dtype=torch.long), GRID)
    for reduced in (
        segment_sum(values, voxels),
        segment_mean(values, voxels, ordered=False),
        segment_max(values, voxels),
    ):
        assert reduced.shape == (0, 5)
        reduced.sum().backward()
    assert scatter_to_bev(values, voxels, 2, GRID).shape == (2, 5, 2, 4)
    assert len(capped(voxels, 1, 1).cell) == 0
    assert [len(part.cell) for part in voxels.split(10)] == [0]


def test_upper_bound_that_rounds_up_stays_in_the_grid():
    grid = BEVGrid(-51.2, 51.2, -51.2, 51.2, -5, 3, 0.4)
    below = float(np.nextafter(np.float32(51.2), np.float32(0)))
    assert one_sample([[below, below, 0.0]], grid).cell.tolist() == [grid.cells - 1]


@pytest.mark.parametrize(
    ("xyz", "samples", "options", "found"),
    [
        (torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), {}, "floats .* found torch.float32 .2, 2."),
        (torch.zeros(2, 3, dtype=torch.int), torch.zeros(2, dtype=torch.long), {}, "floats .* found torch.int32"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), {}, "int64 .2. was expected, found torch.int64 .3."),
        (torch.zeros(2, 3), torch.zeros(2), {}, "int64 .2. was expected, found torch.float32"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), {"layers": 0}, "one layer was expected, found 0"),
        (torch.zeros(2, 3), torch.tensor([0, 2]), {"batch_size": 2}, "0 to 1 was expected, .* in 1 points"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), {}, "0 to 0 was expected, .* in 1 points"),
        (torch.zeros(2, 3).double(), torch.tensor([0, -1]), {}, "0 to 0 was expected, .* in 1 points"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), {"batch_size": 2**62}, "below 2.64 were expected"),
    ],
)
def test_bad_input_is_named(xyz, samples, options, found):
    with pytest.raises(PerceptionError, match=found):
        voxelize(xyz, samples, GRID, **options)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31))
def test_matches_a_dictionary(n, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2.5, 2.5, (n, 3)).astype(np.float32)
    batch = np.sort(rng.integers(0, 3, n))
    cells = {}
    for i, (x, y, z) in enumerate(points):
        if -2 <= x < 2 and -1 <= y < 1 and -1 <= z < 1:
            cells.setdefault(batch[i] * 8 + int(np.floor(y + 1)) * 4 + int(np.floor(x + 2)), []).append(i)
    tensor = torch.from_numpy(points)
    voxels = voxelize(tensor, torch.from_numpy(batch), GRID)
    assert voxels.cell.tolist() == sorted(cells)
    assert voxels.order.tolist() == [i for cell in sorted(cells) for i in cells[cell]]
    values = tensor[voxels.order]
    for reduce, oracle in ((segment_sum, np.sum), (segment_mean, np.mean), (segment_max, np.max)):
        want = np.array([oracle(points[cells[cell]], axis=0) for cell in sorted(cells)]).reshape(-1, 3)
        np.testing.assert_allclose(reduce(values, voxels), want, atol=1e-6)
        bev = scatter_to_bev(reduce(values, voxels), voxels, 3, GRID)
        for cell, features in zip(sorted(cells), want):
            np.testing.assert_allclose(bev[cell // 8, :, cell % 8 // 4, cell % 4], features, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3000),
    grid=st.sampled_from([GRID, FINE, BEVGrid(-51.2, 51.2, -51.2, 51.2, -5, 3, 0.2)]),
    layers=st.sampled_from([1, 3, 40]),
    samples=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_kernel_sorts_like_the_reference(n, grid, layers, samples, seed):
    """Bit for bit, on points most of which lie on the edge of a cell or next to it, or nowhere."""
    rng = np.random.default_rng(seed)
    axes = cell_axes(grid, layers)
    low, high, size = (np.array([axis[i] for axis in axes]) for i in range(3))
    xyz = rng.uniform(low - size, high + size, (n, 3))
    edges = (low + np.round((xyz - low) / size) * size).astype(np.float32)
    xyz = np.where(rng.uniform(size=(n, 3)) < 0.7, edges, xyz.astype(np.float32))
    xyz = np.where(rng.uniform(size=(n, 3)) < 0.5, np.nextafter(xyz, np.float32(rng.choice([-1e9, 1e9]))), xyz)
    xyz[rng.uniform(size=(n, 3)) < 0.01] = rng.choice([np.nan, np.inf, -np.inf])
    xyz, batch_index = torch.from_numpy(xyz), torch.from_numpy(rng.integers(0, samples, n))
    want = reference.sort_by_cell(xyz, batch_index, axes, samples)
    found = numba_kernels.sort_by_cell(xyz, batch_index, axes, samples)
    for a, b in zip(found[:4], want[:4]):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("channels", [0, 1, 3, 5, 8, 9, 33])
def test_kernels_reduce_like_the_reference(channels):
    rng = torch.Generator().manual_seed(channels)
    count = torch.tensor([1, 7, 1, 300, 2])
    values = torch.randint(-3, 4, (311, channels), generator=rng).float()  # so few that the maximum is not unique
    index = torch.randperm(400, generator=rng)[:311]
    of_all = torch.randn(400, channels, generator=rng)
    for mean in (False, True):
        for given_, order in ((values, None), (of_all, index)):
            want = reference.segment_sum(given_.double(), count, order, mean).float()
            torch.testing.assert_close(
                numba_kernels.segment_sum(given_, count, order, mean), want, rtol=1e-5, atol=1e-5
            )
    for found, want in zip(numba_kernels.segment_max(values, count), reference.segment_max(values, count)):
        assert torch.equal(found, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maximum_with_ties_and_nan(dtype):
    """The first that holds the maximum gets the gradient; NaN is above all; a negative zero equals a positive one."""
    voxels = one_sample([[0.5, 0.5, 0.0]] * 4)
    values = torch.tensor([[1, NAN, -0.0], [3, 5, 0.0], [3, NAN, -1], [-INF, INF, -2]], dtype=dtype, requires_grad=True)
    maximum = segment_max(values, voxels)
    np.testing.assert_array_equal(maximum.detach(), [[3, NAN, 0]])
    maximum.backward(torch.tensor([[1, 2, 3]], dtype=dtype))
    assert values.grad.tolist() == [[0, 2, 3], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_gradients():
    points = torch.rand(20, 3, dtype=torch.float64) * 4 - 2
    voxels = voxelize(points, torch.zeros(20, dtype=torch.long), GRID)
    assert 0 < len(voxels.order) < 20
    values = torch.rand(len(voxels.order), 2, dtype=torch.float64, requires_grad=True)
    of_all = torch.rand(20, 2, dtype=torch.float64, requires_grad=True)
    for reduce in (segment_sum, segment_mean, segment_max):
        assert torch.autograd.gradcheck(lambda v, r=reduce: scatter_to_bev(r(v, voxels), voxels, 1, GRID), values)
    for reduce in (segment_sum, segment_mean):
        assert torch.autograd.gradcheck(lambda v, r=reduce: r(v, voxels, ordered=False), of_all)


@pytest.mark.parametrize("reduce", [segment_sum, segment_mean, segment_max])
def test_gradients_of_the_kernels_are_those_of_the_reference(reduce):
    voxels = voxelize(torch.rand(500, 3) * 4 - 2, torch.zeros(500, dtype=torch.long), GRID)
    values = torch.randn(len(voxels.order), 9)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = values.to(dtype, copy=True).requires_grad_()
        reduce(leaf, voxels).square().sum().backward()
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def cap_by_dictionary(voxels, max_points, max_voxels):
    """Points in input order; a new cell is opened while its sample has room, a point is added while its cell has."""
    cell_of = dict(zip(voxels.order.tolist(), voxels.cell[voxels.voxel].tolist()))
    cells, opened = {}, {}
    for point in sorted(cell_of):
        cell = cell_of[point]
        if cell not in cells:
            if opened.get(cell // 8, 0) == max_voxels:
                continue
            opened[cell // 8] = opened.get(cell // 8, 0) + 1
        if len(cells.setdefault(cell, [])) < max_points:
            cells[cell].append(point)
    return cells


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 80), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_caps_match_a_dictionary(n, max_points, max_voxels, seed):
    rng = np.random.default_rng(seed)
    xyz, samples = torch.from_numpy(rng.uniform(-2, 2, (n, 3))), torch.from_numpy(rng.integers(0, 2, n))
    voxels = voxelize(xyz, samples, GRID)
    found, want = capped(voxels, max_points, max_voxels), cap_by_dictionary(voxels, max_points, max_voxels)
    assert found.cell.tolist() == sorted(want)
    assert found.count.tolist() == [len(want[cell]) for cell in sorted(want)]
    assert found.order.tolist() == [point for cell in sorted(want) for point in want[cell]]
    assert found.voxel.tolist() == [i for i, cell in enumerate(sorted(want)) for _ in want[cell]]


def test_random_caps():
    rng = torch.Generator().manual_seed(1)
    voxels = voxelize(torch.rand(400, 3, generator=rng) * 2 - 1, torch.arange(2).repeat(200), GRID)
    a, b, c = (capped(voxels, 5, 2, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert a.order.tolist() == b.order.tolist() != c.order.tolist()
    assert a.count.tolist() == [5] * 4 and (a.coordinates()[:, 0].bincount() == 2).all()
    cell_of = dict(zip(voxels.order.tolist(), voxels.cell[voxels.voxel].tolist()))
    assert [cell_of[point] for point in a.order.tolist()] == a.cell[a.voxel].tolist()
    assert all(own.sort().values.equal(own) for own in a.order.split(5))  # input order is kept
    drawn = {p for s in range(300) for p in capped(voxels, 5, 2, torch.Generator().manual_seed(s)).order.tolist()}
    assert len(drawn) == len(voxels.order)  # every point has its chance


def test_caps_that_are_not_reached_change_nothing():
    voxels = one_sample([[0.5, 0.5, 0.0], [-1.5, 0.5, 0.0], [0.6, 0.5, 0.0]])
    for generator in (None, torch.Generator()):
        same = capped(voxels, 2, 2, generator)
        assert all(
            torch.equal(getattr(same, name), getattr(voxels, name)) for name in ("cell", "count", "order", "voxel")
        )
    with pytest.raises(PerceptionError, match="found 0 and 3"):
        capped(voxels, 0, 3)


@pytest.mark.parametrize("points", [1, 7, 50, 1000])
def test_parts_are_the_whole(points):
    rng = torch.Generator().manual_seed(2)
    voxels = voxelize(torch.rand(300, 3, generator=rng) * 4 - 2, torch.arange(3).repeat(100), GRID, layers=2)
    parts = voxels.split(points)
    for name in ("cell", "count", "order"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(voxels, name))
    for part in parts:
        assert part.voxel.tolist() == torch.repeat_interleave(part.count).tolist()
        assert len(part.cell) > 0
