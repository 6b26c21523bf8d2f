"""ROS 2 messages: the layouts that drivers write, against the library rosbags, and what damage does to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.logs.messages import Calibration, Cloud, Image, LogError, RecordingTime, Sample, Transform
from perception.logs.ros_messages import as_static, decoder, is_static
from perception.logs.transforms import checked_pose

rosbags_typesys = pytest.importorskip("rosbags.typesys")
from perception.logs.ros_messages import known_types  # noqa: E402

LOG_TIME_NS = 77
SECONDS, NANOS = 1_600_000_000, 123_456_789
STAMP_NS = SECONDS * 1_000_000_000 + NANOS
NUMBERS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def make(name: str, *values):
    """A ROS message by its short name; Header and Time are filled in."""
    package = {
        "PointCloud2": "sensor_msgs", "PointField": "sensor_msgs", "Image": "sensor_msgs", "CameraInfo": "sensor_msgs",
        "CompressedImage": "sensor_msgs", "RegionOfInterest": "sensor_msgs", "Header": "std_msgs", "Time":
        "builtin_interfaces", "TFMessage": "tf2_msgs", "Log": "rcl_interfaces", "UUID": "unique_identifier_msgs",
        "RadarScan": "radar_msgs", "RadarReturn": "radar_msgs", "RadarTracks": "radar_msgs", "RadarTrack": "radar_msgs",
    }.get(name, "geometry_msgs")  # fmt: skip
    return known_types().types[f"{package}/msg/{name}"](*values)


def header(frame_id: str = "sensor", seconds: int = SECONDS, nanos: int = NANOS):
    return make("Header", make("Time", seconds, nanos), frame_id)


def cdr(message, little_endian: bool = True) -> bytes:
    return bytes(known_types().serialize_cdr(message, message.__msgtype__, little_endian=little_endian))


def decoded(message, little_endian: bool = True) -> list:
    _, _, decode = decoder(message.__msgtype__, None, "")
    return decode(cdr(message, little_endian), LOG_TIME_NS)


def only(message, little_endian: bool = True):
    ((timestamp_ns, payload),) = decoded(message, little_endian)
    assert timestamp_ns == STAMP_NS
    return payload


def bytes_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def cloud_message(records: np.ndarray, **changes):
    """A dense PointCloud2 of structured records."""
    fields = []
    for name in records.dtype.names:
        dtype, offset = records.dtype.fields[name][:2]
        fields.append(make("PointField", name, offset, NUMBERS[dtype.base.str[1:]], *dtype.shape or (1,)))
    size = records.dtype.itemsize
    message = make(
        "PointCloud2", header(), 1, len(records), fields, False, size, size * len(records), bytes_of(records.tobytes()),
        True,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def layout(size: int, **fields: tuple[str, int]) -> np.dtype:
    """field=(type, offset)"""
    types, offsets = zip(*fields.values())
    return np.dtype({"names": list(fields), "formats": list(types), "offsets": list(offsets), "itemsize": size})


XYZ = {"x": ("<f4", 0), "y": ("<f4", 4), "z": ("<f4", 8)}
LAYOUTS = {
    "velodyne": layout(22, **XYZ, intensity=("<f4", 12), ring=("<u2", 16), time=("<f4", 18)),
    "ouster": layout(
        48,
        **XYZ,
        intensity=("<f4", 16),
        t=("<u4", 20),
        reflectivity=("<u2", 24),
        ring=("<u2", 26),
        ambient=("<u2", 28),
        range=("<u4", 32),
    ),
    "hesai": layout(26, **XYZ, intensity=("<f4", 12), ring=("<u2", 16), timestamp=("<f8", 18)),
    "xyzirc": layout(16, **XYZ, intensity=("<u1", 12), return_type=("<u1", 13), channel=("<u2", 14)),
    "xyzircaedt": layout(
        32,
        **XYZ,
        intensity=("<u1", 12),
        return_type=("<u1", 13),
        channel=("<u2", 14),
        azimuth=("<f4", 16),
        elevation=("<f4", 20),
        distance=("<f4", 24),
        time_stamp=("<u4", 28),
    ),
    "out of order": layout(16, z=("<f4", 8), y=("<f4", 4), x=("<f4", 0)),
    "several a field": np.dtype([("x", "<f4"), ("covariance", "<f4", (3,))]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_clouds_keep_the_records_of_their_sensors(name):
    bytes_in = np.random.default_rng(0).integers(0, 255, 5 * LAYOUTS[name].itemsize, np.uint8)
    records = bytes_in.view(LAYOUTS[name])
    cloud = only(cloud_message(records))
    assert isinstance(cloud, Cloud) and cloud.frame_id == "sensor"
    assert cloud.records.dtype == records.dtype
    assert cloud.records.tobytes() == records.tobytes()
    assert not cloud.records.flags.owndata  # what was decoded is looked at, not copied


def test_empty_cloud_keeps_its_fields():
    cloud = only(cloud_message(np.zeros(0, LAYOUTS["velodyne"])))
    assert cloud.records.shape == (0,) and cloud.records.dtype == LAYOUTS["velodyne"]


def test_rows_of_a_cloud_may_be_padded_and_row_step_may_be_forgotten():
    records = np.array([(1, 2, 3), (4, 5, 6), (7, 8, 9), (0, 1, 2)], dtype=layout(12, **XYZ))
    padded = b"".join(records[row : row + 2].tobytes() + b"padding!" for row in (0, 2))
    organised = cloud_message(records, height=2, width=2, row_step=32, data=bytes_of(padded))
    assert only(organised).records.tobytes() == records.tobytes()
    assert only(cloud_message(records, height=2, width=2, row_step=0)).records.tobytes() == records.tobytes()


def test_big_endian_points_and_big_endian_messages():
    little = np.array([(1.5, 2), (-3.25, 65535)], dtype=[("x", "<f4"), ("ring", "<u2")])
    big = little.astype([("x", ">f4"), ("ring", ">u2")])
    for message_order in (True, False):
        cloud = only(cloud_message(big, is_bigendian=True), little_endian=message_order)
        assert cloud.records["x"].tolist() == [1.5, -3.25] and cloud.records["ring"].tolist() == [2, 65535]
        assert only(cloud_message(little), little_endian=message_order).records.tolist() == little.tolist()


def field(name: str, offset: int, number: int = 7, count: int = 1):
    return make("PointField", name, offset, number, count)


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"fields": [field("", 0)]}, "none has a name"),
        ({"fields": [field("x", 9)]}, "within point_step 12"),
        ({"fields": [field("x", 0, count=2**32 - 1)]}, "within point_step 12"),
        ({"fields": [field("x", 0, number=9)]}, "datatype"),
        ({"fields": []}, "no field"),
        ({"fields": [field(str(i), i, 1) for i in range(1001)]}, "at most 1000"),
        ({"width": 3}, "found 24 bytes"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "found 24 bytes"),
        ({"row_step": 3, "height": 2}, "found 24 bytes"),
        ({"point_step": 2**32 - 1}, "found 24 bytes"),
    ],
)
def test_clouds_that_contradict_themselves(changes, found):
    records = np.zeros(2, layout(12, **XYZ))
    with pytest.raises(LogError, match=found):
        decoded(cloud_message(records, **changes))


@pytest.mark.parametrize(
    "extra, defect",
    [
        (field("x", 4, number=2), "field 'x': a name of its own"),
        (field("t", 0, number=10), "field 't': a datatype from 1 to 8 was expected, found 10"),
        (field("t", 0, number=0), "field 't': a datatype from 1 to 8 was expected, found 0"),
        (field("t", 9), "field 't': an offset within point_step 12"),
        (field("t", 0, count=2**32 - 1), "field 't': an offset within point_step 12"),
        (field("", 3), None),
        (field("_", 3), None),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_field_that_cannot_be_read_costs_that_field(extra, defect, first):
    records = np.array([(1, 2, 3), (4, 5, 6)], layout(12, **XYZ))
    message = cloud_message(records)
    message.fields = [extra, *message.fields] if first and extra.name != "x" else [*message.fields, extra, extra]
    cloud = only(message)
    assert cloud.records.tolist() == records.tolist()
    assert all(line.startswith(defect) for line in cloud.defects) if defect else not cloud.defects
    assert bool(cloud.defects) == bool(defect)


def test_fields_may_share_their_bytes():
    """As rgb and intensity do in clouds of PCL."""
    message = cloud_message(np.array([(1, 2, 3)], layout(12, **XYZ)))
    message.fields.append(field("bits", 0, number=NUMBERS["u4"]))
    cloud = only(message)
    assert cloud.records[["x", "bits"]].tolist() == [(1.0, 0x3F800000)] and not cloud.defects


def test_bytes_behind_the_last_point_are_left_out():
    records = np.array([(1, 2, 3), (4, 5, 6)], layout(12, **XYZ))
    cloud = only(cloud_message(records, data=bytes_of(records.tobytes() + bytes(44))))
    assert cloud.records.tolist() == records.tolist() and cloud.defects == ("bytes behind the last point: 44",)
    cloud = only(cloud_message(records, data=bytes_of(bytes(44)), width=0))
    assert len(cloud.records) == 0


@pytest.mark.parametrize(
    "encoding, size", [("rgb8", 3), ("bgra8", 4), ("mono8", 1), ("mono16", 2), ("bayer_rggb8", 1), ("bayer_gbrg16", 2)]
)
def test_raw_images(encoding, size):
    data = bytes(range(2 * (3 * size + 1)))  # two rows of three pixels and a byte of padding
    image = only(make("Image", header("camera"), 2, 3, encoding, 0, 3 * size + 1, bytes_of(data)))
    assert isinstance(image, Image)
    assert (image.frame_id, image.encoding, image.height, image.width, image.step) == (
        "camera",
        encoding,
        2,
        3,
        3 * size + 1,
    )
    assert bytes(image.data) == data


def test_big_endian_pixels_become_little_endian():
    image = only(make("Image", header(), 1, 2, "mono16", 1, 4, bytes_of(b"\x01\x02\x03\x04")))
    assert bytes(image.data) == b"\x02\x01\x04\x03"
    assert bytes(only(make("Image", header(), 1, 2, "mono8", 1, 2, bytes_of(b"\x01\x02"))).data) == b"\x01\x02"


@pytest.mark.parametrize(
    "height, width, encoding, step, size",
    [
        (2, 3, "rgb8", 9, 17),
        (2, 3, "rgb8", 8, 16),
        (0, 0, "rgb8", 0, 0),
        (2, 3, "32FC1", 12, 24),
        (2**31, 2, "mono8", 2, 4),
    ],
)
def test_raw_images_that_contradict_themselves(height, width, encoding, step, size):
    with pytest.raises(LogError, match=r"expected.*found"):
        decoded(make("Image", header(), height, width, encoding, 0, step, np.zeros(size, np.uint8)))


@pytest.mark.parametrize(
    "text, encoding",
    [("jpeg", "jpeg"), ("jpg", "jpeg"), ("JPEG", "jpeg"), ("png", "png"), ("rgb8; jpeg compressed bgr8", "jpeg"),
     ("bgr8; png compressed bgr8", "png")],
)  # fmt: skip
def test_compressed_images(text, encoding):
    image = only(make("CompressedImage", header("camera"), text, bytes_of(b"the file")))
    assert (image.frame_id, image.encoding, bytes(image.data), image.width) == ("camera", encoding, b"the file", 0)


@pytest.mark.parametrize("first, encoding", [(b"\xff\xd8\xff\xe0", "jpeg"), (b"\x89PNG", "png")])
@pytest.mark.parametrize("text", ["", "mjpeg", "bgr8"])
def test_compressed_images_whose_format_does_not_say_it(text, first, encoding):
    assert only(make("CompressedImage", header(), text, bytes_of(first + b"..."))).encoding == encoding


@pytest.mark.parametrize("name, encoding, size", [("8UC1", "mono8", 1), ("8UC3", "bgr8", 3)])
def test_pixels_by_the_names_of_opencv(name, encoding, size):
    assert only(make("Image", header(), 2, 2, name, 0, 2 * size, bytes_of(bytes(4 * size)))).encoding == encoding


@pytest.mark.parametrize("text", ["", "h263", "16UC1; compressedDepth png", "jpegxl"])
def test_compressed_images_of_other_formats(text):
    with pytest.raises(LogError, match="jpeg, png, h264"):
        decoded(make("CompressedImage", header(), text, bytes_of(b"the file")))


@pytest.mark.parametrize(
    "text, encoding",
    [("h264", "h264"), ("libx264", "h264"), ("h264_nvenc;yuv420p", "h264"), ("hevc", "h265"), ("hevc_vaapi", "h265"),
     ("libx265;yuv420p;bgr8;bgr8", "h265"), ("av1", "av1"), ("libvpx-vp9", "vp9"), ("mjpeg", "jpeg")],
)  # fmt: skip
def test_packets_of_videos(text, encoding):
    pytest.importorskip("av")
    types = known_types().types
    packet = types["ffmpeg_image_transport_msgs/msg/FFMPEGPacket"](
        header("camera"), 64, 48, text, 7, 1, False, bytes_of(b"a packet")
    )
    video = types["foxglove_msgs/msg/CompressedVideo"](
        make("Time", SECONDS, NANOS), "camera", bytes_of(b"a packet"), text
    )
    for message in (packet, video):
        image = only(message)
        assert (image.frame_id, image.encoding, bytes(image.data)) == ("camera", encoding, b"a packet")
    with pytest.raises(LogError, match="a video in h264, h265, vp9, av1 was expected, found 'theora'"):
        packet.encoding = "theora"
        decoded(packet)


def camera_info(**changes):
    roi = make("RegionOfInterest", 0, 0, 0, 0, False)
    k, r, p = (np.arange(count, dtype=np.float64) for count in (9, 9, 12))
    message = make("CameraInfo", header("camera"), 9, 16, "plumb_bob", np.arange(5.0), k, r, p, 0, 0, roi)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize("little_endian", [True, False])
def test_calibration(little_endian):
    calibration = only(camera_info(), little_endian)
    assert isinstance(calibration, Calibration)
    assert (calibration.frame_id, calibration.height, calibration.width, calibration.model) == (
        "camera",
        9,
        16,
        "plumb_bob",
    )
    assert calibration.intrinsics.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert calibration.rectification.shape == (3, 3)
    assert calibration.projection.tolist()[1] == [4, 5, 6, 7]
    assert calibration.distortion.tolist() == [0, 1, 2, 3, 4]


def test_calibration_that_is_not_finite():
    with pytest.raises(LogError, match="k: finite numbers"):
        decoded(camera_info(k=np.full(9, np.nan)))


def transform(w: float = 1.0, seconds: int = SECONDS, child: str = "base_link"):
    turn = make("Transform", make("Vector3", 0.1, -2.0, 1e-300), make("Quaternion", 0.0, 0.0, 0.0, w))
    return make("TransformStamped", header("map", seconds), child, turn)


def test_a_slash_in_front_of_a_frame_counts_for_nothing():
    turn = make("Transform", make("Vector3", 0.0, 0.0, 0.0), make("Quaternion", 0.0, 0.0, 0.0, 1.0))
    message = make("TFMessage", [make("TransformStamped", header("/base_link"), "/lidar", turn)])
    assert (only(message).parent, only(message).child) == ("base_link", "lidar")
    assert only(make("RadarScan", header("/ns/radar"), [])).frame_id == "ns/radar"


def test_every_transform_has_its_own_time():
    message = make("TFMessage", [transform(), transform(seconds=1, child="laser")])
    (first_ns, first), (second_ns, second) = decoded(message)
    assert (first_ns, second_ns) == (STAMP_NS, 1_000_000_000 + NANOS)
    assert isinstance(first, Transform) and (first.parent, first.child, second.child) == ("map", "base_link", "laser")
    assert first.pose.tolist() == [0.1, -2.0, 1e-300, 1.0, 0.0, 0.0, 0.0] and not first.static
    assert as_static(first).static and as_static(first).pose is first.pose
    sample = Sample("token")
    assert as_static(sample) is sample
    assert decoded(make("TFMessage", [])) == []


@pytest.mark.parametrize("w", [0.0, 1e300, float("nan"), 2.0])
def test_a_transform_without_a_rotation_does_not_cost_the_others_of_its_message(w):
    (_, broken), (_, whole) = decoded(make("TFMessage", [transform(w), transform(1.0)]))
    assert np.array_equal(broken.pose[3], w, equal_nan=True) and whole.pose[3] == 1
    with pytest.raises(LogError, match="metres and a unit quaternion were expected"):
        checked_pose(broken)


def test_a_transform_without_a_time_does_not_cost_the_others_of_its_message():
    broken, whole = transform(), transform()
    broken.header.stamp.nanosec = 1_000_000_000
    (stamp_ns, _), (other_ns, _) = decoded(make("TFMessage", [broken, whole]))
    assert isinstance(stamp_ns, RecordingTime) and (stamp_ns, other_ns) == (LOG_TIME_NS, STAMP_NS)


def test_topics_of_static_transforms():
    assert is_static("/tf_static") and is_static("tf_static") and is_static("/robot/tf_static")
    assert not is_static("/tf") and not is_static("/not_tf_static")


def test_radar_returns():
    returns = [make("RadarReturn", 10.0, 0.5, -0.25, -3.0, 20.0), make("RadarReturn", 1.0, 2.0, 3.0, 4.0, 5.0)]
    records = only(make("RadarScan", header("radar"), returns)).records
    assert records.dtype.names == ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
    assert records.tolist() == [(10, 0.5, -0.25, -3, 20), (1, 2, 3, 4, 5)]
    assert only(make("RadarScan", header("radar"), [])).records.shape == (0,)


def test_radar_tracks():
    uuid, empty = make("UUID", np.arange(16, dtype=np.uint8)), np.zeros(6, np.float32)
    vectors = make("Point", 1.0, 2.0, 3.0), make("Vector3", 4.0, 5.0, 6.0), make("Vector3", 0.0, 0.0, 0.0)
    track = make("RadarTrack", uuid, *vectors, make("Vector3", 7.0, 8.0, 9.0), 1, empty, empty, empty, empty)
    records = only(make("RadarTracks", header("radar"), [track])).records
    assert records.dtype.names == ("x", "y", "z", "vx_comp", "vy_comp", "vz_comp", "size_x", "size_y", "size_z")
    assert records.tolist() == [(1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert only(make("RadarTracks", header("radar"), [])).records.shape == (0,)


def log(name: str, seconds: int = SECONDS):
    return make("Log", make("Time", seconds, NANOS), 20, name, "the token", "", "", 0)


def test_sample_marks_are_log_messages_of_that_name():
    assert only(log("sample")).token == "the token"
    assert decoded(log("rosout")) == []


def test_times():
    image = make("CompressedImage", header(seconds=0, nanos=0), "png", bytes_of(b"x"))
    ((timestamp_ns, _),) = decoded(image)
    assert timestamp_ns == LOG_TIME_NS  # a stamp that nobody set
    for seconds, nanos in ((-1, 0), (1, 1_000_000_000)):
        with pytest.raises(LogError, match="stamp"):
            decoded(make("CompressedImage", header("", seconds, nanos), "png", bytes_of(b"x")))


@pytest.mark.parametrize(
    "name, note",
    [
        ("nebula_msgs/msg/NebulaPackets", "raw packets of a driver: Nebula"),
        ("velodyne_msgs/msg/VelodyneScan", "raw packets of a driver: velodyne_pointcloud"),
        ("pandar_msgs/msg/PandarScan", "raw packets of a driver: Hesai"),
        ("ouster_sensor_msgs/msg/PacketMsg", "raw packets of a driver: ouster_ros"),
        ("autoware_auto_msgs/msg/UdpFrame", "raw packets of a driver: its driver"),
        ("event_camera_msgs/msg/EventPacket", "events of an event camera"),
        ("std_msgs/msg/String", "not used, only images"),
        ("sensor_msgs/msg/MagneticField", "not used, only images"),
        ("sensor_msgs/msg/LaserScan", "a scan in one plane"),
        ("somebody_msgs/msg/Something", "type not known"),
        ("", "type not known"),
    ],
)
def test_what_is_not_decoded_and_why(name, note):
    kind, said, decode = decoder(name, None, "")
    assert kind is None and note in said and decode is None


# --- definitions -----------------------------------------------------------------------------------------------------

RETURN = "float32 range\nfloat32 azimuth\nfloat32 elevation\nfloat32 doppler_velocity\nfloat32 amplitude\n"
TIME = "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
HEADER = "=" * 80 + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"


def scan_definition(of_return: str) -> str:
    text = "std_msgs/Header header\nradar_msgs/RadarReturn[] returns # as measured\n"
    return text + HEADER + TIME + "=" * 80 + "\nMSG: radar_msgs/RadarReturn\n" + of_return


def test_recorded_definitions_are_followed():
    definition = scan_definition("uint8 NEW=1\nuint8 flags\n" + RETURN)
    store = rosbags_typesys.get_typestore(rosbags_typesys.Stores.EMPTY)
    store.register(rosbags_typesys.get_types_from_msg(definition, "radar_msgs/msg/RadarScan"))
    t = store.types
    stamp = t["builtin_interfaces/msg/Time"](SECONDS, NANOS)
    one = t["radar_msgs/msg/RadarReturn"](7, 1.0, 2.0, 3.0, 4.0, 5.0)
    scan = t["radar_msgs/msg/RadarScan"](t["std_msgs/msg/Header"](stamp, "radar"), [one, one])
    data = store.serialize_cdr(scan, "radar_msgs/msg/RadarScan")
    _, _, decode = decoder("radar_msgs/msg/RadarScan", definition, "ros2msg")
    ((timestamp_ns, cloud),) = decode(data, LOG_TIME_NS)
    assert timestamp_ns == STAMP_NS and cloud.records.tolist() == [(1, 2, 3, 4, 5)] * 2
    _, _, decode = decoder("radar_msgs/msg/RadarScan", None, "")
    with pytest.raises(LogError, match="radar_msgs/msg/RadarScan was expected"):
        decode(data, LOG_TIME_NS)


@pytest.mark.parametrize(
    "definition",
    [
        "",
        "not a definition at all {",
        scan_definition(RETURN),
        scan_definition(RETURN) + "#" * 70_000,
        scan_definition("radar_msgs/RadarReturn again\n"),  # holds itself
        scan_definition("radar_msgs/Missing missing\n"),
        scan_definition("string[4000000000] names\n"),
        scan_definition("float32 range\nfloat32 range\n"),
        "=" * 80 + "\nIDL: radar_msgs/msg/RadarScan\nmodule radar_msgs {",
    ],
    ids=range(9),
)
def test_definitions_that_cannot_be_used_give_way_to_the_known_ones(definition):
    message = make("RadarScan", header("radar"), [make("RadarReturn", 1.0, 2.0, 3.0, 4.0, 5.0)])
    for encoding in ("ros2msg", "ros2idl", "?"):
        _, _, decode = decoder("radar_msgs/msg/RadarScan", definition, encoding)
        ((_, cloud),) = decode(cdr(message), LOG_TIME_NS)
        assert cloud.records.tolist() == [(1, 2, 3, 4, 5)]


def test_definition_without_the_fields_that_are_needed():
    definition = scan_definition("float32 range\n")
    _, _, decode = decoder("radar_msgs/msg/RadarScan", definition, "ros2msg")
    message = make("RadarScan", header("radar"), [make("RadarReturn", 1.0, 2.0, 3.0, 4.0, 5.0)])
    with pytest.raises(LogError, match="expected"):
        decode(cdr(message)[:-16], LOG_TIME_NS)


@given(st.data())
def test_damaged_definitions(data):
    text = scan_definition(RETURN)
    at = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(at, min(at + 30, len(text))))
    insert = data.draw(st.text(max_size=20) | st.sampled_from(["[9999999999]", "radar_msgs/RadarScan ", "\n" * 99]))
    _, _, decode = decoder("radar_msgs/msg/RadarScan", text[:at] + insert + text[end:], "ros2msg")
    try:
        decode(cdr(make("RadarScan", header("r"), [make("RadarReturn", 1.0, 2.0, 3.0, 4.0, 5.0)])), LOG_TIME_NS)
    except LogError:
        pass


# --- damage ----------------------------------------------------------------------------------------------------------

EXAMPLES = [
    cloud_message(np.zeros(3, LAYOUTS["ouster"])),
    make("Image", header("camera"), 2, 3, "rgb8", 0, 9, np.zeros(18, np.uint8)),
    make("CompressedImage", header("camera"), "jpeg", bytes_of(b"\xff\xd8\xff")),
    camera_info(),
    make("TFMessage", [transform(), transform()]),
    make("RadarScan", header("radar"), [make("RadarReturn", 1.0, 2.0, 3.0, 4.0, 5.0)] * 3),
    log("sample"),
]  # fmt: skip


@given(st.sampled_from(EXAMPLES), st.booleans(), st.data())
def test_damaged_messages_are_log_errors(message, little_endian, data):
    raw = bytearray(cdr(message, little_endian))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + 4] = data.draw(
            st.binary(min_size=0, max_size=5)
            | st.sampled_from([b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"])
        )
        raw = raw or bytearray(b"\0")
    _, _, decode = decoder(message.__msgtype__, None, "")
    try:
        decode(bytes(raw), LOG_TIME_NS)
    except LogError as error:
        assert "expected" in str(error)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.__msgtype__)
def test_cut_messages(message):
    raw = cdr(message)
    _, _, decode = decoder(message.__msgtype__, None, "")
    for end in range(len(raw)):
        with pytest.raises(LogError, match=message.__msgtype__):
            decode(memoryview(raw)[:end], LOG_TIME_NS)


def test_compressed_messages():
    zstandard = pytest.importorskip("zstandard")
    message = camera_info()
    _, _, decode = decoder(message.__msgtype__, None, "")
    packed = zstandard.compress(cdr(message))
    ((timestamp_ns, _),) = decode(packed, LOG_TIME_NS)
    assert timestamp_ns == STAMP_NS
    bomb = b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x01\0\0"
    for damaged in (packed[:-5], packed[:6], bomb):
        with pytest.raises(LogError, match="expected"):
            decode(damaged, LOG_TIME_NS)
