"""The official tracking metric: metrics by hand on a small drive, and the truth of a real scene."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("motmetrics", reason="the tracking metric needs the nuscenes extra")
from test_evaluate import Thing, write_drive

from perception.data.nuscenes import NuScenes
from perception.eval.official import OfficialError
from perception.eval.official_tracking import score_tracks
from perception.eval.submission import ResultsWriter, to_world
from perception.eval.tracks import to_tracking_submission
from perception.sample import Detections
from perception.tracking import Tracker

THINGS = (
    Thing("vehicle.car", 10.0, 0.0, velocity=(2.0, 1.0)),
    Thing("vehicle.car", 25.0, 5.0),
    Thing("human.pedestrian.adult", 5.0, 10.0),
)
SAMPLES = 6


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> NuScenes:
    root = tmp_path_factory.mktemp("drive")
    write_drive(root, THINGS, SAMPLES, version="v1.0-sim", scene="drive")
    (scene,) = json.loads((root / "v1.0-sim/scene.json").read_text())
    rows = [{**scene, "last_sample_token": f"sample{SAMPLES - 1}"}]
    (root / "v1.0-sim/scene.json").write_text(json.dumps(rows))
    return NuScenes(root)


def submit(dataset: NuScenes, path, track) -> dict:
    """The metrics when the annotations of frame i, scored 1, get the ids that ``track`` gives them."""
    with ResultsWriter(path, ["lidar"]) as writer:
        for i, frame in enumerate(dataset.frames()):
            detections = Detections(frame.boxes, np.ones(len(frame.boxes)))
            writer.add(frame.token, to_tracking_submission(to_world(frame, detections), track(i, frame, detections)))
    return score_tracks(dataset, path)


def test_the_tracker_on_the_truth(drive, tmp_path):
    tracker = Tracker()
    metrics = submit(drive, tmp_path / "x.json", lambda i, frame, detections: tracker.step(frame, detections))
    assert (metrics["AMOTA"], metrics["MOTA"], metrics["RECALL"]) == (1.0, 1.0, 1.0)
    assert (metrics["AMOTP"], metrics["MOTP"]) == pytest.approx((0.0, 0.0), abs=1e-4)  # sklearn's rounding
    assert [metrics[name] for name in ("TP", "FP", "FN", "IDS", "FRAG", "MT", "ML")] == [18, 0, 0, 0, 0, 3, 0]
    assert metrics["classes"]["car"]["TP"] == 12 and metrics["classes"]["bus"]["AMOTA"] is None


def test_a_switch_is_counted(drive, tmp_path):
    """The first car is another one from frame 3 on: of 12 cars 11 are right, so MOTA is 11 / 12."""
    switched = submit(drive, tmp_path / "x.json", lambda i, *_: np.array([0 if i < 3 else 7, 1, 2]))
    assert switched["IDS"] == 1 and switched["classes"]["car"]["MOTA"] == pytest.approx(11 / 12)
    assert switched["classes"]["pedestrian"]["MOTA"] == 1.0


def test_nothing_tracked(drive, tmp_path):
    metrics = submit(drive, tmp_path / "x.json", lambda *_: np.full(3, -1))
    assert (metrics["AMOTA"], metrics["RECALL"], metrics["TP"], metrics["FN"]) == (0.0, 0.0, 0, 18)


def test_a_part_of_a_scene(drive, tmp_path):
    """Only the samples that are named are scored."""
    submit(drive, tmp_path / "x.json", lambda *_: np.arange(3))
    submission = json.loads((tmp_path / "x.json").read_text())
    submission["results"] = {token: rows for token, rows in submission["results"].items() if token != "sample0"}
    (tmp_path / "part.json").write_text(json.dumps(submission))
    metrics = score_tracks(drive, tmp_path / "part.json")
    assert (metrics["AMOTA"], metrics["TP"], metrics["IDS"]) == (1.0, 15, 0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "a submission, an object with meta and results, was expected"),
        ('{"results": []}', "a submission, .* was expected: Expected `object`"),
        ('{"meta": {}, "results": {}}', "at least one sample"),
        ('{"meta": {}, "results": {"elsewhere": []}}', "sample elsewhere is not in the dataset"),
        ('{"meta": {}, "results": {"sample0": [{}]}}', "sample sample0: Object missing required field `sample_token`"),
        ('{"meta": {}, "results": {"sample0": 3}}', "sample sample0: Expected `array`, got `int`"),
        ('{"results": {"sample0": []}}', "a submission, .* missing required field `meta`"),
        ('{"meta": {}, "results": {"sample0": ' + "[" * 100_000, "a submission, an object with meta and results, was"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_submission(drive, tmp_path, text, message):
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    with pytest.raises(OfficialError, match=f"x.json: {message}"):
        score_tracks(drive, tmp_path / "x.json")


@pytest.mark.slow
def test_the_truth_of_a_real_scene(real_scene, tmp_path):
    """Annotations that a sensor point hit, as detections. What is hidden for longer than a track lives is a switch."""
    tracker, dataset = Tracker(), NuScenes(real_scene, sensors=())

    def track(i, frame, detections):
        hit = frame.boxes.num_lidar_points + frame.boxes.num_radar_points > 0
        ids = np.full(len(hit), -1)
        ids[hit] = tracker.step(
            frame, dataclasses.replace(detections, boxes=frame.boxes[hit], scores=np.ones(hit.sum()))
        )
        return ids

    metrics = submit(dataset, tmp_path / "x.json", track)
    assert metrics["AMOTA"] > 0.97 and metrics["IDS"] <= 6
