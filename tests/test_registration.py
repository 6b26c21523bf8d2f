"""Registration: known motions of known maps, the graph by hand, and what happens where there is nothing to go by."""

import math

import pytest
import torch

from perception.grid import BEVGrid
from perception.model.registration import Registration, registration_loss, solve_graph

SENSORS = ("camera", "radar", "lidar")
GRID = BEVGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.8)
FORWARD = BEVGrid(-32.0, 96.0, -12.8, 76.8, -5.0, 3.0, 0.8)  # further ahead, and further to the left
ALL = torch.ones(1, 3, dtype=torch.bool)


def dots(motion=(0.0, 0.0, 0.0), grid=GRID) -> torch.Tensor:
    """Soft dots [1, 4, rows, columns], each in one of four channels, moved by (yaw, x, y): rotated about the vehicle.

    They keep 9.2 m away from the borders.
    """
    generator = torch.Generator().manual_seed(3)
    half = torch.tensor([grid.x_max_m - grid.x_min_m, grid.y_max_m - grid.y_min_m]) / 2
    middle = torch.tensor([grid.x_max_m + grid.x_min_m, grid.y_max_m + grid.y_min_m]) / 2
    centres = (torch.rand(80, 2, generator=generator) - 0.5) * 2 * (half - 9.2) + middle
    channel = torch.arange(80) % 4
    yaw, x, y = motion
    cos, sin = math.cos(yaw), math.sin(yaw)
    moved = centres @ torch.tensor([[cos, sin], [-sin, cos]]) + torch.tensor([x, y])
    column = grid.x_min_m + 0.8 * (torch.arange(grid.columns) + 0.5)
    row = grid.y_min_m + 0.8 * (torch.arange(grid.rows) + 0.5)
    apart = (column[None, None, :] - moved[:, 0, None, None]) ** 2 + (row[None, :, None] - moved[:, 1, None, None]) ** 2
    return torch.zeros(4, *grid.shape).index_add(0, channel, (-apart / 2).exp())[None]


def transparent(grid=GRID, sensors=SENSORS) -> Registration:
    """Descriptors are the features themselves, and every pair is believed: the last sensor is moved."""
    registration = Registration(grid, sensors, 4, {sensors[-1]: -6.0}, descriptors=4)
    registration.describe = torch.nn.ModuleDict({name: torch.nn.Identity() for name in sensors})
    registration.log_sharpness.data.fill_(math.log(25.0))
    edges, n = len(registration.edges), len(sensors)
    registration.edge_head.bias.data = torch.tensor([0.0] * edges + [6.0] * (n - 1) + [-6.0] + [0.0] * n)
    return registration


@pytest.mark.parametrize("grid", [GRID, FORWARD], ids=["centred", "forward"])
@pytest.mark.parametrize(
    "motion",
    [(0.0, 0.0, 0.0), (0.0, 2.0, -1.0), (0.05, 0.0, 0.0), (-0.03, -3.0, 1.5), (math.radians(2.0), 0.0, 0.0)],
)
def test_a_displaced_sensor_is_found_and_put_back(motion, grid):
    straight, moved = dots(grid=grid), dots(motion, grid)
    found = transparent(grid)({"camera": straight, "radar": straight, "lidar": moved}, ALL)
    error = (found.motion[0, 2] - torch.tensor(motion)).abs()
    assert error[0] < 0.01 and (error[1:] < 0.5).all()  # a third of a step
    assert found.motion[0, :2].abs().max() < 0.1
    inner = (..., slice(8, -8), slice(8, -8))
    before, after = ((m - straight)[inner].square().mean() for m in (moved, found.features["lidar"]))
    assert after < 0.25 * before or before == 0


def test_one_sensor_alone_is_left_as_it_is():
    for sensor in SENSORS:
        x = {sensor: dots()}
        found = transparent()(x, torch.tensor([[s == sensor for s in SENSORS]]))
        assert set(found.features) == {sensor} and found.features[sensor] is x[sensor]
        assert (found.motion == 0).all()


def test_a_detector_of_one_sensor_registers_nothing():
    registration, x = Registration(GRID, ("lidar",), 4), {"lidar": dots()}
    found = registration(x, torch.tensor([[True]]))
    assert found.features["lidar"] is x["lidar"] and found.pairs.shape == (1, 0, len(found.hypotheses))
    assert found.motion.tolist() == [[[0.0, 0.0, 0.0]]] and found.confidence.shape == (1, 1)
    assert registration_loss(found, torch.zeros(1, 1, 3), torch.tensor([[True]])) == 0


@pytest.mark.parametrize("sensors", [("a", "b"), ("a", "b", "c", "d")])
def test_as_many_sensors_as_there_are(sensors):
    """The last is off, whatever the others are called."""
    x = {name: dots() for name in sensors}
    x[sensors[-1]] = dots((0.0, 2.0, -1.0))
    found = transparent(sensors=sensors)(x, torch.ones(1, len(sensors), dtype=torch.bool))
    truth = torch.zeros(len(sensors), 3)
    truth[-1] = torch.tensor([0.0, 2.0, -1.0])
    assert found.pairs.shape[1] == len(sensors) * (len(sensors) - 1) // 2
    assert (found.motion[0] - truth).abs()[:, 0].max() < 0.01 and (found.motion[0] - truth).abs()[:, 1:].max() < 0.5


def test_the_prior_says_who_is_moved():
    """Radar and LiDAR disagree by 2 m; the one of little prior moves, to where the other says."""
    for loose, other in (("radar", "lidar"), ("lidar", "radar")):
        registration = transparent(sensors=("radar", "lidar"))
        registration.edge_head.bias.data = Registration(GRID, ("radar", "lidar"), 4, {loose: -6.0}).edge_head.bias.data
        found = registration({"radar": dots(), "lidar": dots((0.0, 2.0, 0.0))}, torch.tensor([[True, True]]))
        x = dict(zip(("radar", "lidar"), found.motion[0, :, 1].tolist()))
        assert abs(x[other]) < 0.1
        assert x[loose] == pytest.approx(2.0 if loose == "lidar" else -2.0, abs=0.5)


def test_empty_maps_tell_nothing():
    found = transparent()(dict.fromkeys(SENSORS, torch.zeros(1, 4, 128, 128)), ALL)
    assert found.motion.abs().max() < 1e-4 and torch.isfinite(found.pairs).all()


def test_the_graph_by_hand():
    """Radar and LiDAR are 3 m apart; with priors and weight 1 both give way by a third, a firm radar not at all."""
    motions = torch.zeros(1, 3, 3)
    motions[0, 2, 1] = 3.0  # radar -> LiDAR
    weights = torch.tensor([[0.0, 0.0, 1.0]])
    edges = [(0, 1), (0, 2), (1, 2)]
    solved = solve_graph(edges, motions, weights, torch.ones(1, 3))
    torch.testing.assert_close(solved[0, :, 1], torch.tensor([0.0, -1.0, 1.0]))
    firm = solve_graph(edges, motions, weights, torch.tensor([[1.0, 1e6, 1e-6]]))[0, :, 1]
    torch.testing.assert_close(firm, torch.tensor([0.0, 0.0, 3.0]), rtol=1e-4, atol=1e-4)


def test_the_truth_costs_least():
    """Unknown motions and sensors without company do not count."""
    registration = transparent()
    found = registration({"camera": dots(), "radar": dots(), "lidar": dots((0.0, 1.6, 0.0))}, ALL)
    truth = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.6, 0.0]]])
    wrong = truth.clone()
    wrong[0, 2, 1] = -1.6
    assert registration_loss(found, truth, ALL) < registration_loss(found, wrong, ALL)
    unknown = torch.full_like(truth, math.nan)
    assert registration_loss(found, unknown, ALL) == 0
    alone = torch.tensor([[False, False, True]])
    found = registration({"lidar": dots()}, alone)
    assert registration_loss(found, wrong, alone) == 0


def test_gradients_reach_the_features_and_every_parameter():
    registration = Registration(GRID, SENSORS, 4)
    torch.nn.init.normal_(registration.edge_head.weight, std=0.1)
    x = [dots(), dots(), dots((0.02, 1.0, 0.0))]
    x = [(f + 0.01 * torch.rand_like(f)).requires_grad_() for f in x]
    found = registration(dict(zip(SENSORS, x)), ALL)
    loss = registration_loss(found, torch.zeros(1, 3, 3), ALL) + sum(f.square().sum() for f in found.features.values())
    (loss + found.confidence.sum()).backward()
    for tensor in [*x, *registration.parameters()]:
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
