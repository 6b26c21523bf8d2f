"""What a recording may ask for: work and memory that no real one needs is refused, by name, and an option allows it."""

import json
import os
import sqlite3
import struct
import sys
import tracemalloc
from contextlib import closing

import pytest

from perception.logs.limits import LimitError, Limits
from perception.logs.log import open_log
from perception.logs.mcap_file import McapFile
from perception.logs.mcap_log import McapReader
from perception.logs.messages import LogError
from perception.logs.rosbag_log import RosbagReader
from perception.logs.sqlite_log import SqliteReader

zstandard = pytest.importorskip("zstandard")
pytest.importorskip("rosbags")

MIB = 1 << 20
TF = "tf2_msgs/msg/TFMessage"
EMPTY_TF = b"\0\1\0\0" + bytes(4)  # CDR of no transforms


def record(opcode: int, content: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(content)) + content


def text(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def schema(number: int, name: str = TF, data: bytes = b"") -> bytes:
    return record(3, struct.pack("<H", number) + text(name.encode()) + text(b"ros2msg") + text(data))


def channel(number: int, topic: str = "/tf", schema_id: int = 1) -> bytes:
    return record(4, struct.pack("<HH", number, schema_id) + text(topic.encode()) + text(b"cdr") + text(b""))


def message(time_ns: int, data: bytes = EMPTY_TF, channel_id: int = 1) -> bytes:
    return record(5, struct.pack("<HIQQ", channel_id, 0, time_ns, time_ns) + data)


def chunk(records: bytes, start_ns: int = 1, end_ns: int = 1) -> bytes:
    stored = zstandard.compress(records)
    head = struct.pack("<QQQI", start_ns, end_ns, len(records), 0) + text(b"zstd") + struct.pack("<Q", len(stored))
    return record(6, head + stored)


def write_mcap(tmp_path, *records: bytes):
    """A recording that was not finished, so that all of it is looked at when it is opened."""
    path = tmp_path / "drive.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + schema(1) + channel(1) + b"".join(records))
    return path


def read(path, **limits: int) -> list:
    """The messages that come, within the default limits but for those given."""
    reader = (McapReader if path.suffix == ".mcap" else RosbagReader)(path, Limits(**limits))
    try:
        return list(reader.messages())
    finally:
        reader.close()


def test_a_file_that_grows_too_much(tmp_path):
    """Of 70 MiB that no message needs: 64 are allowed to a file of some kilobytes."""
    path = write_mcap(tmp_path, chunk(record(200, bytes(70 * MIB))))
    with pytest.raises(
        LogError, match=r"bytes of chunks when decompressed were expected, found 73\d+; --limits raises"
    ):
        open_log(path)
    with open_log(path, limits=2) as log:
        assert list(log) == []
    with pytest.raises(LogError, match="limits > 0"):
        open_log(path, limits=0)


def test_chunks_at_the_same_time_do_not_keep_what_no_message_needs(tmp_path):
    """Each decompresses to 3 MiB and holds one message that comes after all of them."""
    path = write_mcap(tmp_path, *(chunk(message(9) + record(200, bytes(3 * MIB)), 1, 9) for _ in range(20)))
    tracemalloc.start()
    try:
        assert read(path) == []
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()


def test_messages_that_overlap_in_time_are_kept_up_to_a_limit(tmp_path):
    """All of 50 chunks, each with one of 8 bytes at 1 ns and one of 1000 at 9 ns, and 400 more for each message."""
    path = write_mcap(tmp_path, *(chunk(message(1) + message(9, bytes(1000)), 1, 9) for _ in range(50)))
    with pytest.raises(LimitError, match="at most 40000 bytes of messages that overlap in time were expected, found"):
        read(path, held=40_000)
    assert read(path, held=91_000) == []


def test_records_are_counted_against_the_bytes_of_the_file(tmp_path):
    path = write_mcap(tmp_path, chunk(message(1) * 5_000))
    assert len(list(McapFile(path).messages())) == 5_000
    with pytest.raises(LimitError, match=r"at most \d+ records for its size"):
        McapFile(path, Limits(small_records=100))
    file = McapFile(path, Limits(chunk_records=3_000))
    assert len(list(file.messages())) == 3_000 and "it has more than 3000 records" in file.damage[0]


def test_messages_outside_of_chunks_are_counted_against_the_bytes_of_the_file(tmp_path):
    """10,000 of 39 bytes: with a limit of 9,700 a file of 390 kB may have 378 more, of 9,300, 362 more."""
    path = write_mcap(tmp_path, message(1) * 10_000)
    assert McapFile(path, Limits(messages=9_700)).counts == {1: 10_000}
    expected = r"at most 96\d\d messages outside of chunks were expected, found 96\d\d; --limits raises"
    with pytest.raises(LimitError, match=expected):
        read(path, messages=9_300)


@pytest.mark.parametrize("cut", [False, True])
def test_messages_of_a_bag_are_counted_against_its_bytes(tmp_path, cut):
    """As whole, through SQLite, and without its last page, page by page."""
    path = write_bag(tmp_path, *(insert(i, EMPTY_TF) for i in range(5000)))
    if cut:
        os.truncate(path, path.stat().st_size - 1)
    with closing(SqliteReader(path, Limits(messages=5000))) as reader:
        assert reader.topics["/tf"].count in (range(4850, 5000) if cut else [5000])
    with pytest.raises(LimitError, match=r"at most 40\d\d messages were expected, found 40\d\d; --limits raises it"):
        read(path, messages=4000)


def test_records_of_unknown_types_are_passed_over_up_to_a_limit(tmp_path):
    path = write_mcap(tmp_path, record(200, b"") * 50, message(1))
    assert sum(McapFile(path).counts.values()) == 1
    file = McapFile(path, Limits(small_records=49))
    assert not file.counts and "more than 49 records of unknown types" in file.stopped


def test_more_topics_than_a_vehicle_has(tmp_path):
    path = write_mcap(tmp_path, *(channel(i, f"/{i}") for i in range(2, 12)))
    assert len(open_log(path).topics) == 11
    with pytest.raises(LimitError, match="at most 10 topics and types were expected, found 11; --limits raises it"):
        McapFile(path, Limits(topics=10))


def test_definitions_that_are_too_long_are_left_out(tmp_path):
    path = write_mcap(tmp_path, channel(2, "/" + 5000 * "a"), schema(2, "b" * 5000), schema(3, data=bytes(17 * MIB)))
    file = McapFile(path)
    assert [*file.channels] == [1] and [*file.schemas] == [1]
    assert sum("a name of at most 4096 characters was expected, found 500" in line for line in file.damage) == 2
    assert any("a definition of at most 16777216 bytes was expected" in line for line in file.damage)


@pytest.mark.parametrize("kind", ["mcap", "sqlite"])
def test_a_topic_of_which_nothing_can_be_decoded_is_given_up(tmp_path, kind):
    """From the third failure in a row on; the fourth message, which could be decoded, is not looked at."""
    good = tf(1)
    for data, decoded in (((b"", b"", b"", good), 0), ((b"", b"", good, b"", b"", good), 2)):
        if kind == "mcap":
            path = write_mcap(tmp_path, *(chunk(message(i, each), i, i) for i, each in enumerate(data, 1)))
        else:
            path = write_bag(tmp_path, *(insert(i, each) for i, each in enumerate(data, 1)))
        assert len(read(path, undecodable=3)) == decoded


def tf(time_s: int) -> bytes:
    """CDR of one transform from a to b."""
    header = struct.pack("<iI", time_s, 0) + text(b"a\0") + bytes(2) + text(b"b\0") + bytes(2)
    return b"\0\1\0\0" + struct.pack("<I", 1) + header + bytes(-(4 + len(header)) % 8) + struct.pack("<7d", *6 * [0], 1)


TOPICS = "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)"
MESSAGES = "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB)"
TOPIC = f"INSERT INTO topics VALUES(1, '/tf', '{TF}', 'cdr')"
ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT"


def insert(number: int, data: bytes) -> str:
    return f"INSERT INTO messages VALUES({number}, 1, {number}, x'{data.hex()}')"


def write_bag(tmp_path, *statements: str, tables=(TOPICS, TOPIC, MESSAGES)):
    path = tmp_path / "drive.db3"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    for statement in (*tables, *statements):
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    "tables",
    [
        (TOPICS, TOPIC, f"CREATE VIEW messages AS {ENDLESS} x id, 1 topic_id, x timestamp, x'00' data FROM r"),
        (MESSAGES, f"CREATE VIEW topics AS {ENDLESS} x id, 'a' name, 'b' type, 'cdr' serialization_format FROM r"),
        (TOPICS, TOPIC, MESSAGES, f"CREATE VIEW message_definitions AS {ENDLESS} 'a' topic_type, 'b' encoding FROM r"),
        (TOPICS, TOPIC, MESSAGES.replace("data BLOB", "data BLOB AS (zeroblob(999999999))"),
         "INSERT INTO messages(id, topic_id, timestamp) VALUES(1, 1, 1)"),
        (TOPICS, TOPIC, MESSAGES.replace("timestamp INTEGER", "timestamp AS (length(hex(zeroblob(1000))))"),
         "INSERT INTO messages(id, topic_id, data) VALUES(1, 1, x'00')"),
        (TOPICS.replace("name TEXT", "name TEXT AS (hex(zeroblob(1000))) STORED"), MESSAGES),
        (TOPICS, TOPIC, "CREATE VIRTUAL TABLE messages USING fts5(topic_id, timestamp, data)"),
    ],
)  # fmt: skip
def test_what_a_bag_would_compute_is_not_asked_for(tmp_path, tables):
    path = write_bag(tmp_path, tables=tables)
    try:
        with open_log(path) as log:
            assert list(log) == [] and any("is not stored but computed" in line for line in log.damage)
    except LogError as error:
        assert "is not stored but computed" in str(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the sqlite3 module has no limits before Python 3.11")
def test_values_of_a_bag_are_bounded(tmp_path):
    path = write_bag(tmp_path, insert(1, tf(1)), insert(2, bytes(5000)), insert(3, tf(3)))
    reader = SqliteReader(path, Limits(record=1000))
    assert len(list(reader.messages())) == 2 and "too big" in reader.damage[0]
    path = write_bag(tmp_path, insert(1, tf(1)), f"INSERT INTO topics VALUES(2, '/{5000 * 'a'}', '{TF}', 'cdr')")
    with pytest.raises(LimitError, match="at most 1 topics"):
        SqliteReader(path, Limits(topics=1))


def test_messages_that_share_their_pages_are_read_up_to_a_limit(tmp_path):
    """As rows may that no SQLite wrote; here they merely are more than is allowed."""
    path = write_bag(tmp_path, *(insert(i, bytes(3000)) for i in range(1, 21)))
    with pytest.raises(LimitError, match="at most 30000 bytes of messages were expected, found"):
        read(path, inflation=0, inflation_slack=30_000)


def test_messages_compressed_by_themselves_count_as_what_they_become(tmp_path):
    bomb = zstandard.compress(bytes(40 * MIB))
    path = write_bag(tmp_path, insert(1, bomb), insert(2, bomb))
    with pytest.raises(LimitError, match=r"at most \d+ bytes of messages were expected, found 83886080"):
        read(path)


@pytest.mark.parametrize("name", ["drive.mcap", "drive.db3", "drive.db3.zstd", "bag/drive_0.db3", "bag/metadata.yaml"])
def test_pipes_are_not_opened(tmp_path, name):
    """Opening one would wait for a writer."""
    (tmp_path / "bag").mkdir()
    os.mkfifo(tmp_path / name)
    if name == "bag/metadata.yaml":
        write_bag(tmp_path).rename(tmp_path / "bag/drive_0.db3")
        assert "found a folder, device or pipe" in open_log(tmp_path / "bag").damage[0]
        return
    with pytest.raises(LogError, match="expected"):
        open_log(tmp_path / name if name.startswith("drive") else tmp_path / "bag")


@pytest.mark.parametrize("names", [["x" * 300 + ".db3"], ["/".join(["x" * 200] * 30) + ".db3"]])
def test_names_that_no_file_can_have(tmp_path, names):
    (tmp_path / "bag").mkdir()
    write_bag(tmp_path).rename(tmp_path / "bag/drive_0.db3")
    content = {"rosbag2_bagfile_information": {"relative_file_paths": names}}
    (tmp_path / "bag/metadata.yaml").write_text(json.dumps(content))
    assert "found no such file" in open_log(tmp_path / "bag").damage[0]
