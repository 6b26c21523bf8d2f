"""Poses, clouds and frames of a log: where things are, worked out by hand."""

import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from perception.data.nuscenes import NuScenes
from perception.geometry import pose_matrix
from perception.logs.assemble import Assembler, sweep_span_s
from perception.logs.clouds import lidar_points, radar_records
from perception.logs.frames import LogFrames
from perception.logs.log import open_log
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Cloud, Image, LogError, Message, Sample, Transform
from perception.logs.rig import CameraSource, CloudSource, Rig
from perception.logs.transforms import HOLD_NS, Transforms
from perception.logs.units import point_times_ns, units_of
from perception.replay.job import rig_of

S = 1_000_000_000
LIDAR = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity", "ring")])
RIG = Rig(
    reference="LIDAR",
    cameras={"CAM": CameraSource(image="/cam/image_rect", calibration="/cam/camera_info")},
    lidars={"LIDAR": CloudSource(cloud="/lidar")},
    radars={"RADAR": CloudSource(cloud="/radar")},
)
UNTIL_NOW = Assembly(min_distance_m=0.0)


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return np.array([x, y, z, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def message(topic, seconds, data, sequence=[0]):  # noqa: B006 - counts the messages of the tests
    sequence[0] += 1
    return Message(topic, round(seconds * S), round(seconds * S), sequence[0], data)


def tf(parent, child, seconds, at, static=False):
    return message("/tf", seconds, Transform(parent, child, at, static))


def cloud(seconds, *points, topic="/lidar", frame="lidar"):
    records = np.zeros(len(points), LIDAR)
    for i, point in enumerate(points):
        records[i] = tuple(point) + (100.0, 1.0)
    return message(topic, seconds, Cloud(frame, records))


def frames(messages, rig=RIG, assembly=UNTIL_NOW):
    assembler = Assembler(rig, assembly, "drive", "test.mcap")
    ordered = sorted(messages, key=lambda m: (m.timestamp_ns, m.topic, m.sequence))
    return [f for m in ordered for f in assembler.push(m)] + list(assembler.finish()), assembler.counts


MOUNTS = [tf("base_link", "lidar", 0, pose(1, 0, 2), static=True), tf("base_link", "radar", 0, pose(3), static=True)]


# Transforms


def known(*edges):
    transforms = Transforms()
    for parent, child, seconds, at in edges:
        transforms.add(round(seconds * S), Transform(parent, child, at))
    return transforms


def test_between_two_poses_is_a_line_and_a_slerp():
    transforms = known(("map", "car", 0, pose(0)), ("map", "car", 1, pose(4, 2, 0, np.pi / 2)))
    quarter = transforms.lookup("map", "car", S // 4)
    assert np.allclose(quarter[:3, 3], [1, 0.5, 0])
    assert np.allclose(quarter[:3, :3], Rotation.from_euler("z", np.pi / 8).as_matrix(), atol=1e-12)


def test_a_measured_pose_is_itself_to_the_last_bit():
    at = pose(1 / 3, 1e4 / 7, 0.1, 0.3)
    transforms = known(("map", "car", 0, pose()), ("map", "car", 1, at), ("map", "car", 2, pose(9)))
    assert np.array_equal(transforms.lookup("map", "car", S), pose_matrix(at))


def test_of_two_poses_at_one_time_the_first_holds_and_order_of_arrival_does_not_matter():
    steps = [("map", "car", t, pose(t * t)) for t in range(4)]
    forward, backward = known(*steps, ("map", "car", 2, pose(77))), known(*steps[::-1])
    for t in (0, S, 2 * S, int(2.5 * S)):
        assert np.array_equal(forward.lookup("map", "car", t), backward.lookup("map", "car", t))


def test_outside_of_what_was_measured_a_pose_holds_for_a_moment():
    transforms = known(("map", "car", 1, pose(1)), ("map", "car", 2, pose(2)))
    assert transforms.lookup("map", "car", 2 * S + HOLD_NS)[0, 3] == 2
    assert transforms.lookup("map", "car", 1 * S - HOLD_NS)[0, 3] == 1
    assert transforms.lookup("map", "car", 2 * S + HOLD_NS + 1) is None
    assert transforms.measured("map", "car") == (S, 2 * S)


def test_a_vehicle_that_stands_first_and_then_moves():
    stands = [("map", "car", t / 10, pose(5)) for t in range(50)]
    transforms = known(*stands, ("map", "car", 5.0, pose(6)))
    assert transforms.lookup("map", "car", 3 * S)[0, 3] == 5
    assert transforms.lookup("map", "car", int(4.95 * S))[0, 3] == pytest.approx(5.5)


def test_chains_go_up_and_down_the_tree():
    transforms = known(
        ("map", "odom", 0, pose(100)), ("odom", "car", 0, pose(0, 10, 0, np.pi / 2)), ("car", "lidar", 0, pose(1)),
        ("car", "camera", 0, pose(2)),
    )  # fmt: skip
    assert np.allclose(transforms.lookup("map", "lidar", 0)[:3, 3], [100, 11, 0])
    assert np.allclose(transforms.lookup("lidar", "camera", 0)[:3, 3], [1, 0, 0])
    assert np.allclose(transforms.lookup("lidar", "map", 0) @ transforms.lookup("map", "lidar", 0), np.eye(4))
    assert transforms.lookup("map", "elsewhere", 0) is None and transforms.measured("map", "elsewhere") is None


@pytest.mark.parametrize(
    ("edge", "text"),
    [
        (("x", "x", pose()), "transform x -> x: two frames were expected, found one"),
        (("car", "x", np.zeros(7)), "unit quaternion"),
        (("car", "x", np.full(7, np.nan)), "unit quaternion"),
    ],
)
def test_what_is_no_transform(edge, text):
    transforms = known(("map", "car", 0, pose()))
    with pytest.raises(LogError, match=text):
        transforms.add(0, Transform(*edge))


def test_forgetting_keeps_what_interpolation_needs():
    transforms = known(*[("map", "car", t, pose(t * t)) for t in range(10)])
    before = transforms.lookup("map", "car", int(5.5 * S))
    transforms.forget_before(int(5.2 * S))
    assert np.array_equal(transforms.lookup("map", "car", int(5.5 * S)), before)
    assert transforms.measured("map", "car") == (5 * S, 9 * S)


# Clouds


def points_of(cloud):
    return lidar_points(cloud, units_of([(0, cloud)]).intensity_max)


def times_of(cloud, stamp_ns):
    return point_times_ns(cloud, stamp_ns, units_of([(stamp_ns, cloud)]))


def test_names_types_and_scales_of_drivers():
    ouster = np.zeros(2, np.dtype({
        "names": ["x", "y", "z", "intensity", "t", "reflectivity", "ring", "ambient", "range"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "<u4", "<u2", "<u2", "<u2", "<u4"],
        "offsets": [0, 4, 8, 16, 20, 24, 26, 28, 32], "itemsize": 48,
    }))  # fmt: skip
    ouster["x"], ouster["intensity"], ouster["ring"], ouster["t"] = [1, 2], [300, 10], [7, 8], [0, 50_000_000]
    assert points_of(Cloud("l", ouster)).tolist() == [[1, 0, 0, 255, 7], [2, 0, 0, 10, 8]]
    assert lidar_points(Cloud("l", ouster), 1000.0)[:, 3] == pytest.approx([76.5, 2.55])
    assert times_of(Cloud("l", ouster), 7 * S).tolist() == [7 * S, 7 * S + 50_000_000]
    autoware = np.zeros(1, [("x", ">f4"), ("y", ">f4"), ("z", ">f4"), ("intensity", "u1"), ("channel", ">u2")])
    autoware["z"], autoware["intensity"], autoware["channel"] = 3, 200, 5
    assert points_of(Cloud("l", autoware)).tolist() == [[0, 0, 3, 200, 5]]
    wide = np.zeros(1, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<u2")])
    wide["intensity"] = 65535
    assert points_of(Cloud("l", wide)).tolist() == [[0, 0, 0, 255, 0]]
    with pytest.raises(LogError, match="a field z was expected, found x y"):
        points_of(Cloud("l", np.zeros(1, [("x", "<f4"), ("y", "<f4")])))


@pytest.mark.parametrize(
    ("name", "kind", "values", "expected"),
    [
        ("time", "<f4", [-0.05, 0.0], [-0.05, 0.0]),  # Velodyne
        ("timestamp", "<f8", [1.6e9, 1.6e9 + 0.25], [0.0, 0.25]),  # Hesai
        ("timestamp", "<f8", [1.6e18, 1.6e18 + 1e9], [0.0, 1.0]),  # Livox
        ("time_stamp", "<u4", [0, 10_000_000], [0.0, 0.01]),  # Autoware
        ("offset_time", "<u8", [1_600_000_000 * S, 1_600_000_001 * S], [0.0, 1.0]),
    ],
)
def test_times_of_points(name, kind, values, expected):
    records = np.zeros(2, [("x", "<f4"), (name, kind)])
    records[name] = values
    stamp_ns = 1_600_000_000 * S
    assert (times_of(Cloud("l", records), stamp_ns) - stamp_ns) * 1e-9 == pytest.approx(expected, abs=1e-6)
    assert times_of(Cloud("l", records[:0]), stamp_ns) is None
    assert times_of(Cloud("l", records[["x"]]), stamp_ns) is None


def test_a_standing_target_has_no_speed_over_ground_whatever_the_radar_does():
    """The radar drives at 10 m/s; 60 degrees off its way it sees a post come nearer at half that."""
    scan = np.zeros(1, [(n, "<f4") for n in ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")])
    scan["range"], scan["azimuth"], scan["doppler_velocity"], scan["amplitude"] = 20, np.pi / 3, -5.0, 12
    points, has_states = radar_records(Cloud("r", scan), lambda: np.array([10.0, 0.0, 0.0]))
    assert not has_states and points["rcs"] == 12
    assert [points["x"][0], points["y"][0]] == pytest.approx([10, 20 * np.sin(np.pi / 3)], rel=1e-6)
    assert [points["vx_comp"][0], points["vy_comp"][0]] == pytest.approx([0, 0], abs=1e-5)
    with pytest.raises(LogError, match="a field of a radar's speed"):
        radar_records(Cloud("r", np.zeros(1, LIDAR)), lambda: np.zeros(3))


# Frames


def driving(seconds, speed=10.0, turn=0.0):
    """The vehicle along map x, a pose every 20 ms; with a turn it goes round a circle."""
    out = []
    for t in np.arange(0, seconds + 1e-9, 0.02):
        if turn:
            at = pose(speed / turn * np.sin(turn * t), speed / turn * (1 - np.cos(turn * t)), 0, turn * t)
        else:
            at = pose(speed * t)
        out.append(tf("map", "base_link", t, at))
    return out


@pytest.mark.parametrize("turn", [0.0, 0.5])
def test_a_post_is_at_one_place_for_all_sensors_and_sweeps(turn):
    """A post stands at map (40, 5, 1); every sensor sees it where it is from there, at its own time."""
    poses = driving(2.0, turn=turn)
    transforms = Transforms()
    for m in [*poses, *MOUNTS]:
        transforms.add(m.timestamp_ns, m.data)
    post = np.array([40.0, 5.0, 1.0, 1.0])

    def seen(frame, seconds):
        return (transforms.lookup(frame, "map", round(seconds * S)) @ post)[:3]

    lidar = [cloud(t, seen("lidar", t)) for t in np.arange(0.1, 1.9, 0.05)]
    radar = []
    for t in np.arange(0.12, 1.9, 0.07):
        x, y, z = seen("radar", t)
        dtype = [(n, "<f4") for n in ("x", "y", "z", "rcs", "vx_comp", "vy_comp")]
        records = np.array([(x, y, z, 3.0, 0.0, 0.0)], dtype)
        radar.append(message("/radar", t, Cloud("radar", records)))
    spans = Assembly(lidar_span_s=sweep_span_s(4, 20.0), radar_span_s=sweep_span_s(3, 13.0))
    found, _ = frames([*MOUNTS, *poses, *lidar, *radar], assembly=spans)
    assert len(found) == len(lidar) and found[10].scene == "drive" and found[10].sensors == ("radar", "lidar")
    for frame in found[5:-2]:
        expected = frame.world_SE3_ego.inverse().transform(post[:3])
        assert len(frame.lidar.points) == 4 and len(frame.radar.points) >= 2
        assert np.abs(frame.lidar.points[:, :3] - expected).max() < 2e-4  # poses are interpolated along a line
        assert np.abs(frame.radar.points[:, :3] - expected).max() < 2e-3
        assert frame.lidar.points[:, 4] == pytest.approx([0, 0.05, 0.1, 0.15], abs=1e-6)
        assert frame.token == str(frame.timestamp_ns)


def test_points_are_moved_by_their_own_times():
    """A sweep of 0.1 s, stamped at its end, of two posts that a turning vehicle sees one after the other."""
    poses = driving(1.0, speed=0.0001, turn=1.0)
    transforms = Transforms()
    for m in [*poses, *MOUNTS]:
        transforms.add(m.timestamp_ns, m.data)
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("time", "<f4")])
    records = np.zeros(2, dtype)
    posts = np.array([[20.0, 0, 1, 1], [0, 20.0, 1, 1]])
    for i, (post, late) in enumerate(zip(posts, (-0.1, -0.03))):
        x, y, z, _ = transforms.lookup("lidar", "map", round((0.5 + late) * S)) @ post
        records[i] = (x, y, z, 50, late)
    (frame,), _ = frames([*MOUNTS, *poses, message("/lidar", 0.5, Cloud("lidar", records))])
    expected = frame.world_SE3_ego.inverse().transform(posts[:, :3])
    assert np.abs(frame.lidar.points[:, :3] - expected).max() < 1e-3  # without it they would be off by up to 2 m


def test_an_image_knows_where_the_camera_was_when_it_was_exposed():
    calibration = Calibration("cam", 8, 4, np.eye(3), np.zeros(0), "", np.eye(3), np.eye(3, 4))
    image = Image("cam", "rgb8", bytes(range(96)), 8, 4, 24)
    mount = tf("base_link", "cam", 0, pose(2), static=True)
    found, counts = frames([
        *MOUNTS, mount, *driving(1.0), message("/cam/camera_info", 0.4, calibration),
        message("/cam/image_rect", 0.47, image), cloud(0.5, (5, 0, 0)), cloud(0.8, (5, 0, 0)),
    ])  # fmt: skip
    first, second = found
    assert first.cameras["CAM"].ego_SE3_camera.translation == pytest.approx([2 - 0.3, 0, 0])  # 30 ms at 10 m/s
    assert first.cameras["CAM"].timestamp_ns == 470_000_000 and first.cameras["CAM"].image[0, 1].tolist() == [3, 4, 5]
    assert second.cameras is None and counts["frames without CAM"] == 1


def test_frames_are_made_at_the_marks_of_a_log_that_has_them():
    rig = Rig(reference="LIDAR", samples="/sample", lidars=RIG.lidars)
    clouds = [cloud(t, (5, 0, 0)) for t in (0.1, 0.2, 0.3, 0.4)]
    found, _ = frames([*MOUNTS, *driving(1.0), *clouds, message("/sample", 0.3, Sample("s"))], rig)
    assert [(f.token, f.timestamp_ns) for f in found] == [("s", 300_000_000)] and found[0].lidar.points[0, 4] == 0


def test_no_more_frames_than_asked_for():
    clouds = [cloud(t, (5, 0, 0)) for t in np.arange(0.1, 0.9, 0.05)]
    found, _ = frames([*MOUNTS, *driving(1.0), *clouds], assembly=Assembly(rate_hz=10.0))
    assert np.diff([f.timestamp_ns for f in found]).tolist() == [100_000_000] * 7


def test_of_measurements_around_the_reference_the_nearest_is_taken_if_it_is_near():
    dtype = [(n, "<f4") for n in ("x", "y", "z", "vx_comp", "vy_comp")]

    def radar(seconds, x):
        return message("/radar", seconds, Cloud("radar", np.array([(x, 0, 0, 0, 0)], dtype)))

    def nearest(*radars):
        (frame, *_), _ = frames([*MOUNTS, *driving(2.0, speed=1e-6), cloud(1.0, (5, 0, 0)), *radars])
        return None if frame.radar is None else round(float(frame.radar.points[0, 0]))

    assert nearest(radar(0.96, 10), radar(1.03, 20)) == 23  # 3 m ahead of the vehicle's origin
    assert nearest(radar(0.96, 10), radar(1.06, 20)) == 13  # too late
    assert nearest(radar(0.89, 10)) is None and nearest(radar(1.04, 10), radar(0.96, 20)) in (13, 23)


def test_a_frame_waits_for_poses_that_come_late():
    """Poses twice a second only: the one after the reference is needed, to interpolate."""
    poses = [tf("map", "base_link", t, pose(10 * t)) for t in (0.0, 0.5, 1.0)]
    (frame,), _ = frames([*MOUNTS, *poses, cloud(0.6, (5, 0, 0)), cloud(0.75, (5, 0, 0), topic="/other")])
    assert frame.world_SE3_ego.translation == pytest.approx([6, 0, 0])


def test_what_is_missing_is_said():
    found, counts = frames([*MOUNTS, cloud(0.5, (5, 0, 0))])
    assert found == [] and counts["frames left out: no ego pose"] == 1
    found, counts = frames([*MOUNTS[1:], *driving(1.0), cloud(0.5, (5, 0, 0))])
    assert found == []
    assert counts["/lidar: measurements without a transform from base_link to lidar"] == 1
    wrong = Message("/lidar", S // 2, 0, 0, Image("lidar", "mono8", b"", 0, 0, 0))
    with pytest.raises(LogError, match=r"test\.mcap: /lidar at 500000000 ns: the rig expects a lidar's Cloud"):
        frames([*MOUNTS, *driving(1.0), wrong])


def test_a_damaged_measurement_may_be_left_out():
    calibration = Calibration("cam", 8, 4, np.eye(3), np.zeros(0), "", np.eye(3), np.eye(3, 4))
    log = [
        *MOUNTS, tf("base_link", "cam", 0, pose(2), static=True), *driving(1.0), cloud(0.5, (5, 0, 0)),
        message("/cam/camera_info", 0.4, calibration),
        message("/cam/image_rect", 0.5, Image("cam", "jpeg", b"no JPEG")),
    ]  # fmt: skip
    with pytest.raises(LogError, match="/cam/image_rect at 500000000 ns: a JPEG or PNG image was expected"):
        frames(log)
    (frame,), counts = frames(log, assembly=Assembly(skip_damaged=True))
    assert frame.sensors == ("lidar",)
    ((what, count),) = ((what, count) for what, count in counts.items() if "cannot be used" in what)
    assert re.fullmatch("/cam/image_rect: a JPEG or PNG image was expected.*: measurements that cannot be used", what)
    assert count == 1


def test_a_vehicle_that_stands_needs_no_poses_and_mounts_may_be_given():
    source = CloudSource(cloud="/lidar", ego_SE3_sensor=pose(0, 0, 3, np.pi / 2).tolist())
    rig = Rig(world_frame=None, reference="LIDAR", lidars={"LIDAR": source})
    (frame,), _ = frames([cloud(0.5, (5, 0, 0))], rig)
    assert frame.lidar.points[0, :3] == pytest.approx([0, 5, 3], abs=1e-6)
    biased = Assembly(bias={"/lidar": pose_matrix(pose(1))})  # it is a metre further along its own x
    (frame,), _ = frames([cloud(0.5, (5, 0, 0))], rig, biased)
    assert frame.lidar.points[0, :3] == pytest.approx([0, 6, 3], abs=1e-6)


def test_a_long_log_is_not_kept():
    assembler = Assembler(RIG, UNTIL_NOW)
    for m in MOUNTS:
        list(assembler.push(m))
    for i in range(4000):
        t = 0.05 * i
        list(assembler.push(tf("map", "base_link", t, pose(t))))
        list(assembler.push(cloud(t, (5, 0, 0))))
    (lidar,) = [s for s in assembler._sensors.values() if s.kind == "lidar"]
    edge = assembler._measurements.transforms._edges["map", "base_link"]
    assert len(lidar.recent) < 40 and len(edge.poses) < 60 and len(assembler._wanted) < 5


def test_frames_of_a_real_scene_are_those_of_the_dataset(real_scene):
    """Radar sweeps are counted there and timed here, so clouds differ where one is just as old as the limit."""
    dataset = NuScenes(real_scene, scenes=["scene-0523"], image_size=(128, 352))
    spans = {"lidar_span_s": sweep_span_s(10, 20.0), "radar_span_s": sweep_span_s(6, 13.0)}
    same_radar = 0
    with open_log(real_scene, duration_s=5.0) as log:
        found = list(LogFrames(log, rig_of(log, None), Assembly(image_size=(128, 352), **spans)))
    assert len(found) == 10
    for i, frame in enumerate(found):
        wanted = dataset[i]
        assert (frame.token, frame.timestamp_ns) == (wanted.token, wanted.timestamp_ns)
        assert np.array_equal(frame.world_SE3_ego.matrix, wanted.world_SE3_ego.matrix)
        assert frame.lidar.points.shape == wanted.lidar.points.shape
        assert np.abs(frame.lidar.points - wanted.lidar.points).max() < 1e-5
        assert list(frame.cameras) == sorted(wanted.cameras)
        for name, camera in frame.cameras.items():
            assert np.array_equal(camera.image, wanted.cameras[name].image)
            assert np.array_equal(camera.intrinsics, wanted.cameras[name].intrinsics)
            difference = camera.ego_SE3_camera.matrix - wanted.cameras[name].ego_SE3_camera.matrix
            assert np.abs(difference).max() < 1e-9
        same_radar += frame.radar.points.shape == wanted.radar.points.shape
    assert same_radar >= 8
