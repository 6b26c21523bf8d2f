"""Registration: known motions of known maps, the graph by hand, and what happens where there is nothing to go by."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.grid import BEVGrid
from perception.model.registration import (
    Registered,
    Registration,
    _rotations,
    _spread_over,
    incidence,
    registration_loss,
    solve_graph,
)

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
    registration.describe = torch.nn.ModuleDict({name: torch.nn.AvgPool2d(2) for name in sensors})
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
    edges = incidence(EDGES, 3)
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


WIDE = BEVGrid(-25.6, 25.6, -12.8, 12.8, -5.0, 3.0, 0.8)  # 32 rows, 64 columns
EDGES, PRIOR = ((0, 1), (0, 2), (1, 2)), {"lidar": -4.0}
YAW, STEP = math.radians(1.0), 1.6  # between hypotheses


def by_name(*features: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(SENSORS, features, strict=True))


def hypotheses() -> torch.Tensor:
    return Registration(GRID, SENSORS, 4, PRIOR).hypotheses


def registered(pairs, motion, hypotheses) -> Registered:
    return Registered({}, motion, torch.zeros(len(motion), 3), pairs, hypotheses)


def test_hypotheses_are_nine_angles_and_eleven_shifts_each_way():
    all_ = hypotheses()
    assert all_.shape == (9 * 11 * 11, 3)
    for column, (reach, step) in enumerate([(4, YAW), (5, STEP), (5, STEP)]):
        want = [step * i for i in range(-reach, reach + 1)]
        assert sorted(set(all_[:, column].tolist())) == pytest.approx(want)
    assert len({tuple(row) for row in all_.tolist()}) == len(all_)


def test_descriptors_have_no_mean_and_unit_energy_and_are_nothing_of_an_absent_sensor():
    torch.manual_seed(0)
    registration, x = Registration(WIDE, SENSORS, 4), 3 + 5 * torch.randn(2, 4, 32, 64)
    valid = torch.tensor([[True, True, True], [True, False, True]])
    described = registration._descriptors("radar", x, valid).detach()
    assert described.shape == (2, 16, 16, 32)
    assert described[0].mean(dim=(-2, -1)).abs().max() < 1e-6
    assert float(described[0].square().sum()) == pytest.approx(1, rel=1e-5)
    assert (described[1] == 0).all()
    assert not torch.allclose(described[0], registration._descriptors("lidar", x, valid)[0])  # each sensor has its own


def test_pooled_descriptors_see_pooled_features():
    """By parameters of the same names and shapes."""
    torch.manual_seed(0)
    pooled, x = Registration(WIDE, SENSORS, 4, pooled=True), torch.randn(1, 4, 32, 64)
    assert pooled.state_dict().keys() == Registration(WIDE, SENSORS, 4).state_dict().keys()
    described = pooled._descriptors("radar", x, ALL)
    assert described.shape == (1, 16, 16, 32)
    small = torch.nn.functional.avg_pool2d(x, 2)
    want = pooled.describe["radar"](small)
    want = want - want.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(described, want / want.norm(), rtol=1e-4, atol=1e-6)
    assert pooled(by_name(dots(grid=WIDE), dots(grid=WIDE), dots(grid=WIDE)), ALL).pairs.shape == (1, 3, 1089)


def blob_at(row: float, column: float, rows=32, columns=64) -> torch.Tensor:
    y, x = torch.arange(rows)[:, None] - row, torch.arange(columns)[None] - column
    return (-(x**2 + y**2) / 8.0).exp().expand(1, 4, rows, columns)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (4, 0), (0, 4), (-4, 6), (10, -10)])
def test_the_likeliest_motion_of_a_pair_is_the_one_it_made(down, right):
    """A blob that another sensor shows further down (+y) and right (+x), in steps of two cells of 0.8 m."""
    found = transparent(WIDE)({"camera": blob_at(15.5, 31.5), "lidar": blob_at(15.5 + down, 31.5 + right)}, ALL)
    pairs = found.pairs[0].exp()
    assert pairs.sum(dim=1).tolist() == pytest.approx([1, 1, 1], rel=1e-4)
    symmetric = found.hypotheses[pairs[1].argmax()]  # of camera and LiDAR; a round blob says nothing of an angle
    assert symmetric[1:].tolist() == pytest.approx([0.8 * right, 0.8 * down], abs=1e-4)
    flat = torch.full_like(found.pairs[0, 0], -math.log(len(found.hypotheses)))
    torch.testing.assert_close(found.pairs[0, 0], flat)
    torch.testing.assert_close(found.pairs[0, 2], flat)


@pytest.mark.parametrize("steps", [-4, -2, 0, 2, 4])
def test_the_likeliest_yaw_of_a_pair_is_the_one_it_was_rotated_by(steps):
    found = transparent()(by_name(dots(), dots(), dots((steps * YAW, 0.0, 0.0))), ALL)
    for pair in (1, 2):
        best = found.hypotheses[found.pairs[0, pair].argmax()]
        assert best.tolist() == pytest.approx([steps * YAW, 0, 0], abs=1e-6)
    assert found.hypotheses[found.pairs[0, 0].argmax()].abs().max() < 1e-6


def test_sharpness_is_the_logit_of_a_full_match():
    """Identical maps correlate to 1 where nothing is moved; the log-odds against any other motion are its factor."""
    registration = transparent()
    found = [registration(by_name(*[dots()] * 3), ALL).pairs[0, 0]]
    registration.log_sharpness.data += math.log(2.0)
    found.append(registration(by_name(*[dots()] * 3), ALL).pairs[0, 0])
    odds = [pairs.amax() - pairs for pairs in found]
    torch.testing.assert_close(odds[1], 2 * odds[0], rtol=1e-3, atol=1e-2)
    assert Registration(GRID, SENSORS, 4, PRIOR).log_sharpness.item() == 4.0


def test_what_the_edge_network_is_told():
    """Mean and spread in steps, entropy and best probability of each pair; and which sensors there are."""
    registration, told = Registration(GRID, SENSORS, 4, PRIOR), {}
    registration.weigh.register_forward_pre_hook(lambda module, inputs: told.update(x=inputs[0]))
    all_ = registration.hypotheses
    a = int((all_ - torch.tensor([2 * YAW, STEP, -3 * STEP])).abs().sum(dim=1).argmin())
    b = int((all_ - torch.tensor([2 * YAW, 3 * STEP, -3 * STEP])).abs().sum(dim=1).argmin())
    pairs = torch.full((1, 3, len(all_)), -80.0)
    pairs[0, 0, a] = 0.0  # sure
    pairs[0, 1, [a, b]] = math.log(0.5)
    pairs[0, 2, a], pairs[0, 2, b] = math.log(0.75), math.log(0.25)
    valid = torch.tensor([[True, False, True]])
    motion, confidence = registration._solve(pairs, valid)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    want = [
        [2, 1, -3, 0, 0, 0, 0, 1],
        [2, 2, -3, 0, 1, 0, math.log(2), 0.5],
        [2, 1.5, -3, 0, math.sqrt(0.75), 0, entropy, 0.75],
    ]
    assert told["x"][0, :24].tolist() == pytest.approx([value for row in want for value in row], abs=2e-3)
    assert told["x"][0, 24:].tolist() == [1, 0, 1]
    assert (confidence == 0).all()
    # Only camera and LiDAR are there, with priors exp(2) and exp(-4) at first, and a weight of exp(0) between them.
    weight, camera, lidar = 1.0, math.exp(2.0), math.exp(-4.0)
    apart = 1 / (1 / weight + 1 / camera + 1 / lidar)  # three springs in a row
    moved = torch.tensor([-apart / camera, 0.0, apart / lidar])
    mean = torch.tensor([2 * YAW, 2 * STEP, -3 * STEP])
    torch.testing.assert_close(motion[0], moved[:, None] * mean, rtol=1e-3, atol=1e-4)


def test_weights_and_priors_are_bounded_and_confidence_has_its_gain():
    """Biases of 100 count as 6, of -100 as -6; a confidence of 0.3 is five times that in the softmax."""
    registration = Registration(GRID, SENSORS, 4, PRIOR)
    bias = [100.0, -100.0, 0.0, 100.0, -100.0, 0.0, 0.3, -0.3, 0.0]
    registration.edge_head.bias.data = torch.tensor(bias)
    pairs = torch.randn(1, 3, len(registration.hypotheses), generator=torch.Generator().manual_seed(0))
    pairs = (4 * pairs).log_softmax(dim=-1)
    motion, confidence = registration._solve(pairs, ALL)
    assert confidence[0].tolist() == pytest.approx([1.5, -1.5, 0.0])
    bound = torch.tensor([[6.0, -6.0, 0.0]]).exp()
    torch.testing.assert_close(
        motion, solve_graph(incidence(EDGES, 3), pairs.exp() @ registration.hypotheses, bound, bound)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_the_graph_is_a_least_squares_problem(seed):
    """As numpy solves it: a row for each pair, another for each prior, each times the root of its weight."""
    rng = np.random.default_rng(seed)
    motions, weights, priors = rng.normal(size=(2, 3, 3)), rng.uniform(0, 5, (2, 3)), rng.uniform(0.1, 5, (2, 3))
    graph = incidence(EDGES, 3).double()
    have = solve_graph(graph, *(torch.tensor(array) for array in (motions, weights, priors))).numpy()
    edges = np.array([[-1.0, 1, 0], [-1, 0, 1], [0, -1, 1]])
    for b in range(2):
        rows = np.sqrt(np.concatenate([weights[b], priors[b]]))[:, None]
        matrix = np.concatenate([edges, np.eye(3)]) * rows
        right = np.concatenate([motions[b], np.zeros((3, 3))]) * rows
        np.testing.assert_allclose(have[b], np.linalg.lstsq(matrix, right, rcond=None)[0], atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**31))
def test_graphs_of_any_size_and_of_extreme_weights(sensors, seed):
    """As LAPACK solves them, with pivots; weights and priors have the bounds of a registration, exp(-6) and exp(6)."""
    rng = np.random.default_rng(seed)
    edges = incidence(list(combinations(range(sensors), 2)), sensors)
    motions = rng.normal(size=(2, len(edges), 3))
    weights, priors = np.exp(rng.choice([-6, 0, 6], (2, len(edges)))), np.exp(rng.choice([-6, 0, 6], (2, sensors)))
    weights *= rng.random(weights.shape) < 0.7  # some pairs are absent
    have = solve_graph(edges.double(), *(torch.tensor(array) for array in (motions, weights, priors)))
    graph = edges.double().numpy()
    matrix = np.einsum("ps,bp,pt->bst", graph, weights, graph) + [np.diag(prior) for prior in priors]
    want = np.linalg.solve(matrix, np.einsum("ps,bp,bpk->bsk", graph, weights, motions))
    np.testing.assert_allclose(have.numpy(), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("yaw", [0.1, -0.3])
def test_maps_are_rotated_about_the_vehicle(yaw):
    """Maps of x and y in cells, so that values say where they are from: R (p - o) + o, o being at (5, 6) of 20 x 8."""
    grid = BEVGrid(-8.0, 24.0, -9.6, 3.2, -5.0, 3.0, 0.8)  # 16 rows, 40 columns; two of each make a descriptor's
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    where = _rotations(torch.tensor([0.0, yaw]), grid)
    still, rotated = torch.nn.functional.grid_sample(
        torch.stack([x, y]).expand(2, -1, -1, -1), where, align_corners=False
    )
    torch.testing.assert_close(still, torch.stack([x, y]), rtol=1e-4, atol=1e-4)
    cos, sin = math.cos(yaw), math.sin(yaw)
    want_x, want_y = cos * (x - 5) - sin * (y - 6) + 5, sin * (x - 5) + cos * (y - 6) + 6
    inside = (want_x > 0.5) & (want_x < 19.5) & (want_y > 0.5) & (want_y < 7.5)
    assert inside.sum() > 60
    torch.testing.assert_close(rotated[0][inside], want_x[inside], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotated[1][inside], want_y[inside], rtol=1e-4, atol=1e-4)
    assert (rotated[:, (want_x < -0.5) | (want_x > 20.5) | (want_y < -0.5) | (want_y > 8.5)] == 0).all()


def test_features_read_where_nothing_moved_are_the_same():
    x = torch.randn(2, 3, 32, 64)
    assert torch.equal(Registration(WIDE, SENSORS, 4)._aligned(x, torch.zeros(2, 3)), x)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, 2), (-2, 5)])
def test_features_read_at_a_shift_come_from_there_and_borders_repeat(right, down):
    """What is shown 3 cells to the right is read from there."""
    x = torch.randn(1, 2, 32, 64)
    read = Registration(WIDE, SENSORS, 4)._aligned(x, torch.tensor([[0.0, 0.8 * right, 0.8 * down]]))
    row, column = (torch.arange(32) + down).clamp(0, 31), (torch.arange(64) + right).clamp(0, 63)
    torch.testing.assert_close(read, x[:, :, row][..., column], rtol=1e-3, atol=1e-3)


def test_features_read_at_a_rotation():
    """By 90 degrees: what is shown at (x, y) = (-y', x') is where (x', y') is; the samples are apart."""
    grid = BEVGrid(-6.4, 6.4, -6.4, 6.4, -5.0, 3.0, 0.8)
    x = torch.randn(2, 2, 16, 16)
    read = Registration(grid, SENSORS, 4)._aligned(x, torch.tensor([[math.pi / 2, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    for row, column in ((0, 3), (5, 12), (15, 15)):
        torch.testing.assert_close(read[0, :, row, column], x[0, :, column, 15 - row], rtol=1e-3, atol=1e-3)
    assert torch.equal(read[1], x[1])


def test_only_sensors_that_moved_change():
    """A motion of nothing leaves the very values; a precision of 16 bits stays what it is."""
    registration = transparent()
    x = by_name(dots().bfloat16(), dots().bfloat16(), dots((0.0, 1.6, 0.0)).bfloat16())
    found = registration(x, torch.tensor([[False, False, True]]))
    assert all(torch.equal(found.features[name], x[name]) for name in SENSORS)
    moved = registration(x, ALL).features
    assert {feature.dtype for feature in moved.values()} == {torch.bfloat16}
    assert not torch.equal(moved["lidar"], x["lidar"])


@pytest.mark.parametrize(
    ("motion", "around"),
    [
        ((0, 0, 0), {(0, 0, 0): 1.0}), ((2, -3, 4), {(2, -3, 4): 1.0}),
        ((0.25, 0, 0), {(0, 0, 0): 0.75, (1, 0, 0): 0.25}),
        ((0, 1.5, -0.25), {(0, 1, 0): 0.375, (0, 2, 0): 0.375, (0, 1, -1): 0.125, (0, 2, -1): 0.125}),
        ((9, -7, 0), {(4, -5, 0): 1.0}), ((0, 5.5, -9), {(0, 5, -5): 1.0}),
    ],
)  # fmt: skip
def test_a_motion_is_spread_over_the_hypotheses_around_it(motion, around):
    """In steps of hypotheses, linearly; what is beyond the outermost is taken for the outermost."""
    steps = torch.tensor([YAW, STEP, STEP])
    weights = _spread_over(torch.tensor([motion], dtype=torch.float32) * steps, hypotheses())[0]
    have = {
        tuple((hypotheses()[index] / steps).round().int().tolist()): float(weights[index])
        for index in (weights > 1e-4).nonzero().flatten()
    }
    assert have == pytest.approx(around, abs=1e-4)


def test_the_loss_of_the_motions_by_hand():
    """Camera off by (0.06 rad at 25 m, 0, 2 m) and LiDAR by 3 m: 2.5 and 3 m of three sensors; pairs are sure."""
    pairs = torch.full((1, 3, 1089), -50.0)
    pairs[..., 544] = 0.0  # the middle one: no motion
    motion = torch.tensor([[[0.06, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, -3.0, 0.0]]])
    loss = registration_loss(registered(pairs, motion, hypotheses()), torch.zeros(1, 3, 3), ALL)
    assert float(loss) == pytest.approx((2.5 + 0.01 + 3.0) / 3, rel=1e-4)
    # Against their own truth motions cost the rounding 0.01 each; pairs then say nothing where -50 each way is said.
    shifted = torch.tensor([[[0.0, STEP, 0.0]] * 3])
    alike = registration_loss(registered(pairs, shifted, hypotheses()), shifted, ALL)
    assert float(alike) == pytest.approx(0.01, rel=1e-3)


def test_the_loss_of_the_pairs_by_hand():
    """Pairs that say 1/4 to the truth cost a fifth of log 4, as the mean of those that are known."""
    pairs = torch.full((2, 3, 1089), math.log(0.25))
    pairs[1, 1] = math.log(0.5)
    truth = torch.zeros(2, 3, 3)
    none = torch.full((1, 3), math.nan)
    for known, mean in (
        ([], (5 * math.log(4) + math.log(2)) / 6),
        ([(0, 0)], (4 * math.log(4) + 0 + math.log(2) - math.log(4)) / 4),  # camera: two of three pairs less
        ([(0, 0), (1, 1)], (math.log(4) + math.log(2)) / 2),
    ):
        displacement = truth.clone()
        for sample, sensor in known:
            displacement[sample, sensor] = none
        loss = registration_loss(registered(pairs, truth, hypotheses()), displacement, torch.ones(2, 3).bool())
        assert float(loss) == pytest.approx(0.2 * mean + 0.01, rel=1e-4)


def test_the_direction_of_a_pair_is_from_its_first_to_its_second():
    """LiDAR is one step to the right, so the last pair's motion is that; the other way round it costs."""
    pairs = torch.full((1, 3, 1089), -50.0)
    middle = 544
    right = int((hypotheses() - torch.tensor([0.0, STEP, 0.0])).abs().sum(dim=1).argmin())
    pairs[0, 0, middle] = pairs[0, 1, right] = pairs[0, 2, right] = 0.0
    truth = torch.zeros(1, 3, 3)
    truth[0, 2, 1] = STEP
    assert float(registration_loss(registered(pairs, truth, hypotheses()), truth, ALL)) == pytest.approx(0.01, rel=1e-2)
    wrong = registration_loss(registered(pairs, truth, hypotheses()), -truth, ALL)
    assert float(wrong) == pytest.approx(0.2 * 100 / 2 + (2 * STEP + 0.02) / 3, rel=1e-3)


def test_sensors_without_company_and_unknown_ones_cost_nothing():
    motion = torch.tensor([[[0.0, 3.0, 0.0]] * 3])
    pairs = torch.zeros(1, 3, 1089)
    for valid, count in (((True, True, True), 3), ((True, False, True), 2), ((False, True, False), 0)):
        loss = registration_loss(registered(pairs, motion, hypotheses()), torch.zeros(1, 3, 3), torch.tensor([valid]))
        assert float(loss) == pytest.approx(3.0 if count else 0.0, rel=1e-4)
    half = torch.zeros(1, 3, 3)
    half[0, 1, 2] = math.nan  # one component is enough
    motion[0, 1] = 100.0
    for valid in ((True, True, True), (True, True, False)):
        loss = registration_loss(registered(pairs, motion, hypotheses()), half, torch.tensor([valid]))
        assert float(loss) == pytest.approx(3.0, rel=1e-4)


def test_what_is_saved_is_what_is_learned():
    registration = Registration(GRID, SENSORS, 4, PRIOR)
    assert set(registration.state_dict()) == {name for name, _ in registration.named_parameters()}


@pytest.mark.parametrize("right", [-6, 0, 4])
def test_a_grid_of_any_size(right):
    """Four rows of descriptors are fewer than a correlation looks, and 45 columns (40 and 5) an odd number."""
    found = transparent(BEVGrid(-32.0, 32.0, -3.2, 3.2, -5.0, 3.0, 0.8))(
        by_name(blob_at(3.5, 39.5, 8, 80), blob_at(3.5, 39.5, 8, 80), blob_at(3.5, 39.5 + right, 8, 80)), ALL
    )
    assert found.pairs.shape == (1, 3, 9 * 11 * 11)
    for pair in (1, 2):
        best = found.hypotheses[found.pairs[0, pair].argmax()]
        assert best.tolist() == pytest.approx([0.0, 0.8 * right, 0.0], abs=1e-4)
