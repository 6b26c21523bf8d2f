"""Astyx HiRes2019: geometry by hand, what the radar's speeds become, what is damaged, and that it trains and scores."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from astyx_folder import CAR, EGO_SE3_CAMERA, INTRINSICS, LIDAR, write_astyx

from perception.config import load_config
from perception.data.astyx import EGO_SE3_RADAR, Astyx
from perception.data.nuscenes_files import DataError
from perception.data.opening import open_source
from perception.data.radar_motion import ego_velocity, wrap_speed
from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.eval.evaluate import evaluate
from perception.model.checkpoint import load
from perception.train.run import train

TASK = load_config("astyx").task
PERIOD_MPS = 10.3936


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_astyx(tmp_path_factory.mktemp("astyx") / "data")


def test_the_ego_frame_is_the_radars_levelled_on_the_road():
    x, y = np.array([10.0, 30.0, -4.0]), np.array([0.0, -15.0, 20.0])
    road = np.column_stack([x, y, 0.049 * x - 0.080 * y - 1.60])
    assert np.abs(EGO_SE3_RADAR.transform(road)[:, 2]).max() < 1e-9
    assert abs(EGO_SE3_RADAR.yaw) < 1e-9  # forward stays forward
    assert EGO_SE3_RADAR.translation == pytest.approx([0, 0, 1.593], abs=1e-3)  # 1.6 m x the cosine of the tilt


def test_a_frame_by_hand(folder):
    dataset = Astyx(folder, task=TASK)
    assert isinstance(dataset, FrameSource) and dataset.tokens == ["000000", "000277", "000278", "000378"]
    frame = dataset[1]
    assert (frame.token, frame.scene, frame.timestamp_ns) == ("000277", "000277", 393_700_000_000)
    assert np.array_equal(frame.world_SE3_ego.matrix, np.eye(4))

    camera = frame.cameras["FRONT"]
    assert camera.image.shape == (16, 64, 3) and np.array_equal(camera.intrinsics, INTRINSICS)
    assert np.allclose(camera.ego_SE3_camera.matrix, EGO_SE3_CAMERA.matrix)

    assert np.allclose(frame.lidar.points[:, :3], LIDAR[:3], atol=0.003)  # the fourth is left of the image
    assert np.allclose(frame.lidar.points[:, 3:], [[0, 0], [1, -0.01], [2, -0.02]])

    assert np.allclose(frame.boxes.center, [CAR["center"]]) and np.allclose(frame.boxes.size, [CAR["size"]])
    assert np.allclose(frame.boxes.yaw, [0.3]) and np.isnan(frame.boxes.velocity).all()
    assert TASK.classes[frame.boxes.label[0]] == "car"
    assert (frame.boxes.num_lidar_points.tolist(), frame.boxes.num_radar_points.tolist()) == ([2], [1])


def test_radar_velocities_are_over_ground(folder):
    points = Astyx(folder, task=TASK)[0].radar.points
    assert len(points) == 42 and (points[:, 3] == 60).all() and (points[:, 6] == 0).all()
    standing, car = points[:-1], points[-1]
    assert np.abs(standing[:, 4:6]).max() < 0.02
    away = np.array([20.0, 5.0, 0.8]) - EGO_SE3_RADAR.translation
    assert car[4:6] == pytest.approx(3.0 * away[:2] / np.linalg.norm(away), abs=0.02)


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (7.3, -0.2), (18.4, 0.4), (-1.2, 0.0)])
def test_ego_velocity_despite_movers_and_folded_speeds(velocity):
    rng = np.random.default_rng(1)
    bearing, height = np.deg2rad(rng.uniform(-50, 50, 900)), np.deg2rad(rng.uniform(-5, 15, 900))
    direction = np.column_stack([np.cos(bearing) * np.cos(height), np.sin(bearing) * np.cos(height), np.sin(height)])
    closing = direction[:, :2] @ velocity + rng.normal(0, 0.05, 900)
    closing[:300] = rng.uniform(-20, 20, 300)  # a third moves
    found = ego_velocity(direction, wrap_speed(closing, PERIOD_MPS), PERIOD_MPS)
    assert found == pytest.approx(velocity, abs=0.05)


@pytest.mark.parametrize("count", [0, 1])
def test_ego_velocity_of_nothing_is_zero(count):
    assert np.array_equal(ego_velocity(np.ones((count, 3)), np.ones(count), PERIOD_MPS), [0.0, 0.0])


def test_wrapped_speeds():
    assert wrap_speed(np.array([0.0, 4.0, 6.0, -6.0, 12.0]), 10.0).tolist() == [0.0, 4.0, -4.0, 4.0, 2.0]


def test_empty_clouds_and_classes_of_others(tmp_path):
    boxes = [{**CAR, "name": "Animal"}, {**CAR, "name": "Towed Object"}]
    root = write_astyx(tmp_path / "data", [3], boxes, np.zeros((0, 3)), np.zeros((0, 5)))
    frame = Astyx(root, task=TASK)[0]
    assert len(frame.lidar.points) == len(frame.radar.points) == 0
    assert [TASK.classes[label] for label in frame.boxes.label] == ["trailer"] and not frame.boxes.measured.any()


def test_splits_scenes_and_what_does_not_exist(folder):
    assert Astyx(folder, task=TASK, split="train").tokens == ["000000", "000277"]
    assert Astyx(folder, task=TASK, split="score").tokens == ["000278", "000378"]
    assert Astyx(folder, task=TASK, scenes=["000378"]).scenes == ["000378"]
    for wrong in (
        {"split": "val"},
        {"scenes": ["000001"]},
        {"split": "train", "scenes": ["000000"]},
        {"on_error": "no"},
    ):
        with pytest.raises(PerceptionError):
            Astyx(folder, task=TASK, **wrong)
    with pytest.raises(IndexError):
        Astyx(folder, task=TASK)[4]


def test_images_are_decoded_at_half_their_size(folder):
    camera = Astyx(folder, task=TASK, image_size=(8, 32))[0].cameras["FRONT"]
    assert camera.image.shape == (8, 32, 3)
    assert camera.intrinsics.tolist() == [
        [16, 0, 15.5],
        [0, 16, 3.5],
        [0, 0, 1],
    ]  # edges stay edges: (31.5 + .5) / 2 - .5


def _resaved(**changed):
    def write(path):
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, **changed})

    return write


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images/000000.jpg", lambda path: path.write_bytes(path.read_bytes()[:-40])),
        ("images/000000.jpg", lambda path: path.unlink()),
        ("lidar/000000.npz", lambda path: path.write_bytes(path.read_bytes()[:200])),
        ("lidar/000000.npz", lambda path: path.write_bytes(b"")),
        ("lidar/000000.npz", lambda path: path.unlink()),
        ("lidar/000000.npz", _resaved(xyz_5mm=np.zeros((4, 3)))),
        ("lidar/000000.npz", _resaved(reflectivity=np.zeros(3, np.uint8))),
        ("radar/000000.npz", _resaved(points=np.zeros((2, 4), np.float32))),
        ("radar/000000.npz", _resaved(points=np.full((2, 5), np.nan, np.float32))),
        ("radar/000000.npz", _resaved(points=np.array([[None] * 5], object))),  # would be unpickled
        ("radar/000000.npz", lambda path: path.write_bytes(pickle.dumps(1))),
    ],
)
def test_a_damaged_file_is_named_or_its_frame_skipped(tmp_path, name, damage):
    root = write_astyx(tmp_path / "data", [0, 1])
    damage(root / name)
    with pytest.raises(DataError, match=name) as error:
        Astyx(root, task=TASK)[0]
    assert "\n" not in str(error.value)
    dataset = Astyx(root, task=TASK, on_error="skip")
    assert [frame.token for frame in dataset.frames()] == ["000001"] and list(dataset.skipped) == ["000000"]


def _index(change):
    def write(path):
        records = json.loads(path.read_text())
        change(records)
        path.write_text(json.dumps(records))

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("{"), "a list of frames was expected"),
        (lambda path: path.write_text("{}"), "a list of frames was expected"),
        (_index(lambda records: records[0].pop("radar_T_lidar")), "radar_T_lidar"),
        (_index(lambda records: records[0]["boxes"][0].update(center=[1, 2])), r"boxes.*center"),
        (_index(lambda records: records[1].update(frame=0)), "different numbers"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, damage, message):
    root = write_astyx(tmp_path / "data", [0, 1])
    damage(root / "frames.json")
    with pytest.raises(DataError, match=message) as error:
        Astyx(root, task=TASK)
    assert str(root / "frames.json") in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("intrinsics", [[0, 0, 0], [0, 1, 0], [0, 0, 1]], "intrinsics"),
        ("radar_T_lidar", np.zeros((4, 4)).tolist(), "last row"),
        ("boxes", [{"name": "Car", "center": [9, 0, 0], "size": [0, 1, 1], "rotation_wxyz": [1, 0, 0, 0]}], "size"),
        (
            "boxes",
            [{"name": "Car", "center": [9, 0, 0], "size": [4, 1, 1], "rotation_wxyz": [0, 0, 0, 0]}],
            "quaternion",
        ),
    ],
)
def test_impossible_numbers_in_the_index_name_their_frame(tmp_path, key, value, message):
    root = write_astyx(tmp_path / "data", [0, 1])
    _index(lambda records: records[1].update({key: value}))(root / "frames.json")
    dataset = Astyx(root, task=TASK)
    assert dataset[0] is not None
    with pytest.raises(DataError, match=f"frames.json: frame 1: .*{message}"):
        dataset[1]


def test_a_config_trains_and_scores_on_it(folder, tmp_path):
    small = ["grid.cell_size_m=3.2", "encoders.lidar.pillar_size_m=3.2", "fusion.channels=8", "fusion.heads=1"]
    small += ["head.trunk_channels=[8]", "head.channels=8", "encoders.camera=null", "data.workers=0", "train.epochs=1"]
    config = load_config("astyx", [*small, f"data.root={folder}"])
    assert train(config, tmp_path / "run", device="cpu")
    detector = load(tmp_path / "run")
    source = open_source(folder, detector.config, split="score")
    assert isinstance(source, Astyx) and len(source) == 2
    scores = evaluate(detector, source)
    assert set(scores["AP"]) == set(TASK.classes) and scores["mAVE"] is None
    with pytest.raises(PerceptionError, match="whole scenes"):
        open_source(folder, detector.config, part=(0.5, 1.0))
    with pytest.raises(PerceptionError, match=r"v1\.0-mini"):
        open_source(folder, detector.config, "v1.0-mini")


def test_the_recording():
    """Facts of the data set's description, on every tenth frame: boxes stand on the road and hold points."""
    if not os.environ.get("PERCEPTION_DATA"):
        pytest.skip("PERCEPTION_DATA is not set: no real data to test on")
    dataset = Astyx(Path(os.environ["PERCEPTION_DATA"]) / "astyx", task=TASK, split="train")
    assert len(dataset) == 278 and dataset[0].cameras["FRONT"].image.shape == (309, 1024, 3)
    frames = [dataset[i] for i in range(0, 278, 10)]
    floor = np.concatenate([frame.boxes.center[:, 2] - frame.boxes.size[:, 2] / 2 for frame in frames])
    assert abs(np.median(floor)) < 0.15 and np.percentile(np.abs(floor), 90) < 1.0
    lidar, radar = (
        np.concatenate([getattr(frame.boxes, f"num_{name}_points") for frame in frames]) > 0
        for name in ("lidar", "radar")
    )
    assert lidar.mean() > 0.55 and radar.mean() > 0.8
    standing = np.concatenate([np.hypot(*frame.radar.points[:, 4:6].T) < 0.5 for frame in frames])
    assert standing.mean() > 0.75
