"""Whether two detectors differ, on drives small enough to know every draw."""

import json

import numpy as np
import pytest
from tiny_drive import save_tiny_detector, tiny_world

from perception.cli import run
from perception.errors import PerceptionError
from perception.eval.significance import Difference, paired_differences, table
from perception.eval.truth import Annotated, Truth
from perception.geometry import SE3
from perception.sample import Boxes3D
from perception.task import NUSCENES


def boxes_at(sample: int, offset: float = 0.0) -> Boxes3D:
    return Boxes3D(
        np.array([[10.0 + offset, sample, 0.0]]),
        np.array([[4.0, 2.0, 1.5]]),
        np.zeros(1),
        np.zeros((1, 2)),
        np.zeros(1),
    )


def truth(samples: int) -> Truth:
    frames = [Annotated(str(i), i, SE3(), boxes_at(i)) for i in range(samples)]
    return Truth.of_frames(NUSCENES, frames)


def found(truth: Truth, samples, offset: float = 0.0):
    kept = truth.boxes[np.isin(truth.boxes.sample, samples)]
    center = kept.center + [offset, 0, 0]
    return type(kept)(**{**vars(kept), "center": center, "score": np.full(len(kept), 0.9)})


def groups(samples: int) -> list[np.ndarray]:
    return [np.array([i]) for i in range(samples)]


def test_a_detector_does_not_differ_from_itself():
    own = truth(5)
    for difference in paired_differences(own, found(own, range(5)), found(own, range(5)), groups(5), 50, 0).values():
        assert difference.low == difference.high == 0 and not difference.is_clear
        assert difference.first == difference.second


def test_boxes_of_half_the_frames_against_all():
    """A car a frame. All found: AP of cars 1, mAP 0.1. Three of six: whatever is drawn, the second is no worse."""
    own = truth(6)
    half, whole = found(own, [0, 2, 4]), found(own, range(6))
    difference = paired_differences(own, half, whole, groups(6), 300, 0)["mAP"]
    assert difference.second == pytest.approx(0.1) and difference.first < 0.06
    assert 0 <= difference.low < difference.second - difference.first < difference.high <= 0.1 + 1e-12
    back = paired_differences(own, whole, half, groups(6), 300, 0)["mAP"]
    assert (back.low, back.high) == (pytest.approx(-difference.high), pytest.approx(-difference.low))


def test_an_error_that_is_the_same_everywhere_has_no_spread():
    """A quarter of a metre in every frame: mATE, a mean over ten classes, of which one is there."""
    own = truth(4)
    near = paired_differences(own, found(own, range(4)), found(own, range(4), 0.25), groups(4), 40, 1)["mATE"]
    step = near.second - near.first
    assert step > 0 and near.low == pytest.approx(step) and near.high == pytest.approx(step) and near.is_clear


def test_samples_that_belong_together_are_drawn_together():
    """One group of all samples: every draw is the whole."""
    own = truth(4)
    all_of_them = [np.arange(4)]
    difference = paired_differences(own, found(own, [0]), found(own, range(4)), all_of_them, 20, 0)["NDS"]
    assert difference.low == difference.high == pytest.approx(difference.second - difference.first)


def test_draws_depend_on_the_seed_alone():
    own = truth(6)
    runs = [paired_differences(own, found(own, [0, 1]), found(own, range(4)), groups(6), 30, s) for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_the_table():
    rows = table(
        {"mAP": Difference(0.5, 0.6, 0.05, 0.15), "NDS": Difference(0.5, 0.4, -0.2, 0.1)}, "a", "b"
    ).splitlines()
    assert rows[1].split() == ["mAP", "0.5000", "0.6000", "+0.1000", "+0.0500", "to", "+0.1500", "clear"]
    assert rows[2].split() == ["NDS", "0.5000", "0.4000", "-0.1000", "-0.2000", "to", "+0.1000"]


def test_the_command(tmp_path, capsys):
    root, checkpoint = tiny_world().write(tmp_path / "drive"), str(save_tiny_detector(tmp_path / "detector"))
    words = ["evaluate", "--checkpoint", checkpoint, "--root", str(root), "--against", checkpoint, "--device", "cpu"]
    run([*words, "--json", str(tmp_path / "out.json")])
    assert "6 frames, drawn 200 times" in capsys.readouterr().out
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["scores"]["mAP"]["low"] == report["scores"]["mAP"]["high"] == 0
    with pytest.raises(PerceptionError, match="--against: is for all sensors"):
        run([*words, "--sensors", "lidar"])
