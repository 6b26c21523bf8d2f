"""What a score is worth: which detections are right, and that calibrated scores say how often that is so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from test_model import make_frame, small_config

from perception.eval.calibration import (
    MatchedDetections,
    calibrate,
    classification_report,
    confusion,
    expected_error,
    fit,
    match_all,
    matched,
    reliability,
)
from perception.eval.truth import EvaluationError
from perception.model.build import build
from perception.sample import Boxes3D, Detections, sensor_set, sensor_sets
from perception.task import CLASSES, NUSCENES

CAR, TRUCK, BUS = (CLASSES.index(name) for name in ("car", "truck", "bus"))
NOTHING = len(CLASSES)


def boxes(*where: tuple[float, float, int]) -> Boxes3D:
    """Cars and the like at (x, y, label)."""
    x, y, label = np.array(where, dtype=float).reshape(-1, 3).T
    n = len(where)
    return Boxes3D(np.c_[x, y, np.zeros(n)], np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)), label)


def detections(*scored: tuple[float, float, int, float]) -> Detections:
    return Detections.sorted(boxes(*[row[:3] for row in scored]), np.array([row[3] for row in scored], dtype=float))


NONE = detections()


@pytest.mark.parametrize(
    ("found", "truth", "right"),
    [
        (detections((1, 0, CAR, 0.5)), boxes((0, 0, CAR)), [True]),
        (detections((1.9, 0, CAR, 0.5)), boxes((0, 0, CAR)), [True]),
        (detections((2.0, 0, CAR, 0.5)), boxes((0, 0, CAR)), [False]),
        (detections((1, 0, TRUCK, 0.5)), boxes((0, 0, CAR)), [False]),
        # One car found twice: the better detection has it, however far.
        (detections((0, 0, CAR, 0.4), (1, 0, CAR, 0.5)), boxes((0, 0, CAR)), [True, False]),
        # Two cars: the best takes the nearer one, the next what is left.
        (detections((1, 0, CAR, 0.9), (0, 0, CAR, 0.8)), boxes((0, 0, CAR), (1.5, 0, CAR)), [True, True]),
        (detections((0.7, 0, CAR, 0.9), (0, 0, CAR, 0.8)), boxes((0, 0, CAR), (2.5, 0, CAR)), [True, False]),
        # A nearer box of another class is not in the way.
        (detections((0, 0, CAR, 0.5)), boxes((0, 0, TRUCK), (1, 0, CAR)), [True]),
        (detections((0, 0, CAR, 0.5)), boxes(), [False]),
        (NONE, boxes((0, 0, CAR)), []),
        (NONE, boxes(), []),
    ],
)
def test_which_detections_are_right(found, truth, right):
    assert matched(found, truth, NUSCENES).tolist() == right


@pytest.mark.parametrize(
    ("found", "truth", "pairs"),
    [
        (detections((1, 0, CAR, 0.5)), boxes((0, 0, CAR)), [(CAR, CAR)]),
        (detections((1, 0, TRUCK, 0.5)), boxes((0, 0, CAR)), [(CAR, TRUCK)]),
        (detections((3, 0, TRUCK, 0.5)), boxes((0, 0, CAR)), [(NOTHING, TRUCK), (CAR, NOTHING)]),
        (detections((0, 0, CAR, 0.29)), boxes((0, 0, CAR)), [(CAR, NOTHING)]),
        # The better detection has the only box there is, the other one stands for nothing.
        (detections((0, 0, BUS, 0.4), (1, 0, TRUCK, 0.5)), boxes((0, 0, BUS)), [(BUS, TRUCK), (NOTHING, BUS)]),
        (detections((0, 0, CAR, 0.5)), boxes((0, 0, TRUCK), (1, 0, CAR)), [(TRUCK, CAR), (CAR, NOTHING)]),
        (detections((0, 0, CAR, 0.5)), boxes(), [(NOTHING, CAR)]),
        (NONE, boxes((0, 0, CAR), (5, 0, BUS)), [(CAR, NOTHING), (BUS, NOTHING)]),
        (NONE, boxes(), []),
    ],
)
def test_what_is_taken_for_what(found, truth, pairs):
    true, seen_as = confusion(found, truth, NUSCENES, confident=0.3)
    assert list(zip(true.tolist(), seen_as.tolist())) == pairs


def draws(slope: float, offset: float, n: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and whether each was right, of a detector whose logits are off by just that."""
    rng = np.random.default_rng(0)
    score = expit(rng.normal(-1.5, 1.5, n))
    return score, rng.random(n) < expit(slope * logit(score) + offset)


def calibrated(score: np.ndarray, slope: float, offset: float) -> np.ndarray:
    return expit(slope * logit(score) + offset)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7)])
def test_slope_and_offset_are_found_again(slope, offset):
    np.testing.assert_allclose(fit(*draws(slope, offset)), (slope, offset), atol=0.05)


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (2.0, 0.7)])
def test_calibrated_scores_say_how_often_they_are_right_and_keep_their_order(slope, offset):
    score, right = draws(slope, offset)
    after = calibrated(score, *fit(score, right))
    assert expected_error(after, right) < 0.01 < 0.05 < expected_error(score, right)
    assert (np.diff(after[np.argsort(score)]) >= 0).all()


def test_scores_of_0_and_1_and_a_detector_that_is_always_right_can_be_fitted():
    for right in ([True, True], [False, False], [False, True]):
        slope, offset = fit(np.array([0.0, 1.0]), np.array(right))
        assert slope > 0 and np.isfinite([slope, offset]).all()


def test_expected_error_by_hand():
    """Two of 0.9 and both right: off by 0.1. Two of 0.5 of which one is right: off by 0. One of 1.0 that is not."""
    score, right = np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, True, True, False])
    assert expected_error(score, right) == pytest.approx(0.05)
    assert expected_error(np.array([1.0]), np.array([False])) == 1.0
    assert expected_error(np.zeros(0), np.zeros(0, bool)) is None
    assert reliability(score, right) == [(0.5, 0.5, 2), (pytest.approx(0.9), 1.0, 2)]


def test_errors_of_opposite_sign_do_not_cancel_across_bins():
    assert expected_error(np.array([0.1, 0.9]), np.array([True, False])) == pytest.approx(0.9)


def test_a_report_by_hand():
    matches = MatchedDetections(
        score=np.array([0.9, 0.2]),
        right=np.array([True, False]),
        label=np.array([CAR, TRUCK]),
        truth=np.array([CAR, CAR, BUS]),
        seen_as=np.array([CAR, TRUCK, NOTHING]),
    )
    report = classification_report({"radar": matches}, NUSCENES)["radar"]
    assert report["ECE"] == pytest.approx((0.1 + 0.2) / 2)
    errors = report["ECE_by_class"]
    assert errors["car"] == pytest.approx(0.1) and errors["truck"] == pytest.approx(0.2) and errors["bus"] is None
    matrix = np.array(report["confusion"])
    assert matrix.shape == (11, 11) and matrix.sum() == 3
    assert matrix[CAR, CAR] == matrix[CAR, TRUCK] == matrix[BUS, NOTHING] == 1


class Oracle:
    """Finds the car of make_frame, one that is not there and one beyond what the metric looks at; no pedestrian."""

    task, sensors = NUSCENES, ("camera", "radar", "lidar")

    def detect(self, frame):
        return detections((5, 2, CAR, 0.9), (90, 0, CAR, 0.8), (20, 0, CAR, 0.1))


def test_what_is_out_of_range_is_not_matched():
    (matches,) = match_all(Oracle(), [make_frame(), make_frame("b")], [["lidar"]]).values()
    assert matches.score.tolist() == [0.9, 0.1] * 2 and matches.right.tolist() == [True, False] * 2
    pedestrian = CLASSES.index("pedestrian")
    assert list(zip(matches.truth, matches.seen_as)) == [(CAR, CAR), (pedestrian, NOTHING)] * 2


def test_a_detector_is_calibrated_for_every_set_of_sensors():
    torch.manual_seed(0)
    detector, frame = build(small_config("head.max_detections=50")).eval(), make_frame()
    before = {
        sensor_set(subset, detector.sensors): detector.detect(frame.only(subset))
        for subset in sensor_sets(detector.sensors)
    }
    fitted = calibrate(detector, [frame])
    assert fitted.keys() == before.keys() and len(fitted) == 7
    for name, (slope, offset) in fitted.items():
        after = detector.detect(frame.only(name.split("+")))
        np.testing.assert_allclose(after.scores, calibrated(before[name].scores, slope, offset), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(after.boxes.center, before[name].boxes.center)
    again = calibrate(detector, [frame])  # starts from what the network says, not from what was fitted before
    np.testing.assert_allclose(list(again.values()), list(fitted.values()), rtol=1e-3, atol=1e-3)


def test_sets_that_the_drives_do_not_have_stay_as_they_are(caplog):
    torch.manual_seed(0)
    detector = build(small_config("head.max_detections=50")).eval()
    detector.calibration.by_set = {"radar": (2.0, 0.5), "camera": (3.0, 1.0)}
    fitted = calibrate(detector, [make_frame().only(["camera", "lidar"])])
    assert set(fitted) == {"camera+lidar", "camera", "lidar"}
    assert detector.calibration.by_set == {"radar": (2.0, 0.5), **fitted}
    assert "left as they are, without a detection: camera+radar+lidar, camera+radar, radar+lidar, radar" in caplog.text


def test_nothing_to_calibrate_on_is_an_error_and_changes_nothing():
    detector = build(small_config()).eval()
    detector.calibration.by_set = before = {"radar": (2.0, 0.5)}
    unlabelled, empty = replace(make_frame(), boxes=None), replace(make_frame(), boxes=Boxes3D.empty())
    for frames in ([], [None], [unlabelled], [empty]):
        with pytest.raises(EvaluationError, match=f"were expected in {len(frames)} frames, found detections of"):
            calibrate(detector, frames)
        assert detector.calibration.by_set is before
