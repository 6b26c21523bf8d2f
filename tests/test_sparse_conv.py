"""Sparse convolutions against dense ones on the same grid: values, support, gradients, degenerate sets of cells."""

import pytest
import torch
from torch.nn import functional as F

from perception.errors import PerceptionError
from perception.ops import sparse_conv_cpu, sparse_conv_reference
from perception.ops.sparse_conv import Sites, SparseFeatures, sparse_conv3d, submanifold_conv3d

ONE, TWO, THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)
STRIDED = [  # kernel, stride, padding
    (THREE, TWO, ONE), (THREE, ONE, ONE), ((3, 1, 1), (2, 1, 1), (0, 0, 0)), ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
    (TWO, TWO, (0, 0, 0)), ((1, 3, 5), (1, 2, 3), (0, 1, 2)), (ONE, TWO, (0, 0, 0)),
    (ONE, ONE, TWO),
]  # fmt: skip


def occupied(shape, batch_size, cells) -> Sites:
    return Sites(torch.tensor(sorted(cells), dtype=torch.int64), batch_size, shape)


def border(shape) -> list[int]:
    """All cells of the first sample that touch the border."""
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[1:-1, 1:-1, 1:-1] = True
    return (~inside).flatten().nonzero().flatten().tolist()


def some(shape, batch_size, share=0.3) -> list[int]:
    cells = batch_size * shape[0] * shape[1] * shape[2]
    return (torch.rand(cells, generator=torch.Generator().manual_seed(cells)) < share).nonzero().flatten().tolist()


SITES = {
    "some": occupied((5, 6, 7), 2, some((5, 6, 7), 2)),
    "all": occupied((3, 4, 5), 1, range(60)),
    "none": occupied((4, 4, 4), 2, []),
    "one in a corner": occupied((4, 5, 6), 1, [119]),
    "at the border": occupied((4, 5, 6), 1, border((4, 5, 6))),
    "first sample empty": occupied((4, 4, 4), 2, [64, 65, 84, 127]),
    "last sample empty": occupied((4, 4, 4), 3, [0, 1, 20, 63]),
    "ends of lines": occupied((3, 3, 8), 1, [7, 8, 15, 16, 23, 24, 31, 32, 71]),  # neighbours in memory, not in space
}


def dense(x: SparseFeatures) -> torch.Tensor:
    """[B, C, layers, rows, columns]."""
    layers, rows, columns = x.sites.shape
    channels = x.features.shape[1]
    canvas = x.features.new_zeros(x.sites.batch_size * layers * rows * columns, channels)
    canvas = canvas.index_copy(0, x.sites.cell, x.features)
    return canvas.view(x.sites.batch_size, layers, rows, columns, channels).permute(0, 4, 1, 2, 3)


def at_sites(grid: torch.Tensor, sites: Sites) -> torch.Tensor:
    return grid.permute(0, 2, 3, 4, 1).flatten(0, 3)[sites.cell]


def dense_weight(weight: torch.Tensor, kernel) -> torch.Tensor:
    """[K, C_in, C_out] -> [C_out, C_in, kz, ky, kx] of ``F.conv3d``."""
    return weight.unflatten(0, kernel).permute(4, 3, 0, 1, 2)


def inputs(sites: Sites, kernel, dtype, channels=(3, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(len(sites.cell), channels[0], generator=rng, dtype=torch.float64).to(dtype)
    weight = torch.randn(kernel[0] * kernel[1] * kernel[2], *channels, generator=rng, dtype=torch.float64).to(dtype)
    return features.requires_grad_(), weight.requires_grad_()


def same_gradients(found: torch.Tensor, want: torch.Tensor, leaves: tuple) -> None:
    """The gradients of one random weighting of the results."""
    weighting = torch.randn(want.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(want)
    of_found = torch.autograd.grad((found * weighting).sum(), leaves)
    of_want = torch.autograd.grad((want * weighting).sum(), leaves)
    for a, b in zip(of_found, of_want):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [THREE, ONE, (1, 3, 3), (5, 1, 3)])
@pytest.mark.parametrize("name", SITES)
def test_submanifold_convolution_is_a_dense_one_at_the_same_cells(name, kernel, dtype):
    sites = Sites(SITES[name].cell, SITES[name].batch_size, SITES[name].shape)
    features, weight = inputs(sites, kernel, dtype)
    x = SparseFeatures(features, sites)
    y = submanifold_conv3d(x, weight, kernel)
    assert y.sites is sites
    want = F.conv3d(dense(x), dense_weight(weight, kernel), padding=tuple(k // 2 for k in kernel))
    torch.testing.assert_close(y.features, at_sites(want, sites), rtol=1e-4, atol=1e-4)
    same_gradients(y.features, at_sites(want, sites), (features, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
@pytest.mark.parametrize("name", SITES)
def test_convolution_is_a_dense_one_at_all_cells_that_are_reached(name, kernel, stride, padding, dtype):
    sites = SITES[name]
    features, weight = inputs(sites, kernel, dtype)
    x = SparseFeatures(features, sites)
    y = sparse_conv3d(x, weight, kernel, stride, padding)
    want = F.conv3d(dense(x), dense_weight(weight, kernel), stride=stride, padding=padding)
    assert y.sites.shape == want.shape[2:] and y.sites.batch_size == len(want)
    torch.testing.assert_close(dense(y), want, rtol=1e-4, atol=1e-4)
    ones = SparseFeatures(torch.ones(len(sites.cell), 1), sites)
    reach = F.conv3d(dense(ones), torch.ones(1, 1, *kernel), stride=stride, padding=padding)
    assert y.sites.cell.tolist() == (reach.flatten() > 0).nonzero().flatten().tolist()
    same_gradients(dense(y), want, (features, weight))


def test_gradients_by_differences():
    sites = occupied((2, 3, 3), 2, [0, 4, 7, 20, 35])
    subm, strided = (inputs(sites, THREE, torch.float64, (2, 2)) for _ in range(2))
    assert torch.autograd.gradcheck(lambda f, w: submanifold_conv3d(SparseFeatures(f, sites), w).features, subm)
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv3d(SparseFeatures(f, sites), w).features, strided)


def test_a_sum_worked_out_by_hand():
    """Two neighbours along x, one above the first; every weight is ten to the power of where it looks."""
    sites = occupied((2, 2, 2), 1, [0, 1, 4])
    weight = torch.zeros(27, 1, 1)
    weight[13], weight[14], weight[12], weight[22], weight[4] = 1, 10, 100, 1000, 10000  # here, x+1, x-1, z+1, z-1
    y = submanifold_conv3d(SparseFeatures(torch.tensor([[2.0], [3.0], [5.0]]), sites), weight)
    assert y.features.flatten().tolist() == [2 + 30 + 5000, 3 + 200, 5 + 20000]


def test_bev_stacks_the_layers_into_channels():
    sites = occupied((2, 2, 3), 2, [0, 6, 5, 12 + 10])  # (z, y, x): (0, 0, 0), (0, 1, 2), (1, 0, 0); (1, 1, 1)
    features = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]], requires_grad=True)
    bev = SparseFeatures(features, sites).to_bev()
    assert bev.shape == (2, 4, 2, 3) and bev.is_contiguous(memory_format=torch.channels_last)
    assert bev[0, :, 0, 0].tolist() == [1, 2, 5, 6] and bev[0, :, 1, 2].tolist() == [3, 4, 0, 0]
    assert bev[1, :, 1, 1].tolist() == [0, 0, 7, 8] and bev.sum() == 36
    bev.square().sum().backward()
    assert torch.equal(features.grad, 2 * features)


def test_layers_of_the_same_cells_share_their_pairs(monkeypatch):
    calls = []
    find = sparse_conv_cpu.find_pairs
    monkeypatch.setattr(sparse_conv_cpu, "find_pairs", lambda *args: calls.append(args[2]) or find(*args))
    sites = occupied((5, 6, 7), 2, some((5, 6, 7), 2))
    features, weight = inputs(sites, THREE, torch.float32, (4, 4))
    x = SparseFeatures(features, sites)
    submanifold_conv3d(submanifold_conv3d(x, weight), weight)
    submanifold_conv3d(x, weight[:9], (1, 3, 3))
    submanifold_conv3d(x, weight)
    assert calls == [THREE, (1, 3, 3)]


@pytest.mark.parametrize("name", SITES)
def test_compiled_loops_find_what_the_reference_finds(name):
    sites = SITES[name]
    for kernel, stride, padding in [*STRIDED, (THREE, ONE, (0, 0, 0))]:
        shape = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(sites.shape, kernel, stride, padding))
        cell = sparse_conv_reference.reached(sites, shape, kernel, stride, padding)
        assert torch.equal(sparse_conv_cpu.reached(sites, shape, kernel, stride, padding), cell)
        target = Sites(cell, sites.batch_size, shape)
        same_pairs(sites, target, kernel, stride, padding)
    for kernel in (THREE, ONE, (1, 3, 5), (3, 1, 1)):  # mirrored
        same_pairs(sites, sites, kernel, ONE, tuple(k // 2 for k in kernel))


def same_pairs(source, target, *kernel) -> None:
    want = sparse_conv_reference.find_pairs(source, target, *kernel)
    found = sparse_conv_cpu.find_pairs(source, target, *kernel)
    assert len(found) == len(want)
    for sides in zip(found, want):
        for a, b in zip(*sides):
            assert a.dtype == b.dtype == torch.int32 and torch.equal(a, b)


def test_many_cells_in_parts(monkeypatch):
    monkeypatch.setattr(sparse_conv_cpu, "_PART", 7)
    sites = SITES["some"]
    features, weight = inputs(sites, THREE, torch.float32)
    pairs = sparse_conv_cpu.find_pairs(sites, sites, THREE, ONE, ONE)
    found = sparse_conv_cpu.convolve(features, weight, pairs, len(sites.cell))
    want = sparse_conv_reference.convolve(features, weight, pairs, len(sites.cell))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_autocast_leaves_it_in_float32():
    sites = SITES["some"]
    features, weight = inputs(sites, THREE, torch.float32)
    want = submanifold_conv3d(SparseFeatures(features, sites), weight).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = submanifold_conv3d(SparseFeatures(features, sites), weight).features
        low = submanifold_conv3d(SparseFeatures(features.bfloat16(), sites), weight).features
    assert torch.equal(found, want) and low.dtype == torch.float32
    torch.testing.assert_close(low, want, rtol=0.02, atol=0.1)


def test_bad_shapes_are_named():
    x = SparseFeatures(torch.zeros(1, 3), occupied((4, 4, 4), 1, [5]))
    with pytest.raises(PerceptionError, match=r"weights \[27, 3, out\] were expected, found \[27, 4, 4\]"):
        submanifold_conv3d(x, torch.zeros(27, 4, 4))
    with pytest.raises(PerceptionError, match=r"odd sides was expected, found \(2, 3, 3\)"):
        submanifold_conv3d(x, torch.zeros(18, 3, 4), (2, 3, 3))
    with pytest.raises(PerceptionError, match="features of 1 cells were expected, found 2"):
        sparse_conv3d(SparseFeatures(torch.zeros(2, 3), x.sites), torch.zeros(27, 3, 4))
    with pytest.raises(PerceptionError, match=r"at least \(5, 1, 1\) with padding \(0, 0, 0\) was expected"):
        sparse_conv3d(x, torch.zeros(5, 3, 4), (5, 1, 1), ONE, (0, 0, 0))
