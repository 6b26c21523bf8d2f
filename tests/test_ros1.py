"""ROS 1: bags as rosbags writes them, ros1 messages in MCAP, and the names of types in other spellings."""

import bz2
import struct

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from perception.logs.limits import LimitError, Limits
from perception.logs.log import open_log
from perception.logs.mcap_log import McapReader
from perception.logs.messages import Calibration, Cloud, Image, LogError, Transform
from perception.logs.ros1_log import Ros1Reader
from perception.logs.ros_messages import ros2_name

STORE = get_typestore(Stores.ROS1_NOETIC)
TYPES = STORE.types
STAMP_NS = 1_500_000_000_250_000_000
TF = "geometry_msgs/TransformStamped[] transforms\n" + "=" * 80 + "\n"


def header(frame_id: str):
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=1_500_000_000, nanosec=250_000_000)
    return TYPES["std_msgs/msg/Header"](seq=7, stamp=stamp, frame_id=frame_id)


def cloud():
    field = TYPES["sensor_msgs/msg/PointField"]
    return TYPES["sensor_msgs/msg/PointCloud2"](
        header=header("/lidar"), height=1, width=2, is_bigendian=False, point_step=12, row_step=24, is_dense=True,
        fields=[field(name=name, offset=4 * i, datatype=7, count=1) for i, name in enumerate("xyz")],
        data=np.arange(6, dtype="<f4").view(np.uint8),
    )  # fmt: skip


def camera_info():
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=header("cam"), height=2, width=4, distortion_model="plumb_bob", binning_x=0, binning_y=0, roi=roi,
        D=np.arange(5.0), K=np.arange(9.0), R=np.arange(9.0) + 1, P=np.arange(12.0) + 2,
    )  # fmt: skip


def picture():
    pixels = np.arange(6, dtype=np.uint8)
    return TYPES["sensor_msgs/msg/Image"](
        header=header("cam"), height=1, width=2, encoding="rgb8", is_bigendian=0, step=6, data=pixels
    )


MESSAGES = {"/points": cloud(), "/camera_info": camera_info(), "/image": picture()}


def write(path, compression=None, messages=MESSAGES):
    writer = Writer(path)
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        for i, (topic, message) in enumerate(messages.items()):
            connection = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            writer.write(connection, STAMP_NS + i, STORE.serialize_ros1(message, message.__msgtype__))
        tf = writer.add_connection("/tf_static", "tf/msg/tfMessage", msgdef=TF + definition(), md5sum="0" * 32)
        writer.write(tf, STAMP_NS + 9, tf_bytes())
        text = writer.add_connection("/words", "std_msgs/msg/String", typestore=STORE)
        writer.write(text, STAMP_NS + 10, struct.pack("<I", 0))
    return path


def definition() -> str:
    text, _ = STORE.generate_msgdef("geometry_msgs/msg/TransformStamped", ros_version=1)
    return "MSG: geometry_msgs/TransformStamped\n" + text


def tf_bytes() -> bytes:
    """One transform, by the rules of ROS 1: strings and sequences after their lengths, nothing aligned."""
    frames = b"".join(struct.pack("<I", len(name)) + name for name in (b"base_link",))
    child = struct.pack("<I", 5) + b"lidar"
    stamp = struct.pack("<III", 3, 1_500_000_000, 0)
    return struct.pack("<I", 1) + stamp + frames + child + struct.pack("<7d", 1, 2, 3, 0, 0, 0, 1)


@pytest.mark.parametrize("compression", [None, *Writer.CompressionFormat])
def test_a_bag_gives_its_messages(tmp_path, compression):
    with open_log(write(tmp_path / "drive.bag", compression)) as log:
        assert log.name == "drive"
        found = {message.topic: message for message in log}
        assert {name: topic.kind for name, topic in log.topics.items()} == {
            "/points": "cloud", "/camera_info": "calibration", "/image": "image", "/tf_static": "transform",
            "/words": None,
        }  # fmt: skip
        assert log.stopped is None and log.damage == []
    assert {found[topic].timestamp_ns for topic in MESSAGES} == {STAMP_NS}
    points, info, image, transform = (found[topic].data for topic in (*MESSAGES, "/tf_static"))
    assert isinstance(points, Cloud) and points.frame_id == "lidar"
    assert points.records.tolist() == [(0, 1, 2), (3, 4, 5)]
    assert isinstance(info, Calibration) and info.distortion.tolist() == [0, 1, 2, 3, 4]
    assert info.intrinsics.ravel().tolist() == list(range(9)) and info.projection[0].tolist() == [2, 3, 4, 5]
    assert isinstance(image, Image) and bytes(image.data) == bytes(range(6))
    assert isinstance(transform, Transform) and transform.static
    assert (transform.parent, transform.child) == ("base_link", "lidar")
    assert transform.pose.tolist() == [1, 2, 3, 1, 0, 0, 0]


def test_ros1_messages_in_mcap(tmp_path):
    with (tmp_path / "drive.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros1")
        text, _ = STORE.generate_msgdef("sensor_msgs/msg/PointCloud2", ros_version=1)
        schema = writer.register_schema("sensor_msgs/PointCloud2", "ros1msg", text.encode())
        channel = writer.register_channel("/points", "ros1", schema)
        data = bytes(STORE.serialize_ros1(cloud(), "sensor_msgs/msg/PointCloud2"))
        writer.add_message(channel, STAMP_NS, data, STAMP_NS)
        writer.finish()
    (message,) = McapReader(tmp_path / "drive.mcap").messages(strict=True)
    assert message.data.records.tolist() == [(0, 1, 2), (3, 4, 5)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "found: File .* seems to be empty"),
        (b"#ROSBAG V1.2\n", "found: Bag version 102 is not supported"),
        (b"no bag at all\n", "found: File magic is invalid"),
        (b"\xff\xfe\xfd", "found: "),
    ],
)
def test_what_is_no_bag_is_refused(tmp_path, data, expected):
    (tmp_path / "x.bag").write_bytes(data)
    with pytest.raises(LogError, match=rf"x\.bag: a ROS 1 bag with an index was expected, {expected}"):
        Ros1Reader(tmp_path / "x.bag")


def test_a_bag_that_a_crash_has_left_names_what_mends_it(tmp_path):
    path = write(tmp_path / "drive.bag")
    whole = path.read_bytes()
    at = whole.index(b"index_pos=") + len(b"index_pos=")
    path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
    with pytest.raises(LogError, match=r"found: Bag is not indexed, .*; rosbag reindex makes one"):
        Ros1Reader(path)


def test_a_damaged_chunk_ends_the_bag(tmp_path):
    path = write(tmp_path / "drive.bag", Writer.CompressionFormat.BZ2)
    whole = path.read_bytes()
    at = whole.index(b"BZh9") + 20
    path.write_bytes(whole[:at] + bytes(20) + whole[at + 20 :])
    reader = Ros1Reader(path)
    assert list(reader.messages()) == []
    assert "a whole chunk was expected, found a damaged one" in reader.stopped


def test_a_chunk_may_not_grow_beyond_a_size(tmp_path):
    path = write(tmp_path / "drive.bag", Writer.CompressionFormat.BZ2)
    assert len(bz2.decompress(path.read_bytes()[path.read_bytes().index(b"BZh9") :])) > 100
    reader = Ros1Reader(path, Limits(record=100))
    assert list(reader.messages()) == [] and "become more than 100; --limits raises it" in reader.stopped


def test_a_message_that_is_none_is_left_out_or_an_error(tmp_path):
    path = tmp_path / "drive.bag"
    with Writer(path) as writer:
        connection = writer.add_connection("/points", "sensor_msgs/msg/PointCloud2", typestore=STORE)
        writer.write(connection, STAMP_NS, b"\xff\xff")
    reader = Ros1Reader(path)
    assert list(reader.messages()) == [] and "/points at" in reader.damage[0] and "/points" in reader.failed
    with pytest.raises(LogError, match=r"drive\.bag: /points at .* ns: a sensor_msgs/msg/PointCloud2 was expected"):
        list(reader.messages(strict=True))


def test_a_topic_of_which_nothing_can_be_decoded_is_given_up(tmp_path):
    """After two in a row; the cloud that comes third is not seen any more, unless one came between them."""
    whole = STORE.serialize_ros1(cloud(), "sensor_msgs/msg/PointCloud2")
    for data, decoded in (([b"", b"", whole], 0), ([b"", whole, b"", whole], 2)):
        path = tmp_path / f"{decoded}.bag"
        with Writer(path) as writer:
            connection = writer.add_connection("/points", "sensor_msgs/msg/PointCloud2", typestore=STORE)
            for i, each in enumerate(data):
                writer.write(connection, STAMP_NS + i, each)
        assert len(list(Ros1Reader(path, Limits(undecodable=2)).messages())) == decoded


def test_messages_are_counted_against_the_bytes_of_the_file(tmp_path):
    path = write(tmp_path / "drive.bag")
    Ros1Reader(path, Limits(messages=5)).close()
    with pytest.raises(LimitError, match=r"drive\.bag: at most 4 messages were expected, found 5; --limits raises it"):
        Ros1Reader(path, Limits(messages=4))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sensor_msgs/Image", "sensor_msgs/msg/Image"),
        ("sensor_msgs/msg/Image", "sensor_msgs/msg/Image"),
        ("sensor_msgs::msg::Image", "sensor_msgs/msg/Image"),
        ("sensor_msgs::msg::dds_::Image_", "sensor_msgs/msg/Image"),
        ("tf/tfMessage", "tf2_msgs/msg/TFMessage"),
        ("std_srvs/srv/Empty", "std_srvs/srv/Empty"),
        ("foxglove.Log", "foxglove.Log"),
        ("", ""),
    ],
)
def test_names_of_types(name, expected):
    assert ros2_name(name) == expected
