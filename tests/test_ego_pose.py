"""Where the vehicle is, where no transform says so: poses, fixes with an IMU, or nothing."""

import numpy as np
import pytest
from foxglove import messages as fox
from memory_log import MemoryLog, cloud, every, transform

from perception.config import ConfigError
from perception.logs import foxglove_messages
from perception.logs.beginning import BEGINNING_S
from perception.logs.doctor import diagnose
from perception.logs.ego_pose import east_north_up
from perception.logs.frames import LogFrames
from perception.logs.inspect import inspect
from perception.logs.log import Log
from perception.logs.mcap_log import McapReader
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.measurements import Assembly
from perception.logs.messages import Attitude, GnssFix, LogError, Message, Pose
from perception.logs.rehearsal import rehearse
from perception.logs.rig import CloudSource, PoseSource, Rig, check_rig, load_rig, to_yaml
from perception.logs.ros_messages import decoder, known_types
from perception.logs.rosbag_log import RosbagReader
from perception.logs.rosbag_writer import RosbagWriter
from perception.replay.job import proposed_rig

DEGREE_M = 6_378_137.0 * np.pi / 180  # of longitude, at the equator
QUARTER = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])  # a turn to the left


def lidar_log() -> MemoryLog:
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", 1.0, static=True), [0.0])
    log.add("/lidar", cloud("lidar"), every(0.1, 6.0))
    return log


def add(log: MemoryLog, topic: str, make, step_s: float = 0.05) -> MemoryLog:
    """make(seconds) at every step."""
    for t in every(step_s, 6.0):
        log.add(topic, make(t), [t])
    return log


def pose(x: float, y: float = 0.0, rotation=(1.0, 0, 0, 0)) -> np.ndarray:
    return np.array([x, y, 0.0, *rotation])


def opened(log: MemoryLog) -> Log:
    return Log(log.as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)


def replayed(log: MemoryLog, rig: Rig | None = None) -> tuple[list, Rig, list[str]]:
    log = opened(log)
    rig = rig or proposed_rig(log, inspect(log, seconds=BEGINNING_S))
    frames = LogFrames(log, rig, Assembly())
    return list(frames), rig, frames.problems


def findings(log: MemoryLog, rig: Rig | None = None) -> list[str]:
    info = inspect(log, rig)
    return [str(finding) for finding in diagnose(info, rehearse(opened(log), rig, info.duration_s))]


def places(frames) -> np.ndarray:
    """[N, 2] of the ego frame in the world."""
    return np.array([frame.world_SE3_ego.translation[:2] for frame in frames])


def test_poses_of_the_vehicle_are_found_and_used():
    log = add(lidar_log(), "/odom", lambda t: Pose("base_link", "odom", pose(10 * t)))
    add(log, "/goal_pose", lambda t: Pose("", "map", pose(99)), 0.01)
    add(log, "/other/odom", lambda t: Pose("other_robot", "odom", pose(77)), 0.01)
    frames, rig, problems = replayed(log)
    assert rig.ego_pose == PoseSource(odometry="/odom") and problems == []
    assert np.allclose(places(frames)[:, 0], 10 * np.arange(61) * 0.1)
    assert [finding for finding in findings(log) if not finding.startswith("note")] == []


def test_transforms_go_before_poses():
    log = add(lidar_log(), "/odom", lambda t: Pose("base_link", "odom", pose(10 * t)))
    for t in every(0.05, 6.0):
        log.add("/tf", transform("map", "base_link", 2 * t), [t])
    frames, rig, _ = replayed(log)
    assert rig.ego_pose is None and places(frames)[10, 0] == pytest.approx(2)


def test_poses_go_before_transforms_that_only_hold_a_place():
    log = add(lidar_log(), "/odom", lambda t: Pose("base_link", "odom", pose(10 * t)))
    log.add("/tf_static", transform("map", "base_link", static=True), [0.0])
    frames, rig, _ = replayed(log)
    assert rig.ego_pose == PoseSource(odometry="/odom") and places(frames)[10, 0] == pytest.approx(10)
    log = lidar_log()
    log.add("/tf_static", transform("map", "base_link", static=True), [0.0])
    assert replayed(log)[1].world_frame == "map"


def test_poses_of_what_is_mounted_on_the_vehicle_are_moved_to_it():
    """A tracker 2 m ahead of the ego frame and turned to the left; it drives north, its own x axis to the west."""
    log = lidar_log()
    log.add("/tf_static", transform("base_link", "mast", 2.0, static=True), [0.0])
    mounted = transform("mast", "tracker", static=True)
    mounted.pose[3:] = QUARTER
    log.add("/tf_static", mounted, [0.0])
    west = np.array([0.0, 0, 0, 1])
    frames, _, problems = replayed(add(log, "/slam", lambda t: Pose("tracker", "map", pose(5, 2 + t, west))))
    assert np.allclose(places(frames), np.c_[np.full(61, 5), 0.1 * np.arange(61)]) and problems == []
    assert np.allclose(frames[0].world_SE3_ego.rotation[:, 0], [0, 1, 0])


@pytest.mark.parametrize(("name", "said"), [("", False), ("gps_ins", True)])
def test_poses_of_what_no_transform_knows_are_the_vehicles(name, said):
    frames, _, problems = replayed(add(lidar_log(), "/vehicle_pose", lambda t: Pose(name, "map", pose(t))))
    assert places(frames)[50, 0] == pytest.approx(5)
    assert problems == ["ego_pose locates gps_ins, which is taken to be base_link: no transform says"] * said


def test_fixes_and_an_imu_say_where_the_vehicle_is():
    """East along the equator. The antenna is 1 m behind the ego frame; the IMU is turned to the left: it says north."""
    log = lidar_log()
    log.add("/tf_static", transform("base_link", "antenna", -1.0, static=True), [0.0])
    turned = transform("base_link", "imu", 7.0, static=True)
    turned.pose[3:] = QUARTER
    log.add("/tf_static", turned, [0.0])
    add(log, "/gps/fix", lambda t: GnssFix("antenna", 0.0, 20 + 10 * t / DEGREE_M, 50.0), 0.2)
    add(log, "/imu/data", lambda t: Attitude("imu", QUARTER), 0.01)
    frames, rig, problems = replayed(log)
    assert rig.ego_pose == PoseSource(fix="/gps/fix", imu="/imu/data") and problems == []
    assert np.allclose(places(frames), np.c_[1 + np.arange(61), np.zeros(61)], atol=1e-3)
    assert np.allclose(frames[9].world_SE3_ego.rotation, np.eye(3))


def test_metres_east_north_and_up():
    origin = GnssFix("", 60.0, 10.0, 100.0)
    # Lengths of a degree at 60 degrees north on WGS 84: 111412 m of latitude, 55800 m of longitude.
    north, east = GnssFix("", 60.01, 10.0, 100.0), GnssFix("", 60.0, 10.01, 100.0)
    assert np.allclose(east_north_up(north, origin), [0, 1114.12, -0.1], atol=0.2)
    assert np.allclose(east_north_up(east, origin), [558.02, 0.04, 0], atol=0.2)
    assert np.allclose(east_north_up(GnssFix("", 60.0, 10.0, 103.5), origin), [0, 0, 3.5])
    assert np.allclose(east_north_up(GnssFix("", 60.0, 10.0, np.nan), origin), [0, 0, 0])
    assert np.allclose(east_north_up(origin, GnssFix("", 60.0, 10.0, np.nan))[:2], [0, 0], atol=1e-6)


@pytest.mark.parametrize("step_s", [0.5, 1.0, 2.0])
def test_poses_that_come_slowly_are_waited_for(step_s):
    frames, _, problems = replayed(add(lidar_log(), "/odom", lambda t: Pose("base_link", "odom", pose(t)), step_s))
    assert len(frames) == 61 and problems == []
    assert places(frames)[7, 0] == pytest.approx(0.7)


def test_what_holds_no_pose_is_counted_and_does_not_count():
    log = add(lidar_log(), "/fix", lambda t: GnssFix("", *((np.nan,) * 3 if t == 1.5 else (0, 0, 0))), 0.25)
    add(log, "/imu", lambda t: Attitude("", np.zeros(4)))
    _, rig, _ = replayed(log)
    assert rig.ego_pose is None and rig.world_frame is None
    assert "positions on /fix, but no Imu with an orientation, which is needed beside them" in inspect(log).missing
    add(log, "/imu/data", lambda t: Attitude("", QUARTER))
    frames, rig, problems = replayed(log)
    assert rig.ego_pose == PoseSource(fix="/fix", imu="/imu/data") and len(frames) == 61
    assert problems == ["/fix: a GnssFix was expected, found no numbers of one: 1"]


def test_standing_still_is_said_where_nothing_is_known():
    lines = inspect(lidar_log()).missing
    assert lines[0].startswith(
        "no odometry or map frame above base_link, and no topic with its poses: world_frame null"
    )
    frames, rig, _ = replayed(lidar_log())
    assert rig.world_frame is None and len(frames) == 61 and not places(frames).any()


def test_a_rig_whose_topics_say_nothing():
    rig = Rig(reference="L", lidars={"L": CloudSource(cloud="/lidar")}, ego_pose=PoseSource(odometry="/fix"))
    log = add(lidar_log(), "/fix", lambda t: GnssFix("", 0, 0, 0))
    with pytest.raises(LogError, match="found none: /fix: a Pose was expected, found a GnssFix: 121; frames left out"):
        replayed(log, rig)
    rig.ego_pose = PoseSource(odometry="/nothing")
    assert inspect(log, rig).missing == ["no topic /nothing, which ego_pose is mapped to"]
    rig.ego_pose = PoseSource(odometry="/odom")
    log.topic("/odom", "nav_msgs/msg/Odometry", "pose", count=0)
    assert "error: /odom: none of its messages says where base_link is" in findings(log, rig)


@pytest.mark.parametrize(
    ("source", "more", "text"),
    [
        (PoseSource(), {}, "odometry, or fix and imu, were expected, found nothing"),
        (PoseSource(fix="/fix"), {}, "odometry, or fix and imu, were expected, found fix"),
        (PoseSource(odometry="/o", imu="/i"), {}, "odometry, or fix and imu, were expected, found odometry, imu"),
        (PoseSource(odometry="/o"), {"world_frame": None}, "a name was expected beside ego_pose, found null"),
    ],
)
def test_rigs_that_make_no_sense(source, more, text):
    rig = Rig(reference="L", lidars={"L": CloudSource(cloud="/lidar")}, ego_pose=source, **more)
    with pytest.raises(ConfigError, match=text):
        check_rig(rig, "rig.yaml")


def test_a_rig_keeps_its_topics_in_its_file(tmp_path):
    rig = Rig(reference="L", lidars={"L": CloudSource(cloud="/l")}, ego_pose=PoseSource(fix="/fix", imu="/imu"))
    (tmp_path / "rig.yaml").write_text(to_yaml(rig))
    assert "ego_pose: {fix: /fix, imu: /imu}" in to_yaml(rig) and load_rig(tmp_path / "rig.yaml") == rig


# --- messages --------------------------------------------------------------------------------------------------------


def ros(name: str, *values):
    return known_types().types[name](*values)


def decoded(message):
    _, _, decode = decoder(message.__msgtype__, None, "")
    ((stamp_ns, payload),) = decode(bytes(known_types().serialize_cdr(message, message.__msgtype__)), 1)
    assert stamp_ns == 5_000_000_007
    return payload


HEADER = ros("std_msgs/msg/Header", ros("builtin_interfaces/msg/Time", 5, 7), "/odom")
QUATERNION = ros("geometry_msgs/msg/Quaternion", 0.1, 0.2, 0.3, 0.9)  # x, y, z, w
POSE = ros("geometry_msgs/msg/Pose", ros("geometry_msgs/msg/Point", 1.0, 2.0, 3.0), QUATERNION)
WITH_COVARIANCE = ros("geometry_msgs/msg/PoseWithCovariance", POSE, np.zeros(36))
ZERO = ros("geometry_msgs/msg/Vector3", 0.0, 0.0, 0.0)
TWIST = ros("geometry_msgs/msg/TwistWithCovariance", ros("geometry_msgs/msg/Twist", ZERO, ZERO), np.zeros(36))


@pytest.mark.parametrize(
    ("message", "frame_id"),
    [
        (ros("nav_msgs/msg/Odometry", HEADER, "/base_link", WITH_COVARIANCE, TWIST), "base_link"),
        (ros("geometry_msgs/msg/PoseStamped", HEADER, POSE), ""),
        (ros("geometry_msgs/msg/PoseWithCovarianceStamped", HEADER, WITH_COVARIANCE), ""),
    ],
)
def test_poses_of_ros(message, frame_id):
    found = decoded(message)
    assert (found.frame_id, found.parent) == (frame_id, "odom")
    assert found.pose.tolist() == [1, 2, 3, 0.9, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(("status", "valid"), [(0, True), (2, True), (-1, False)])
def test_fixes_of_ros(status, valid):
    status = ros("sensor_msgs/msg/NavSatStatus", status, 1)
    found = decoded(ros("sensor_msgs/msg/NavSatFix", HEADER, status, 48.0, 11.0, np.nan, np.zeros(9), 0))
    assert found.is_valid == valid and (not valid or (found.latitude, found.longitude) == (48, 11))


@pytest.mark.parametrize(("covariance", "valid"), [(0.1, True), (-1.0, False)])
def test_attitudes_of_ros(covariance, valid):
    known = np.full(9, covariance)
    found = decoded(ros("sensor_msgs/msg/Imu", HEADER, QUATERNION, known, ZERO, np.zeros(9), ZERO, np.zeros(9)))
    assert found.is_valid == valid and (not valid or found.rotation.tolist() == [0.9, 0.1, 0.2, 0.3])


def test_poses_and_fixes_of_foxglove():
    def only(message):
        schema = message.get_schema()
        kind, _, decode = foxglove_messages.decoder(schema.name, schema.data)
        ((stamp_ns, payload),) = decode(message.encode(), 1)
        return kind, stamp_ns, payload

    timestamp = fox.Timestamp(sec=5, nsec=7)
    at = fox.Pose(position=fox.Vector3(x=1.0), orientation=fox.Quaternion(w=1.0))
    kind, stamp_ns, found = only(fox.PoseInFrame(timestamp=timestamp, frame_id="map", pose=at))
    assert (kind, stamp_ns, found.frame_id, found.parent) == ("pose", 5_000_000_007, "", "map")
    assert found.pose.tolist() == [1, 0, 0, 1, 0, 0, 0]
    fix = fox.LocationFix(timestamp=timestamp, frame_id="gps", latitude=48.0, longitude=11.0, altitude=500.0)
    kind, stamp_ns, found = only(fix)
    assert (kind, found.frame_id, found.latitude, found.longitude, found.altitude) == ("fix", "gps", 48, 11, 500)


PAYLOADS = {
    "/odom": Pose("base_link", "odom", pose(1)),
    "/pose": Pose("", "map", pose(2)),
    "/fix": GnssFix("gps", 48.0, 11.0, 500.0),
    "/lost": GnssFix("gps", np.nan, np.nan, np.nan),
    "/imu": Attitude("imu", QUARTER),
    "/raw_imu": Attitude("imu", np.full(4, np.nan)),
}


def numbers(payload) -> list:
    names = [name for name in payload.__slots__ if name not in ("frame_id", "parent")]
    return np.concatenate([np.ravel(getattr(payload, name)) for name in names]).tolist()


@pytest.mark.parametrize("form", ["mcap", "ros2"])
def test_what_is_written_comes_back(tmp_path, form):
    writer = McapLogWriter(tmp_path / "log.mcap") if form == "mcap" else RosbagWriter(tmp_path / "log")
    messages = [Message(topic, 10**18, 10**18 + i, i, data) for i, (topic, data) in enumerate(PAYLOADS.items())]
    with writer:
        for message in filter(writer.holds, messages):
            writer.write(message)
    reader = McapReader(tmp_path / "log.mcap") if form == "mcap" else RosbagReader(tmp_path / "log")
    found = {message.topic: message.data for message in reader.messages(strict=True)}
    reader.close()
    left_out = {"/odom", "/imu", "/raw_imu"} if form == "mcap" else set()  # which Foxglove's messages cannot say
    assert found.keys() == PAYLOADS.keys() - left_out
    for topic, data in found.items():
        expected = PAYLOADS[topic]
        assert type(data) is type(expected) and data.frame_id == expected.frame_id
        assert np.array_equal(numbers(data), numbers(expected), equal_nan=True)
