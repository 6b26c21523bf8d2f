"""A nuScenes folder as a log, on a dataset that can be worked out by hand and on a recorded scene."""

import math
from collections import Counter

import numpy as np
import pytest
from nuscenes_world import OPTICAL, RADAR_DTYPE, START_US, TURN_LEFT, World

from perception.data.nuscenes_files import DataError
from perception.errors import PerceptionError
from perception.logs.messages import Calibration, Cloud, Image, LogError, Sample, Transform
from perception.logs.nuscenes_log import NuScenesReader

LIDAR_DTYPE = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity", "ring")])


@pytest.fixture
def world():
    return World()


def times_s(messages):
    return [(m.timestamp_ns - 1000 * START_US) / 1e9 for m in messages]


def test_topics_are_those_of_the_converter(world, tmp_path):
    reader = NuScenesReader(world.write(tmp_path))
    found = {name: (topic.type, topic.kind, topic.count) for name, topic in reader.topics.items()}
    assert found == {
        "/cam_front/camera_info": ("foxglove.CameraCalibration", "calibration", 2),
        "/cam_front/image_rect_compressed": ("foxglove.CompressedImage", "image", 2),
        "/lidar_top": ("foxglove.PointCloud", "cloud", 3),
        "/radar_front": ("foxglove.PointCloud", "cloud", 3),
        "/sample": ("foxglove.Log", "sample", 2),
        "/tf": ("foxglove.FrameTransform", "transform", 5 + 8),  # times, and rows
    }
    assert Counter(message.topic for message in reader.messages()) == {n: t.count for n, t in reader.topics.items()}
    assert (reader.path, reader.scene, reader.stopped, reader.damage) == (tmp_path, "scene-0001", None, [])


def test_messages_come_in_order_of_measurement_and_transforms_first(world, tmp_path):
    messages = list(NuScenesReader(world.write(tmp_path)).messages())
    assert [m.sequence for m in messages] == list(range(len(messages)))
    assert all(m.log_time_ns == m.timestamp_ns for m in messages)
    lidar_and_radar = ["/tf", "/tf", "/tf", "/lidar_top", "/radar_front"]
    camera = ["/tf", "/tf", "/cam_front/camera_info", "/cam_front/image_rect_compressed"]
    keyframe = [*lidar_and_radar, "/sample"]
    assert [m.topic for m in messages] == [*lidar_and_radar, *keyframe, *camera, *keyframe, *camera]
    assert times_s(messages) == [-0.05] * 5 + [0.0] * 6 + [0.1] * 4 + [0.5] * 6 + [0.6] * 4


def test_a_sweep_and_where_it_was_measured(world, tmp_path):
    ego, mount, radar_mount, lidar, radar = list(NuScenesReader(world.write(tmp_path)).messages())[:5]
    assert isinstance(ego.data, Transform) and (ego.data.parent, ego.data.child) == ("map", "base_link")
    np.testing.assert_allclose(ego.data.pose, [100, 199, 0, *TURN_LEFT])
    assert (mount.data.parent, mount.data.child, mount.data.static) == ("base_link", "lidar_top", False)
    np.testing.assert_allclose(mount.data.pose, [1, 0, 2, math.sqrt(0.5), 0, 0, -math.sqrt(0.5)])
    assert radar_mount.data.child == radar.data.frame_id == "radar_front"
    assert isinstance(lidar.data, Cloud) and lidar.data.frame_id == "lidar_top"
    assert lidar.data.records.dtype == LIDAR_DTYPE and lidar.data.records[0].item() == (10, 0, 0, 50, 3)
    assert radar.data.records.dtype == RADAR_DTYPE and radar.data.records["vx_comp"].tolist() == [3.0]


def test_a_camera_is_rectified_and_its_file_untouched(world, tmp_path):
    reader = NuScenesReader(world.write(tmp_path))
    mount, info, image = list(reader.messages())[12:15]
    np.testing.assert_allclose(mount.data.pose, [0, 0, 1, *OPTICAL])
    calibration = info.data
    assert isinstance(calibration, Calibration) and isinstance(image.data, Image)
    assert calibration.frame_id == image.data.frame_id == mount.data.child == "cam_front"
    assert (calibration.width, calibration.height, calibration.model) == (32, 16, "")
    assert calibration.distortion.shape == (0,)
    np.testing.assert_array_equal(calibration.intrinsics, [[10, 0, 16], [0, 10, 8], [0, 0, 1]])
    np.testing.assert_array_equal(calibration.rectification, np.eye(3))
    np.testing.assert_array_equal(calibration.projection, np.c_[calibration.intrinsics, np.zeros(3)])
    assert (image.data.encoding, image.data.data) == ("jpeg", world.files["samples/CAM_FRONT/camera0.jpg"])


def test_a_camera_with_distortion_says_so(world, tmp_path):
    world.row("calibrated_sensor", "CAM_FRONT")["camera_distortion"] = [-0.3, 0.1, 0, 0]
    reader = NuScenesReader(world.write(tmp_path))
    assert (
        "/cam_front/image_raw_compressed" in reader.topics and "/cam_front/image_rect_compressed" not in reader.topics
    )
    info = next(message.data for message in reader.messages({"/cam_front/camera_info"}))
    assert info.model == "plumb_bob" and info.distortion.tolist() == [-0.3, 0.1, 0, 0, 0]
    np.testing.assert_array_equal(info.projection[:, :3], info.intrinsics)
    world.row("calibrated_sensor", "CAM_FRONT")["distortion_model"] = "fisheye"
    info = next(message.data for message in NuScenesReader(world.write(tmp_path)).messages({"/cam_front/camera_info"}))
    assert info.model == "equidistant" and info.distortion.tolist() == [-0.3, 0.1, 0, 0]


def test_channels_that_differ_in_case_have_topics_of_their_own(world, tmp_path):
    world.tables["sensor"].append({"token": "low", "channel": "lidar_top", "modality": "lidar"})
    mount = {**world.row("calibrated_sensor", "LIDAR_TOP"), "token": "lidar_top", "sensor_token": "low"}
    world.tables["calibrated_sensor"].append(mount)
    world.add("other", "s0", "lidar_top", 0, world.files["samples/LIDAR_TOP/lidar0"])
    reader = NuScenesReader(world.write(tmp_path))
    assert {"/LIDAR_TOP", "/lidar_top", "/radar_front"} <= set(reader.topics)
    assert [message.data.frame_id for message in reader.messages({"/lidar_top"})] == ["lidar_top"]


def test_damaged_rows_are_left_out_where_that_is_asked_for(world, tmp_path):
    world.row("ego_pose", "lidar1")["rotation"] = [0, 0, 0, 0]
    with pytest.raises(DataError, match="token lidar1: a unit quaternion was expected"):
        NuScenesReader(world.write(tmp_path))
    reader = NuScenesReader(tmp_path, strict=False)
    assert times_s(reader.messages({"/lidar_top"})) == [-0.05, 0]


def test_a_png_is_called_one(world, tmp_path):
    world.files["samples/CAM_FRONT/camera0.jpg"] = b"\x89PNG\r\n\x1a\n..."
    images = list(NuScenesReader(world.write(tmp_path)).messages({"/cam_front/image_rect_compressed"}))
    assert [message.data.encoding for message in images] == ["png", "jpeg"]


def test_samples_are_marked_at_their_reference_time(world, tmp_path):
    world.row("sample_data", "lidar1")["timestamp"] += 20_000
    marks = list(NuScenesReader(world.write(tmp_path)).messages({"/sample"}))
    assert all(isinstance(mark.data, Sample) for mark in marks)
    assert list(zip(times_s(marks), [mark.data.token for mark in marks])) == [(0.0, "s0"), (0.52, "s1")]


def test_chosen_topics_are_the_same_messages_as_among_all(world, tmp_path):
    reader = NuScenesReader(world.write(tmp_path))
    chosen = list(reader.messages(["/lidar_top"]))
    among_all = [message for message in reader.messages() if message.topic == "/lidar_top"]
    assert [(m.sequence, m.timestamp_ns) for m in chosen] == [(m.sequence, m.timestamp_ns) for m in among_all]
    assert list(reader.messages([])) == []


def test_of_two_poses_at_one_time_the_samples_holds(world, tmp_path):
    world.row("ego_pose", "radar0")["translation"] = [1.0, 2.0, 3.0]
    poses = [m for m in NuScenesReader(world.write(tmp_path)).messages({"/tf"}) if m.data.child == "base_link"]
    assert times_s(poses) == [-0.05, 0.0, 0.1, 0.5, 0.6]
    assert poses[1].data.pose[:3].tolist() == [100.0, 200.0, 0.0]


def test_absent_files_are_left_out_and_said_once(world, tmp_path, caplog):
    del world.files["sweeps/LIDAR_TOP/sweep"], world.files["samples/LIDAR_TOP/lidar1"]
    reader = NuScenesReader(world.write(tmp_path))
    assert caplog.messages[-1] == "scene-0001: going without 2 of 8 rows of sample_data: no file"
    messages = list(reader.messages(strict=True))
    assert reader.damage == []
    assert times_s(m for m in messages if m.topic == "/lidar_top") == [0.0]
    poses = [m for m in messages if m.topic == "/tf" and m.data.child == "base_link"]
    assert times_s(poses) == [-0.05, 0.0, 0.1, 0.5, 0.6]  # the sample's among them


def test_a_sensor_without_a_file_has_no_topics(world, tmp_path):
    world.files = {name: data for name, data in world.files.items() if "CAM_FRONT" not in name}
    assert set(NuScenesReader(world.write(tmp_path)).topics) == {"/lidar_top", "/radar_front", "/sample", "/tf"}


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("samples/LIDAR_TOP/lidar0", bytes(30), "a multiple of 20 bytes was expected, found 30: truncated"),
        ("samples/RADAR_FRONT/radar0", b"VERSION 0.7", "a PCD header"),
    ],
)
def test_a_damaged_file_is_named(world, tmp_path, name, data, message):
    world.files[name] = data
    reader = NuScenesReader(world.write(tmp_path))
    with pytest.raises(LogError, match=f"{name}: {message}.*sample_data {name.split('/')[-1]}"):
        list(reader.messages(strict=True))
    assert len(list(reader.messages())) == 24
    assert len(reader.damage) == 1 and name in reader.damage[0]


def test_a_lidar_file_without_a_byte_is_a_cloud_without_points(world, tmp_path):
    world.files["samples/LIDAR_TOP/lidar0"] = b""
    clouds = [m.data.records for m in NuScenesReader(world.write(tmp_path)).messages({"/lidar_top"})]
    assert [len(records) for records in clouds] == [1, 0, 1]


def two_scenes(world):
    """A second scene, of one sample with a sweep before and one after its keyframe, between those of the first."""
    world.tables["scene"].append({"token": "scene2", "name": "scene-0002"})
    world.tables["sample"].append({"token": "t0", "scene_token": "scene2", "timestamp": START_US + 9_000_000})
    cloud = np.array([[1, 2, 3, 4, 5]], "<f4").tobytes()
    world.add("before", "t0", "LIDAR_TOP", 8_950_000, cloud, key=False)
    world.add("key", "t0", "LIDAR_TOP", 9_000_000, cloud, "before")
    world.add("after", "t0", "LIDAR_TOP", 9_050_000, cloud, "key", key=False)
    world.add("last", "s1", "LIDAR_TOP", 550_000, cloud, "lidar1", key=False)  # of the first scene, after its keyframe
    return world


def test_of_several_scenes_one_is_chosen(world, tmp_path):
    root = two_scenes(world).write(tmp_path)
    with pytest.raises(LogError, match="such as scene=scene-0001; found 2: scene-0001, scene-0002"):
        NuScenesReader(root)
    with pytest.raises(PerceptionError, match="unknown scene 'scene-0003'"):
        NuScenesReader(root, scene="scene-0003")
    first = [m for m in NuScenesReader(root, scene="scene-0001").messages() if m.topic == "/lidar_top"]
    assert times_s(first) == [-0.05, 0.0, 0.5, 0.55]
    second = list(NuScenesReader(root, scene="scene-0002").messages({"/lidar_top", "/sample"}))
    assert [m.topic for m in second] == ["/lidar_top", "/lidar_top", "/sample", "/lidar_top"]
    assert times_s(second) == [8.95, 9.0, 9.0, 9.05]


def test_a_scene_without_samples_is_an_empty_log(world, tmp_path):
    world.tables["scene"].append({"token": "scene2", "name": "scene-0002"})
    reader = NuScenesReader(world.write(tmp_path), scene="scene-0002")
    assert reader.topics == {} and list(reader.messages()) == [] and reader.damage == []


def test_no_scene_at_all(world, tmp_path):
    for name in ("scene", "sample", "sample_data", "ego_pose", "sample_annotation"):
        world.tables[name] = []
    with pytest.raises(PerceptionError, match="found 0: none"):
        NuScenesReader(world.write(tmp_path))


def test_the_recorded_scene_has_the_layout_of_the_converter(real_scene):
    reader = NuScenesReader(real_scene, "v1.0-mini")
    cameras = ("front", "front_left", "front_right", "back", "back_left", "back_right")
    radars = ("front", "front_left", "front_right", "back_left", "back_right")
    expected = {f"/cam_{name}/{end}" for name in cameras for end in ("camera_info", "image_rect_compressed")}
    expected |= {f"/radar_{name}" for name in radars} | {"/lidar_top", "/sample", "/tf"}
    assert set(reader.topics) == expected
    assert {topic.count for name, topic in reader.topics.items() if name != "/tf"} == {40}
    strides, times = Counter(), []
    for message in reader.messages(strict=True):
        times.append(message.timestamp_ns)
        if isinstance(message.data, Cloud):
            dtype = message.data.records.dtype
            strides[message.topic.split("_")[0], dtype.itemsize, len(dtype.names)] += 1
    assert strides == {("/lidar", 20, 5): 40, ("/radar", 43, 18): 200}
    assert times == sorted(times)
    assert reader.damage == []
