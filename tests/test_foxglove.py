"""Foxglove's messages, as its own SDK writes them, come out exactly; whatever is damaged is a LogError."""

import re
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("foxglove")
pytest.importorskip("mcap_protobuf")

from foxglove import messages as fox
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from perception.errors import PerceptionError
from perception.logs.foxglove_messages import decoder
from perception.logs.messages import Calibration, Cloud, Image, LogError, Sample, Transform

LOG_TIME_NS = 99
STAMP = fox.Timestamp(sec=1_500_000_000, nsec=123_456_789)
STAMP_NS = 1_500_000_000_123_456_789
QUARTER = fox.Quaternion(x=0.0, y=0.0, z=0.6, w=0.8)
Type = fox.PackedElementFieldNumericType


def field(name, offset, kind):
    return fox.PackedElementField(name=name, offset=offset, type=kind)


def decode(message, schema=None):
    schema = schema or type(message).get_schema()
    return decoder(schema.name, schema.data)[2](message.encode(), LOG_TIME_NS)


def only(message):
    ((timestamp_ns, payload),) = decode(message)
    return timestamp_ns, payload


def cloud(data=b"", stride=4, fields=None, **more):
    fields = [field("x", 0, Type.Float32)] if fields is None else fields
    return fox.PointCloud(timestamp=STAMP, frame_id="lidar", point_stride=stride, fields=fields, data=data, **more)


EXAMPLES = [
    fox.CompressedImage(timestamp=STAMP, frame_id="cam", data=b"\xff\xd8...", format="jpeg"),
    fox.RawImage(timestamp=STAMP, frame_id="cam", width=2, height=1, encoding="rgb8", step=6, data=b"abcdef"),
    fox.CameraCalibration(timestamp=STAMP, frame_id="cam", width=4, height=2, K=[1.0] * 9, R=[1.0] * 9, P=[1.0] * 12),
    cloud(struct.pack("<2f", 1, 2), pose=fox.Pose(orientation=fox.Quaternion(w=1.0))),
    fox.FrameTransform(timestamp=STAMP, parent_frame_id="a", child_frame_id="b", translation=fox.Vector3(x=1.0)),
    fox.FrameTransforms(transforms=[fox.FrameTransform(timestamp=STAMP, rotation=QUARTER)]),
    fox.Log(timestamp=STAMP, name="sample", message="token"),
]
each = pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)


def test_a_compressed_image_keeps_its_bytes():
    timestamp_ns, image = only(EXAMPLES[0])
    assert timestamp_ns == STAMP_NS and isinstance(image, Image)
    assert (image.frame_id, image.encoding, bytes(image.data)) == ("cam", "jpeg", b"\xff\xd8...")
    assert (image.width, image.height, image.step) == (0, 0, 0)


@pytest.mark.parametrize("name, encoding", [("jpg", "jpeg"), ("JPEG", "jpeg"), ("png", "png")])
def test_formats_of_images(name, encoding):
    assert only(fox.CompressedImage(format=name))[1].encoding == encoding


@pytest.mark.parametrize("name", ["", "webp", "two\nlines"])
def test_a_format_that_is_not_read_is_named(name):
    with pytest.raises(LogError, match=re.escape(f"jpeg, png, h264, h265, vp9, av1 was expected, found {name!r}")):
        decode(fox.CompressedImage(format=name))


def test_a_format_as_ros_writes_it_or_none_but_the_first_bytes_of_the_file():
    assert only(fox.CompressedImage(format="rgb8; jpeg compressed bgr8"))[1].encoding == "jpeg"
    assert only(fox.CompressedImage(data=b"\x89PNG..."))[1].encoding == "png"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"encoding": "32FC1"}, "an encoding of rgb8, .* was expected, found '32FC1'"),
        ({"step": 7}, "1 rows of 2 pixels of rgb8 were expected, found 6 bytes in rows of 7"),
        ({"height": 2}, "2 rows of 2 pixels of rgb8 were expected, found 6 bytes in rows of 6"),
        ({"width": 0}, "1 rows of 0 pixels"),
    ],
)
def test_a_raw_image_that_contradicts_itself_is_refused(changes, expected):
    values = {"width": 2, "height": 1, "encoding": "rgb8", "step": 6, "data": b"abcdef"}
    with pytest.raises(LogError, match=expected):
        decode(fox.RawImage(**{**values, **changes}))


def test_a_video():
    pytest.importorskip("av")
    image = only(fox.CompressedVideo(timestamp=STAMP, frame_id="cam", data=b"a packet", format="h265"))[1]
    assert (image.frame_id, image.encoding, bytes(image.data)) == ("cam", "h265", b"a packet")
    with pytest.raises(LogError, match="found 'mpeg2'"):
        decode(fox.CompressedVideo(format="mpeg2"))


def test_a_raw_image_keeps_its_pixels():
    image = only(EXAMPLES[1])[1]
    assert (image.width, image.height, image.encoding, image.step, image.data) == (2, 1, "rgb8", 6, b"abcdef")


def test_a_calibration():
    k, r = np.arange(9.0).reshape(3, 3), np.eye(3)[::-1]
    p = np.arange(12.0).reshape(3, 4)
    message = fox.CameraCalibration(
        timestamp=STAMP, frame_id="cam", width=4, height=2, distortion_model="plumb_bob",
        D=[0.1, 0.2, 0.3, 0.4, 0.5], K=k.ravel().tolist(), R=r.ravel().tolist(), P=p.ravel().tolist(),
    )  # fmt: skip
    timestamp_ns, found = only(message)
    assert timestamp_ns == STAMP_NS and isinstance(found, Calibration)
    assert (found.frame_id, found.width, found.height, found.model) == ("cam", 4, 2, "plumb_bob")
    assert found.distortion.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    for array, expected in ((found.intrinsics, k), (found.rectification, r), (found.projection, p)):
        np.testing.assert_array_equal(array, expected)


def test_a_calibration_without_r_and_p_is_that_of_a_rectified_camera():
    found = only(fox.CameraCalibration(K=[10.0, 0, 16, 0, 10, 8, 0, 0, 1]))[1]
    np.testing.assert_array_equal(found.rectification, np.eye(3))
    np.testing.assert_array_equal(found.projection, [[10, 0, 16, 0], [0, 10, 8, 0], [0, 0, 1, 0]])
    assert found.distortion.shape == (0,)


@pytest.mark.parametrize("bad", [{}, {"K": [1.0] * 8}, {"K": [np.nan] * 9}, {"K": [1.0] * 9, "P": [1.0] * 9}])
def test_a_calibration_of_other_numbers_is_refused(bad):
    with pytest.raises(LogError, match="finite numbers were expected"):
        decode(fox.CameraCalibration(**bad))


def test_numeric_types_are_those_of_foxglove_not_of_ros():
    values = [200, -100, 60000, -30000, 4_000_000_000, -2_000_000_000, 1.5, 1e300]
    kinds = [Type.Uint8, Type.Int8, Type.Uint16, Type.Int16, Type.Uint32, Type.Int32, Type.Float32, Type.Float64]
    sizes = [1, 1, 2, 2, 4, 4, 4, 8]
    fields = [field(f"f{i}", sum(sizes[:i]), kind) for i, kind in enumerate(kinds)]
    records = only(cloud(struct.pack("<BbHhIifd", *values), 26, fields))[1].records
    assert records.dtype == np.dtype(
        [(f"f{i}", f"<{kind}") for i, kind in enumerate("u1 i1 u2 i2 u4 i4 f4 f8".split())]
    )
    assert records[0].item() == tuple(values)


def test_gaps_between_fields_and_points_are_passed_over():
    data = b"".join(struct.pack("<H2xf4x", i, i / 2) for i in range(3))
    fields = [field("late", 4, Type.Float32), field("early", 0, Type.Uint16)]
    timestamp_ns, found = only(cloud(data, 12, fields))
    assert timestamp_ns == STAMP_NS and isinstance(found, Cloud) and found.frame_id == "lidar"
    assert found.records["early"].tolist() == [0, 1, 2] and found.records["late"].tolist() == [0, 0.5, 1]


def test_a_cloud_without_points():
    assert only(cloud())[1].records.shape == (0,)


@pytest.mark.parametrize("w", [0.0, 1.0, -1.0])  # 0: an orientation that has not been set
def test_a_cloud_in_its_own_frame(w):
    assert len(only(cloud(bytes(8), pose=fox.Pose(orientation=fox.Quaternion(w=w))))[1].records) == 2


@pytest.mark.parametrize("pose", [fox.Pose(position=fox.Vector3(z=1.0)), fox.Pose(orientation=QUARTER)])
def test_a_cloud_elsewhere_is_refused(pose):
    with pytest.raises(LogError, match="found one with a pose of its own"):
        decode(cloud(bytes(8), pose=pose))


@pytest.mark.parametrize(
    "message, expected",
    [
        (cloud(stride=0), "found 1 fields, point_stride 0"),
        (cloud(stride=2**32 - 1), "point_stride 4294967295"),
        (cloud(fields=[]), "found 0 fields"),
        (cloud(bytes(6)), "a multiple of point_stride 4 was expected, found 6"),
        (cloud(stride=3), "offset within point_stride 3 was expected, found 0"),
        (cloud(fields=[field("x", 2**32 - 1, Type.Uint8)]), "found 4294967295"),
        (cloud(fields=[field("x", 0, Type.Unknown)]), "from 1 to 8 was expected, found 0"),
        (cloud(fields=[field("", 0, Type.Uint8)]), "none has a name"),
        (cloud(fields=[field(f"{i}", 0, Type.Uint8) for i in range(1001)]), "at most 1000 fields"),
    ],
)
def test_a_cloud_that_contradicts_itself_is_refused(message, expected):
    with pytest.raises(LogError, match=expected):
        decode(message)


def test_a_field_that_cannot_be_read_costs_that_field():
    fields = [field("x", 0, Type.Float32), field("t", 0, Type.Unknown), field("x", 0, Type.Uint8)]
    found = only(cloud(bytes(4), fields=fields))[1]
    assert found.records.dtype.names == ("x",) and len(found.defects) == 2


def test_a_transform():
    message = fox.FrameTransform(
        timestamp=STAMP,
        parent_frame_id="map",
        child_frame_id="base_link",
        translation=fox.Vector3(x=0.1, y=-2.0, z=3e-300),
        rotation=QUARTER,
    )
    timestamp_ns, found = only(message)
    assert timestamp_ns == STAMP_NS and isinstance(found, Transform)
    assert (found.parent, found.child, found.static) == ("map", "base_link", False)
    assert found.pose.tolist() == [0.1, -2.0, 3e-300, 0.8, 0.0, 0.0, 0.6]


def test_a_transform_that_is_not_finite_does_not_cost_the_others_of_its_message():
    """What is none is refused where it is used, one by one."""
    broken = fox.FrameTransform(child_frame_id="a", translation=fox.Vector3(x=np.nan), rotation=QUARTER)
    whole = fox.FrameTransform(child_frame_id="b", translation=fox.Vector3(x=1.0), rotation=QUARTER)
    (_, first), (_, second) = decode(fox.FrameTransforms(transforms=[broken, whole]))
    assert np.isnan(first.pose[0]) and second.pose.tolist() == [1.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.6]


def test_several_transforms_have_their_own_times():
    several = [fox.FrameTransform(timestamp=fox.Timestamp(sec=i), child_frame_id=str(i)) for i in (1, 2)]
    found = decode(fox.FrameTransforms(transforms=several))
    assert [(timestamp_ns, transform.child) for timestamp_ns, transform in found] == [(10**9, "1"), (2 * 10**9, "2")]
    assert decode(fox.FrameTransforms(transforms=[])) == []


def test_a_log_message_may_be_a_mark():
    timestamp_ns, found = only(EXAMPLES[-1])
    assert timestamp_ns == STAMP_NS and isinstance(found, Sample) and found.token == "token"
    assert decode(fox.Log(timestamp=STAMP, name="planner", message="hello")) == []


@pytest.mark.parametrize("stamp", [{}, {"timestamp": fox.Timestamp(sec=0)}])
def test_without_a_time_of_its_own_a_message_has_that_of_its_recording(stamp):
    assert only(fox.Log(name="sample", **stamp))[0] == LOG_TIME_NS


@pytest.mark.parametrize("seconds, nanos", [(-1, 0), (1, -1), (1, 10**9), (10**10, 0)])
def test_a_time_that_is_none_is_refused(seconds, nanos):
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp(seconds=seconds, nanos=nanos).SerializeToString()
    schema = fox.CompressedImage.get_schema()
    with pytest.raises(LogError, match="timestamp since 1970"):
        decoder(schema.name, schema.data)[2](b"\x0a" + bytes([len(stamp)]) + stamp + b"\x1a\x03png", LOG_TIME_NS)


@pytest.mark.parametrize(
    "name, note",
    [("foxglove.LaserScan", "one plane"), ("foxglove.SceneUpdate", "not used"), ("sensor_msgs/Imu", "not")],
)
def test_other_schemas_are_none_of_its_business(name, note):
    kind, found, decode = decoder(name, b"whatever")
    assert (kind, decode) == (None, None) and note in found


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcap_protobuf.decoder", None)
    with pytest.raises(PerceptionError, match=r"pip install .*\[logs\]"):
        decode(EXAMPLES[0])


@each
def test_a_message_may_be_a_view_of_a_larger_buffer(message):
    schema, encoded = type(message).get_schema(), message.encode()
    view = memoryview(b"..." + encoded + b"...")[3:-3]
    assert len(decoder(schema.name, schema.data)[2](view, LOG_TIME_NS)) == 1


def changed_schema(message, change):
    """The schema of a message after ``change`` has seen its descriptors, the file of the message last."""
    schema = type(message).get_schema()
    descriptors = FileDescriptorSet.FromString(schema.data)
    change(descriptors)
    return SimpleNamespace(name=schema.name, data=descriptors.SerializeToString())


@each
def test_descriptors_may_come_in_any_order(message):
    def reverse(descriptors):
        files = list(descriptors.file)[::-1]
        del descriptors.file[:]
        descriptors.file.extend(files)

    assert len(decode(message, changed_schema(message, reverse))) == 1


def test_fields_that_are_not_known_are_passed_over():
    def extend(descriptors):
        descriptors.file[-1].message_type[0].field.add(
            name="new", number=77, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
        )

    assert len(decode(EXAMPLES[3], changed_schema(EXAMPLES[3], extend))) == 1


@pytest.mark.parametrize("message", EXAMPLES[:-1], ids=lambda message: type(message).__name__)
def test_a_schema_with_other_fields_is_refused(message):
    def change(descriptors):
        last = descriptors.file[-1].message_type[0].field[-1]
        last.ClearField("type_name")
        last.type = FieldDescriptorProto.TYPE_SINT64

    with pytest.raises(LogError, match="was expected in the schema, found it without"):
        decode(message, changed_schema(message, change))


def test_a_message_below_that_has_become_something_else_is_refused():
    def change(descriptors):
        (file,) = (file for file in descriptors.file if file.name.endswith("/Quaternion.proto"))
        del file.message_type[:]
        file.enum_type.add(name="Quaternion").value.add(name="x", number=0)

    with pytest.raises(LogError, match=r"foxglove.Quaternion (orientation|rotation)' was expected in the schema"):
        decode(EXAMPLES[3], changed_schema(EXAMPLES[3], change))


@pytest.mark.parametrize(
    "change",
    [
        lambda descriptors: descriptors.ClearField("file"),
        lambda descriptors: descriptors.file.extend([descriptors.file[0]]),
        lambda descriptors: descriptors.file[-1].ClearField("dependency"),
        lambda descriptors: descriptors.file[-1].message_type[0].ClearField("name"),
        lambda descriptors: descriptors.file[-1].dependency.append("elsewhere.proto"),
    ],
)
def test_descriptors_that_do_not_fit_together_are_refused(change):
    with pytest.raises(LogError, match="found damaged ones"):
        decode(EXAMPLES[3], changed_schema(EXAMPLES[3], change))


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Bytes overwritten, cut out, or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        with_what = draw(st.binary(max_size=6))
        data[at : at + draw(st.integers(0, 6))] = with_what
    return bytes(data)


@each
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_message_is_decoded_or_a_log_error(message, data):
    schema = type(message).get_schema()
    decode = decoder(schema.name, schema.data)[2]
    mutated = data.draw(damaged(message.encode()))
    try:
        for timestamp_ns, payload in decode(mutated, LOG_TIME_NS):
            assert 0 <= timestamp_ns < 1 << 63
            assert isinstance(payload, Image | Calibration | Cloud | Transform | Sample)
    except LogError as error:
        assert "\n" not in str(error)


@each
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_schema_is_read_or_a_log_error(message, data):
    schema = type(message).get_schema()
    mutated = data.draw(damaged(schema.data))
    try:
        decode = decoder(schema.name, mutated)[2]
        decode(message.encode(), LOG_TIME_NS)
        decode(b"\x22\x01\xff" + message.encode(), LOG_TIME_NS)  # not UTF-8
    except LogError as error:
        assert "\n" not in str(error)
