"""Replay: what a run leaves behind, that it is the same every time, and what an interrupted one leaves."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.config import Config
from perception.data.nuscenes import open_source
from perception.data.nuscenes_files import DataError
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.model.detector import build
from perception.replay import Clock, Film, canonical_bytes, latency_table, replay
from perception.sample import SENSORS, Boxes3D, CameraImage, Detections, Frame, LidarCloud, RadarCloud

ROOT = Path(__file__).parents[1]


class Oracle:
    """Knows the answer: the boxes of the frame, scored by where they stand in the list."""

    def prepare(self, frames):
        return frames

    def __call__(self, batch):
        return [frame.boxes for frame in batch]

    def decode(self, prediction):
        return [Detections(boxes, np.linspace(0.9, 0.1, len(boxes))) for boxes in prediction]


def drive(frames=5, interval_s=0.5, image_size=(32, 64)):
    """A fake recording: one camera, five points, ever more boxes until the last but one frame."""
    rng = np.random.default_rng(0)
    for i in range(frames):
        n = i + 1 if i < frames - 1 else 0
        camera = CameraImage(np.full((*image_size, 3), 40 + 40 * i, np.uint8), np.eye(3), SE3(), 0)
        yield Frame(
            f"token-{i}",
            int(i * interval_s * 1e9),
            cameras={"CAM_FRONT": camera},
            radar=RadarCloud(rng.uniform(0, 9, (5, 7))),
            lidar=LidarCloud(rng.uniform(0, 9, (5, 5))),
            boxes=Boxes3D(rng.uniform(5, 30, (n, 3)), np.full((n, 3), 2.0), np.zeros(n), np.zeros((n, 2)), np.zeros(n)),
            scene="fake",
        )


def frames_of(video: Path) -> tuple[int, float]:
    capture = cv2.VideoCapture(str(video))
    rate, count = capture.get(cv2.CAP_PROP_FPS), 0
    while capture.read()[0]:
        count += 1
    return count, rate


def test_what_a_run_leaves(tmp_path):
    summary = replay(Oracle(), drive(), tmp_path / "out", score_threshold=0.5, about={"checkpoint": "oracle"})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "replay.mp4", "replay.png", "summary.json"}
    assert frames_of(tmp_path / "out/replay.mp4") == (5, 2.0)
    assert cv2.imread(str(tmp_path / "out/replay.png")).shape == (1080, 1920, 3)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["meta"]["use_camera"] and results["meta"]["use_radar"] and results["meta"]["use_lidar"]
    assert {token: len(boxes) for token, boxes in results["results"].items()} == {
        f"token-{i}": n for i, n in enumerate((1, 2, 3, 4, 0))
    }
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["frames"] == 5 and summary["scenes"] == {"fake": 5} and summary["checkpoint"] == "oracle"
    assert summary["frames_with"] == {"camera": 5, "radar": 5, "lidar": 5}
    # Of 1, 2, 3 and 4 boxes between 0.9 and 0.1, these are at least 0.5: 1, 1, 2, 2.
    assert summary["detections"] == 10 and summary["detections_drawn"] == 6


def test_two_runs_are_the_same(tmp_path):
    first, second = (replay(Oracle(), drive(), tmp_path / name, video=False) for name in "ab")
    assert first["detections_sha256"] == second["detections_sha256"]
    for name in ("results.json", "replay.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    fewer = replay(Oracle(), drive(4), tmp_path / "c", video=False)
    assert fewer["detections_sha256"] != first["detections_sha256"]


def test_without_video_nothing_is_filmed(tmp_path):
    replay(Oracle(), drive(2), tmp_path, video=False)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "replay.png", "summary.json"}


def test_without_video_that_of_an_earlier_run_goes(tmp_path):
    replay(Oracle(), drive(2), tmp_path)
    (tmp_path / "replay.part.mp4").write_text("of an interrupted run")
    replay(Oracle(), drive(3), tmp_path, video=False)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "replay.png", "summary.json"}


def test_a_video_that_got_no_frames_is_an_error(tmp_path, monkeypatch):
    class Full:
        """What cv2.VideoWriter does on a full disk: nothing, and it says so nowhere."""

        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, path, *format):
            Path(path).write_bytes(b"\0" * 48)

        def isOpened(self):
            return True

        def write(self, picture):
            pass

        release = isOpened

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with pytest.raises(PerceptionError, match="2 frames were expected, found 0"):
        replay(Oracle(), drive(2), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["replay.part.mp4"]


def test_a_detector_is_shown_only_the_sensors_asked_for(tmp_path):
    summary = replay(Oracle(), drive(2), tmp_path, video=False, sensors=("camera", "radar"))
    assert summary["frames_with"] == {"camera": 2, "radar": 2, "lidar": 0}
    assert not json.loads((tmp_path / "results.json").read_text())["meta"]["use_lidar"]


def test_a_single_frame_makes_a_video_and_a_cold_latency(tmp_path):
    summary = replay(Oracle(), drive(1), tmp_path)
    assert frames_of(tmp_path / "replay.mp4") == (1, 1.0)
    assert summary["latency"]["model"]["cold_ms"] >= 0 and summary["latency"]["model"]["median_ms"] is None
    assert latency_table(summary).splitlines()[-1].startswith("total")


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_run_leaves_nothing_half_done(tmp_path, error, after):
    def broken():
        for i, frame in enumerate(drive()):
            if i == after:
                raise error("in the middle")
            yield frame

    (tmp_path / "results.json").write_text("of an earlier run")
    with pytest.raises(error):
        replay(Oracle(), broken(), tmp_path)
    filmed = {"replay.part.mp4"} if after else set()
    assert {path.name for path in tmp_path.iterdir()} == {"results.json"} | filmed
    assert (tmp_path / "results.json").read_text() == "of an earlier run"
    if after:
        assert frames_of(tmp_path / "replay.part.mp4")[0] == after
    replay(Oracle(), drive(2), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "replay.mp4", "replay.png", "summary.json"}


def test_frames_are_pulled_one_by_one(tmp_path):
    order = []

    class Noting(Oracle):
        def prepare(self, frames):
            order.append(f"detect {frames[0].token[-1]}")
            return frames

    def noting():
        for frame in drive(3):
            order.append(f"load {frame.token[-1]}")
            yield frame

    replay(Noting(), noting(), tmp_path, video=False)
    assert order == ["load 0", "detect 0", "load 1", "detect 1", "load 2", "detect 2"]


def test_an_empty_source_is_an_error(tmp_path):
    with pytest.raises(PerceptionError, match="at least one frame"):
        replay(Oracle(), iter([]), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file", "/proc/self", "taken"])
def test_an_output_that_cannot_be_written_is_known_at_once(tmp_path, out):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "replay.png").mkdir(parents=True)
    frames = drive(1)
    with pytest.raises(PerceptionError, match="cannot be written"):
        replay(Oracle(), frames, tmp_path / out)
    assert next(frames).token == "token-0"


def test_the_digest_sees_every_number():
    def one(x=1.0, score=0.5, label=0):
        boxes = Boxes3D([[x, 0, 0]], [[1, 1, 1]], [0], [[0, 0]], [label])
        return canonical_bytes("t", Detections(boxes, [score]))

    assert one() == one() and len({one(), one(x=1.0 + 1e-12), one(score=0.6), one(label=1)}) == 4
    assert canonical_bytes("u", Detections(Boxes3D.empty(), [])) == b"u\0" + 8 * b"\0"


def test_latency_sets_the_first_frame_apart():
    clock = Clock()
    clock._seconds = {"load": [9.0, 0.001, 0.002, 0.003], "model": [1.0, 0.01, 0.01, 0.01]}
    summary = clock.summary()
    assert summary["load"] == pytest.approx({"cold_ms": 9000, "median_ms": 2, "p90_ms": 2.8, "max_ms": 3})
    assert summary["total"]["cold_ms"] == pytest.approx(10000) and summary["total"]["median_ms"] == pytest.approx(12)
    assert clock.last_ms("load", "model") == pytest.approx(13)


@pytest.mark.parametrize("interval_s, rate", [(0.1, 10.0), (0.0, 60.0), (-1.0, 60.0), (100.0, 1.0)])
def test_the_video_runs_at_the_pace_of_the_recording(tmp_path, interval_s, rate):
    with Film(tmp_path / "v.mp4") as film:
        for i in range(3):
            film.add(np.full((64, 64, 3), 80 * i, np.uint8), int(i * interval_s * 1e9))
    assert frames_of(tmp_path / "v.mp4") == (3, pytest.approx(rate, rel=0.01))


def test_a_real_scene_with_an_untrained_detector(real_scene, tmp_path):
    config = Config()
    config.camera.image_size, config.camera.weights = [64, 96], "none"
    detector = build(config).eval()
    source = open_source(real_scene, config.data, scenes=["scene-0523"], sensors=("camera", "radar"))
    frames = [source[0], source[1]]
    digests = {replay(detector, frames, tmp_path, video=False)["detections_sha256"] for _ in range(2)}
    assert len(digests) == 1 and frames[0].sensors == SENSORS[:2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere", "--checkpoint", "nothing"], "error: checkpoint 'nothing'"),
        (["nowhere", "--checkpoint", "nothing", "--device", "gpu"], "error: --device: auto, cpu or cuda"),
        (["nowhere", "--checkpoint", "{checkpoint}"], "error: nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, message):
    config = Config()
    config.camera.weights = "none"
    build(config).save(tmp_path / "checkpoint")
    arguments = [argument.format(checkpoint=tmp_path / "checkpoint") for argument in arguments]
    command = [sys.executable, "tools/replay.py", *arguments, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1


def test_silent_faults_are_counted_and_kept_from_the_detector(tmp_path):
    """The LiDAR repeats its first cloud: moved for half a second, absent after that."""
    first, *rest = drive()
    frames = [first, *(dataclasses.replace(frame, lidar=first.lidar) for frame in rest)]
    seen = []

    class Watching(Oracle):
        def prepare(self, frames):
            seen.append(frames[0].sensors)
            return frames

    summary = replay(Watching(), frames, tmp_path, video=False)
    assert summary["faults"] == {"lidar frozen": 4}
    assert seen == [SENSORS] * 2 + [("camera", "radar")] * 3
