"""Pillar features: parts of a cloud and the whole, gradients, degenerate clouds."""

import pytest
import torch

from perception.batch import PointBatch
from perception.grid import BEVGrid
from perception.model import pillars
from perception.model.pillars import PillarEncoder
from perception.sample import LidarCloud

GRID = BEVGrid(-8, 8, -8, 8, -1, 1, 0.5)


def cloud(n: int, seed: int = 0) -> PointBatch:
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 5, generator=rng) * torch.tensor([4, 4, 0.5, 50, 0.1])
    return PointBatch(points, torch.arange(n) * 2 // max(n, 1), 2, LidarCloud.fields)


def encoder(dtype=torch.float32) -> PillarEncoder:
    torch.manual_seed(0)
    return PillarEncoder(GRID, (8.0, 8.0, 1.0, 100.0, 0.5), 12).to(dtype)


def gradients(model: PillarEncoder, batch: PointBatch) -> list[torch.Tensor]:
    model.zero_grad()
    model(batch).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_a_cloud_in_parts_is_the_cloud(monkeypatch):
    model, batch = encoder(), cloud(2000)
    whole, of_whole = model(batch), gradients(model, batch)
    monkeypatch.setattr(pillars, "_PART", 100)
    torch.testing.assert_close(model(batch), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients(model, batch), of_whole, rtol=1e-4, atol=1e-4)


def test_compiled_kernels_give_what_plain_torch_gives_in_double_precision():
    model, exact, batch = encoder(), encoder(torch.float64), cloud(2000)
    doubled = PointBatch(batch.points.double(), batch.batch_index, 2, batch.fields)
    torch.testing.assert_close(model(batch), exact(doubled), rtol=1e-4, atol=1e-4)
    for a, b in zip(gradients(model, batch), gradients(exact, doubled)):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_against_a_loop_over_pillars():
    model, batch = encoder(), cloud(300)
    features = model(batch)
    inside = (batch.points[:, :2].abs() < 8).all(1) & (batch.points[:, 2].abs() < 1)
    column, row = ((batch.points[:, i] + 8) / 0.5 for i in (0, 1))
    keys = {}
    for i in inside.nonzero().flatten().tolist():
        keys.setdefault((int(batch.batch_index[i]), int(row[i]), int(column[i])), []).append(i)
    for (sample, r, c), own in keys.items():
        points = batch.points[own]
        from_mean = (points[:, :3] - points[:, :3].mean(0)) / 0.5
        from_centre = torch.stack([column[own] - c - 0.5, row[own] - r - 0.5], 1)
        count = torch.full((len(own), 1), float(len(own))).log()
        want = model.point(torch.cat([points / model.scale, from_mean, from_centre, count], 1)).relu().amax(0)
        torch.testing.assert_close(features[sample, :, r, c], want, rtol=1e-4, atol=1e-5)
    assert (features.abs().sum(1) > 0).sum() == len(keys)


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_points(n):
    model = encoder()
    assert model(cloud(n)).shape == (2, 12, 32, 32)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model, cloud(n)))
