"""Registration: known motions of known maps, the graph by hand, and what happens where there is nothing to go by."""

import math

import pytest
import torch

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.registration import Registration, registration_loss, solve_graph

GRID = BEVGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.8)
ALL = torch.ones(1, 3, dtype=torch.bool)


def dots(motion=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """Soft dots [1, 4, 128, 128], each in one of four channels, moved by (yaw, x, y)."""
    generator = torch.Generator().manual_seed(3)
    centres, channel = (torch.rand(80, 2, generator=generator) - 0.5) * 84, torch.arange(80) % 4
    yaw, x, y = motion
    cos, sin = math.cos(yaw), math.sin(yaw)
    moved = centres @ torch.tensor([[cos, sin], [-sin, cos]]) + torch.tensor([x, y])
    axis = -51.2 + 0.8 * (torch.arange(128) + 0.5)
    apart = (axis[None, None, :] - moved[:, 0, None, None]) ** 2 + (axis[None, :, None] - moved[:, 1, None, None]) ** 2
    return torch.zeros(4, 128, 128).index_add(0, channel, (-apart / 2).exp())[None]


def transparent() -> Registration:
    """Descriptors are the features themselves, and every pair is believed: LiDAR is to blame for whatever is off."""
    registration = Registration(GRID, 4, descriptors=4)
    registration.describe = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    registration.log_sharpness.data.fill_(math.log(25.0))
    registration.verdict.bias.data = torch.tensor([0.0, 0.0, 0.0, 6.0, 6.0, -6.0, 0.0, 0.0, 0.0])
    return registration


@pytest.mark.parametrize("motion", [(0.0, 0.0, 0.0), (0.0, 2.0, -1.0), (0.05, 0.0, 0.0), (-0.03, -3.0, 1.5)])
def test_a_displaced_sensor_is_found_and_put_back(motion):
    straight, moved = dots(), dots(motion)
    found = transparent()([straight, straight, moved], ALL)
    error = (found.motion[0, 2] - torch.tensor(motion)).abs()
    assert error[0] < 0.01 and (error[1:] < 0.5).all()  # a third of a step
    assert found.motion[0, :2].abs().max() < 0.1
    inner = (..., slice(8, -8), slice(8, -8))
    before, after = ((m - straight)[inner].square().mean() for m in (moved, found.features[2]))
    assert after < 0.25 * before or before == 0


def test_one_sensor_alone_is_left_as_it_is():
    for sensor in range(3):
        x = [dots() if s == sensor else None for s in range(3)]
        found = transparent()(x, torch.tensor([[s == sensor for s in range(3)]]))
        assert found.features[sensor] is x[sensor]
        assert (found.motion == 0).all()


def test_empty_maps_tell_nothing():
    found = transparent()([torch.zeros(1, 4, 128, 128)] * 3, ALL)
    assert found.motion.abs().max() < 1e-4 and torch.isfinite(found.pairs).all()


def test_the_graph_by_hand():
    """Radar and LiDAR are 3 m apart; with priors and weight 1 both give way by a third, a firm radar not at all."""
    motions = torch.zeros(1, 3, 3)
    motions[0, 2, 1] = 3.0  # radar -> LiDAR
    weights = torch.tensor([[0.0, 0.0, 1.0]])
    torch.testing.assert_close(solve_graph(motions, weights, torch.ones(1, 3))[0, :, 1], torch.tensor([0.0, -1.0, 1.0]))
    firm = solve_graph(motions, weights, torch.tensor([[1.0, 1e6, 1e-6]]))[0, :, 1]
    torch.testing.assert_close(firm, torch.tensor([0.0, 0.0, 3.0]), rtol=1e-4, atol=1e-4)


def test_the_truth_costs_least():
    """Unknown motions and sensors without company do not count."""
    registration = transparent()
    found = registration([dots(), dots(), dots((0.0, 1.6, 0.0))], ALL)
    truth = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.6, 0.0]]])
    wrong = truth.clone()
    wrong[0, 2, 1] = -1.6
    assert registration_loss(found, truth, ALL) < registration_loss(found, wrong, ALL)
    unknown = torch.full_like(truth, math.nan)
    assert registration_loss(found, unknown, ALL) == 0
    alone = torch.tensor([[False, False, True]])
    found = registration([None, None, dots()], alone)
    assert registration_loss(found, wrong, alone) == 0


def test_gradients_reach_the_features_and_every_parameter():
    registration = Registration(GRID, 4)
    torch.nn.init.normal_(registration.verdict.weight, std=0.1)
    x = [dots(), dots(), dots((0.02, 1.0, 0.0))]
    x = [(f + 0.01 * torch.rand_like(f)).requires_grad_() for f in x]
    found = registration(x, ALL)
    loss = registration_loss(found, torch.zeros(1, 3, 3), ALL) + sum(f.square().sum() for f in found.features)
    (loss + found.trust.sum()).backward()
    for tensor in [*x, *registration.parameters()]:
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()


def test_the_vehicle_is_at_the_centre_of_the_grid():
    with pytest.raises(PerceptionError, match="centred on the vehicle"):
        Registration(BEVGrid(0.0, 51.2, -25.6, 25.6, -5.0, 3.0, 0.8), 4)
