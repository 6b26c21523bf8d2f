"""Heat maps in the images: targets and loss by hand, and the head that learns from them, in training only."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_model import CAMERA_AXES, make_frame, small_config

from perception.batch import ImageBatch, collate
from perception.config import TrainConfig
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.model.build import build
from perception.model.checkpoint import load
from perception.sample import Boxes3D
from perception.train.image_loss import image_heat_target
from perception.train.losses import DetectionLoss


def images(*yaws: float, valid: bool = True) -> ImageBatch:
    """Cameras at the ego's origin of 32 x 64 pixels, f = 64, principal point in the middle: pixel (31.5, 15.5)."""
    intrinsics = torch.tensor([[64.0, 0, 31.5], [0, 64, 15.5], [0, 0, 1]]).expand(1, len(yaws), 3, 3)
    poses = np.stack([(SE3.from_yaw(yaw) @ CAMERA_AXES).matrix for yaw in yaws])
    pixels = torch.zeros(1, len(yaws), 3, 32, 64, dtype=torch.uint8)
    return ImageBatch(pixels, intrinsics, torch.from_numpy(poses)[None].float(), torch.full((1, len(yaws)), valid))


def boxes(*centers: list[float], size=(1.0, 1.0, 1.0), label: int = 1) -> Boxes3D:
    n = len(centers)
    return Boxes3D(np.reshape(centers, (n, 3)), np.tile(size, (n, 1)), np.zeros(n), np.zeros((n, 2)), np.full(n, label))


def peaks(target: torch.Tensor) -> list[list[int]]:
    """Camera, class, row, column."""
    return (target[0] == 1).nonzero().tolist()


def test_centres_by_hand():
    """8 m ahead, 1 m left, 0.5 m up: 8 pixels left of and 4 above (31.5, 15.5), in column 2 and row 1 of stride 8."""
    target = image_heat_target([boxes([8, 1.01, 0.51])], images(0.0, math.pi), 3, 4, 8)
    assert target.shape == (1, 2, 3, 4, 8) and peaks(target) == [[0, 1, 1, 2]]
    # One cell is one metre at 8 m: the box spans one cell, whose Gaussian has radius 1 and sigma 1/2.
    assert float(target[0, 0, 1, 1, 3]) == pytest.approx(math.exp(-2))
    assert float(target[0, 0, 1, 0, 1]) == pytest.approx(math.exp(-4))
    assert target[0, 0, 1].count_nonzero() == 9 and target[0, 0, [0, 2]].count_nonzero() == 0


def test_a_mirrored_image_has_the_mirrored_heat_map():
    """The principal point is in the middle: what was in column 2 of 8 is in column 5, as large."""
    seen, mirrored = images(0.0), images(0.0)
    mirrored.intrinsics = mirrored.intrinsics * torch.tensor([[-1.0], [1], [1]]) + torch.tensor([0, 0, 63]) * (
        torch.tensor([[1.0], [0], [0]])
    )
    near = boxes([4, 0.51, 0.26], size=(3.0, 3.0, 3.0))
    wanted, found = (image_heat_target([near], each, 3, 4, 8) for each in (seen, mirrored))
    assert peaks(found) == [[0, 1, 1, 5]]
    torch.testing.assert_close(found, wanted.flip(-1))


def test_nearer_boxes_are_larger():
    """4 m wide and high at 2 m: 16 cells, of which (16 - 2 r)^2 = 0.1 * 16^2 leaves r = 5.47."""
    target = image_heat_target([boxes([2, 0.01, 0.01], size=(4, 4, 4))], images(0.0), 2, 4, 8)
    row = target[0, 0, 1, 1]
    assert [float(v) for v in row] == pytest.approx([math.exp(-(d**2) / (2 * (11 / 6) ** 2)) for d in range(-3, 5)])


@pytest.mark.parametrize("center", [[-8, 0, 0], [0.4, 0, 0], [8, 4.1, 0], [8, 0, -2.1], [8, -4.1, 0]])
def test_what_an_image_does_not_show_is_no_target(center):
    """Behind, around the camera, and just outside each border."""
    assert peaks(image_heat_target([boxes(center)], images(0.0), 2, 4, 8)) == []


def test_absent_cameras_and_no_boxes():
    assert peaks(image_heat_target([boxes([8, 0, 0])], images(0.0, valid=False), 2, 4, 8)) == []
    assert peaks(image_heat_target([Boxes3D.empty()], images(0.0), 2, 4, 8)) == []


def test_the_head_is_there_in_training_only_and_saved_if_it_was_trained(tmp_path):
    torch.manual_seed(0)
    config = small_config("train.image_weight=0.5", "radar=null")
    model = build(config).train()
    batch = collate([make_frame(), make_frame("b", 1)], model.inputs)
    prediction = model(batch)
    assert prediction.image_heat["camera"].shape == (2, 2, 10, 4, 8)
    terms = DetectionLoss(model, config.train)(prediction, batch)
    assert set(terms) == {"heat", "box", "attribute", "depth", "image", "total"}
    terms["image"].backward()
    assert model.encoders["camera"].image.backbone._blocks[5]._project_conv.weight.grad.abs().sum() > 0
    assert model.eval()(batch).image_heat == {}
    model.save(tmp_path)
    assert "encoders.camera.objects.1.bias" in load(tmp_path).state_dict()
    assert not any("objects" in name for name in build(small_config()).state_dict())


def term(model, batch, logits, weight=1.0) -> float:
    prediction = dataclasses.replace(model(batch), image_heat={"camera": logits})
    return float(DetectionLoss(model, TrainConfig(image_weight=weight))(prediction, batch)["image"])


def test_the_loss_by_hand():
    """Undecided: log(2) / 4 at a centre, none of two cameras showing another object; a mean over centres."""
    model = build(small_config("radar=null", "lidar=null")).eval()
    frame = dataclasses.replace(make_frame(), boxes=boxes([11, 0.1, 1.6], size=(0.1, 0.1, 0.1)))
    batch = collate([frame], model.inputs)
    cell = 0.25 * math.log(2)
    sides, corners = 4 * (1 - math.exp(-2)) ** 4, 4 * (1 - math.exp(-4)) ** 4
    logits = torch.zeros(1, 2, 10, 4, 8)  # of CAM_0, which looks ahead, and CAM_3, back
    expected = cell * (1 + sides + corners + 2 * 10 * 4 * 8 - 9)
    assert term(model, batch, logits) == pytest.approx(expected, rel=1e-5)
    assert term(model, batch, logits, weight=0.25) == pytest.approx(expected / 4, rel=1e-5)
    batch.inputs["camera"].valid[0, 1] = False
    assert term(model, batch, logits) == pytest.approx(expected - cell * 10 * 4 * 8, rel=1e-5)
    batch.displacement = torch.zeros(1, 1, 3)
    batch.displacement[0, 0, 0] = 0.1  # images that show objects elsewhere teach nothing
    assert term(model, batch, logits) == 0
    batch.boxes = None
    with pytest.raises(PerceptionError):
        term(model, batch, logits)
