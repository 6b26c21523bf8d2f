"""Replay: what a run leaves behind, that it is the same every time, and what an interrupted one leaves."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes_world import World

from perception.config import Config
from perception.data.nuscenes_files import DataError
from perception.data.opening import open_source
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.model.build import build
from perception.replay.compare import compare
from perception.replay.latency import table as latency_table
from perception.replay.pipeline import canonical_bytes, replay
from perception.replay.result import ResultFile
from perception.sample import Boxes3D, CameraImage, Detections, Frame, LidarCloud, PointCloud, RadarCloud
from perception.task import ObjectClass, Task
from perception.viz import Layout

SENSORS = ("camera", "radar", "lidar")

ROOT = Path(__file__).parents[1]
ALWAYS = {"results.json", "tracks.json", "result.jsonl", "replay.png", "summary.json"}


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


def frames_of(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_what_a_run_leaves(tmp_path):
    summary = replay(Oracle(), drive(), tmp_path / "out", score_threshold=0.5, about={"checkpoint": "oracle"})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*ALWAYS, "replay.mp4"}
    assert frames_of(tmp_path / "out/replay.mp4") == 5
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
    first, second = (replay(Oracle(), drive(), tmp_path / name, outputs=()) for name in "ab")
    assert first["detections_sha256"] == second["detections_sha256"]
    for name in ("results.json", "replay.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    fewer = replay(Oracle(), drive(4), tmp_path / "c", outputs=())
    assert fewer["detections_sha256"] != first["detections_sha256"]


def test_what_an_earlier_run_left_is_not_deleted_but_said(tmp_path, caplog):
    replay(Oracle(), drive(2), tmp_path, outputs=("mp4", "mcap"))
    assert {path.name for path in tmp_path.iterdir()} == {*ALWAYS, "replay.mp4", "replay.mcap"}
    (tmp_path / "replay.part.rrd").write_text("of an interrupted run")
    before = (tmp_path / "replay.mp4").read_bytes()
    replay(Oracle(), drive(3), tmp_path, outputs=("mcap",))
    names = {*ALWAYS, "replay.mp4", "replay.mcap", "replay.part.rrd"}
    assert {path.name for path in tmp_path.iterdir()} == names and (tmp_path / "replay.mp4").read_bytes() == before
    assert f"{tmp_path / 'replay.mp4'}: left as it is, of an earlier replay" in caplog.messages
    assert not any("replay.mcap" in message for message in caplog.messages)


def test_an_output_that_there_is_not_is_an_error(tmp_path):
    with pytest.raises(PerceptionError, match="mp4, rrd, mcap, live were expected, found 'avi'"):
        replay(Oracle(), drive(2), tmp_path, outputs=("avi",))


def test_a_detector_is_shown_only_the_sensors_asked_for(tmp_path):
    summary = replay(Oracle(), drive(2), tmp_path, outputs=(), sensors=("camera", "radar"))
    assert summary["frames_with"] == {"camera": 2, "radar": 2, "lidar": 0}
    assert not json.loads((tmp_path / "results.json").read_text())["meta"]["use_lidar"]


def test_a_single_frame_makes_a_video_and_a_cold_latency(tmp_path):
    summary = replay(Oracle(), drive(1), tmp_path)
    assert frames_of(tmp_path / "replay.mp4") == 1
    assert summary["latency"]["model"]["cold_ms"] >= 0 and summary["latency"]["model"]["p50_ms"] is None
    assert latency_table(summary["latency"]).splitlines()[-1].startswith("total")


def broken(error, after):
    for i, frame in enumerate(drive()):
        if i == after:
            raise error("in the middle")
        yield frame


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_error_leaves_results_of_before_and_readable_parts(tmp_path, after):
    (tmp_path / "results.json").write_text("of an earlier run")
    with pytest.raises(DataError):
        replay(Oracle(), broken(DataError, after), tmp_path)
    assert (tmp_path / "results.json").read_text() == "of an earlier run"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"results.json", "result.part.jsonl"} | ({"replay.part.mp4"} if after else set())
    assert len((tmp_path / "result.part.jsonl").read_text().splitlines()) == after
    if after:
        assert frames_of(tmp_path / "replay.part.mp4") == after
    replay(Oracle(), drive(2), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*ALWAYS, "replay.mp4"}


def test_ctrl_c_ends_a_run_as_the_end_of_the_drive_does(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        replay(Oracle(), broken(KeyboardInterrupt, 3), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*ALWAYS, "replay.mp4"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames"] == 3 and summary["complete"] is False
    assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == 3
    assert frames_of(tmp_path / "replay.mp4") == 3


def test_ctrl_c_before_the_first_frame_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        replay(Oracle(), broken(KeyboardInterrupt, 0), tmp_path)
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "replay.png").exists()


def test_ctrl_c_in_the_middle_of_a_frame_waits_for_its_end(tmp_path):
    class Impatient(Oracle):
        def decode(self, prediction):
            signal.raise_signal(signal.SIGINT)
            return super().decode(prediction)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        replay(Impatient(), drive(), tmp_path, outputs=())
    assert json.loads((tmp_path / "summary.json").read_text())["frames"] == 1
    assert len((tmp_path / "result.jsonl").read_text().splitlines()) == 1
    assert signal.getsignal(signal.SIGINT) is before


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

    replay(Noting(), noting(), tmp_path, outputs=())
    assert order == ["load 0", "detect 0", "load 1", "detect 1", "load 2", "detect 2"]


def test_an_empty_source_is_an_error(tmp_path):
    with pytest.raises(PerceptionError, match="at least one frame"):
        replay(Oracle(), iter([]), tmp_path)
    assert not {path.name for path in tmp_path.iterdir()} & {*ALWAYS, "replay.mp4"}


@pytest.mark.parametrize("out", ["file", "/proc/self", "taken"])
def test_an_output_that_cannot_be_written_is_known_at_once(tmp_path, out):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "replay.png").mkdir(parents=True)
    frames = drive(1)
    with pytest.raises(PerceptionError, match="cannot be written"):
        replay(Oracle(), frames, tmp_path / out)
    assert next(frames).token == "token-0"


def test_the_digest_sees_every_number():
    def one(time=7, x=1.0, score=0.5, label=0):
        boxes = Boxes3D([[x, 0, 0]], [[1, 1, 1]], [0], [[0, 0]], [label])
        return canonical_bytes(time, Detections(boxes, [score]))

    assert one() == one() and len({one(), one(8), one(x=1.0 + 1e-12), one(score=0.6), one(label=1)}) == 5
    assert canonical_bytes(1, Detections(Boxes3D.empty(), [])) == b"\1" + 15 * b"\0"


def test_a_real_scene_with_an_untrained_detector(real_scene, tmp_path):
    config = Config()
    config.encoders["camera"].image_size, config.encoders["camera"].weights = [64, 96], "none"
    detector = build(config).eval()
    source = open_source(real_scene, config, scenes=["scene-0523"], sensors=("camera", "radar"))
    frames = [source[0], source[1]]
    digests = {replay(detector, frames, tmp_path, outputs=())["detections_sha256"] for _ in range(2)}
    assert len(digests) == 1 and frames[0].sensors == SENSORS[:2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = Config()
    config.encoders["camera"].weights = "none"
    folder = tmp_path_factory.mktemp("checkpoint")
    build(config).save(folder)
    return folder


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere", "--checkpoint", "{checkpoint}"], "error: nowhere: a log was expected, found nothing"),
        (["{log}", "--checkpoint", "nothing"], "error: checkpoint 'nothing'"),
        (["{log}", "--checkpoint", "{checkpoint}", "--device", "gpu"], "error: --device: auto, cpu or cuda"),
    ],
)
def test_bad_input_is_one_line(tmp_path, checkpoint, arguments, message):
    World().write(tmp_path / "log")
    arguments = [argument.format(checkpoint=checkpoint, log=tmp_path / "log") for argument in arguments]
    command = [sys.executable, "tools/replay.py", *arguments, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (line,) = (line for line in done.stderr.splitlines() if " INFO " not in line)
    assert done.returncode == 2 and line.startswith(message)
    assert not (tmp_path / "out").exists()


def test_silent_faults_are_counted_and_kept_from_the_detector(tmp_path):
    """The LiDAR repeats its first cloud: moved for half a second, absent after that."""
    first, *rest = drive()
    frames = [first, *(dataclasses.replace(frame, lidar=first.lidar) for frame in rest)]
    seen = []

    class Watching(Oracle):
        def prepare(self, frames):
            seen.append(frames[0].sensors)
            return frames

    summary = replay(Watching(), frames, tmp_path, outputs=())
    assert summary["faults"] == {"lidar frozen": 4}
    assert seen == [SENSORS] * 2 + [("camera", "radar")] * 3


def test_frames_in_which_no_sensor_delivered_are_left_out_and_counted(tmp_path):
    """The camera has a gap, and is all that is asked for; then it is all that there is."""
    frames = [frame if i in (0, 3) else dataclasses.replace(frame, cameras=None) for i, frame in enumerate(drive())]
    summary = replay(Oracle(), frames, tmp_path, outputs=(), sensors=("camera",))
    assert (summary["frames"], summary["empty"], summary["skipped"]) == (2, 3, 0)
    assert [frame.token for frame in ResultFile(tmp_path)] == ["token-0", "token-3"]
    assert replay(Oracle(), frames, tmp_path, outputs=())["empty"] == 0
    with pytest.raises(
        PerceptionError, match="at least one frame was expected, the source has 2 without any of camera"
    ):
        replay(Oracle(), frames[1:3], tmp_path, outputs=(), sensors=("camera",))


def test_frames_that_cannot_be_read_are_skipped_and_counted(tmp_path):
    first, second, third = drive(3)
    summary = replay(Oracle(), [None, first, None, second, third, None], tmp_path / "a", outputs=())
    whole = replay(Oracle(), [first, second, third], tmp_path / "b", outputs=())
    assert (summary["frames"], summary["skipped"]) == (3, 3) and whole["skipped"] == 0
    assert summary["detections_sha256"] == whole["detections_sha256"]
    with pytest.raises(PerceptionError, match="at least one frame was expected"):
        replay(Oracle(), [None, None], tmp_path / "c", outputs=())


def test_a_sensor_that_the_detector_does_not_have_is_an_error(tmp_path):
    with pytest.raises(PerceptionError, match="sensors: some of camera, radar, lidar were expected, found 'sonar'"):
        replay(Oracle(), drive(2), tmp_path, sensors=("camera", "sonar"), outputs=())


class Ranger(Oracle):
    """Of three classes and one sensor, none of which nuScenes has."""

    task = Task([ObjectClass("ship", color=[1, 2, 3]), ObjectClass("buoy", heading="none"), ObjectClass("pier")], [])
    grid, sensors = Layout().grid, ("sonar",)


class SonarCloud(PointCloud):
    pass


def harbour():
    for i in range(3):
        boxes = Boxes3D([[10.0 + i, 0, 1], [20, 5, 1]], np.full((2, 3), 2.0), [0, 0], np.zeros((2, 2)), [0, 1])
        sonar = {"sonar": SonarCloud(np.ones((4, 3)))}
        yield Frame(f"token-{i}", i * 500_000_000, boxes=boxes, scene="harbour", others=sonar)


def test_other_classes_and_sensors_are_replayed_drawn_stored_and_compared(tmp_path):
    summary = replay(Ranger(), harbour(), tmp_path, outputs=("mp4", "rrd", "mcap"))
    assert summary["frames_with"] == {"sonar": 3} and set(summary["stability"]["classes"]) == {"ship", "buoy"}
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [box["detection_name"] for box in results["token-0"]] == ["ship", "buoy"]
    assert frames_of(tmp_path / "replay.mp4") == 3
    stored = ResultFile(tmp_path)
    assert (stored.task, stored.sensors) == (Ranger.task, ("sonar",))
    assert [frame.detections.boxes.label.tolist() for frame in stored] == [[0, 1]] * 3
    comparison = compare(tmp_path, tmp_path)
    assert not comparison.exceeded and comparison.total.a == 3 and set(comparison.classes) == {"ship"}  # buoys: 0.1
