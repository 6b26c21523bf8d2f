"""Messages of ROS in the forms that are met beside the usual ones: ROS 1, Livox, definitions of other types."""

import numpy as np
import pytest
from memory_log import MemoryLog, calibration, drive, every, image, transform

from perception.logs.convert import convert
from perception.logs.default_rig import rig_of
from perception.logs.frames import LogFrames
from perception.logs.log import open_log
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud, LogError
from perception.logs.ros_messages import decoder, known_types
from perception.logs.rosbag_writer import RosbagWriter

rosbags_convert = pytest.importorskip("rosbags.convert")
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

STAMP_NS = 1_600_000_000_123_456_789


def points(number: int) -> Cloud:
    records = np.zeros(50, [(name, "<f4") for name in ("x", "y", "z", "intensity")])
    for i, name in enumerate("xyz"):
        records[name] = np.random.default_rng(10 * number + i).uniform(-20, 20, 50)
    records["intensity"] = number
    return Cloud("lidar", records)


def log() -> MemoryLog:
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", 1.0, static=True), [0.0])
    log.add("/tf_static", transform("base_link", "cam", 2.0, static=True), [0.0])
    drive(log, "map", "base_link", every(0.1, 2.0))
    for i in range(1, 15):
        log.add("/lidar/points", points(i), [0.1 * i])
        log.add("/cam/camera_info", calibration("cam", distortion=[0.1, 0, 0, 0, 0]), [0.1 * i])
        log.add("/cam/image_raw", image("cam"), [0.1 * i])
    return log.as_recorded()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The same log as a bag of ROS 2, and as bags of ROS 1 that rosbags makes of it."""
    folder = tmp_path_factory.mktemp("ros1")
    with RosbagWriter(folder / "ros2") as writer:
        convert(log(), writer)
    for compression in (None, "bz2", "lz4"):
        bag = folder / f"{compression}.bag"
        rosbags_convert.convert([folder / "ros2"], bag, "", 0, compression, "", None, known_types(True), (), (), (), ())
    return folder


def frames(path):
    with open_log(path) as opened:
        found = LogFrames(opened, rig_of(opened, None), Assembly())
        return list(found), found.problems


@pytest.mark.parametrize("name", ["None.bag", "bz2.bag", "lz4.bag"])
def test_frames_are_those_of_ros_2(recorded, name):
    (expected, _), (found, problems) = frames(recorded / "ros2"), frames(recorded / name)
    assert len(expected) == len(found) == 14 and problems == []
    for one, other in zip(expected, found):
        assert one.timestamp_ns == other.timestamp_ns
        assert np.array_equal(one.world_SE3_ego.matrix, other.world_SE3_ego.matrix)
        assert np.array_equal(one.lidar.points, other.lidar.points)
        assert np.array_equal(one.cameras["CAM"].image, other.cameras["CAM"].image)
        assert np.array_equal(one.cameras["CAM"].intrinsics, other.cameras["CAM"].intrinsics)


def test_flipped_bytes_give_no_exception_but_ours(recorded, tmp_path):
    whole, rng = (recorded / "None.bag").read_bytes(), np.random.default_rng(0)
    path = tmp_path / "damaged.bag"
    for _ in range(40):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 8):
            data[at] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            with open_log(path, strict=False) as opened:
                list(opened)
        except LogError:
            continue


LIVOX = {
    "CustomPoint": "uint32 offset_time\nfloat32 x\nfloat32 y\nfloat32 z\nuint8 reflectivity\nuint8 tag\nuint8 line",
    "CustomMsg": "std_msgs/Header header\nuint64 timebase\nuint32 point_num\nuint8 lidar_id\nuint8[3] rsvd\n"
    "PACKAGE/CustomPoint[] points",
}


def livox_bytes(package, ros1, content, frame_id="livox_frame", little_endian=True):
    """By rosbags."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    for name, text in LIVOX.items():
        store.register(get_types_from_msg(text.replace("PACKAGE", package), f"{package}/msg/{name}"))
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(STAMP_NS, 10**9))
    header = types["std_msgs/msg/Header"](*([7] if ros1 else []), stamp, frame_id)
    points = [types[f"{package}/msg/CustomPoint"](*values) for values in content]
    name = f"{package}/msg/CustomMsg"
    message = types[name](header, STAMP_NS, len(content), 0, np.zeros(3, np.uint8), points)
    if ros1:
        return bytes(store.serialize_ros1(message, name))
    return bytes(store.serialize_cdr(message, name, little_endian=little_endian))


@pytest.mark.parametrize("serialized", ["ROS 1", "CDR", "big-endian CDR"])
@pytest.mark.parametrize("package", ["livox_ros_driver", "livox_ros_driver2"])
@pytest.mark.parametrize("frame_id", ["livox_frame", "l", ""])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_clouds_of_livox(package, serialized, frame_id, count):
    content = [(20_000_000 * i, 1.5 + i, -2.0, 0.25, 250 + i, 16, i) for i in range(count)]
    data = livox_bytes(package, serialized == "ROS 1", content, frame_id, "big" not in serialized)
    kind, _, decode = decoder(f"{package}/CustomMsg", None, "ros1msg" if serialized == "ROS 1" else "ros2msg")
    ((timestamp_ns, cloud),) = decode(data, 0)
    assert (kind, timestamp_ns, cloud.frame_id) == ("cloud", STAMP_NS, frame_id)
    assert cloud.records.tolist() == content
    assert cloud.records.dtype.names == ("offset_time", "x", "y", "z", "reflectivity", "tag", "line")
    for damaged in (data[: len(data) // 2], data[:-4], data + bytes(8), data[:6], b""):
        with pytest.raises(LogError):
            decode(damaged, 0)


def test_a_recording_with_the_wrong_definition_is_read_by_the_known_one():
    store = known_types()
    info = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](5, 6), "cam")
    message = store.types["sensor_msgs/msg/CompressedImage"](info, "png", np.frombuffer(b"a file", np.uint8))
    data = bytes(store.serialize_cdr(message, "sensor_msgs/msg/CompressedImage"))
    for definition in ("uint8 level", "std_msgs/Header header\nstring other\n===\nMSG: std_msgs/Header\nstring a"):
        _, _, decode = decoder("sensor_msgs/msg/CompressedImage", definition, "ros2msg")
        ((timestamp_ns, found),) = decode(data, 0)
        assert (timestamp_ns, found.frame_id, bytes(found.data)) == (5 * 10**9 + 6, "cam", b"a file")
