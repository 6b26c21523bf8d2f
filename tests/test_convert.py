"""A folder becomes an MCAP file that says exactly the same, in the layout of Foxglove's converter."""

import logging
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from nuscenes_world import START_US, World

pytest.importorskip("foxglove")
pytest.importorskip("mcap_protobuf")

from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory

from perception.errors import PerceptionError
from perception.logs.convert import convert
from perception.logs.foxglove_messages import decoder
from perception.logs.mcap_log import McapReader
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.messages import Attitude, Calibration, Cloud, Image, LogError, Message, Sample, Topic, Transform
from perception.logs.nuscenes_log import NuScenesReader


class Recorded:
    """Messages in memory, as a Reader."""

    def __init__(self, *messages):
        self.path, self.topics, self.stopped, self.damage = Path("memory"), {}, None, []
        self._messages = messages

    def messages(self, topics=None, strict=False):
        yield from self._messages

    def close(self):
        pass


class Collected:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.messages = []

    def write(self, message):
        self.messages.append(message)

    def holds(self, message):
        return not isinstance(message.data, Attitude)


def message(data, topic="/topic", timestamp_ns=10**9 + 1, log_time_ns=2 * 10**9):
    return Message(topic, timestamp_ns, log_time_ns, 0, data)


def written(path, *messages):
    with McapLogWriter(path) as writer:
        for each in messages:
            writer.write(each)
    return path


def read(path) -> list[Message]:
    """By the mcap library, whose readers check every checksum here, and this package's decoder."""
    found, decoders = [], {}
    with open(path, "rb") as file:
        for schema, channel, record in make_reader(file, validate_crcs=True).iter_messages(log_time_order=False):
            assert channel.message_encoding == schema.encoding == "protobuf"
            if schema.id not in decoders:
                decoders[schema.id] = decoder(schema.name, schema.data)[2]
            for timestamp_ns, data in decoders[schema.id](record.data, record.log_time):
                assert record.publish_time == timestamp_ns
                found.append(Message(channel.topic, timestamp_ns, record.log_time, record.sequence, data))
    return found


def assert_same(found: Message, expected: Message) -> None:
    """To the last bit."""
    for name in ("topic", "timestamp_ns", "log_time_ns", "sequence"):
        assert getattr(found, name) == getattr(expected, name)
    assert type(found.data) is type(expected.data)
    for field in fields(expected.data):
        was, now = getattr(expected.data, field.name), getattr(found.data, field.name)
        if isinstance(was, np.ndarray):
            assert (now.dtype, now.shape, now.tobytes()) == (was.dtype, was.shape, was.tobytes()), field.name
        else:
            assert now == was, field.name


def test_a_folder_comes_back_from_mcap_exactly(tmp_path):
    reader = NuScenesReader(World().write(tmp_path / "world"))
    path, progress = tmp_path / "new" / "log.mcap", []
    with McapLogWriter(path) as writer:
        counts = convert(reader, writer, progress.append)
        assert not path.exists() and (tmp_path / "new" / "log.part.mcap").exists()
    assert counts == {name: topic.count for name, topic in reader.topics.items()}
    assert sum(progress) == sum(counts.values()) == len(read(path))
    assert list(path.parent.iterdir()) == [path]
    again = McapReader(path)
    assert again.topics == reader.topics
    for expected, found, by_library in zip(reader.messages(), again.messages(strict=True), read(path)):
        assert_same(found, expected)
        assert_same(by_library, expected)


def test_the_recorded_scene_comes_back_from_mcap_exactly(real_scene, tmp_path):
    reader = NuScenesReader(real_scene, "v1.0-mini")
    path = tmp_path / "scene.mcap"
    with McapLogWriter(path) as writer:
        counts = convert(reader, writer)
    assert counts["/cam_front/image_rect_compressed"] == counts["/lidar_top"] == counts["/sample"] == 40
    assert counts["/tf"] == 2 * 12 * 40
    again = McapReader(path)
    assert again.topics == reader.topics
    found = list(again.messages(strict=True))
    assert len(found) == sum(counts.values())
    for now, was in zip(found, reader.messages()):
        assert_same(now, was)
    assert (again.stopped, again.damage) == (None, [])


def test_the_file_has_the_layout_of_the_converter(tmp_path):
    """As its own library reads it."""
    reader = NuScenesReader(World().write(tmp_path / "world"))
    with McapLogWriter(tmp_path / "log.mcap") as writer:
        convert(reader, writer)
    messages, schemas = {}, {}
    with open(tmp_path / "log.mcap", "rb") as file:
        mcap = make_reader(file, decoder_factories=[DecoderFactory()])
        assert mcap.get_header().library == "perception"
        assert {chunk.compression for chunk in mcap.get_summary().chunk_indexes} == {"zstd"}
        for schema, channel, record, decoded in mcap.iter_decoded_messages():
            assert record.log_time == 10**9 * decoded.timestamp.seconds + decoded.timestamp.nanos
            schemas[channel.topic] = schema.name
            messages.setdefault(channel.topic, decoded)
    assert schemas == {name: topic.type for name, topic in reader.topics.items()}

    lidar, radar = messages["/lidar_top"], messages["/radar_front"]
    described = [(field.name, field.offset, field.type) for field in lidar.fields]
    assert described == [(n, 4 * i, 7) for i, n in enumerate(("x", "y", "z", "intensity", "ring"))]
    assert (lidar.frame_id, lidar.point_stride, lidar.HasField("pose")) == ("lidar_top", 20, False)
    assert (radar.frame_id, radar.point_stride, len(radar.fields)) == ("radar_front", 43, 18)
    assert [(f.name, f.offset, f.type) for f in radar.fields][:6] == [
        ("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("dyn_prop", 12, 2), ("id", 13, 4), ("rcs", 15, 7),
    ]  # fmt: skip
    tf, info, image = (messages[t] for t in ("/tf", "/cam_front/camera_info", "/cam_front/image_rect_compressed"))
    assert (tf.parent_frame_id, tf.child_frame_id) == ("map", "base_link")
    assert (info.frame_id, info.width, info.height, image.format) == ("cam_front", 32, 16, "jpeg")
    assert list(info.K) == [10, 0, 16, 0, 10, 8, 0, 0, 1] and list(info.D) == []
    assert list(info.P) == [10, 0, 16, 0, 0, 10, 8, 0, 0, 0, 1, 0]
    assert (messages["/sample"].name, messages["/sample"].message) == ("sample", "s0")


def test_the_same_log_makes_the_same_file(tmp_path):
    root = World().write(tmp_path / "world")
    code = """
import sys
from perception.logs.convert import convert
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.nuscenes_log import NuScenesReader
with McapLogWriter(sys.argv[2]) as writer:
    convert(NuScenesReader(sys.argv[1]), writer)
"""
    for name in ("a.mcap", "b.mcap"):  # in processes of their own, which hash strings differently
        subprocess.run([sys.executable, "-c", code, root, tmp_path / name], cwd=Path(__file__).parents[1], check=True)
    assert (tmp_path / "a.mcap").read_bytes() == (tmp_path / "b.mcap").read_bytes()


def test_what_is_not_in_nuscenes_is_written_too(tmp_path):
    rotation = np.eye(3)[::-1]
    dtype = np.dtype({"names": ["late", "early"], "formats": ["<f8", "<u4"], "offsets": [4, 0], "itemsize": 16})
    records = np.frombuffer(bytes(range(32)), dtype)
    messages = [
        message(Image("cam", "bayer_rggb8", memoryview(b"abcd"), 2, 2, 2), timestamp_ns=(1 << 32) * 10**9 - 1),
        message(Calibration("cam", 4, 2, rotation, np.arange(8.0), "fisheye", rotation, np.ones((3, 4)))),
        message(Cloud("lidar", records)),
        message(Cloud("lidar", records[:0])),
        message(Sample("ä")),
        message(Image("cam", "png", b"", 0, 0, 0), topic="/other"),
        message(Transform("a", "b", np.array([1e-300, 2, 3, 0.1, 0.2, 0.3, 0.4])), topic="/tf"),
    ]
    found = read(written(tmp_path / "log.mcap", *messages))
    assert len(found) == len(messages)
    for i, (now, was) in enumerate(zip(found, messages)):
        assert_same(now, Message(was.topic, was.timestamp_ns, was.log_time_ns, i, was.data))


def test_nothing_written_is_a_file_without_messages(tmp_path):
    assert read(written(tmp_path / "log.mcap")) == []


def test_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / "log.mcap"
    path.write_bytes(b"precious")
    with pytest.raises(LogError, match=r"log.mcap: a new file was expected"):
        McapLogWriter(path)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name, expected", [("log.bag", "ending in .mcap"), ("file/log.mcap", "cannot be written")])
def test_a_place_that_takes_no_file_is_refused(tmp_path, name, expected):
    (tmp_path / "file").touch()
    with pytest.raises(LogError, match=expected):
        McapLogWriter(tmp_path / name)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "foxglove", None)
    with pytest.raises(PerceptionError, match=r"pip install .*\[logs\]"):
        McapLogWriter(tmp_path / "log.mcap")


def test_what_came_before_an_interruption_can_be_read(tmp_path):
    path = tmp_path / "log.mcap"
    for _ in range(2):  # the second attempt overwrites what the first one left
        with pytest.raises(KeyboardInterrupt), McapLogWriter(path) as writer:
            writer.write(message(Sample("one")))
            raise KeyboardInterrupt
        assert not path.exists()
        assert [m.data.token for m in read(tmp_path / "log.part.mcap")] == ["one"]


@pytest.mark.parametrize(
    "bad, expected",
    [
        (message(Cloud("lidar", np.zeros(1, [("t", "<i8")]))), "field t: .* found int64"),
        (message(Cloud("lidar", np.zeros(1, [("xyz", "<f4", 3)]))), "field xyz"),
        (message(Cloud("lidar", np.zeros(1, [("x", ">f4")]))), "field x"),
        (message(Sample("s"), timestamp_ns=-1), "from 1970 to 2106 was expected, found -1"),
        (message(Sample("s"), timestamp_ns=10**9 << 32), "from 1970 to 2106"),
        (message("text"), "found str"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path, bad, expected):
    with McapLogWriter(tmp_path / "log.mcap") as writer:
        with pytest.raises(LogError, match=f"log.mcap: /topic at -?[0-9]+ ns: .*{expected}"):
            writer.write(bad)


def test_a_repeated_log_goes_on(tmp_path):
    reader = NuScenesReader(World().write(tmp_path))
    once, thrice = Collected(), Collected()
    counts = convert(reader, once)
    assert convert(reader, thrice, repeat=3) == {topic: 3 * n for topic, n in counts.items()}
    assert [m.sequence for m in thrice.messages] == list(range(3 * len(once.messages)))
    # From -0.05 s to 0.6 s. Half of the topics (images, their calibration, samples) have a gap of 0.5 s, LiDAR and
    # radar, with a sweep, one of 0.275 s on average: the median of the five is 0.5 s.
    shift_ns = 650_000_000 + 500_000_000
    for i, (repeated, original) in enumerate(zip(thrice.messages, once.messages * 3)):
        turn = i // len(once.messages)
        assert repeated.timestamp_ns == repeated.log_time_ns == original.timestamp_ns + turn * shift_ns
        assert repeated.topic == original.topic
        assert type(repeated.data) is type(original.data)
    tokens = [m.data.token for m in thrice.messages if isinstance(m.data, Sample)]
    assert tokens == ["s0", "s1", "s0#1", "s1#1", "s0#2", "s1#2"]
    times = [m.timestamp_ns for m in thrice.messages]
    assert times == sorted(times) and times[0] == 1000 * START_US - 50_000_000


def test_a_log_of_one_message_and_static_transforms_repeats():
    static = message(Transform("a", "b", np.zeros(7), static=True), timestamp_ns=1)
    collected = Collected()
    convert(Recorded(static, message(Sample("s"))), collected, repeat=2)
    assert [m.timestamp_ns for m in collected.messages] == [1, 10**9 + 1, 10**8 + 1, 11 * 10**8 + 1]


def test_a_log_recorded_late_repeats_after_its_last_arrival():
    """Measured within 1 s, it arrived within 3 s; two messages of a topic 1 s apart."""
    first, second = (
        message(Sample("a"), log_time_ns=2 * 10**9),
        message(Sample("b"), "/topic", 2 * 10**9 + 1, 5 * 10**9),
    )
    collected = Collected()
    convert(Recorded(first, second), collected, repeat=2)
    assert [m.log_time_ns for m in collected.messages] == [2 * 10**9, 5 * 10**9, 6 * 10**9, 9 * 10**9]


@pytest.mark.parametrize("repeat, expected", [(0, "repeat: at least 1"), (1, "found none"), (2, "found none")])
def test_nothing_to_convert(repeat, expected):
    with pytest.raises(LogError, match=expected):
        convert(Recorded(), Collected(), repeat=repeat)


def test_damage_is_left_out_and_reported(tmp_path, caplog):
    world = World()
    world.files["samples/LIDAR_TOP/lidar0"] = bytes(30)
    del world.files["samples/RADAR_FRONT/radar0"]
    reader, collected = NuScenesReader(world.write(tmp_path)), Collected()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="perception.logs.convert"):
        counts = convert(reader, collected)
    assert counts["/lidar_top"] == counts["/radar_front"] == 2
    assert Counter(m.topic for m in collected.messages) == counts
    assert len(reader.damage) == 1 and "lidar0" in reader.damage[0]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: {line}" for line in reader.damage]


def test_what_the_format_does_not_have_is_left_out_and_said(caplog):
    attitude = message(Attitude("imu", np.array([1.0, 0, 0, 0])), "/imu")
    collected = Collected()
    assert convert(Recorded(message(Sample("a")), attitude, attitude), collected) == {"/topic": 1}
    assert len(collected.messages) == 1
    assert "/imu: 2 messages left out, which the format does not have" in caplog.text


def test_of_much_damage_the_first_lines_are_said(caplog):
    reader = Recorded(message(Sample("s")))
    reader.stopped, reader.damage = "cut off", [f"chunk {i}" for i in range(12)]
    with caplog.at_level(logging.WARNING, logger="perception.logs.convert"):
        convert(reader, Collected())
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == ["memory: cut off", "memory: chunk 0"]
    assert len(said) == 11 and said[-1] == "memory: and 3 more of the kind"


def test_topics_that_cannot_be_decoded_are_named(caplog):
    reader = Recorded(message(Sample("a")))
    reader.topics = {
        "/topic": Topic("/topic", "foxglove.Log", "sample", "", 1),
        "/fix": Topic("/fix", "sensor_msgs/msg/NavSatFix", None, "not an image", 1207),
        "/a": Topic("/a", "a/msg/B", None, "type not known"),
    }
    with caplog.at_level(logging.WARNING, logger="perception.logs.convert"):
        assert convert(reader, Collected()) == {"/topic": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "memory: left out, for they cannot be decoded: /fix (sensor_msgs/msg/NavSatFix, 1,207 messages),"
        " /a (a/msg/B, messages)"
    ]
