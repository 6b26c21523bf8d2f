"""Foxglove's messages in JSON come out as their protobuf twins do; whatever is damaged is a LogError."""

import json

import pytest

pytest.importorskip("foxglove")
pytest.importorskip("mcap_protobuf")

from google.protobuf.json_format import MessageToDict
from mcap.records import Schema
from mcap_protobuf.decoder import DecoderFactory
from test_foxglove import LOG_TIME_NS, STAMP, STAMP_NS, decode, each

from perception.logs.foxglove_messages import decoder
from perception.logs.messages import LogError


def as_json(message) -> tuple[str, dict]:
    """Name of the schema, and the message as protobuf's own rules of JSON have it, but for its times."""
    schema = type(message).get_schema()
    parse = DecoderFactory().decoder_for("protobuf", Schema(1, schema.data, schema.encoding, schema.name))
    text = MessageToDict(parse(message.encode()), preserving_proto_field_name=True, use_integers_for_enums=True)
    return schema.name, _with_times(text)


def _with_times(value):
    if isinstance(value, list):
        return [_with_times(each) for each in value]
    if not isinstance(value, dict):
        return value
    stamp = {"sec": STAMP.sec, "nsec": STAMP.nsec}
    return {name: stamp if name == "timestamp" else _with_times(inner) for name, inner in value.items()}


def decoded(name: str, message) -> list:
    return decoder(name, b"{}", "json")[2](json.dumps(message).encode(), LOG_TIME_NS)


@each
def test_a_message_says_what_its_protobuf_twin_says(message):
    assert repr(decoded(*as_json(message))) == repr(decode(message))


def test_what_is_left_out_has_its_default():
    ((stamp_ns, image),) = decoded(
        "foxglove.RawImage", {"encoding": "mono8", "width": 1, "height": 1, "step": 1, "data": "AA=="}
    )
    assert (stamp_ns, image.frame_id, bytes(image.data)) == (LOG_TIME_NS, "", b"\0")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff", "a foxglove.Log was expected, found 1 bytes that are no JSON"),
        (b"[" * 100_000, "found 100000 bytes that are no JSON"),
        (b"[]", r"foxglove.Log: an object was expected, found '\[\]'"),
        (b'{"name": 7}', "foxglove.Log.name: a string was expected, found '7'"),
        (b'{"timestamp": {"sec": 1e3}}', "foxglove.Log.timestamp.seconds: a int64 was expected, found '1000.0'"),
        (b'{"timestamp": {"sec": true}}', "found 'True'"),
        (b'{"timestamp": 5}', "foxglove.Log.timestamp: an object was expected, found '5'"),
    ],
)
def test_a_damaged_message_is_refused(data, expected):
    with pytest.raises(LogError, match=expected):
        decoder("foxglove.Log", b"{}", "json")[2](data, LOG_TIME_NS)


@pytest.mark.parametrize(
    ("name", "message", "expected"),
    [
        ("foxglove.CompressedImage", {"data": "no base64!", "format": "jpeg"}, "data: base64 was expected"),
        ("foxglove.CameraCalibration", {"K": {"0": 1}}, "K: a list was expected"),
        ("foxglove.CameraCalibration", {"K": [1] * 8 + ["1"]}, "K: a double was expected, found '1'"),
        ("foxglove.CameraCalibration", {"K": [10**400] * 9}, "finite numbers were expected"),
    ],
)
def test_fields_of_another_type_are_refused(name, message, expected):
    with pytest.raises(LogError, match=expected):
        decoded(name, message)


def test_times():
    ((stamp_ns, _),) = decoded(
        "foxglove.FrameTransform", {"timestamp": {"sec": STAMP.sec, "nsec": STAMP.nsec}, "rotation": {"w": 1}}
    )
    assert stamp_ns == STAMP_NS
