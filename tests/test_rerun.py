"""Replay as a Rerun recording: what is read back from the file, and what is left after an error."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from frames import CAMERAS, FRAMES, make_frame

from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.replay.rerun_log import CHASE, EYE, RerunSink, at_most
from perception.replay.step import Step
from perception.sample import Boxes3D, CameraImage, Detections, LidarCloud, RadarCloud
from perception.task import CLASSES

NOTHING = Detections(Boxes3D.empty(), [])
EGO = "/world/ego"
LATENCY = {"load": 3.0, "model": 5.0}


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("rerun")


def boxes(n: int) -> Boxes3D:
    """One to the right of the other, 10 m ahead, 1 m apart; every other one moves ahead with 2 m/s."""
    column = np.arange(n, dtype=float)
    center = np.stack([np.full(n, 10.0), -column, np.ones(n)], axis=1)
    velocity = np.stack([2.0 * (column % 2), np.zeros(n)], axis=1)
    return Boxes3D(center, np.tile([4.0, 2.0, 1.6], (n, 1)), np.zeros(n), velocity, column.astype(int) % 10)


def steps(frames, detections=NOTHING, **more):
    more = {"tracks": None, "faults": {}, "latency_ms": LATENCY} | more
    return [Step(i, frame, detections, **more) for i, frame in enumerate(frames)]


def write(path, steps, **options):
    with RerunSink(path, **options) as sink:
        for step in steps:
            sink.add(step)
    return Recording(path)


class Recording:
    """What a viewer would show, by the number of the frame."""

    def __init__(self, path):
        dataframe = pytest.importorskip("rerun.dataframe", reason="this release of Rerun reads no recordings")
        self._recording = dataframe.load_recording(path)

    def entities(self) -> set[str]:
        return {column.entity_path for column in self._recording.schema().component_columns()}

    def column(self, entity: str, component: str, frames: int = 1) -> list[list]:
        """The values at each frame, those of an earlier one where there are no new ones; none, [], once cleared."""
        view = self._recording.view(index="frame", contents=entity)
        view = view.using_index_values(np.arange(frames)).fill_latest_at()
        table = view.select().read_all()
        name = f"{entity}:{component}"
        return [value or [] for value in table[name].to_pylist()] if name in table.column_names else frames * [[]]

    def events(self, entity: str, component: str) -> list:
        """All values ever logged, one by one."""
        table = self._recording.view(index="log_tick", contents=entity).select().read_all()
        return [value for (value,) in table[f"{entity}:{component}"].to_pylist()]


def verified(path) -> bool:
    """By Rerun's own tool."""
    command = [sys.executable, "-m", "rerun", "rrd", "verify", str(path)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def test_a_step_with_everything(tmp_path):
    frame = dataclasses.replace(make_frame(1), boxes=boxes(3))
    recording = write(tmp_path / "r.rrd", steps([frame], Detections(boxes(4), [0.9, 0.8, 0.7, 0.2])))
    assert recording.entities() >= {
        "/world", "/world/path", EGO, f"{EGO}/lidar", f"{EGO}/radar", f"{EGO}/radar/velocity", f"{EGO}/detections",
        f"{EGO}/detections/velocity", f"{EGO}/labels", f"{EGO}/truth", "/plots/detections", "/plots/score",
        *(f"{EGO}/camera/{name}" for name in CAMERAS),
    }  # fmt: skip
    words = recording.column(f"{EGO}/detections", "Text")[0]
    assert words == recording.column(f"{EGO}/labels", "Text")[0] == ["car 0.90", "truck 0.80", "bus 0.70"]
    half = recording.column(f"{EGO}/detections", "HalfSize3D")[0]
    assert half == [pytest.approx([2.0, 1.0, 0.8])] * 3
    assert recording.column(f"{EGO}/detections/velocity", "Vector3D")[0] == [[2.0, 0.0, 0.0]]
    assert len(recording.column(f"{EGO}/truth", "HalfSize3D")[0]) == 3
    assert recording.column("/plots/score", "Scalar")[0] == pytest.approx([0.8])
    assert recording.column("/plots/detections", "Scalar")[0] == [1, 1, 1] + 7 * [0]
    assert recording.column("/plots/detections", "Name")[0] == list(CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["r.rrd"] and verified(tmp_path / "r.rrd")


def test_clouds_show_their_newest_sweep_where_detections_can_be(tmp_path):
    lidar = [[1, 0, 0, 9, 0.0], [2, 0, 0, 9, 0.05], [3, 0, 0, 9, 0.3], [60, 0, 0, 9, 0.0]]
    radar = [[5, 0, 0, 0, 3, 4, 0.0], [6, 0, 0, 0, 0.1, 0, 0.0], [7, 0, 0, 0, 9, 9, 0.5]]
    frame = dataclasses.replace(FRAMES["nothing"], lidar=LidarCloud(lidar), radar=RadarCloud(radar))
    recording = write(tmp_path / "r.rrd", steps([frame]))
    assert recording.column(f"{EGO}/lidar", "Position3D")[0] == [[1, 0, 0], [2, 0, 0]]
    assert recording.column(f"{EGO}/radar", "Position3D")[0] == [[5, 0, 0], [6, 0, 0]]
    assert recording.column(f"{EGO}/radar/velocity", "Vector3D")[0] == [[3, 4, 0]]  # the other one stands


@pytest.mark.parametrize("name", FRAMES)
def test_what_a_step_does_not_have_is_cleared(tmp_path, name):
    full, some = dataclasses.replace(make_frame(1), boxes=boxes(2)), FRAMES[name]
    recording = write(tmp_path / "r.rrd", steps([full, some, full]))

    def is_shown(entity, component):
        return [bool(value) for value in recording.column(f"{EGO}/{entity}", component, 3)]

    assert is_shown("lidar", "Position3D") == [True, some.lidar is not None and len(some.lidar.points) > 0, True]
    assert is_shown("radar", "Position3D") == [True, some.radar is not None and len(some.radar.points) > 0, True]
    assert is_shown("truth", "HalfSize3D") == [True, False, True]
    for camera in CAMERAS:
        assert is_shown(f"camera/{camera}", "Blob") == [True, some.cameras is not None, True]


def test_a_camera_that_fails_and_one_that_comes_late(tmp_path):
    full = make_frame(1)
    late = {"CAM_FRONT": full.cameras["CAM_FRONT"], "rear": full.cameras["CAM_BACK"]}
    frames = [FRAMES["nothing"], full, dataclasses.replace(full, cameras=late)]
    recording = write(tmp_path / "r.rrd", steps(frames))
    counts = {
        name: [len(value) for value in recording.column(f"{EGO}/camera/{name}", "Blob", 3)]
        for name in ("CAM_FRONT", "CAM_BACK", "rear")
    }
    assert counts == {"CAM_FRONT": [0, 1, 1], "CAM_BACK": [0, 1, 0], "rear": [0, 0, 1]}


def test_labels_name_the_track(tmp_path):
    found = Detections(boxes(3), [0.9, 0.8, 0.1])
    recording = write(tmp_path / "r.rrd", steps([make_frame(1)], found, tracks=np.array([12, -1, 7])))
    assert recording.column(f"{EGO}/detections", "Text")[0] == ["car #12 0.90", "truck 0.80"]
    recording = write(tmp_path / "r.rrd", steps([make_frame(1)], found), score_threshold=0.0)
    assert recording.column(f"{EGO}/detections", "Text")[0] == ["car 0.90", "truck 0.80", "bus 0.10"]


def test_labels_in_sight_are_those_of_near_boxes(tmp_path):
    center = [[10, 0, 1], [30, 0, 1], [-20, 0, 1]]  # near, far, and behind the eye of the view from behind
    all_of_them = Boxes3D(center, np.ones((3, 3)), np.zeros(3), np.full((3, 2), np.nan), np.zeros(3))
    recording = write(tmp_path / "r.rrd", steps([make_frame(1)], Detections(all_of_them, [0.9, 0.8, 0.7])))
    assert recording.column(f"{EGO}/labels", "Text")[0] == ["car 0.90", "car 0.70"]
    assert recording.column(f"{EGO}/chase/labels", "Text")[0] == ["car 0.90"]
    assert recording.column(f"{EGO}/detections/velocity", "Vector3D")[0] == []  # NaN is not drawn


def test_every_scene_begins_at_its_own_origin(tmp_path):
    drive = [
        dataclasses.replace(make_frame(i), scene=scene, world_SE3_ego=SE3.from_yaw(np.pi / 2, [x, 5e6, 0]))
        for i, (scene, x) in enumerate([("a", 4e5), ("a", 4e5 + 2), ("a", 4e5 + 2.5), ("b", 100.0)])
    ]
    recording = write(tmp_path / "r.rrd", steps(drive))
    where = [value[0] for value in recording.column(EGO, "Translation3D", 4)]
    assert where == [[0, 0, 0], [2, 0, 0], [2.5, 0, 0], [0, 0, 0]]
    turned = np.reshape(recording.column(EGO, "TransformMat3x3")[0][0], (3, 3)).T  # columns first
    assert turned == pytest.approx(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), abs=1e-6)
    paths = [value[0] for value in recording.column("/world/path", "LineStrip3D", 4)]
    assert paths[2] == [[0, 0, 0], [2, 0, 0], [2.5, 0, 0]] and paths[3] == [[0, 0, 0], [0, 0, 0]]


def test_both_timelines_tell_when(tmp_path):
    recording = write(tmp_path / "r.rrd", steps([make_frame(3), make_frame(4)]))
    table = recording._recording.view(index="frame", contents="/plots/detections").select().read_all()
    assert table["frame"].to_pylist() == [0, 1]
    assert table["drive_time"].cast("int64").to_pylist() == [1_500_000_000, 2_000_000_000]


def test_the_cold_latency_is_left_out(tmp_path):
    recording = write(tmp_path / "r.rrd", steps([make_frame(1), make_frame(2)]))
    assert recording.column("/plots/latency/model", "Scalar", 2) == [[], [5.0]]


def test_faults_are_told_when_they_change(tmp_path):
    seen = [{}, {"lidar": "missing"}, {"lidar": "missing"}, {"lidar": "frozen", "radar": "empty"}, {}]
    frames = [make_frame(i) for i in range(5)]
    recording = write(
        tmp_path / "r.rrd", [dataclasses.replace(step, faults=now) for step, now in zip(steps(frames), seen)]
    )
    assert recording.events("/faults", "Text") == [
        "lidar missing", "lidar frozen", "radar empty", "lidar ok", "radar ok",
    ]  # fmt: skip
    assert recording.events("/faults", "TextLogLevel") == 3 * ["WARN"] + 2 * ["INFO"]


def test_large_images_are_scaled_with_their_intrinsics(tmp_path):
    intrinsics = np.array([[1000.0, 0, 799.5], [0, 1000, 449.5], [0, 0, 1]])  # the middle of the image
    camera = CameraImage(np.zeros((900, 1600, 3), np.uint8), intrinsics, SE3(), 0)
    small = at_most(camera, 800)
    assert small.image.shape == (450, 800, 3) and at_most(small, 800) is small
    recording = write(tmp_path / "r.rrd", steps([dataclasses.replace(make_frame(1), cameras={"front": camera})]))
    entity = f"{EGO}/camera/front"
    matrix = np.reshape(recording.column(entity, "PinholeProjection")[0][0], (3, 3)).T
    assert matrix == pytest.approx(np.array([[500, 0, 400], [0, 500, 225], [0, 0, 1]]))  # half, from the corner
    assert recording.column(entity, "Resolution")[0] == [[800, 450]]


def test_the_view_from_behind_is_behind():
    assert CHASE.camera_SE3_ego.inverse().translation == pytest.approx(EYE)
    pixels, depth = CHASE.points(np.array([[9.0, 0, 0], [9.0, 5, 0], [-30.0, 0, 0]]))
    assert pixels[0] == pytest.approx([799.5, 499.5]) and pixels[1, 0] < 799.5 and np.isnan(depth[2])


def test_without_a_step_the_recording_is_empty_and_whole(tmp_path):
    recording = write(tmp_path / "r.rrd", [])
    assert EGO in recording.entities() and f"{EGO}/lidar" not in recording.entities()
    assert verified(tmp_path / "r.rrd")


def test_an_error_leaves_what_was_logged_readable(tmp_path):
    (tmp_path / "r.rrd").write_text("of an earlier run")
    with pytest.raises(ZeroDivisionError), RerunSink(tmp_path / "r.rrd") as sink:
        for step in steps([make_frame(1), make_frame(2)]):
            sink.add(step)
        raise ZeroDivisionError
    assert (tmp_path / "r.rrd").read_text() == "of an earlier run"
    assert {path.name for path in tmp_path.iterdir()} == {"r.rrd", "r.part.rrd"}
    assert verified(tmp_path / "r.part.rrd")
    assert len(Recording(tmp_path / "r.part.rrd").column(f"{EGO}/lidar", "Position3D", 2)[1]) > 0


def test_steps_are_on_the_disk_when_they_have_been_added(tmp_path):
    with RerunSink(tmp_path / "r.rrd") as sink:
        for step in steps([make_frame(i, points=4000) for i in range(5)]):
            before = (tmp_path / "r.part.rrd").stat().st_size
            sink.add(step)
            assert (tmp_path / "r.part.rrd").stat().st_size > before + 16_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_an_error(tmp_path):
    code = f"""
import resource, signal
from frames import make_frame
from test_rerun import steps
from perception.errors import PerceptionError
from perception.replay.rerun_log import RerunSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with RerunSink({str(tmp_path / "r.rrd")!r}) as sink:
        for step in steps([make_frame(i, points=4000) for i in range(10)]):
            sink.add(step)
except PerceptionError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    assert "r.part.rrd: cannot be written" in run.stdout and "is the disk full?" in run.stdout
    assert not (tmp_path / "r.rrd").exists()


def test_a_place_that_takes_no_file_is_known_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerceptionError, match="cannot be written"), RerunSink(tmp_path / "file/r.rrd"):
        raise AssertionError("not reached")


def test_without_rerun_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(PerceptionError, match=r'pip install -e "\.\[viz\]"'):
        RerunSink(tmp_path / "r.rrd")


def test_rerun_is_told_to_send_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("RERUN_ANALYTICS", raising=False)
    RerunSink(tmp_path / "r.rrd")
    assert os.environ["RERUN_ANALYTICS"] == "0"
