"""Each term of the detector's loss, alone, against a value derived by hand."""

import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from perception.batch import Batch, ImageBatch, InputSpec, PointBatch
from perception.config import TrainConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.detector import Prediction
from perception.model.head import CenterHead, CenterMaps
from perception.model.registration import Registered
from perception.sample import Boxes3D, LidarCloud
from perception.task import NUSCENES
from perception.train.depth_loss import depth_target
from perception.train.losses import CenterLoss, DetectionLoss, focal_loss

SENSORS = ("camera", "radar", "lidar")
GRID = BEVGrid(-4.0, 4.0, -4.0, 4.0, -5.0, 3.0, 1.0)
SURE = 60.0  # a logit whose loss is nothing, one way, and itself, the other
COLUMN, ROW = 5, 2  # of the cell that holds the box at (1.25, -1.5) in 8 x 8 cells of 1 m around the vehicle
# Everything of this box is a round number in the units of the head: see BOX.
CAR = {"center": [1.25, -1.5, 1.0], "size": [math.e, math.e**2, 1 / math.e], "yaw": math.pi / 2, "velocity": [10, -5]}
# offset 2, height 1, log of size 3, sin and cos of yaw, sin and cos of twice the yaw, velocity / 5
BOX = [0.25, 0.5, 1.0, 1.0, 2.0, -1.0, 1.0, 0.0, 0.0, -1.0, 2.0, -1.0]
WEIGHTS = [1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 2.0, 2.0]


def make_loss(heads=None, **train) -> DetectionLoss:
    """Of a detector whose camera learns depth of 1 to 9 m from LiDAR, and a thermal camera of 2 to 10 m from radar."""
    encoders = nn.ModuleDict({name: nn.Identity() for name in (*SENSORS, "thermal")})
    encoders["camera"].depth_range_m, encoders["thermal"].depth_range_m = (1.0, 9.0), (2.0, 10.0)
    detector = SimpleNamespace(
        encoders=encoders,
        inputs=InputSpec(tuple(encoders), {}, {"camera": "lidar", "thermal": "radar"}),
        heads=nn.ModuleDict({"boxes": CenterHead(GRID, NUSCENES, 1, 1), **(heads or {})}),
        decoder=None,
    )
    return DetectionLoss(detector, TrainConfig(**train))


def make_boxes(*boxes: dict) -> Boxes3D:
    columns = {name: [{**CAR, **box}[name] for box in boxes] for name in CAR}
    labels, attributes = [box.get("label", 0) for box in boxes], [box.get("attribute", -1) for box in boxes]
    return Boxes3D(**columns, label=labels, attribute=attributes) if boxes else Boxes3D.empty()


def make_batch(*samples: Boxes3D | None, **fields) -> Batch:
    tokens = [f"t{i}" for i in range(len(samples))]
    valid = torch.ones(len(samples), 3, dtype=torch.bool)
    return Batch(tokens, SENSORS, valid, boxes=list(samples), **fields)


def make_prediction(samples=1, heat=None, box=None, attribute=None, depth=None, registered=None) -> Prediction:
    """By default: nothing anywhere, and every value 0."""
    heat = torch.full((samples, 10, 8, 8), -SURE) if heat is None else heat
    box = torch.zeros(samples, 12, 8, 8) if box is None else box
    attribute = torch.zeros(samples, 8, 8, 8) if attribute is None else attribute
    depth = {} if depth is None else {"camera": depth}
    return Prediction({"boxes": CenterMaps(heat, box, attribute)}, depth, registered, torch.ones(samples, 3) > 0)


def term(name: str, prediction: Prediction, batch: Batch, **train) -> float:
    return float(make_loss(**train)(prediction, batch)[name])


def test_a_loss_has_nothing_to_save():
    assert make_loss().state_dict() == {} and list(make_loss().parameters()) == []


@pytest.mark.parametrize(
    ("p", "target", "loss"),
    [
        (0.8, 1.0, -math.log(0.8) * 0.2**2),
        (0.8, 0.0, -math.log(0.2) * 0.8**2),
        (0.8, 0.5, -math.log(0.2) * 0.8**2 * 0.5**4),
        (0.1, 0.9, -math.log(0.9) * 0.1**2 * 0.1**4),
    ],
)
def test_focal_loss_of_one_cell(p, target, loss):
    logit = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64)
    assert float(focal_loss(logit, torch.tensor([target], dtype=torch.float64))) == pytest.approx(loss, rel=1e-9)


def test_focal_loss_is_summed_and_stays_finite():
    logits, target = torch.tensor([[200.0, -200.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # Wrong beyond doubt costs the logit; undecided -log(1/2) * (1/2)^2, whichever is right.
    assert float(focal_loss(logits, target)) == pytest.approx(400 + 0.5 * math.log(2), rel=1e-6)


def test_heat_map_term_of_undecided_cells():
    """A box of radius 1: 1 at its cell, exp(-2) beside, exp(-4) diagonally; 631 more cells of ten maps hold nothing."""
    small = {"size": [2.0, 2.0, 2.0]}
    cell = 0.25 * math.log(2)  # of p = 1/2
    sides, corners = 4 * (1 - math.exp(-2)) ** 4, 4 * (1 - math.exp(-4)) ** 4
    prediction = make_prediction(heat=torch.zeros(1, 10, 8, 8))
    loss = cell * (1 + sides + corners + 631)
    assert term("heat", prediction, make_batch(make_boxes(small))) == pytest.approx(loss, rel=1e-6)


def test_heat_map_term_is_a_mean_over_centres():
    """Missed centres cost SURE each; two of them, and one of another class in a cell of its own, make three."""
    boxes = make_boxes(
        {"size": [1.0] * 3}, {"center": [-3, 2, 0], "size": [1.0] * 3}, {"label": 8, "center": [-1, 3, 0]}
    )
    prediction = make_prediction()
    assert term("heat", prediction, make_batch(boxes)) == pytest.approx(SURE, rel=1e-6)
    prediction.outputs["boxes"].heat_logits[0, 0, ROW, COLUMN] = SURE
    assert term("heat", prediction, make_batch(boxes)) == pytest.approx(SURE * 2 / 3, rel=1e-6)
    prediction.outputs["boxes"].heat_logits[0, 9, 0, 0] = SURE  # which is nothing there
    assert term("heat", prediction, make_batch(boxes)) == pytest.approx(SURE, rel=1e-6)


def test_without_boxes_only_heat_that_is_there_costs():
    prediction = make_prediction()
    prediction.outputs["boxes"].heat_logits[0, 3, 1, 1] = SURE
    terms = make_loss()(prediction, make_batch(make_boxes()))
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"heat": SURE, "box": 0.0, "attribute": 0.0, "total": SURE}
    )
    with pytest.raises(PerceptionError, match="at least one of t0, t1 has no boxes"):
        make_loss()(make_prediction(2), Batch(["t0", "t1"], SENSORS, torch.ones(2, 3, dtype=torch.bool)))


def test_box_term_of_a_guess_of_nothing():
    """1 * (.25 + .5) + .5 * 1 + 1 * (1 + 2 + 1) + .5 * 1 + 1 * 1 + 2 * (2 + 1) = 12.75, of which half counts."""
    assert term("box", make_prediction(), make_batch(make_boxes({}))) == pytest.approx(12.75 / 2, rel=1e-6)


def test_every_group_learns_its_own_boxes():
    """A car and a cone in one cell: each branch has the error of its own box, 12.75; a mean over both is 12.75 again.

    The cars' branch is right here, so half of that is left; it says nothing of where cones alone are.
    """
    others = [name for name in NUSCENES.classes if name != "car"]
    head = CenterHead(GRID, NUSCENES, 1, 1, groups=[others, ["car"]])
    loss, batch = CenterLoss("boxes", head), make_batch(make_boxes({}, {"label": 8}))
    box = torch.zeros(1, 24, 8, 8)
    maps = CenterMaps(torch.full((1, 10, 8, 8), -SURE), box, torch.zeros(1, 16, 8, 8), head.group)
    terms = loss(maps, batch)
    assert float(terms["box"]) == pytest.approx(12.75 / 2, rel=1e-6)
    assert float(terms["heat"]) == pytest.approx(SURE, rel=1e-6)  # of two centres, both missed
    box[0, 12:, ROW, COLUMN] = torch.tensor(BOX)
    assert float(loss(maps, batch)["box"]) == pytest.approx(12.75 / 4, rel=1e-6)


def test_targets_that_the_batch_has_are_used():
    loss = make_loss()
    boxes, batch = make_boxes({}), make_batch(make_boxes())  # nothing is annotated, and yet there is a target
    batch.targets = {name: encode([boxes]) for name, encode in loss.targets.items()}
    assert list(batch.targets) == ["boxes"]
    assert float(loss(make_prediction(), batch)["box"]) == pytest.approx(12.75 / 2, rel=1e-6)
    # As where a batch is moved to a GPU, and from a worker process to the trainer.
    moved = pickle.loads(pickle.dumps(batch)).to("cpu")
    assert float(loss(make_prediction(), moved)["box"]) == pytest.approx(12.75 / 2, rel=1e-6)


@pytest.mark.parametrize("channel", range(12))
def test_box_term_of_one_channel(channel):
    """Off by 0.3 in one channel, either way; what other cells say does not matter."""
    for off in (0.3, -0.3):
        box = torch.full((1, 12, 8, 8), 9.0)
        box[0, :, ROW, COLUMN] = torch.tensor(BOX)
        box[0, channel, ROW, COLUMN] += off
        loss = term("box", make_prediction(box=box), make_batch(make_boxes({})))
        assert loss == pytest.approx(0.5 * WEIGHTS[channel] * 0.3, abs=1e-5)


def test_box_and_attribute_terms_are_means_over_boxes():
    """Of four boxes in two samples one is wrong."""
    others = [make_boxes({"center": [x, y, 1.0], "attribute": 2}) for x, y in ((-2.75, 0.5), (0.25, 3.5), (2.25, 2.5))]
    wrong = {"center": [1.25, -1.5, 3.0], "attribute": 2}  # two metres higher
    first = make_boxes(wrong, {"center": [-2.75, 0.5, 1.0], "attribute": 2})
    box = torch.tensor(BOX)[None, :, None, None].expand(2, 12, 8, 8).clone()
    attribute = torch.zeros(2, 8, 8, 8)
    attribute[:, 2] = SURE
    attribute[0, 3, ROW, COLUMN] = 2 * SURE
    second = make_boxes(*({"center": list(b.center[0]), "attribute": 2} for b in others[1:]))
    terms = make_loss()(make_prediction(2, box=box, attribute=attribute), make_batch(first, second))
    assert float(terms["box"]) == pytest.approx(0.5 * 0.5 * 2.0 / 4, rel=1e-5)
    assert float(terms["attribute"]) == pytest.approx(0.2 * SURE / 4, rel=1e-5)


def test_an_unknown_velocity_costs_nothing_and_teaches_nothing():
    box = torch.tensor(BOX)[None, :, None, None].expand(1, 12, 8, 8).clone().requires_grad_()
    loss = make_loss()(make_prediction(box=box), make_batch(make_boxes({"velocity": [math.nan, math.nan]})))["box"]
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert torch.isfinite(box.grad).all() and (box.grad[:, 10:] == 0).all()


@pytest.mark.parametrize(("attribute", "loss"), [(2, -math.log(0.3)), (5, -math.log(0.1)), (-1, 0.0)])
def test_attribute_term(attribute, loss):
    """The third of eight attributes is three times as likely as each other: 3/10; an unknown one costs nothing."""
    logits = torch.zeros(1, 8, 8, 8)
    logits[:, 2] = math.log(3)
    have = term("attribute", make_prediction(attribute=logits), make_batch(make_boxes({"attribute": attribute})))
    assert have == pytest.approx(0.2 * loss, rel=1e-6, abs=1e-9)


def camera_batch(points, samples=1, cameras=1, valid=None, displacement=None) -> Batch:
    """A camera of 32 x 16 pixels, f = 16, that looks along x from (0.5, 0, 0); eight features by four.

    points: (sample, x, y, z, age_s)
    """
    cloud = torch.tensor([[x, y, z, 0.0, age] for _, x, y, z, age in points]).reshape(-1, 5)
    pose = torch.tensor([[0.0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[16.0, 0, 16], [0, 16, 8], [0, 0, 1]])
    images = ImageBatch(
        torch.zeros(samples, cameras, 3, 16, 32, dtype=torch.uint8),
        intrinsics.expand(samples, cameras, 3, 3),
        pose.expand(samples, cameras, 4, 4),
        torch.ones(samples, cameras, dtype=torch.bool) if valid is None else torch.tensor(valid),
    )
    index = torch.tensor([point[0] for point in points], dtype=torch.long)
    return make_batch(
        *[make_boxes()] * samples,
        inputs={"camera": images, "lidar": PointBatch(cloud, index, samples, LidarCloud.fields)},
        displacement=displacement,
    )


def depth_cells(batch: Batch, bins=8) -> dict[tuple[int, ...], int]:
    """(sample, camera, row, column) -> bin, of the cells that have one, of [1, 9) m."""
    target = depth_target(batch.inputs["camera"], batch.inputs["lidar"], bins, 4, 8, 1.0, 9.0)
    return {tuple(index.tolist()): int(target[tuple(index)]) for index in (target != -1).nonzero()}


@pytest.mark.parametrize(
    ("depth", "bin_"), [(1.0, 0), (1.99, 0), (2.0, 1), (4.5, 3), (8.0, 7), (8.99, 7), (9.0, None), (0.99, None)]
)
def test_depth_bins(depth, bin_):
    """Bins of 1 m from 1 m; straight ahead is pixel (16, 8), in the feature of row 2 and column 4."""
    cells = depth_cells(camera_batch([(0, 0.5 + depth, 0.0, 0.0, 0.0)]))
    assert cells == ({} if bin_ is None else {(0, 0, 2, 4): bin_})


@pytest.mark.parametrize(
    ("u", "v", "cell"),
    [
        (-0.4, -0.4, (0, 0)), (3.4, 3.4, (0, 0)), (3.6, 3.4, (0, 1)), (3.4, 3.6, (1, 0)), (31.4, 15.4, (3, 7)),
        (31.6, 8.0, None), (16.0, 15.6, None), (-0.6, 8.0, None), (16.0, -0.6, None),
    ],
)  # fmt: skip
def test_features_that_a_pixel_belongs_to(u, v, cell):
    """Four pixels a feature; the first begins half a pixel before the centre of the first pixel."""
    x = 4.0
    cells = depth_cells(camera_batch([(0, 0.5 + x, -(u - 16) / 16 * x, -(v - 8) / 16 * x, 0.0)]))
    assert cells == ({} if cell is None else {(0, 0, *cell): 3})


def test_the_nearest_young_point_of_the_own_sample_counts():
    far, near = (0, 6.0, 0.0, 0.0, 0.0), (0, 4.0, 0.0, 0.0, 0.05)
    old, behind = (0, 2.0, 0.0, 0.0, 0.06), (0, -5.0, 0.0, 0.0, 0.0)
    other = (1, 3.0, 0.0, 0.0, 0.0)
    for points in ([far, near, old, behind, other], [other, behind, old, near, far]):
        assert depth_cells(camera_batch(points, samples=2)) == {(0, 0, 2, 4): 2, (1, 0, 2, 4): 1}
    two = camera_batch([near], samples=2, cameras=2, valid=[[False, True], [True, True]])
    assert depth_cells(two) == {(0, 1, 2, 4): 2}


def test_of_points_without_an_age_all_count():
    batch = camera_batch([(0, 2.0, 0.0, 0.0, 9.0)])
    assert depth_cells(batch) == {}
    batch.inputs["lidar"].fields = ("x", "y", "z", "intensity", "ring")
    assert depth_cells(batch) == {(0, 0, 2, 4): 0}
    batch.inputs["lidar"].fields = ("x", "y", "z", "age_s", "intensity")
    assert depth_cells(batch) == {(0, 0, 2, 4): 0}


def test_depth_term():
    """Two points, in bins 2 and 3; the bins' logits say 1/8 each, or 3/10 for the third."""
    batch = camera_batch([(0, 4.0, 0.0, 0.0, 0.0), (0, 4.5, 2.0, 0.0, 0.0)])
    logits = torch.zeros(1, 1, 8, 4, 8)
    prediction = make_prediction(depth=logits)
    assert term("depth", prediction, batch, depth_weight=1.0) == pytest.approx(math.log(8), rel=1e-6)
    logits[:, :, 2] = math.log(3)
    mean = -(math.log(0.3) + math.log(0.1)) / 2
    assert term("depth", prediction, batch, depth_weight=1.0) == pytest.approx(mean, rel=1e-6)
    assert term("depth", prediction, batch, depth_weight=0.25) == pytest.approx(mean / 4, rel=1e-6)
    assert term("total", prediction, batch, depth_weight=0.25) == pytest.approx(mean / 4, rel=1e-6)
    nothing = camera_batch([(0, -4.0, 0.0, 0.0, 0.0)])
    assert term("depth", prediction, nothing) == 0
    first_bin = camera_batch([(0, 1.6, 0.0, 0.0, 0.0), (0, 4.0, 0.0, 0.0, 0.0)])
    assert term("depth", make_prediction(depth=torch.zeros(1, 1, 8, 4, 8)), first_bin) == pytest.approx(math.log(8))


def test_depth_of_several_sensors_is_summed_each_from_its_own_teacher():
    """4 m are bin 3 of 1 to 9 m and bin 2 of 2 to 10 m, to which the logits give 7 / 14 and (7 / 3) / (7 + 7 / 3)."""
    batch, other = (camera_batch([(0, 4.5, 0.0, 0.0, 0.0)]) for _ in range(2))
    batch.inputs |= {"thermal": other.inputs["camera"], "radar": other.inputs["lidar"]}
    first, second = torch.zeros(2, 1, 1, 8, 4, 8)
    first[:, :, 3], second[:, :, 2] = math.log(7), math.log(7 / 3)
    prediction = make_prediction(depth=first)
    prediction.depth["thermal"] = second
    loss = make_loss(depth_weight=0.5)
    assert float(loss(prediction, batch)["depth"]) == pytest.approx(0.5 * (math.log(2) + math.log(4)), rel=1e-6)
    batch.inputs["radar"] = batch.inputs["camera"]
    with pytest.raises(PerceptionError, match="depth of thermal from radar: images and points were expected"):
        loss(prediction, batch)
    batch.inputs["thermal"] = batch.inputs["lidar"]
    with pytest.raises(PerceptionError, match="depth of thermal from radar: images and points were expected"):
        loss(prediction, batch)


class Lanes(nn.Module):
    """A head of one's own."""

    def losses(self, output, batch):
        return {"gap": output * len(batch), "bend": 2 * output}


class OwnBoxes(CenterHead):
    def losses(self, output, batch):
        return {"heat": torch.tensor(7.0)}


def test_losses_of_a_head_come_before_those_of_a_center_head():
    terms = make_loss({"boxes": OwnBoxes(GRID, NUSCENES, 1, 1)})(make_prediction(), make_batch(make_boxes()))
    assert {name: float(value) for name, value in terms.items()} == {"heat": 7.0, "total": 7.0}


def test_what_a_loss_lacks_is_named():
    with pytest.raises(PerceptionError, match=r"heads\.lanes: a method losses\(output, batch\) was expected"):
        make_loss({"lanes": nn.Identity()})
    detector = SimpleNamespace(
        encoders=nn.ModuleDict({"camera": nn.Identity()}),
        inputs=InputSpec(("camera",), {}, {"camera": "lidar"}),
        heads={},
    )
    with pytest.raises(PerceptionError, match=r"encoders\.camera: depth_range_m was expected beside depth_from"):
        DetectionLoss(detector, TrainConfig())


def test_another_head_adds_what_it_says_under_its_name():
    prediction = make_prediction(2)
    prediction.outputs["lanes"] = torch.tensor(3.0)
    terms = make_loss({"lanes": Lanes()})(prediction, make_batch(make_boxes(), make_boxes()))
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"heat": 0.0, "box": 0.0, "attribute": 0.0, "lanes/gap": 6.0, "lanes/bend": 6.0, "total": 12.0}
    )


@pytest.mark.parametrize(
    ("sensor", "value", "teaches"), [(0, math.nan, False), (2, 0.5, False), (2, -0.5, False), (1, 0.5, True)]
)
def test_depth_is_taught_only_where_camera_and_lidar_agree(sensor, value, teaches):
    """The first sample is displaced: its depth, of which the logits are sure and wrong, counts only if by radar."""
    displacement = torch.zeros(2, 3, 3)
    displacement[0, sensor, 1] = value
    ahead = [(sample, 4.0, 0.0, 0.0, 0.0) for sample in (0, 1)]
    logits = torch.zeros(2, 1, 8, 4, 8)
    logits[0, :, 5] = SURE
    have = term("depth", make_prediction(2, depth=logits), camera_batch(ahead, 2, displacement=displacement))
    assert have == pytest.approx((SURE + math.log(8)) / 2 if teaches else math.log(8), rel=1e-6)


def test_without_lidar_or_without_images_there_is_no_depth_term():
    batch = camera_batch([(0, 4.0, 0.0, 0.0, 0.0)])
    assert "depth" not in make_loss()(make_prediction(), batch)
    del batch.inputs["lidar"]
    assert "depth" not in make_loss()(make_prediction(depth=torch.zeros(1, 1, 8, 4, 8)), batch)


def test_registration_term_has_its_weight_and_total_is_the_sum():
    """LiDAR is said to be 3 m off and is not: a third of 3 m; the pairs are sure, and right."""
    hypotheses = torch.tensor([[0.0, 0.0, 0.0], [0.07, 4.0, 4.0]])
    pairs, motion = torch.zeros(1, 3, 2), torch.zeros(1, 3, 3)
    pairs[..., 1] = -SURE
    motion[0, 2, 1] = 3.0
    prediction = make_prediction(registered=Registered({}, motion, torch.zeros(1, 3), pairs, hypotheses))
    batch = make_batch(make_boxes({}), displacement=torch.zeros(1, 3, 3))
    terms = make_loss(registration_weight=0.5)(prediction, batch)
    assert float(terms["registration"]) == pytest.approx(0.5 * (3.0 + 0.01 + 0.01) / 3, rel=1e-4)
    parts = [float(value) for name, value in terms.items() if name != "total"]
    assert float(terms["total"]) == pytest.approx(sum(parts)) and len(parts) == 4
    batch.displacement = None
    assert "registration" not in make_loss()(prediction, batch)
