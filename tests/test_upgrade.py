"""Checkpoints of version 0.1 under today's names, and the calibration of scores by the name of a set of sensors."""

import pytest
import torch
from safetensors import safe_open

import perception
from perception.errors import PerceptionError
from perception.model.checkpoint import find_checkpoint, read_weights
from perception.model.score_calibration import ScoreCalibration
from perception.model.upgrade import upgraded

SENSORS = ("camera", "radar", "lidar")
# Bit 0 of a row's number is the camera's, bit 1 the radar's, bit 2 the LiDAR's.
ROWS = {
    "camera": 1, "radar": 2, "camera+radar": 3, "lidar": 4, "camera+lidar": 5, "radar+lidar": 6,
    "camera+radar+lidar": 7,
}  # fmt: skip


def old_state() -> dict[str, torch.Tensor]:
    """One tensor of each part, each of another value."""
    names = [
        "camera.backbone._conv_stem.weight", "camera.smooth.0.weight", "view_transform.context.bias",
        "radar.pillars.point.0.weight", "lidar.backbone.0.0.weight", "fusion.sensor", "fusion.residual.weight",
        "fusion.registration.describe.0.0.weight", "fusion.registration.describe.1.0.weight",
        "fusion.registration.describe.2.0.weight", "fusion.registration.verdict.weight",
        "fusion.registration.log_sharpness", "trunk.enter.0.weight", "head.heat.1.bias",
    ]  # fmt: skip
    state = {name: torch.full((2,), float(i)) for i, name in enumerate(names)}
    return {**state, "calibration": torch.arange(16.0).view(8, 2)}


def test_every_tensor_of_version_0_1_has_its_name_of_today():
    new = upgraded(old_state())
    calibration = {name.removeprefix("calibration."): new.pop(name) for name in [*new] if name.startswith("calib")}
    assert list(new) == [
        "encoders.camera.image.backbone._conv_stem.weight", "encoders.camera.image.smooth.0.weight",
        "encoders.camera.view_transform.context.bias", "encoders.radar.pillars.point.0.weight",
        "encoders.lidar.backbone.0.0.weight", "fusion.sensor", "fusion.residual.weight",
        "fusion.registration.describe.camera.0.weight", "fusion.registration.describe.radar.0.weight",
        "fusion.registration.describe.lidar.0.weight", "fusion.registration.edge_head.weight",
        "fusion.registration.log_sharpness", "trunk.enter.0.weight", "heads.boxes.heat.1.bias",
    ]  # fmt: skip
    assert [value.tolist() for value in new.values()] == [[float(i)] * 2 for i in range(14)]
    assert {name: pair.tolist() for name, pair in calibration.items()} == {
        name: [2.0 * row, 2.0 * row + 1] for name, row in ROWS.items()
    }


def test_weights_of_today_stay_as_they_are():
    new = upgraded(old_state())
    assert upgraded(new) is new


def test_every_tensor_of_the_shipped_checkpoint_ends_up_somewhere():
    folder, detector = find_checkpoint("sim"), perception.load("sim")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    read, own = read_weights(folder), detector.state_dict()
    assert read.keys() == own.keys() and all(torch.equal(read[name], own[name]) for name in own)
    if "calibration" in stored:  # of version 0.1
        table = stored.pop("calibration")
        assert detector.calibration.by_set == {name: tuple(table[row].tolist()) for name, row in ROWS.items()}
    values = sorted(value.numpy().tobytes() for name, value in own.items() if not name.startswith("calibration."))
    kept = (value for name, value in stored.items() if not name.startswith("calibration."))
    assert values == sorted(value.numpy().tobytes() for value in kept)
    assert len(detector.calibration.by_set) == 7 and (1.0, 0.0) not in detector.calibration.by_set.values()


def test_slope_and_offset_are_those_of_the_sensors_that_a_sample_has():
    calibration = ScoreCalibration(SENSORS)
    calibration.by_set = {"camera+lidar": (2.0, 0.5), "radar": (3.0, -1.0)}
    valid = torch.tensor([[True, False, True], [False, True, False], [True, True, True], [False, False, False]])
    assert calibration(valid).tolist() == [[2.0, 0.5], [3.0, -1.0], [1.0, 0.0], [1.0, 0.0]]
    other = ScoreCalibration(("lidar", "camera"))
    other.by_set = {"lidar+camera": (2.0, 0.5)}
    assert other(torch.tensor([[True, True], [True, False]])).tolist() == [[2.0, 0.5], [1.0, 0.0]]


def test_what_was_calibrated_is_saved_by_name_and_nothing_else():
    calibration = ScoreCalibration(SENSORS)
    assert calibration.state_dict() == {}
    calibration.by_set = {"camera+lidar": (2.0, 0.5), "radar": (3.0, -1.0)}
    state = calibration.state_dict()
    assert {name: value.tolist() for name, value in state.items()} == {"camera+lidar": [2.0, 0.5], "radar": [3, -1]}
    again = ScoreCalibration(SENSORS)
    again.by_set = {"lidar": (9.0, 9.0)}  # which is forgotten
    again.load_state_dict(state)
    assert again.by_set == calibration.by_set


@pytest.mark.parametrize("state", [{"thermal": torch.ones(2)}, {"camera": torch.ones(3)}, {"camera+": torch.ones(2)}])
def test_a_calibration_of_something_else_is_refused(state):
    with pytest.raises(RuntimeError, match=r"slope and offset of some of camera, radar, lidar were expected"):
        ScoreCalibration(SENSORS).load_state_dict(state)


def test_a_checkpoint_of_other_sensors_is_refused_by_its_file(tmp_path):
    detector = perception.load("sim")
    detector.calibration.by_set = {"camera+sonar": (2.0, 0.5)}
    detector.save(tmp_path)
    with pytest.raises(PerceptionError, match=r"model\.safetensors: does not fit its config\.yaml.*camera\+sonar"):
        perception.load(tmp_path)
