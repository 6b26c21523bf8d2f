"""ROS 2 bags: real ones, written ones against the library rosbags, cut ones, damaged ones."""

import os
import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.logs.messages import Calibration, Cloud, Image, LogError, Message, Sample, Transform
from perception.logs.rosbag_log import RosbagReader
from perception.logs.rosbag_writer import RosbagWriter
from perception.logs.sqlite_log import SqliteReader
from perception.logs.sqlite_pages import Pages

rosbag2 = pytest.importorskip("rosbags.rosbag2")

START_NS = 1_600_000_000_000_000_000
POINT = np.dtype(
    {
        "names": ["x", "y", "z", "ring"],
        "formats": ["<f4", "<f4", "<f4", "<u2"],
        "offsets": [0, 4, 8, 16],
        "itemsize": 20,
    }
)
STORAGES = ("sqlite3", "mcap")
TYPES = {
    "/camera": "sensor_msgs/msg/CompressedImage",
    "/raw": "sensor_msgs/msg/Image",
    "/info": "sensor_msgs/msg/CameraInfo",
    "/lidar": "sensor_msgs/msg/PointCloud2",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/sample": "rcl_interfaces/msg/Log",
}


def drive(turns: int = 12) -> list[Message]:
    """A message of every kind in every turn; measured before it is recorded; clouds and images larger than a page."""
    rng = np.random.default_rng(1)
    pose = np.array([1.0, -2.0, 1 / 3, 0.6, 0.0, 0.0, 0.8])
    k = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    stream = [("/tf_static", Transform("base_link", "lidar", pose, static=True))]
    for turn in range(turns):
        points = rng.integers(0, 255, (300 + turn) * 20, np.uint8).view(POINT)
        stream += [
            ("/tf", Transform("map", "base_link", pose + [turn, 0, 0, 0, 0, 0, 0])),
            ("/camera", Image("camera", "jpeg", b"\xff\xd8" + rng.bytes(9000))),
            ("/raw", Image("camera", "bgr8", rng.bytes(2 * 10), width=3, height=2, step=10)),
            (
                "/info",
                Calibration("camera", 640, 480, k, np.arange(5.0), "plumb_bob", np.eye(3), np.c_[k, np.zeros(3)]),
            ),
            ("/lidar", Cloud("lidar", points)),
            ("/sample", Sample(f"token{turn}")),
        ]
    return [
        Message(topic, START_NS + 10_000_000 * i - 5_000_000 - i, START_NS + 10_000_000 * i, i, data)
        for i, (topic, data) in enumerate(stream)
    ]


def plain(message: Message) -> tuple:
    """What can be compared."""
    data = message.data
    values = []
    for name in type(data).__slots__:
        value = getattr(data, name)
        if isinstance(value, np.ndarray):
            value = (value.dtype.descr if value.dtype.names is None else value.dtype, value.shape, value.tobytes())
        values.append(bytes(value) if isinstance(value, memoryview) else value)
    return message.topic, message.timestamp_ns, message.log_time_ns, message.sequence, type(data), values


def write(path: Path, messages: list[Message], storage: str = "sqlite3") -> Path:
    with RosbagWriter(path, storage) as writer:
        for message in messages:
            writer.write(message)
    return path


def read(path: Path, **arguments) -> list[tuple]:
    reader = RosbagReader(path)
    messages = [plain(message) for message in reader.messages(**arguments)]
    assert (reader.stopped, reader.damage) == (None, [])
    reader.close()
    return messages


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    """A bag of the sqlite3 storage, not to be changed."""
    return write(tmp_path_factory.mktemp("bags") / "drive", drive())


@pytest.fixture(scope="module")
def database(bag) -> bytes:
    return (bag / "drive.db3").read_bytes()


# --- real bags -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="PERCEPTION_DATA is not set")
@pytest.mark.parametrize("sensor, count", [("ars548", 2), ("srr520", 4), ("vlp16", 4), ("vlp32", 5)])
def test_real_bags_of_raw_packets(sensor, count):
    (metadata,) = (Path(os.environ["PERCEPTION_DATA"]) / "nebula_rosbag2" / sensor).glob("*/metadata.yaml")
    (database,) = metadata.parent.glob("*.db3")
    for path in (metadata.parent, database):
        reader = RosbagReader(path)
        (topic,) = reader.topics.values()
        assert topic.kind is None and topic.count == count
        assert topic.note.startswith("raw packets of a driver: ")
        assert list(reader.messages(strict=True)) == []
        assert (reader.stopped, reader.damage) == (None, [])
        reader.close()


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_what_goes_in_comes_out(tmp_path, storage):
    messages = drive()
    path = write(tmp_path / "drive", messages, storage)
    assert read(path) == [plain(message) for message in messages]
    (file,) = (f for f in path.iterdir() if f.suffix != ".yaml")
    assert read(file) == [plain(message) for message in messages]
    reader = RosbagReader(path)
    assert {name: topic.type for name, topic in reader.topics.items()} == TYPES
    assert {topic.kind for topic in reader.topics.values()} == {"image", "calibration", "cloud", "transform", "sample"}
    assert reader.topics["/camera"].count == 12 and reader.topics["/tf_static"].count == 1
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_library_reads_the_same_bag(tmp_path, storage):
    from rosbags.typesys import Stores, get_typestore

    messages = drive(2)
    path, store = write(tmp_path / "drive", messages, storage), get_typestore(Stores.ROS2_JAZZY)
    with rosbag2.Reader(path) as reader:
        seen = [(c.topic, t, store.deserialize_cdr(raw, c.msgtype)) for c, t, raw in reader.messages()]
    assert [(topic, log_time) for topic, log_time, _ in seen] == [(m.topic, m.log_time_ns) for m in messages]
    for message, (_, _, content) in zip(messages, seen):
        if message.topic == "/lidar":
            assert content.data.tobytes() == message.data.records.tobytes()
            assert (content.point_step, content.fields[3].name, content.fields[3].offset) == (20, "ring", 16)
        if message.topic == "/camera":
            assert (content.format, content.data.tobytes()) == ("jpeg", message.data.data)


def test_the_same_messages_make_the_same_bytes(tmp_path):
    one, other = (write(tmp_path / name / "drive", drive(3), "mcap") for name in "ab")
    assert (one / "drive.mcap").read_bytes() == (other / "drive.mcap").read_bytes()


@pytest.mark.parametrize("storage", STORAGES)
def test_empty_bag(tmp_path, storage):
    path = write(tmp_path / "empty", [], storage)
    assert read(path) == []
    assert RosbagReader(path).topics == {}


@pytest.mark.parametrize("storage", STORAGES)
def test_empty_cloud_and_empty_image(tmp_path, storage):
    payloads = [Cloud("lidar", np.zeros(0, POINT)), Image("camera", "png", b""), Sample("")]
    messages = [Message(f"/{i}", START_NS, START_NS, i, payload) for i, payload in enumerate(payloads)]
    assert read(write(tmp_path / "bag", messages, storage)) == [plain(message) for message in messages]


def test_only_the_topics_asked_for(bag):
    topics = {topic for topic, *_ in read(bag, topics=["/camera", "/sample", "/nothing"])}
    assert topics == {"/camera", "/sample"}
    reader = RosbagReader(bag)
    assert [m.sequence for m in reader.messages(["/sample"])] == list(range(12))
    assert len(list(reader.messages(["/sample"]))) == 12  # a second time


def test_messages_recorded_at_the_same_time_or_out_of_order(tmp_path):
    times = [30, 10, 20, 10, 10]
    messages = [Message("/s", START_NS, START_NS + t, i, Sample(str(i))) for i, t in enumerate(times)]
    reader = RosbagReader(write(tmp_path / "bag", messages))
    assert [m.data.token for m in reader.messages()] == ["1", "3", "4", "2", "0"]


def test_several_transforms_of_one_message_are_numbered_apart(tmp_path):
    from perception.logs.ros_messages import known_types

    types = known_types()
    t = types.types
    stamp = t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](5, 0), "map")
    zero, turn = t["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0), t["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    one = t["geometry_msgs/msg/TransformStamped"](stamp, "car", t["geometry_msgs/msg/Transform"](zero, turn))
    with rosbag2.Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/robot/tf_static", "tf2_msgs/msg/TFMessage", typestore=types)
        message = t["tf2_msgs/msg/TFMessage"]([one, one])
        writer.write(connection, 7, types.serialize_cdr(message, "tf2_msgs/msg/TFMessage"))
    messages = list(RosbagReader(tmp_path / "bag").messages())
    assert [(m.sequence, m.timestamp_ns, m.data.static) for m in messages] == [
        (0, 5_000_000_000, True),
        (1, 5_000_000_000, True),
    ]


# --- what the writer refuses -----------------------------------------------------------------------------------------


def message_of(data, topic: str = "/topic", timestamp_ns: int = START_NS) -> Message:
    return Message(topic, timestamp_ns, START_NS, 0, data)


@pytest.mark.parametrize(
    "message, found",
    [
        (message_of(Transform("a", "b", np.array([0, 0, 0, 1.0, 0, 0, 0]), static=True)), "tf_static"),
        (message_of(Transform("a", "b", np.array([0, 0, 0, 1.0, 0, 0, 0])), "/tf_static"), "tf_static"),
        (message_of(Cloud("a", np.zeros(1, [("t", "<i8")]))), "field t"),
        (message_of(Cloud("a", np.zeros(1, [("x", "<f4"), ("y", ">f4")]))), "one byte order"),
        (message_of(Cloud("a", np.zeros(1, [("x", "<f4", (2, 2))]))), "field x"),
        (message_of(Cloud("a", np.zeros((1, 1), [("x", "<f4")]))), "points"),
        (message_of(Cloud("a", np.zeros(3, "<f4"))), "points"),
        (message_of(Image("a", "32FC1", b"", 0, 0, 0)), "encoding"),
        (message_of(Sample("a"), timestamp_ns=0), "timestamp"),
        (message_of(Sample("a"), timestamp_ns=1 << 62), "timestamp"),
        (Message("/topic", START_NS, -1, 0, Sample("a")), "log time"),
        (message_of(Sample("\ud800")), "surrogate"),
    ],
)
def test_messages_that_a_bag_cannot_hold(tmp_path, message, found):
    with pytest.raises(LogError, match=found), RosbagWriter(tmp_path / "bag") as writer:
        writer.write(message)
    assert not (tmp_path / "bag").exists()


def test_one_type_a_topic(tmp_path):
    with pytest.raises(LogError, match="rcl_interfaces/msg/Log was expected"), RosbagWriter(tmp_path / "bag") as writer:
        writer.write(message_of(Sample("a")))
        writer.write(message_of(Image("a", "png", b"")))


def test_what_was_written_before_an_error_can_be_read(tmp_path):
    with pytest.raises(ZeroDivisionError), RosbagWriter(tmp_path / "bag") as writer:
        writer.write(message_of(Sample("a")))
        1 / 0  # noqa: B018
    assert not (tmp_path / "bag").exists()
    assert len(read(tmp_path / "bag.part" / "bag")) == 1
    assert len(read(write(tmp_path / "bag", [message_of(Sample("b"))]))) == 1  # and is replaced by the next
    assert [*tmp_path.iterdir()] == [tmp_path / "bag"]


def test_existing_paths_stay(tmp_path):
    (tmp_path / "bag").write_text("mine")
    with pytest.raises(LogError, match="found one that exists"):
        RosbagWriter(tmp_path / "bag")
    with pytest.raises(LogError, match="sqlite3 or mcap"):
        RosbagWriter(tmp_path / "other", storage="csv")
    with pytest.raises(LogError, match="can be written"), RosbagWriter(tmp_path / "bag" / "inside"):
        pass


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Path:
    """bag_0 to bag_10 of either storage, of one turn each."""
    folder, messages = tmp_path_factory.mktemp("splits"), drive(11)
    for storage, suffix in (("sqlite3", "db3"), ("mcap", "mcap")):
        (folder / storage).mkdir()
        for part in range(11):
            some = messages[0 if part == 0 else 6 * part + 1 : 6 * part + 7]
            one = write(folder / f"bag_{part}", some, storage)
            (one / f"bag_{part}.{suffix}").rename(folder / storage / f"bag_{part}.{suffix}")
            shutil.rmtree(one)
    return folder


def split(splits: Path, folder: Path, storage: str = "sqlite3", parts: int = 3) -> list[Message]:
    """A bag whose writer began a new file after every turn."""
    folder.mkdir()
    names = [f"bag_{part}.{'db3' if storage == 'sqlite3' else 'mcap'}" for part in range(parts)]
    for name in names:
        shutil.copy(splits / storage / name, folder)
    content = {"version": 9, "storage_identifier": storage, "relative_file_paths": names}
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    return drive(11)[: 6 * parts + 1]


@pytest.mark.parametrize("storage", STORAGES)
def test_split_bags_are_read_through(splits, tmp_path, storage):
    messages = split(splits, tmp_path / "bag", storage, 11)
    assert read(tmp_path / "bag") == [plain(message) for message in messages]
    reader = RosbagReader(tmp_path / "bag")
    assert reader.topics["/camera"].count == 11 and len(reader.topics) == 7


@pytest.mark.parametrize(
    "text",
    [None, "", "[1, 2", "&a [*a]", "rosbag2_bagfile_information: 3",
     "rosbag2_bagfile_information: {relative_file_paths: []}",
     "rosbag2_bagfile_information: {relative_file_paths: [1]}", "\udc80", "2001-99-99: 1", "[" * 10_000],
)  # fmt: skip
def test_without_metadata_all_files_are_read(splits, tmp_path, text):
    messages = split(splits, tmp_path / "bag", parts=11)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    if text is not None:
        (tmp_path / "bag" / "metadata.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    reader = RosbagReader(tmp_path / "bag")
    assert [plain(message) for message in reader.messages()] == [plain(message) for message in messages]
    (line,) = reader.damage
    assert "metadata.yaml" in line and "all files of the folder are read" in line and "\n" not in line


@pytest.mark.parametrize(
    "name", ["/etc/passwd.db3", "../other/bag_0.db3", "a/../../x.db3", "..\\x.db3", "x.txt", "a\0.db3"]
)
def test_files_outside_the_folder_are_not_read(splits, tmp_path, name):
    split(splits, tmp_path / "bag", parts=1)
    split(splits, tmp_path / "other", parts=1)
    content = {"rosbag2_bagfile_information": {"relative_file_paths": [name]}}
    (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump(content))
    reader = RosbagReader(tmp_path / "bag")
    assert "the name of a file in its folder was expected" in reader.damage[0]
    assert len(list(reader.messages())) == 7


def test_a_file_that_the_metadata_does_not_name_is_said(splits, tmp_path):
    split(splits, tmp_path / "bag", parts=2)
    shutil.copy(splits / "sqlite3" / "bag_7.db3", tmp_path / "bag")
    reader = RosbagReader(tmp_path / "bag")
    assert len(list(reader.messages())) == 13
    assert reader.damage == [f"{tmp_path / 'bag' / 'bag_7.db3'}: left out, for metadata.yaml does not name it"]


def test_names_as_before_version_four(splits, tmp_path):
    messages = split(splits, tmp_path / "bag", parts=1)
    content = {"rosbag2_bagfile_information": {"relative_file_paths": ["bag/bag_0.db3"]}}
    (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert read(tmp_path / "bag") == [plain(message) for message in messages]


def test_missing_empty_and_cut_files_of_a_bag(splits, tmp_path):
    split(splits, tmp_path / "bag", parts=4)
    (tmp_path / "bag" / "bag_0.db3").unlink()
    (tmp_path / "bag" / "bag_1.db3").write_bytes(b"")
    cut = tmp_path / "bag" / "bag_3.db3"
    cut.write_bytes(cut.read_bytes()[:-9000])
    reader = RosbagReader(tmp_path / "bag")
    messages = list(reader.messages())
    assert {m.data.token for m in messages if m.topic == "/sample"} >= {"token2"}
    assert reader.stopped.startswith("bag_3.db3: cut at ")
    assert "bag_0.db3" in reader.damage[0] and "bag_1.db3" in reader.damage[1]
    for file in (tmp_path / "bag").glob("*.db3"):
        file.write_bytes(b"")
    with pytest.raises(LogError, match="found 0 bytes"):
        RosbagReader(tmp_path / "bag")


def test_paths_that_are_no_bags(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(LogError, match="expected"):
            RosbagReader(path)
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "text.db3").write_text("text" * 3000)
    for name in ("text.txt", "text.db3"):
        with pytest.raises(LogError, match=name):
            RosbagReader(tmp_path / name)
    connection = sqlite3.connect(tmp_path / "other.db3")
    connection.execute("CREATE TABLE fruit (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(LogError, match="its tables are fruit"):
        RosbagReader(tmp_path / "other.db3")


# --- compression -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
def test_compressed_bags(tmp_path, bag, mode):
    with rosbag2.Reader(bag) as source:
        writer = rosbag2.Writer(tmp_path / "packed", version=9)
        writer.set_compression(rosbag2.CompressionMode[mode], rosbag2.CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for connection, log_time, raw in source.messages():
                if connection.topic not in connections:
                    arguments = {"msgdef": connection.msgdef.data, "rihs01": connection.digest}
                    connections[connection.topic] = writer.add_connection(
                        connection.topic, connection.msgtype, **arguments
                    )
                writer.write(connections[connection.topic], log_time, raw)
    assert read(tmp_path / "packed") == read(bag)
    if mode == "FILE":
        file = tmp_path / "packed" / "packed.db3.zstd"
        assert read(file) == read(bag)
        short = tmp_path / "packed.db3.zst"  # as the program zstd names it
        shutil.copy(file, short)
        assert read(short) == read(bag)
        file.write_bytes(file.read_bytes()[:-20_000])
        reader = RosbagReader(tmp_path / "packed")
        assert 10 < len(list(reader.messages())) < 72
        assert "cut at" in reader.stopped


def test_decompression_is_capped(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "bomb.db3.zstd").write_bytes(zstandard.compress(bytes(100 << 20)))
    with pytest.raises(LogError, match="bytes when decompressed were expected"):
        RosbagReader(tmp_path / "bomb.db3.zstd")
    (tmp_path / "noise.db3.zstd").write_bytes(b"noise" * 99)
    with pytest.raises(LogError):
        RosbagReader(tmp_path / "noise.db3.zstd")


# --- schemas ---------------------------------------------------------------------------------------------------------


def rows_of(bag: Path) -> tuple[list, list]:
    connection = sqlite3.connect(bag / "drive.db3")
    topics = connection.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
    messages = connection.execute("SELECT id, topic_id, timestamp, data FROM messages").fetchall()
    connection.close()
    return topics, messages


OLD = """
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, serialization_format TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER NOT NULL, data BLOB NOT NULL);
"""


def old_bag(path: Path, bag: Path, setting: str = "", cut_short: bool = False) -> sqlite3.Connection:
    """As the first releases wrote it: no qualities of service, no definitions, no index."""
    topics, messages = rows_of(bag)
    connection = sqlite3.connect(path)
    connection.executescript(setting + OLD)
    connection.executemany("INSERT INTO topics VALUES (?, ?, ?, ?)", topics)
    connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", messages)
    if not cut_short:
        connection.commit()
    return connection


def test_the_first_schema(tmp_path, bag):
    old_bag(tmp_path / "old.db3", bag).close()
    assert read(tmp_path / "old.db3") == read(bag)


@pytest.mark.parametrize("page_size", [512, 65536])
def test_page_sizes_whole_and_page_by_page(tmp_path, bag, page_size):
    path = tmp_path / "old.db3"
    old_bag(path, bag, f"PRAGMA page_size = {page_size};").close()
    assert read(path) == read(bag)
    data = bytearray(path.read_bytes())
    data[28:32] = struct.pack(">I", len(data) // page_size + 1)  # as if the last page were missing
    path.write_bytes(data)
    reader = SqliteReader(path)
    assert [plain(message) for message in reader.messages()] == read(bag)
    assert reader.stopped.startswith(
        f"cut at {len(data)} of {len(data) + page_size} bytes; last message at 1600000000.720 s"
    )


def test_a_write_ahead_log_that_a_crash_left(tmp_path, bag):
    connection = old_bag(tmp_path / "live.db3", bag, "PRAGMA journal_mode = WAL;")
    (tmp_path / "crashed").mkdir()
    for file in tmp_path.glob("live.db3*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, tmp_path / "crashed")
    connection.close()
    assert read(tmp_path / "crashed" / "live.db3") == read(bag)


def test_a_writer_that_was_killed_within_its_transaction(tmp_path, bag):
    connection = old_bag(tmp_path / "live.db3", bag, "PRAGMA cache_size = 10;", cut_short=True)
    (tmp_path / "crashed").mkdir()
    for file in tmp_path.glob("live.db3*"):
        shutil.copy(file, tmp_path / "crashed")
    connection.close()
    assert (tmp_path / "crashed" / "live.db3-journal").stat().st_size
    data = (tmp_path / "crashed" / "live.db3").read_bytes()
    on_disk = [row[3][:60] in data and row[3][-60:] in data for row in rows_of(bag)[1]]
    assert 50 < sum(on_disk) < 73  # the others were in memory only
    for _ in ("with the journal", "without"):
        reader = SqliteReader(tmp_path / "crashed" / "live.db3")
        messages = [plain(message)[:3] for message in reader.messages(strict=True)]
        assert messages == [message[:3] for message, there in zip(read(bag), on_disk) if there]
        assert reader.stopped.startswith("never closed; ") and reader.damage == []
        reader.close()
        (tmp_path / "crashed" / "live.db3-journal").unlink(missing_ok=True)


def test_other_serialisations_and_topics_without_rows(tmp_path, bag):
    connection = old_bag(tmp_path / "odd.db3", bag)
    connection.execute("UPDATE topics SET serialization_format = 'flatbuffers' WHERE name = '/camera'")
    connection.execute("DELETE FROM topics WHERE name = '/raw'")
    connection.execute("UPDATE messages SET data = 'text' WHERE id = 2")
    connection.execute("UPDATE messages SET timestamp = 'text' WHERE id = 8")
    connection.commit()
    connection.close()
    reader = SqliteReader(tmp_path / "odd.db3")
    assert reader.topics["/camera"].kind is None and "flatbuffers" in reader.topics["/camera"].note
    messages = list(reader.messages())
    assert {m.topic for m in messages} == TYPES.keys() - {"/camera", "/raw"}
    assert len([m for m in messages if m.topic == "/tf"]) == 10
    assert reader.damage[0] == "12 messages of topics that it does not name"
    assert "/tf at 1600000000010000000 ns: its data were expected, found none" in reader.damage[1]
    with pytest.raises(LogError, match=r"odd.db3: /tf at"):
        list(reader.messages(strict=True))


# --- cut and damaged files -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def row_ends(database, bag) -> list[int]:
    """Of every message in turn, where in the file its last byte is, found by searching for its first and last ones."""
    pieces = [(data[:60], data[-60:]) for _, _, _, data in rows_of(bag)[1]]
    return [max(database.index(piece) for piece in both) + 60 for both in pieces]


@pytest.mark.parametrize("tenth", range(10))
def test_cut_at_every_tenth(tmp_path, database, row_ends, bag, tenth):
    end = len(database) * tenth // 10 + 1234
    (tmp_path / "cut.db3").write_bytes(database[:end])
    reader = SqliteReader(tmp_path / "cut.db3")
    messages = [plain(message)[:3] for message in reader.messages(strict=True)]
    complete = end - end % 4096
    assert messages == [message[:3] for message, last in zip(read(bag), row_ends) if last <= complete]
    assert reader.stopped.startswith(f"cut at {end} of {len(database)} bytes")
    assert not messages or f"; last message at {messages[-1][2] / 1e9:.3f} s" in reader.stopped
    assert sum(topic.count for topic in reader.topics.values()) == len(messages)
    assert reader.damage == []


def test_cut_within_the_first_page(tmp_path, database):
    (tmp_path / "cut.db3").write_bytes(database[:1000])
    reader = SqliteReader(tmp_path / "cut.db3")
    assert reader.topics == {} and list(reader.messages()) == []
    assert reader.stopped == f"cut at 1000 of {len(database)} bytes"


def test_a_damaged_page_costs_its_rows_only(tmp_path, database, bag):
    pages = [
        at for at in range(4096, len(database), 4096) if database[at] == 13 and b"token" in database[at : at + 4096]
    ]
    data = bytearray(database)
    data[pages[1] : pages[1] + 8] = b"\xff" * 8  # no longer a page of rows
    (tmp_path / "hurt.db3").write_bytes(data)
    reader = SqliteReader(tmp_path / "hurt.db3")
    messages = [plain(message)[:3] for message in reader.messages()]
    whole = [message[:3] for message in read(bag)]
    assert 50 < len(messages) < 73 and set(messages) < set(whole) and messages == sorted(messages, key=lambda m: m[2])
    assert "read page by page, since database disk image is malformed" in reader.damage[0]
    assert reader.stopped is None


def test_a_damaged_header_and_a_damaged_schema(tmp_path, database, bag):
    for at, value in ((0, 0), (100, 0), (16, 3), (44, 77), (103, 255), (52, 9)):
        data = bytearray(database)
        data[at] = value
        (tmp_path / "hurt.db3").write_bytes(data)
        reader = SqliteReader(tmp_path / "hurt.db3")
        assert [plain(message) for message in reader.messages()] == read(bag)
        reader.close()


def test_a_column_with_another_name(tmp_path, database, bag):
    (tmp_path / "hurt.db3").write_bytes(database.replace(b"data BLOB", b"dbta BLOB"))
    reader = SqliteReader(tmp_path / "hurt.db3")
    assert [plain(message) for message in reader.messages()] == read(bag)
    assert reader.damage == ["read page by page, since no such column: data"]


def test_chains_of_pages_that_run_in_circles(tmp_path, database):
    data = bytearray(database)
    for at in range(4096, len(data), 4096):
        if data[at] not in (2, 5, 10, 13):
            data[at : at + 4] = struct.pack(">I", at // 4096 + 1)  # every page is its own follower
    (tmp_path / "hurt.db3").write_bytes(data)
    pages = Pages(tmp_path / "hurt.db3")
    broken = 0
    for row in pages.rows():
        try:
            pages.record(row.place, 1 << 28)
        except ValueError:
            broken += 1
    assert broken >= 24  # the clouds and the images


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_mutated_files_raise_nothing_but_log_errors(tmp_path, database, data):
    raw = bytearray(database)
    low = st.integers(0, 8191) | st.integers(0, len(raw) - 1)  # the schema and the topics are at the beginning
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(low)
        change = data.draw(
            st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 9, b"\0" * 64, b"\x0d", b"\x05"])
        )
        raw[at : at + len(change)] = change
    raw = raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))]
    path = tmp_path / "mutated.db3"
    path.write_bytes(raw)
    try:
        reader = RosbagReader(path)
    except LogError as error:
        assert "expected" in str(error)
        return
    for message in reader.messages():
        assert isinstance(message, Message)
    assert all("\n" not in line for line in reader.damage)
    reader.close()
