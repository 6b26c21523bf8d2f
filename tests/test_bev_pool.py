"""Pooling against a loop and autograd's finite differences; the index of a calibration is made once."""

import pytest
import torch

from perception.grid import BEVGrid
from perception.model.view_transform import LiftSplat
from perception.ops.bev_pool import IndexCache, bev_pool, of_all_points, of_points_inside

CELL = torch.tensor([2, -1, 0, 2, 2, -1])  # of two pixels with three bins each
INDEXED = [of_points_inside, of_all_points]  # on a CPU, and where a GPU is not to be waited for


@pytest.mark.parametrize("indexed", INDEXED)
def test_by_hand(indexed):
    """Cell 0 sees the last bin of pixel 0; cell 2 its first and the two first of pixel 1; cell 1 nothing."""
    index = indexed(CELL, bins=3, cells=4)
    features = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    depth = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1]])
    want = torch.tensor([[0.2, 2.0], [0, 0], [0.5 + 2 * 0.9, 5 + 20 * 0.9], [0, 0]])
    torch.testing.assert_close(bev_pool(features, depth, index), want)


@pytest.mark.parametrize("indexed", INDEXED)
def test_nothing_in_the_grid(indexed):
    index = indexed(torch.full((6,), -1), bins=3, cells=4)
    assert bev_pool(torch.ones(2, 5), torch.ones(2, 3), index).equal(torch.zeros(4, 5))


@pytest.mark.parametrize("indexed", INDEXED)
def test_gradients(indexed):
    index = indexed(CELL, bins=3, cells=4)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    depth = torch.rand(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, d: bev_pool(f, d, index), (features, depth))


@pytest.mark.parametrize("indexed", INDEXED)
def test_against_adding_point_by_point(indexed):
    generator = torch.Generator().manual_seed(1)
    cell = torch.randint(-1, 50, (40 * 7,), generator=generator)
    features, depth = torch.randn(40, 6, generator=generator), torch.rand(40, 7, generator=generator)
    weighted = (depth[..., None] * features[:, None]).flatten(0, 1)
    want = torch.zeros(50, 6).index_add(0, cell[cell >= 0], weighted[cell >= 0])
    torch.testing.assert_close(bev_pool(features, depth, indexed(cell, 7, 50)), want)


def test_the_cache_keeps_the_latest():
    cache, made = IndexCache(size=2), []

    def get(number):
        return cache.get((torch.tensor([number]),), (1, 1), lambda: made.append(number) or number)

    assert [get(1.0), get(2.0), get(1.0), get(3.0), get(1.0), get(2.0)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]  # 2 was the one not used for longest when 3 came


@pytest.mark.parametrize("change", ["intrinsics", "pose", "valid"])
def test_an_index_is_made_once_for_every_calibration(change):
    torch.manual_seed(0)
    view = LiftSplat(BEVGrid(-8, 8, -8, 8, -5, 5, 1.0), 8, 1.0, 9.0, 4, 8, 8)
    features = torch.randn(1, 2, 8, 2, 3)
    intrinsics = torch.tensor([[12.0, 0, 11.5], [0, 12, 7.5], [0, 0, 1]]).repeat(1, 2, 1, 1)
    pose = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]).repeat(1, 2, 1, 1)
    valid = torch.ones(1, 2, dtype=torch.bool)
    with torch.inference_mode():
        first, _ = view(features, intrinsics, pose, valid)
        again, _ = view(features, intrinsics, pose, valid)
    assert first.equal(again) and len(view.indices.kept) == 1
    {"intrinsics": intrinsics, "pose": pose}.get(change, intrinsics)[0, 0, 0, 0] += 0.5
    valid[0, 0] = change != "valid"
    changed, _ = view(features, intrinsics, pose, valid)
    assert not changed.equal(first) and len(view.indices.kept) == 2


def test_an_index_made_in_inference_serves_training():
    view = LiftSplat(BEVGrid(-8, 8, -8, 8, -5, 5, 1.0), 8, 1.0, 9.0, 4, 8, 8)
    inputs = (torch.eye(3)[None, None], torch.eye(4)[None, None], torch.ones(1, 1, dtype=torch.bool))
    with torch.inference_mode():
        view(torch.randn(1, 1, 8, 2, 3), *(x.clone() for x in inputs))
    bev, _ = view(torch.randn(1, 1, 8, 2, 3), *inputs)
    bev.sum().backward()
    assert len(view.indices.kept) == 1 and view.context.weight.grad is not None
