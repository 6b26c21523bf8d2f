"""Frames of one's own in the nuScenes layout: what this package and the devkit make of them, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

import perception
from perception.data.nuscenes_writer import NuScenesWriter, WriterError
from perception.eval.evaluate import evaluate
from perception.geometry import SE3
from perception.sample import Boxes3D, CameraImage, Detections, Frame, LidarCloud, RadarCloud
from perception.task import ATTRIBUTES, CLASSES, NUSCENES, ObjectClass, Task

CAR, PEDESTRIAN, BUS = (CLASSES.index(name) for name in ("car", "pedestrian", "bus"))
MOUNTS = {"lidar": SE3.from_yaw(-1.5, [1.0, 0.0, 2.0]), "radar": SE3.from_yaw(3.0, [-1.0, 0.0, 0.5])}
LOOKING_AHEAD = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([1.5, 0.0, 1.6]))


def make_frame(number: int, scene: str = "drive-1", **changes) -> Frame:
    """The vehicle drives 5 m in half a second; a car ahead of it 2 m, a pedestrian stands, a bus comes later."""
    rng = np.random.default_rng(number)
    lidar = np.column_stack([rng.uniform(3, 40, (50, 3)), rng.uniform(0, 255, 50), np.zeros(50)])
    radar = np.column_stack([rng.uniform(3, 40, (9, 3)), rng.normal(size=(9, 3)), np.zeros(9)])
    here = SE3.from_yaw(0.3, [100.0 + 5 * number, 50.0, 1.0])
    car = here.inverse().transform(np.array([120.0 + 2 * number, 55.0, 1.8]))
    person = here.inverse().transform(np.array([110.0, 60.0, 1.9]))
    centers, labels = [car, person], [CAR, PEDESTRIAN]
    if number:
        centers, labels = [*centers, np.array([20.0, -8.0, 1.5])], [*labels, BUS]
    n = len(labels)
    boxes = Boxes3D(
        np.array(centers), np.tile([4.0, 2.0, 1.5], (n, 1)), np.array([0.5, -2.0, 3.0])[:n], np.full((n, 2), np.nan),
        np.array(labels), attribute=np.array([ATTRIBUTES.index("vehicle.moving"), -1, -1])[:n],
        visibility=np.array([4, 1, 0])[:n], num_lidar_points=np.array([7, 0, -1])[:n],
        num_radar_points=np.array([2, 1, -1])[:n],
    )  # fmt: skip
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    intrinsics = np.array([[15.0, 0, 14.5], [0, 16, 9.5], [0, 0, 1]])
    return Frame(
        token=f"{scene}/{number}", timestamp_ns=1_600_000_000_000_000_000 + number * 500_000_000, world_SE3_ego=here,
        cameras={"CAM_FRONT": CameraImage(image, intrinsics, LOOKING_AHEAD, 0)}, radar=RadarCloud(radar),
        lidar=LidarCloud(lidar), boxes=boxes, scene=scene, **changes,
    )  # fmt: skip


NAMES = ["car", "person", "bus"]


@pytest.fixture
def written(tmp_path):
    frames = [make_frame(number) for number in range(3)] + [make_frame(0, "drive-2")]
    with NuScenesWriter(tmp_path, mounts=MOUNTS, splits={"own_val": ["drive-2"]}, lossless=True) as writer:
        for frame in frames:
            writer.add(frame, NAMES[: len(frame.boxes)])
    return tmp_path, frames


def test_frames_come_back(written):
    root, frames = written
    dataset = perception.NuScenes(root, lidar_sweeps=1, radar_sweeps=1)
    assert dataset.version == "v1.0-own" and dataset.scenes == ["drive-1", "drive-2"] and len(dataset) == 4
    for want, have in zip(frames, dataset.frames()):
        assert have.scene == want.scene and have.timestamp_ns == want.timestamp_ns
        np.testing.assert_allclose(have.world_SE3_ego.matrix, want.world_SE3_ego.matrix, atol=1e-9)
        np.testing.assert_allclose(have.lidar.points, want.lidar.points, atol=1e-4)
        np.testing.assert_allclose(have.radar.points, want.radar.points, atol=1e-4)
        camera, own = have.cameras["CAM_FRONT"], want.cameras["CAM_FRONT"]
        np.testing.assert_array_equal(camera.image, own.image)
        np.testing.assert_array_equal(camera.intrinsics, own.intrinsics)
        np.testing.assert_allclose(camera.ego_SE3_camera.matrix, own.ego_SE3_camera.matrix, atol=1e-9)
        for name in ("center", "size", "yaw", "label", "attribute", "visibility"):
            np.testing.assert_allclose(getattr(have.boxes, name), getattr(want.boxes, name), atol=1e-6)
        assert have.boxes.num_lidar_points[:2].tolist() == [7, 0]
        assert (have.boxes.num_lidar_points >= 0).all()  # the bus's have been counted


def test_velocities_follow_from_instances(written):
    """Over ground: 4 m/s along world x, which is 0.3 rad to the right of the vehicle; the pedestrian stands."""
    velocity = perception.NuScenes(written[0])[1].boxes.velocity
    np.testing.assert_allclose(velocity[0], 4 * np.array([np.cos(0.3), -np.sin(0.3)]), atol=1e-6)
    np.testing.assert_allclose(velocity[1], [0, 0], atol=1e-6)


def test_splits_are_there(written):
    assert perception.NuScenes(written[0], split="own_val").scenes == ["drive-2"]
    assert len(perception.NuScenes(written[0], split="all")) == 4


class Oracle:
    task, sensors = NUSCENES, ("lidar",)

    def detect(self, frame):
        return Detections.sorted(frame.boxes, np.ones(len(frame.boxes)))


def test_the_devkit_loads_and_scores_it(written):
    devkit = pytest.importorskip("nuscenes")
    tables = devkit.NuScenes("v1.0-own", str(written[0]), verbose=False)
    assert len(tables.sample) == 4 and len(tables.instance) == 5
    (_, boxes, _) = tables.get_sample_data(tables.sample[1]["data"]["LIDAR_TOP"])
    assert [box.name for box in boxes] == ["vehicle.car", "human.pedestrian.adult", "vehicle.bus.rigid"]
    np.testing.assert_allclose(tables.box_velocity(tables.sample[1]["anns"][0]), [4, 0, 0], atol=1e-6)
    dataset = perception.NuScenes(written[0])
    ours, theirs = evaluate(Oracle(), dataset), evaluate(Oracle(), dataset, official=True)
    assert ours["AP"]["car"] == theirs["AP"]["car"] == pytest.approx(1.0) and ours["NDS"] == theirs["NDS"]


def test_without_names_every_box_is_an_object_of_its_own(tmp_path):
    with NuScenesWriter(tmp_path) as writer:
        for number in range(2):
            writer.add(make_frame(number))
    assert len(json.loads((tmp_path / "v1.0-own/instance.json").read_text())) == 5
    assert np.isnan(perception.NuScenes(tmp_path)[0].boxes.velocity).all()


def test_frames_without_some_sensors_or_boxes(tmp_path):
    frames = [make_frame(0).only(["camera"]), dataclasses.replace(make_frame(1).only(["lidar"]), boxes=None)]
    with NuScenesWriter(tmp_path) as writer:
        for frame in frames:
            writer.add(frame)
    first, second = perception.NuScenes(tmp_path)
    assert first.sensors == ("camera",) and second.sensors == ("lidar",) and len(second.boxes) == 0
    assert first.boxes.num_lidar_points.tolist() == [7, 0]


def test_a_task_of_ones_own(tmp_path):
    task = Task([ObjectClass("tram"), ObjectClass("person")], attributes=[])
    with pytest.raises(WriterError, match="a nuScenes category for 'tram' was expected, found ''"):
        NuScenesWriter(tmp_path, task=task)
    boxes = Boxes3D(np.array([[9.0, 0, 0], [5.0, 2, 0]]), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)), np.arange(2))
    categories = {"tram": "vehicle.bus.bendy", "person": "human.pedestrian.adult"}
    with NuScenesWriter(tmp_path, task=task, categories=categories) as writer:
        writer.add(dataclasses.replace(make_frame(0), boxes=boxes))
    assert perception.NuScenes(tmp_path)[0].boxes.label.tolist() == [BUS, PEDESTRIAN]


def test_a_class_has_the_category_of_its_first_source(tmp_path):
    task = Task([ObjectClass("vehicle", sources=["tram", "truck", "car"])], attributes=[])
    boxes = dataclasses.replace(make_frame(0).boxes[[0]], attribute=None)
    with NuScenesWriter(tmp_path, task=task) as writer:
        writer.add(dataclasses.replace(make_frame(0), boxes=boxes))
    assert perception.NuScenes(tmp_path)[0].boxes.label.tolist() == [CLASSES.index("truck")]
    assert perception.NuScenes(tmp_path, task=task)[0].boxes.label.tolist() == [0]


def test_sweeps_are_of_the_sample_after_them(tmp_path):
    """Those after the last sample are of that one, and no cloud has them."""
    with NuScenesWriter(tmp_path) as writer:
        writer.add_sweep(make_frame(0))
        writer.add(make_frame(1))
        writer.add_sweep(make_frame(2))
    rows = json.loads((tmp_path / "v1.0-own/sample_data.json").read_text())
    kinds = [(row["filename"].split("/")[0], row["is_key_frame"]) for row in rows]
    assert sorted(kinds) == [("samples", True)] * 3 + [("sweeps", False)] * 4  # a sample has an image, too
    assert len({row["sample_token"] for row in rows}) == 1
    (frame,) = perception.NuScenes(tmp_path, min_distance_m=0)
    assert frame.lidar.points[:, 4].tolist() == [0.0] * 50 + [0.5] * 50
    assert len(frame.radar.points) == 18


def test_counts_next_to_a_known_one(tmp_path):
    """-1 is unknown, and readers add: 1 and -1 would be none."""
    known = np.array([[1, -1], [-1, -1]])
    boxes = dataclasses.replace(make_frame(0).boxes, num_lidar_points=known[:, 0], num_radar_points=known[:, 1])
    with NuScenesWriter(tmp_path) as writer:
        writer.add(dataclasses.replace(make_frame(0).only(["camera"]), boxes=boxes))
    boxes = perception.NuScenes(tmp_path)[0].boxes
    assert boxes.num_lidar_points.tolist() == [1, -1] and boxes.num_radar_points.tolist() == [0, -1]
    assert boxes.measured.tolist() == [True, True]


def test_scores_are_kept_in_a_column_of_their_own(tmp_path):
    with NuScenesWriter(tmp_path) as writer:
        writer.add(make_frame(0), scores=[0.9, 0.25])
        with pytest.raises(WriterError, match="drive-1/1: 3 scores were expected, found 2"):
            writer.add(make_frame(1), scores=[0.9, 0.25])
    rows = json.loads((tmp_path / "v1.0-own/sample_annotation.json").read_text())
    assert [row["score"] for row in rows] == [0.9, 0.25]
    assert len(perception.NuScenes(tmp_path)[0].boxes) == 2


def test_sweeps_alone_are_no_scene(tmp_path):
    with pytest.raises(WriterError, match="samples of 'drive-1' were expected, found sweeps only"):
        with NuScenesWriter(tmp_path) as writer:
            writer.add_sweep(make_frame(0))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(make_frame(0), ["a"])], "drive-1/0: 2 different names of instances were expected, found"),
        ([(make_frame(0), ["a", "a"])], "2 different names"),
        ([(make_frame(0), None), (make_frame(0), None)], "a frame after 1600000000000000 us was expected"),
        (
            [(make_frame(0), None), (make_frame(0, "b"), None), (make_frame(1), None)],
            "scene 'drive-1' was expected to be over",
        ),
        ([(make_frame(0, "../x"), None)], "a scene's name of letters, digits"),
        ([(dataclasses.replace(make_frame(0), others={"x": LidarCloud(np.zeros((0, 5)))}), None)], "found x"),
        ([(make_frame(0), ["a", "b"]), (make_frame(1), ["b", "a", "c"])], "instance 'b' was expected to stay a human"),
        (
            [(dataclasses.replace(make_frame(0), cameras={"../c": make_frame(0).cameras["CAM_FRONT"]}), None)],
            "a camera's name of letters",
        ),
        ([], "v1.0-own: frames were expected, found none"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(tmp_path, frames, message):
    with pytest.raises(WriterError, match=message), NuScenesWriter(tmp_path) as writer:
        for frame, names in frames:
            writer.add(frame, names)
    assert not (tmp_path / "v1.0-own/scene.json").exists()


def test_a_version_is_not_written_over(written):
    with pytest.raises(WriterError, match="a version that is not there yet was expected"):
        NuScenesWriter(written[0])
    with pytest.raises(WriterError, match="scenes that were written were expected in 'val', found other"):
        with NuScenesWriter(written[0], "v2", splits={"val": ["other"]}) as writer:
            writer.add(make_frame(0))
