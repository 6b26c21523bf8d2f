"""The nuScenes loader on a dataset small enough to work out by hand, and on one damaged in every way we could think of.

Agreement with nuscenes-devkit on real data: test_nuscenes_devkit.py.
"""

import logging
import math
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nuscenes_world import START_US, World, pcd_bytes, radar_points

import perception
from perception import CLASSES, PerceptionError
from perception.data.nuscenes_files import DataError
from perception.data.sources import FrameSource
from perception.geometry import project
from perception.task import ATTRIBUTES


@pytest.fixture
def world():
    return World()


@pytest.fixture
def load(tmp_path, world):
    return lambda **kwargs: perception.NuScenes(world.write(tmp_path), **kwargs)


def test_a_frame_worked_out_by_hand(load):
    frame = load()[0]
    assert (frame.token, frame.timestamp_ns, frame.scene) == ("s0", START_US * 1000, "scene-0001")
    assert frame.sensors == ("camera", "radar", "lidar")
    np.testing.assert_allclose(frame.world_SE3_ego.translation, [100, 200, 0])
    assert frame.world_SE3_ego.yaw == pytest.approx(math.pi / 2)
    # LiDAR: 10 m along its x, which is to the right of the vehicle. The sweep saw it from 1 m further back.
    np.testing.assert_allclose(frame.lidar.points, [[1, -10, 2, 50, 0], [0, -10, 2, 50, 0.05]], atol=1e-5)
    # Radar: 5 m behind it, and moving away from it at 3 m/s, which is backwards.
    expected = [[-6, 0, 0.5, 7, -3, 0, 0], [-7, 0, 0.5, 7, -3, 0, 0.05]]
    np.testing.assert_allclose(frame.radar.points, expected, atol=1e-5)
    # The camera exposed 2 m further on: 10 m ahead of the vehicle at the reference time is 8 m ahead of the lens.
    camera = frame.cameras["CAM_FRONT"]
    np.testing.assert_allclose(camera.ego_SE3_camera.translation, [2, 0, 1], atol=1e-9)
    assert camera.timestamp_ns - frame.timestamp_ns == 100_000_000
    pixels, depth = project(camera.ego_SE3_camera.inverse().transform(np.array([[10.0, 4.0, 1.0]])), camera.intrinsics)
    np.testing.assert_allclose(depth, 8)
    np.testing.assert_allclose(pixels, [[16 - 10 * 4 / 8, 8]])


def test_boxes_worked_out_by_hand(load):
    boxes = load()[0].boxes
    assert len(boxes) == 1  # the dog is no detection class
    np.testing.assert_allclose(boxes.center, [[10, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(boxes.size, [[4, 2, 1.5]])
    np.testing.assert_allclose(boxes.yaw, 0, atol=1e-9)
    np.testing.assert_allclose(boxes.velocity, [[10, 0]], atol=1e-9)
    assert CLASSES[boxes.label[0]] == "car" and ATTRIBUTES[boxes.attribute[0]] == "vehicle.moving"
    assert [boxes.visibility[0], boxes.num_lidar_points[0], boxes.num_radar_points[0]] == [4, 5, 2]


@pytest.mark.parametrize("seconds, known", [(1.5, True), (1.6, False)])
def test_velocity_is_unknown_after_a_long_gap(load, world, seconds, known):
    world.row("sample", "s1")["timestamp"] = START_US + int(seconds * 1e6)
    velocity = load()[0].boxes.velocity
    np.testing.assert_allclose(velocity, [[5 / seconds, 0]] if known else [[np.nan, np.nan]], atol=1e-9)


def test_velocity_of_a_single_annotation_is_unknown(load, world):
    world.row("sample_annotation", "car0")["next"] = ""
    assert np.isnan(load()[0].boxes.velocity).all()


def test_number_of_sweeps_includes_the_keyframe(load):
    frame = load(lidar_sweeps=1, radar_sweeps=1)[0]
    assert len(frame.lidar.points) == len(frame.radar.points) == 1


@pytest.mark.parametrize("sensor, channel", [("camera", "CAM_FRONT"), ("radar", "RADAR_FRONT"), ("lidar", "LIDAR_TOP")])
def test_channels_can_be_left_out(load, sensor, channel):
    for frame in load(without=(channel,)).frames():
        assert sensor not in frame.sensors and len(frame.sensors) == 2
    frame = load(without=(channel,))[1]
    np.testing.assert_allclose(frame.world_SE3_ego.translation, [100, 210, 0])  # the LiDAR's pose all the same
    assert len(frame.boxes) == 1


def test_only_points_of_the_chosen_lasers_are_kept(load, world):
    points = np.array([[10, 0, 0, intensity, ring] for ring, intensity in enumerate((10, 20, 30, 40))], "<f4")
    world.files["samples/LIDAR_TOP/lidar0"] = points.tobytes()
    kept = {rings: load(lidar_rings=rings)[0].lidar.points[:, 3].tolist() for rings in ((1, 3), (0,), (), None)}
    # The sweep before has one point, of intensity 50 and ring 3.
    assert kept == {(1, 3): [20, 40, 50], (0,): [10], (): [], None: [10, 20, 30, 40, 50]}


def test_a_part_of_each_scene(load, two_scenes):
    first, second = load(part=(0, 0.5)), load(part=(0.5, 1.0))
    assert first.tokens == ["s0", "b0", "b1"] and second.tokens == ["s1", "b2"]
    assert load(part=(0, 1)).tokens == ["s0", "s1", "b0", "b1", "b2"]
    assert [frame.token for frame in second.frames()] == second.tokens and second[-1].scene == "b"
    assert second.index("b2") == 1 and second.indices("b") == range(1, 2) and first.indices("b") == range(1, 3)
    np.testing.assert_allclose(second[0].boxes.velocity, [[10, 0]], atol=1e-9)  # the whole scene is known all the same
    with pytest.raises(PerceptionError, match="b0"):
        second.index("b0")
    assert load(part=(0.1, 0.4)).tokens == ["b1"]


@pytest.fixture
def two_scenes(world):
    """World's scene of s0 and s1, and after it a scene b of b0, b1, b2."""
    world.tables["scene"].append({"token": "b", "name": "b"})
    for i in range(3):
        row = {"token": f"b{i}", "scene_token": "b", "timestamp": START_US + (10 + i) * 500_000}
        world.tables["sample"].append(row)
        world.add(f"blidar{i}", f"b{i}", "LIDAR_TOP", (10 + i) * 500_000, world.files["samples/LIDAR_TOP/lidar0"])
    return world


def test_a_slice_is_a_dataset_of_its_frames(load, two_scenes):
    dataset = load()
    assert dataset.index("b2") == 4  # what the whole remembers of its tokens is not what a slice of it knows
    middle = dataset[1:4]
    assert middle.tokens == ["s1", "b0", "b1"] and middle.scenes == ["scene-0001", "b"] and len(middle) == 3
    assert [frame.token for frame in middle.frames()] == middle.tokens
    assert middle.indices("scene-0001") == range(1) and middle.indices("b") == range(1, 3) and middle.index("b1") == 2
    with pytest.raises(PerceptionError, match="b2"):
        middle.index("b2")
    assert middle.annotations.box_offsets.tolist() == [0, 1, 1, 1]  # the one car of s1
    np.testing.assert_allclose(middle.annotations.center, dataset.annotations.center[1:])
    np.testing.assert_allclose(middle.boxes(0).velocity, [[10, 0]], atol=1e-9)  # over ground since s0
    np.testing.assert_array_equal(middle.timestamps_ns, dataset.timestamps_ns[1:4])
    np.testing.assert_array_equal(middle.ego_positions, dataset.ego_positions[1:4])
    assert pickle.loads(pickle.dumps(middle)).tokens == middle.tokens
    assert dataset.tokens == ["s0", "s1", "b0", "b1", "b2"] and dataset.scenes == ["scene-0001", "b"]


def test_slices_as_of_a_list(load, two_scenes):
    dataset, every = load(), ["s0", "s1", "b0", "b1", "b2"]
    for cut in (slice(None), slice(-2, None), slice(1, None, 2), slice(0, 99), slice(3, 1), slice(2, 3)):
        assert dataset[cut].tokens == every[cut]
    assert dataset[::2][1:].tokens == ["b0", "b2"] and dataset[2:].scenes == ["b"]
    assert dataset[3:1].scenes == [] and len(dataset[3:1].annotations.label) == 0
    with pytest.raises(PerceptionError, match="a step of 1 or more was expected, found -1"):
        dataset[::-1]


def test_a_slice_counts_for_itself(load, two_scenes):
    del two_scenes.files["samples/CAM_FRONT/camera0.jpg"]
    two_scenes.files["samples/LIDAR_TOP/blidar1"] = b"odd"
    dataset = load(on_error="skip", sensors=["camera", "lidar"])
    assert dataset[3] is None and list(dataset.skipped) == ["b1"]
    assert dataset.report["CAM_FRONT", "keyframe file"] == 1
    last = dataset[2:]
    assert last.skipped == {} and ("CAM_FRONT", "keyframe file") not in last.report
    assert last[1] is None and list(last.skipped) == ["b1"] and last[0].token == "b0"


def test_a_dataset_is_a_source_of_frames(load):
    dataset = load()
    assert isinstance(dataset, FrameSource) and isinstance(dataset[:1], FrameSource)
    assert not isinstance(["no", "tokens"], FrameSource)


def test_order_is_time_whatever_the_order_of_the_tables(load, world):
    for rows in world.tables.values():
        rows.reverse()
    dataset = load()
    assert dataset.tokens == ["s0", "s1"] and dataset.scenes == ["scene-0001"]
    assert dataset.index("s1") == 1 and dataset.indices("scene-0001") == range(2)
    assert [frame.token for frame in dataset] == [frame.token for frame in dataset.frames("scene-0001")] == ["s0", "s1"]
    assert dataset[-1].token == "s1"
    with pytest.raises(IndexError):
        dataset[2]
    with pytest.raises(PerceptionError, match="s9"):
        dataset.index("s9")


def test_points_on_the_vehicle_are_dropped_in_a_square(load, world):
    points = np.array([[0.9, 0.9, 9, 1, 0], [1.1, 0, 0, 2, 0], [0, -1.1, 0, 3, 0]], "<f4")
    world.files["samples/LIDAR_TOP/lidar0"] = points.tobytes()
    assert load(lidar_sweeps=1)[0].lidar.points[:, 3].tolist() == [2, 3]
    assert len(load(lidar_sweeps=1, min_distance_m=0)[0].lidar.points) == 3


def test_radar_filter(load, world):
    points = radar_points(*[(5, 0, 0, rcs, 0, 0) for rcs in range(4)])
    points["invalid_state"][0], points["dyn_prop"][1], points["ambig_state"][2] = 4, 7, 1
    world.files["samples/RADAR_FRONT/radar1"] = pcd_bytes(points)
    assert load()[1].radar.points[:, 3].tolist() == [3]
    assert load(radar_filter=False)[1].radar.points[:, 3].tolist() == [0, 1, 2, 3]


def test_empty_clouds_are_not_absent(load, world):
    nothing = radar_points((np.nan, np.nan, np.nan, np.nan, np.nan, np.nan))  # how a nuScenes radar says so
    world.files["samples/RADAR_FRONT/radar1"] = pcd_bytes(nothing)
    world.files["samples/LIDAR_TOP/lidar1"] = np.zeros((1, 5), "<f4").tobytes()  # on the vehicle
    dataset = load()
    frame = dataset[1]
    assert frame.radar.points.shape == (0, 7) and frame.lidar.points.shape == (0, 5)
    assert dataset.report == {("RADAR_FRONT", "point not finite"): 1}


def test_points_that_are_not_finite_are_dropped_and_counted(load, world):
    lidar = np.array([[np.nan, 5, 0, 1, 0], [5, 5, 0, 2, 0], [3e38, 3e38, 0, 3, 0], [5, 5, 0, np.inf, 0]], "<f4")
    world.files["samples/LIDAR_TOP/lidar1"] = lidar.tobytes()
    radar = radar_points((5, 0, 0, 1, 0, 0), (5, 0, 0, 2, np.nan, 0))
    radar["vx"] = np.nan  # not a field that is used
    world.files["samples/RADAR_FRONT/radar1"] = pcd_bytes(radar)
    dataset = load()
    assert dataset[1].lidar.points[:, 3].tolist()[0] == 2 and dataset[1].radar.points[:, 3].tolist() == [1]
    assert dataset.report["RADAR_FRONT", "point not finite"] == 2  # read twice above


def test_points_out_of_range_are_dropped_and_counted(load, world):
    lidar = np.array([[5, 5, 0, value, 0] for value in (1e30, 1e20, *range(9))] + [[5, 2e6, 0, 3, 0]], "<f4")
    world.files["samples/LIDAR_TOP/lidar1"] = lidar.tobytes()
    radar = radar_points((5, 0, 0, 1, 0, 0), (5, 0, 0, 1e30, 0, 0), (5, 0, 0, 1, 0, -1e4), (3e6, 0, 0, 1, 0, 0))
    world.files["samples/RADAR_FRONT/radar1"] = pcd_bytes(radar)
    dataset = load()
    frame = dataset[1]
    assert frame.lidar.points[:, 3].tolist() == [*range(9)] and frame.radar.points[:, 3].tolist() == [1]
    assert dataset.report == {("LIDAR_TOP", "point out of range"): 3, ("RADAR_FRONT", "point out of range"): 3}


def doppler_points(**fields):
    points = np.zeros(1, [(name, "<f4") for name in fields])
    for name, value in fields.items():
        points[name] = value
    return points


@pytest.mark.parametrize(
    "fields, rcs",
    [
        ({"doppler": -20.0, "rcs": 4.0}, 4),
        ({"radial_velocity": -20.0, "power": 3.0}, 3),
        ({"vrel_x": -20.0, "vrel_y": 0.0, "vrel_z": 0.0}, 0),
        ({"vx": -20.0, "vy": 0.0, "rcs": 4.0}, 4),
        ({"vx_comp": 0.0, "vy_comp": 0.0, "rcs": 4.0}, 4),
    ],
)
def test_radars_of_others_say_how_fast_over_ground(load, world, fields, rcs):
    """A post 5 m ahead of a radar that looks forward comes nearer at the vehicle's 20 m/s."""
    world.row("calibrated_sensor", "RADAR_FRONT")["rotation"] = [1.0, 0.0, 0.0, 0.0]
    for name in [name for name in world.files if "RADAR" in name]:
        world.files[name] = pcd_bytes(doppler_points(x=5.0, y=0.0, z=0.0, **fields))
    points = load(sensors=["radar"])[0].radar.points
    np.testing.assert_allclose(points, [[4, 0, 0.5, rcs, 0, 0, 0], [3, 0, 0.5, rcs, 0, 0, 0.05]], atol=1e-5)


def test_a_radar_without_speed_is_refused_by_name(load, world):
    world.files["samples/RADAR_FRONT/radar0"] = pcd_bytes(doppler_points(x=5.0, y=0.0, z=0.0, rcs=4.0))
    with pytest.raises(DataError, match="a field of a radar's speed was expected, such as doppler, found x y z rcs"):
        load()[0]


@pytest.mark.parametrize(
    "coefficients, model",
    [([-0.3, 0.1, 0, 0, 0], None), ([-0.3, 0.1, 0, 0], "plumb_bob"), ([0.2, 0.0, 0.0, 0.0], "fisheye")],
)
def test_images_are_freed_of_distortion(load, world, coefficients, model):
    """A point in space is seen where the intrinsics say, not where the lens put it."""
    row = world.row("calibrated_sensor", "CAM_FRONT")
    row["camera_intrinsic"] = k = [[100, 0, 80], [0, 100, 60], [0, 0, 1]]
    row |= {"camera_distortion": coefficients, "distortion_model": model}
    point = np.array([[[0.5, 0.3, 1.0]]])
    project_with = cv2.fisheye.projectPoints if model == "fisheye" else cv2.projectPoints
    seen = project_with(point, np.zeros(3), np.zeros(3), np.array(k, float), np.array(coefficients, float))[0].ravel()
    image = np.zeros((120, 160, 3), np.uint8)
    cv2.circle(image, (round(seen[0]), round(seen[1])), 2, (255, 255, 255), -1)
    world.files["samples/CAM_FRONT/camera0.jpg"] = cv2.imencode(".png", image)[1].tobytes()
    world.row("sample_data", "camera0").update(height=120, width=160)
    camera = load(sensors=["camera"])[0].cameras["CAM_FRONT"]
    v, u = np.argwhere(camera.image[..., 0] > 128).mean(axis=0)
    assert np.hypot(seen[0] - 130, seen[1] - 90) > 2  # where it was on the distorted image
    np.testing.assert_allclose([u, v], [130, 90], atol=0.8)
    np.testing.assert_allclose(camera.intrinsics, k)


@pytest.mark.parametrize("sensor, channel", [("camera", "CAM_FRONT"), ("radar", "RADAR_FRONT"), ("lidar", "LIDAR_TOP")])
def test_sensors_not_asked_for_are_not_read(load, world, sensor, channel):
    for name in world.files:
        if channel not in name:
            world.files[name] = b"damaged"
    frame = load(sensors=(sensor,))[0]
    assert frame.sensors == (sensor,)
    np.testing.assert_allclose(frame.world_SE3_ego.translation, [100, 200, 0])  # the LiDAR's pose all the same


@pytest.mark.parametrize("sensor, channel", [("camera", "CAM_FRONT"), ("radar", "RADAR_FRONT"), ("lidar", "LIDAR_TOP")])
def test_a_missing_keyframe_file_is_an_absent_sensor(load, world, sensor, channel, caplog):
    del world.files[next(name for name in world.files if name.startswith(f"samples/{channel}"))]
    dataset = load()
    assert dataset.report == {(channel, "keyframe file"): 1}
    assert len(caplog.records) == 1 and f"1 {channel} keyframe file" in caplog.text
    assert sensor not in dataset[0].sensors and len(dataset[0].sensors) == 2  # the sweep before does not stand in
    assert dataset[1].sensors == ("camera", "radar", "lidar")


def test_missing_sweeps_are_left_out(load, world):
    del world.files["sweeps/LIDAR_TOP/sweep"]
    dataset = load()
    assert dataset.report == {("LIDAR_TOP", "sweep file"): 1}
    assert len(dataset[0].lidar.points) == 1


def test_without_a_lidar_row_the_nearest_ego_pose_is_the_reference(load, world):
    world.remove("sample_data", "lidar1")
    world.row("sample", "s1")["timestamp"] += 40_000  # the camera was 60 ms later, the radar 40 ms before
    dataset = load()
    assert dataset.report == {("LIDAR_TOP", "keyframe row"): 1}
    frame = dataset[1]
    assert frame.lidar is None and frame.timestamp_ns == 1000 * (START_US + 540_000)
    np.testing.assert_allclose(frame.world_SE3_ego.translation, [100, 210, 0])
    assert frame.radar.points[0, 6] == pytest.approx(0.04)


def test_a_sample_with_nothing(load, world):
    for channel in ("lidar1", "radar1", "camera1"):
        world.remove("sample_data", channel)
    with pytest.raises(DataError, match="sample s1: no row in sample_data"):
        load()[1]
    assert [frame.token for frame in load(on_error="skip").frames()] == ["s0"]


def test_all_files_missing(load, world):
    world.files.clear()
    frame = load()[0]
    assert frame.sensors == () and len(frame.boxes) == 1


@pytest.mark.parametrize("empty", [True, False])
def test_a_version_without_annotations(tmp_path, world, empty):
    world.tables["sample_annotation"] = []
    world.write(tmp_path, "v1.0-test")
    if not empty:
        (tmp_path / "v1.0-test" / "sample_annotation.json").unlink()
    assert perception.NuScenes(tmp_path)[0].boxes is None


def test_a_sample_without_objects_has_empty_boxes(load, world):
    world.row("sample_annotation", "car0")["next"] = ""
    world.row("sample_annotation", "car1")["prev"] = ""
    world.remove("sample_annotation", "car1")
    assert len(load()[1].boxes) == 0


BROKEN = {
    "samples/LIDAR_TOP/lidar0": (b"\0" * 21, "multiple of 20 bytes"),
    "sweeps/LIDAR_TOP/sweep": (b"\0" * 7, "found 7"),
    "samples/RADAR_FRONT/radar0": (pcd_bytes(radar_points((1, 2, 3, 4, 5, 6)))[:-1], "43 bytes"),
    "sweeps/RADAR_FRONT/rsweep": (
        pcd_bytes(radar_points((1, 2, 3, 4, 5, 6))[["x", "y"]].copy()),
        "itemsize|field z|bytes",
    ),
    "samples/CAM_FRONT/camera0.jpg": (cv2.imencode(".jpg", np.zeros((8, 32, 3), np.uint8))[1].tobytes(), r"\(16, 32\)"),
}


@pytest.mark.parametrize("filename", BROKEN)
def test_a_damaged_file_is_an_error_or_skipped(load, world, filename, caplog):
    world.files[filename], message = BROKEN[filename]
    with pytest.raises(DataError, match=message) as error:
        load()[0]
    token = filename.rpartition("/")[2].removesuffix(".jpg")
    for part in (filename, "sample s0", f"sample_data {token}"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    dataset = load(on_error="skip")
    assert dataset[0] is None and dataset[0] is None and dataset[1].token == "s1"
    assert [frame.token for frame in dataset.frames()] == ["s1"]
    assert dataset.skipped == {"s0": str(error.value)}
    assert sum("skipped" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "filename", ["/etc/passwd", "../secret", "samples/../../secret", "a\\..\\..\\b", "", "a/..", 7, "x\0"]
)
def test_file_names_stay_below_the_root(load, world, filename):
    world.row("sample_data", "lidar0")["filename"] = filename
    with pytest.raises(DataError, match=r"sample_data\.json: token lidar0: .* in filename"):
        load()


ALL_TABLES = "scene sample sensor calibrated_sensor sample_data ego_pose category instance attribute visibility".split()


@pytest.mark.parametrize("table", ALL_TABLES)
def test_a_missing_or_malformed_table_is_named(tmp_path, world, table):
    path = world.write(tmp_path) / "v1.0-sim" / f"{table}.json"
    for damaged in ("[", "{}", "[1]", '[{"name": "x"}]', ""):
        path.write_text(damaged)
        with pytest.raises(DataError, match=f"{table}.json"):
            perception.NuScenes(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=table):
        perception.NuScenes(tmp_path)


@pytest.mark.parametrize(
    "table, token, key, value",
    [
        ("sample", "s0", "scene_token", "nowhere"),
        ("sample", "s0", "timestamp", "noon"),
        ("calibrated_sensor", "CAM_FRONT", "sensor_token", "nowhere"),
        ("calibrated_sensor", "CAM_FRONT", "camera_intrinsic", []),
        ("calibrated_sensor", "LIDAR_TOP", "rotation", [0, 0, 0, 0]),
        ("calibrated_sensor", "LIDAR_TOP", "translation", [0, 0]),
        ("sample_data", "lidar0", "sample_token", "nowhere"),
        ("sample_data", "lidar0", "calibrated_sensor_token", None),
        ("sample_data", "lidar0", "prev", "nowhere"),
        ("sample_data", "lidar0", "ego_pose_token", "nowhere"),
        ("ego_pose", "lidar0", "translation", [0, 0, float("nan")]),
        ("ego_pose", "lidar0", "rotation", [1, 0, 0]),
        ("instance", "car", "category_token", "nowhere"),
        ("sample_annotation", "car0", "sample_token", "nowhere"),
        ("sample_annotation", "car0", "instance_token", ["car"]),
        ("sample_annotation", "car0", "next", "nowhere"),
        ("sample_annotation", "car0", "size", [0, 4, 1]),
        ("sample_annotation", "car0", "visibility_token", "9"),
        ("sample_annotation", "car0", "attribute_tokens", ["flying"]),
        ("sample_annotation", "car0", "num_lidar_pts", None),
    ],
)
def test_a_bad_value_names_table_token_and_key(load, world, table, token, key, value):
    world.row(table, token)[key] = value
    with pytest.raises(DataError, match=f"{table}.json: token {token}: .* in {key}, found") as error:
        load()
    assert "\n" not in str(error.value)


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.floats(), max_size=4)
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_tables_are_read_or_refused(tmp_path, data):
    world = World()
    rows = world.tables[data.draw(st.sampled_from(sorted(world.tables)))]
    row = data.draw(st.sampled_from(rows))
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(JSON)
    on_error = data.draw(st.sampled_from(["raise", "skip"]))
    try:
        list(perception.NuScenes(world.write(tmp_path), on_error=on_error).frames())
    except PerceptionError as error:
        assert "\n" not in str(error)


def test_version(tmp_path, world):
    with pytest.raises(DataError, match="found none"):
        perception.NuScenes(tmp_path)
    with pytest.raises(DataError, match="found none"):
        perception.NuScenes(tmp_path / "nowhere")
    world.write(tmp_path, "v1.0-mini")
    assert perception.NuScenes(tmp_path).version == "v1.0-mini"
    world.write(tmp_path, "v1.0-sim")
    with pytest.raises(DataError, match=r"exactly one version.*found v1.0-mini, v1.0-sim"):
        perception.NuScenes(tmp_path)
    with pytest.raises(DataError, match=r"'v1.0-tset'.*found v1.0-mini, v1.0-sim"):
        perception.NuScenes(tmp_path, "v1.0-tset")


def test_unknown_names_are_answered_with_the_closest(load):
    with pytest.raises(PerceptionError, match=r"unknown scene 'scene-001'; the closest is 'scene-0001'"):
        load(scenes=["scene-001"])
    with pytest.raises(PerceptionError, match="unknown sensor 'lider'; the closest is 'lidar'"):
        load(sensors=("lider",))
    with pytest.raises(PerceptionError, match="on_error"):
        load(on_error="ignore")
    with pytest.raises(PerceptionError, match="either split or scenes"):
        load(split="val", scenes=["scene-0001"])


def test_scenes_are_served_in_the_order_asked_for(load, world):
    world.tables["scene"].append({"token": "b", "name": "b"})
    world.row("sample", "s1")["scene_token"] = "b"
    world.row("sample_annotation", "car0")["next"] = world.row("sample_annotation", "car1")["prev"] = ""
    assert load(scenes=["b", "scene-0001"]).tokens == ["s1", "s0"]
    only = load(scenes=["b"])
    assert only.tokens == ["s1"] and only[0].scene == "b"
    np.testing.assert_allclose(only[0].boxes.velocity, [[np.nan, np.nan]])
    with pytest.raises(PerceptionError, match="s0"):
        only.index("s0")


def test_splits_of_the_version_itself(tmp_path, load, world, caplog):
    (world.write(tmp_path) / "v1.0-sim" / "splits.json").write_text('{"val": ["scene-0001", "scene-0002"], "none": []}')
    assert len(load(split="val")) == 2
    assert "1 of 2 scenes of split 'val' are absent" in caplog.text
    with pytest.raises(PerceptionError, match="none of the 0 scenes"):
        load(split="none")
    (tmp_path / "v1.0-sim" / "splits.json").write_text('{"val": 7}')
    with pytest.raises(DataError, match=r"splits\.json"):
        load(split="val")


def test_official_splits(load, world, caplog):
    pytest.importorskip("nuscenes")
    with pytest.raises(PerceptionError, match=r"unknown split .mini_vall.; the closest is .mini_val."):
        load(split="mini_vall")
    with pytest.raises(PerceptionError, match="none of the 2 scenes of split 'mini_val' is here"):
        load(split="mini_val")
    world.row("scene", "scene")["name"] = "scene-0103"
    assert load(split="mini_val").scenes == ["scene-0103"]
    assert "1 of 2 scenes of split 'mini_val' are absent" in caplog.text
    assert load(split="val").scenes == ["scene-0103"]
    for split in ("train", "test", "mini_train", "train_detect", "train_track"):
        with pytest.raises(PerceptionError, match="none of"):
            load(split=split)


def test_pickled_dataset_serves_the_same_frames(load):
    dataset = load()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.tokens == dataset.tokens
    np.testing.assert_array_equal(copy[0].lidar.points, dataset[0].lidar.points)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers(load, method, caplog):
    caplog.set_level(logging.ERROR)
    dataset = load()
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert [frame.token for frame in pool.map(dataset.__getitem__, range(2))] == dataset.tokens


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("part", (0.5,), "begin and end as shares"),
        ("part", (0.5, 0.5), "begin and end as shares"),
        ("part", (0.7, 0.2), "begin and end as shares"),
        ("part", (-0.1, 1.0), "begin and end as shares"),
        ("part", (0.0, 1.1), "begin and end as shares"),
        ("sensors", 3, "a list of names"),
        ("sensors", "camera", "a list of names"),
        ("scenes", [3], "a list of names"),
        ("without", "CAM_FRONT", "a list of names"),
        ("image_size", 5, "height and width"),
        ("image_size", (16, 32, 3), "height and width"),
        ("task", None, "a Task"),
        ("lidar_sweeps", float("nan"), "a whole number from 1"),
        ("radar_sweeps", 0, "a whole number from 1"),
        ("min_distance_m", float("nan"), "a number from 0"),
        ("min_distance_m", "near", "a number from 0"),
        ("lidar_rings", ["top"], "whole numbers from 0"),
        ("lidar_rings", [10**12], "whole numbers from 0"),
    ],
)
def test_arguments_that_are_none_are_named(world, tmp_path, name, value, expected):
    with pytest.raises(PerceptionError, match=rf"{name}: {expected}.* expected, found"):
        perception.NuScenes(world.write(tmp_path), **{name: value})


@pytest.mark.parametrize("root", [None, 3, b"folder", []])
def test_a_root_that_is_no_path_is_named(root):
    with pytest.raises(PerceptionError, match="root: a path was expected, found"):
        perception.NuScenes(root)
