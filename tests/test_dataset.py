"""Logs as data sets in the nuScenes layout: which frames are samples, where boxes are, and what is refused."""

import json
import re

import numpy as np
import pytest
from memory_log import START_NS, MemoryLog, calibration, cloud, drive, every, image, transform
from tiny_drive import save_tiny_detector

pytest.importorskip("foxglove")
pytest.importorskip("mcap_protobuf")

import perception
from perception.cli import run
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.logs.convert import convert
from perception.logs.mcap_writer import McapLogWriter
from perception.replay import fleet
from perception.replay.result import LinesSink
from perception.replay.step import Step
from perception.sample import Boxes3D, Detections, Frame
from perception.task import CLASSES, ObjectClass, Task

CAR, PEDESTRIAN = CLASSES.index("car"), CLASSES.index("pedestrian")


def write_drive(path):
    """Two seconds at 20 m/s along x, a LiDAR of 10 Hz 2 m above the ground that sees points 10 m ahead of it."""
    log = MemoryLog()
    log.add("/tf", transform("base_link", "lidar_top", static=True), [0.0])
    log.add("/lidar_top", cloud("lidar_top"), every(0.1, 2.0))
    drive(log, "map", "base_link", every(0.05, 2.1))
    return written(log, path)


def written(log, path):
    with McapLogWriter(path) as writer:
        convert(log.as_recorded(), writer)
    return path


def stamp_ns(time_s):
    return START_NS + round(time_s * 1e9)


def box(time_s, x, y, score, name="car", token=None):
    """A record of a submission: in the world, of width 2, length 4 and height 1.5, looking along y."""
    return {
        "sample_token": token or str(stamp_ns(time_s)), "translation": [x, y, 1.0], "size": [2.0, 4.0, 1.5],
        "rotation": [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)], "velocity": [4.0, 0.0], "detection_name": name,
        "detection_score": score, "attribute_name": "vehicle.moving" if name == "car" else "",
    }  # fmt: skip


def submission(path, *boxes):
    results = {}
    for row in boxes:
        results.setdefault(row["sample_token"], []).append(row)
    path.write_text(json.dumps({"meta": {}, "results": results}))
    return path


def to_nuscenes(out, *arguments):
    return run(["convert", *map(str, arguments), "--to", "nuscenes", "--out", str(out)])


def table(root, name):
    return json.loads((root / "v1.0-own" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp("log") / "drive.mcap")


@pytest.fixture
def boxed(log, tmp_path):
    """The car is 50 m ahead at first, and drives on by 4 m/s; one of a low score is beside it."""
    times = [0.0, 0.5, 1.0, 1.5]
    rows = [box(t, 50 + 4 * t, 3.0, 0.9) for t in times] + [box(t, 20.0, -8.0, 0.2, "pedestrian") for t in times]
    to_nuscenes(tmp_path / "own", log, "--boxes", submission(tmp_path / "boxes.json", *rows))
    return tmp_path / "own"


def test_boxes_of_a_file(boxed):
    dataset = perception.NuScenes(boxed, lidar_sweeps=1)
    assert dataset.scenes == ["drive"] and len(dataset) == 4
    for i, frame in enumerate(dataset):
        t = 0.5 * i
        assert frame.timestamp_ns == stamp_ns(t) and frame.sensors == ("lidar",)
        np.testing.assert_allclose(frame.world_SE3_ego.translation, [20 * t, 0, 0], atol=1e-6)
        np.testing.assert_allclose(frame.lidar.points[:, :3], [[10, 0, 0]] * 7, atol=1e-5)
        assert frame.boxes.label.tolist() == [CAR]
        np.testing.assert_allclose(frame.boxes.center, [[50 - 16 * t, 3, 1]], atol=1e-6)
        np.testing.assert_allclose(frame.boxes.size, [[4, 2, 1.5]])
        np.testing.assert_allclose(frame.boxes.yaw, [np.pi / 2], atol=1e-6)
        np.testing.assert_allclose(frame.boxes.velocity, [[4, 0]], atol=1e-5)
        assert frame.boxes.num_lidar_points.tolist() == [0] and frame.boxes.num_radar_points.tolist() == [0]
    assert [row["score"] for row in table(boxed, "sample_annotation")] == [0.9] * 4
    assert len(table(boxed, "instance")) == 1


def test_what_is_between_samples_becomes_sweeps(boxed):
    """The third sample's cloud is of 0.6 to 1 s; the points that it adds were seen from 2 m further back each."""
    points = perception.NuScenes(boxed, lidar_sweeps=5)[2].lidar.points
    np.testing.assert_allclose(points[:, 0], np.repeat([10, 8, 6, 4, 2], 7), atol=1e-4)
    np.testing.assert_allclose(points[:, 4], np.repeat([0, 0.1, 0.2, 0.3, 0.4], 7), atol=1e-6)


def test_the_devkit_loads_it(boxed):
    devkit = pytest.importorskip("nuscenes")
    tables = devkit.NuScenes("v1.0-own", str(boxed), verbose=False)
    assert len(tables.sample) == 4 and len(tables.sample_data) == 21
    (_, boxes, _) = tables.get_sample_data(tables.sample[1]["data"]["LIDAR_TOP"])
    np.testing.assert_allclose(boxes[0].center, [42, 3, 1], atol=1e-6)
    np.testing.assert_allclose(tables.box_velocity(tables.sample[1]["anns"][0]), [4, 0, 0], atol=1e-5)
    assert tables.sample_annotation[0]["score"] == 0.9


def test_without_boxes(log, tmp_path, capsys):
    to_nuscenes(tmp_path, log)
    dataset = perception.NuScenes(tmp_path)
    assert [frame.timestamp_ns for frame in dataset] == [stamp_ns(t) for t in (0, 0.5, 1, 1.5, 2)]
    assert not dataset.annotated and "scenes: 1" in capsys.readouterr().out
    with pytest.raises(PerceptionError, match="a version that is not there yet was expected"):
        to_nuscenes(tmp_path, log)


def test_a_log_that_no_box_is_of_is_left_out(log, tmp_path, capsys):
    other = MemoryLog()
    other.add("/tf", transform("base_link", "lidar_top", static=True), [0.0])
    other.add("/lidar_top", cloud("lidar_top"), every(0.1, 1.0))
    drives = [log, written(other, tmp_path / "b.mcap")]
    boxes = submission(tmp_path / "boxes.json", box(1.8, 50, 3, 0.9))  # when the other has ended
    to_nuscenes(tmp_path / "own", *drives, "--boxes", boxes)
    assert perception.NuScenes(tmp_path / "own").scenes == ["drive"]
    said = capsys.readouterr().out
    assert "b.mcap: scene 'b' left out: there are boxes for none of its frames" in said and "scenes: 1" in said
    assert not [path for path in (tmp_path / "own").rglob("*") if "__b__" in path.name]
    with pytest.raises(PerceptionError, match=r"boxes of the frames of .*b\.mcap were expected, found none"):
        to_nuscenes(tmp_path / "none", drives[1], "--boxes", submission(tmp_path / "empty.json"))
    assert not (tmp_path / "none/v1.0-own").exists()


def test_names_of_logs_become_names_of_scenes(log, tmp_path):
    """Anything else than letters, digits, dots, underscores and hyphens would be refused when it is written."""
    for name in ("my drive (1)", "_b"):
        (tmp_path / f"{name}.mcap").write_bytes(log.read_bytes())
        to_nuscenes(tmp_path / name, tmp_path / f"{name}.mcap")
    to_nuscenes(tmp_path / "both", tmp_path / "*.mcap")
    assert perception.NuScenes(tmp_path / "my drive (1)").scenes == ["my-drive--1-"]
    assert perception.NuScenes(tmp_path / "_b").scenes == ["b"]
    assert sorted(perception.NuScenes(tmp_path / "both").scenes) == ["b", "my-drive--1-"]


def test_logs_of_one_name_are_refused_before_any_is_replayed(log, tmp_path, detector_folder, monkeypatch):
    monkeypatch.setattr(fleet, "run_fleet", lambda *given, **named: pytest.fail("replayed"))
    for name in ("a b", "a-b"):
        (tmp_path / f"{name}.mcap").write_bytes(log.read_bytes())
    with pytest.raises(PerceptionError, match=r"a-b\.mcap: another scene's name than .*a b\.mcap .* 'a-b'"):
        to_nuscenes(tmp_path / "own", tmp_path / "*.mcap", "--pseudo-labels", detector_folder)


def test_one_camera_and_no_pose(tmp_path):
    recording = MemoryLog()
    recording.add("/tf", transform("base_link", "front", x=1.5, static=True), [0.0])
    recording.add("/front/camera_info", calibration("front"), every(0.1, 1.0))
    recording.add("/front/image_rect", image("front"), every(0.1, 1.0), type_="foxglove.RawImage")
    log = written(recording, tmp_path / "one.mcap")
    rows = [box(t, 10.0, 1.0, 1.0) for t in (0.0, 0.5, 1.0)]
    to_nuscenes(tmp_path / "own", log, "--boxes", submission(tmp_path / "boxes.json", *rows))
    dataset = perception.NuScenes(tmp_path / "own")
    assert len(dataset) == 3
    for frame in dataset:
        (camera,) = frame.cameras.values()
        assert frame.lidar is None and frame.radar is None and camera.image.shape == (48, 64, 3)
        np.testing.assert_array_equal(frame.world_SE3_ego.matrix, np.eye(4))
        np.testing.assert_allclose(camera.ego_SE3_camera.translation, [1.5, 0, 0])
        np.testing.assert_allclose(frame.boxes.center, [[10, 1, 1]], atol=1e-6)
        assert frame.boxes.measured.all()  # by a camera, for all that is known


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def scripted(monkeypatch, detector_folder):
    """A detector that sees a car 30 m ahead, which keeps its distance, and something that it is not sure of."""
    detector = perception.load(str(detector_folder), device="cpu")
    boxes = Boxes3D(
        np.array([[30.0, 2, 1], [5, -5, 1]]), np.ones((2, 3)), np.zeros(2), np.array([[20.0, 0], [0, 0]]),
        np.array([CAR, PEDESTRIAN]),
    )  # fmt: skip
    detector.decode = lambda prediction: [Detections(boxes, np.array([0.8, 0.25]))]
    monkeypatch.setattr(fleet, "_load", lambda checkpoint, device: detector)
    here = lambda run, jobs, workers: ((i, fleet._work(run, job)) for i, job in enumerate(jobs))  # noqa: E731
    monkeypatch.setitem(fleet._ENGINES, "local", here)
    return ["--pseudo-labels", detector_folder, "--device", "cpu"]


def test_pseudo_labels(scripted, log, tmp_path):
    to_nuscenes(tmp_path, log, *scripted)
    dataset = perception.NuScenes(tmp_path)
    assert len(dataset) == 5
    for frame in dataset:
        np.testing.assert_allclose(frame.boxes.center, [[30, 2, 1]], atol=1e-6)
        np.testing.assert_allclose(frame.boxes.velocity, [[20, 0]], atol=1e-5)
    assert {row["score"] for row in table(tmp_path, "sample_annotation")} == {0.8}
    assert len(table(tmp_path, "instance")) == 1


def test_many_logs_become_scenes_and_what_is_done_is_kept(scripted, tmp_path, capsys):
    for name in ("a", "b"):
        write_drive(tmp_path / f"{name}.mcap")
    (tmp_path / "bad.mcap").write_bytes(b"noise")
    command = [tmp_path / "own", tmp_path / "*.mcap", *scripted, "--frame-rate", "1", "--min-score", "0.2"]
    with pytest.raises(
        PerceptionError, match=r"3 logs were expected to be replayed, 1 were not: bad: failed: .*bad\.mcap"
    ):
        to_nuscenes(*command)
    assert not (tmp_path / "own/v1.0-own").exists()
    to_nuscenes(*command, "--skip-damaged")
    dataset = perception.NuScenes(tmp_path / "own")
    assert dataset.scenes == ["a", "b"] and [len(frame.boxes) for frame in dataset] == [2] * 6
    capsys.readouterr()
    to_nuscenes(tmp_path / "again", tmp_path / "a.mcap", tmp_path / "b.mcap", "--boxes", tmp_path / "own/replays")
    assert [len(frame.boxes) for frame in perception.NuScenes(tmp_path / "again")] == [1] * 6


def write_result(folder, times, task, complete=True):
    folder.mkdir()
    found = Boxes3D(np.array([[9.0, 0, 1]]), np.ones((1, 3)), np.zeros(1), np.full((1, 2), np.nan), np.zeros(1, int))
    with LinesSink(folder / "result.jsonl", task, ("lidar",)) as sink:
        for i, t in enumerate(times):
            frame = Frame(str(i), stamp_ns(t), SE3(), scene="drive")
            sink.add(Step(i, frame, Detections(found, np.array([0.5])), np.array([-1]), {}, {}))
    (folder / "summary.json").write_text(json.dumps({"complete": complete}))
    return folder


def test_other_classes(log, tmp_path):
    """A class takes the category of its first source, and what is read by the same task has the class again."""
    task = Task([ObjectClass("vehicle", sources=["truck", "car"]), ObjectClass("pedestrian")], attributes=[])
    to_nuscenes(tmp_path / "own", log, "--boxes", write_result(tmp_path / "replay", [0.0, 1.0], task))
    frames = list(perception.NuScenes(tmp_path / "own", task=task))
    assert [frame.timestamp_ns for frame in frames] == [stamp_ns(0), stamp_ns(1)]
    assert [frame.boxes.label.tolist() for frame in frames] == [[0], [0]]
    assert len(table(tmp_path / "own", "instance")) == 2  # of no track


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: submission(folder / "b.json", box(0.25, 9, 0, 1.0)), f"those of others: {stamp_ns(0.25)}"),
        (lambda folder: submission(folder / "b.json", box(0.0, 9, 0, 1.0, "tram")), "b.json: sample .* a known class"),
        (lambda folder: folder / "b.json", r"b\.json: cannot be read"),
        (lambda folder: folder, "the result of a replay was expected, found none"),
        (lambda folder: write_result(folder / "r", [0.0], Task(), False), "one that was interrupted"),
        (lambda folder: write_result(folder / "r", [0.03], Task()), f"others: drive at {stamp_ns(0.03)} ns"),
    ],
)
def test_boxes_that_are_not_of_the_log(log, tmp_path, make, message):
    with pytest.raises(PerceptionError, match=message) as error:
        to_nuscenes(tmp_path / "own", log, "--boxes", make(tmp_path))
    assert "\n" not in str(error.value) and not (tmp_path / "own/v1.0-own").exists()


def test_a_damaged_log(log, tmp_path, capsys):
    (tmp_path / "cut.mcap").write_bytes(log.read_bytes()[:-2000])
    to_nuscenes(tmp_path / "own", tmp_path / "cut.mcap")
    assert "cut.mcap: " in capsys.readouterr().out  # says where it stopped
    assert perception.NuScenes(tmp_path / "own").scenes == ["cut"]
    (tmp_path / "noise.mcap").write_bytes(b"noise")
    with pytest.raises(PerceptionError, match=r"noise\.mcap: "):
        to_nuscenes(tmp_path / "none", tmp_path / "noise.mcap")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "mcap", "--boxes", "b.json"], "--boxes: is for --to nuscenes"),
        (["--to", "ros2", "--frame-rate", "2"], "--frame-rate: is for --to nuscenes"),
        (["--to", "nuscenes", "--repeat", "2"], "--repeat: is for logs that stay logs"),
        (["--to", "nuscenes", "--frame-rate", "0"], "--frame-rate: a number above 0"),
    ],
)
def test_options_that_do_not_go_together(log, tmp_path, arguments, message):
    with pytest.raises(PerceptionError, match=re.escape(message)):
        run(["convert", str(log), "--out", str(tmp_path / "out"), *arguments])
