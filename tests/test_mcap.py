"""MCAP files: all that is whole comes back, in order, and what does not is said; beside the mcap library's reader."""

import io
import itertools
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.logs import mcap_reading
from perception.logs import foxglove_messages, mcap_records
from perception.logs.mcap_file import McapFile
from perception.logs.mcap_log import McapReader
from perception.logs.messages import LogError, Sample

pytest.importorskip("mcap")
from mcap.reader import NonSeekingReader
from mcap.records import Chunk
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, IndexType, Writer

MAGIC = b"\x89MCAP0\r\n"
MS = 1_000_000
MESSAGES = 200


def write(messages: int = MESSAGES, finish: bool = True, **options) -> bytes:
    """A file of two topics: message i, of 100 bytes, was recorded at i ms, but every fifth 3 ms late in the file."""
    stream = io.BytesIO()
    writer = Writer(stream, **{"chunk_size": 2000, "compression": CompressionType.LZ4, **options})
    writer.start()
    schema = writer.register_schema("A", "protobuf", b"descriptors")
    channels = [writer.register_channel(topic, "protobuf", schema) for topic in ("/even", "/odd")]
    for i in sorted(range(messages), key=lambda i: i + 3.5 * (i % 5 == 0)):
        writer.add_message(channels[i % 2], i * MS, i.to_bytes(4, "little") + bytes(96), i * MS, sequence=i)
    if finish:
        writer.finish()
    return stream.getvalue()


def open_bytes(tmp_path, data: bytes) -> McapFile:
    path = tmp_path / "drive.mcap"
    path.write_bytes(data)
    return McapFile(path)


def numbers(file: McapFile, topics=None) -> list[int]:
    """The messages that come back, by their numbers."""
    return [int.from_bytes(data[:4], "little") for *_, data in file.messages(topics)]


def chunks_of(data: bytes) -> list[tuple[int, int, list[int]]]:
    """Begin, end and messages of every chunk, by the mcap library."""
    found, position = [], len(MAGIC)
    stream = io.BytesIO(data)
    while position + 9 <= len(data):
        opcode, length = struct.unpack_from("<BQ", data, position)
        end = position + 9 + length
        if opcode == 6 and end <= len(data):
            stream.seek(position)
            chunk = next(StreamReader(stream, skip_magic=True, emit_chunks=True).records)
            assert isinstance(chunk, Chunk)
            within = MAGIC + data[position:end] + struct.pack("<BQQQI", 2, 20, 0, 0, 0) + MAGIC
            records = StreamReader(io.BytesIO(within)).records
            found.append((position, end, [record.sequence for record in records if hasattr(record, "publish_time")]))
        position = end
    return found


def record(opcode: int, body: bytes) -> bytes:
    return struct.pack("<BQ", opcode, len(body)) + body


def chunk(stored: bytes, size: int, compression: str = "", checksum: int = 0) -> bytes:
    name = compression.encode()
    return record(
        6, struct.pack("<QQQII", 0, MS, size, checksum, len(name)) + name + struct.pack("<Q", len(stored)) + stored
    )


OPTIONS = {
    "zstd": {"compression": CompressionType.ZSTD},
    "lz4": {"compression": CompressionType.LZ4},
    "not compressed": {"compression": CompressionType.NONE},
    "no chunks": {"use_chunking": False},
    "no indexes": {"index_types": IndexType.NONE},
    "no message index": {"index_types": IndexType.CHUNK},
    "no chunk index": {"index_types": IndexType.MESSAGE},
    "no channels in the summary": {"repeat_channels": False},
    "no schemas in the summary": {"repeat_schemas": False},
    "no statistics": {"use_statistics": False},
    "no checksums": {"enable_crcs": False},
    "data checksum": {"enable_data_crcs": True},
    "no summary": {
        "index_types": IndexType.NONE,
        "repeat_channels": False,
        "repeat_schemas": False,
        "use_statistics": False,
        "use_summary_offsets": False,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_messages_are_those_of_the_mcap_library(tmp_path, options):
    data = write(**options)
    theirs = [
        (channel.topic, schema.name, message.sequence, message.log_time, message.publish_time, message.data)
        for schema, channel, message in NonSeekingReader(io.BytesIO(data), validate_crcs=True).iter_messages()
    ]
    file = open_bytes(tmp_path, data)
    assert len(theirs) == MESSAGES
    assert [
        (file.channels[c].topic, file.schemas[file.channels[c].schema_id].name, *times, bytes(data))
        for c, *times, data in file.messages()
    ] == theirs
    assert numbers(file, ["/odd"]) == list(range(1, MESSAGES, 2))
    assert numbers(file, ["/else"]) == []
    assert {file.channels[c].topic: count for c, count in file.counts.items()} == {"/even": 100, "/odd": 100}
    assert (file.start_ns, file.end_ns) == (0, (MESSAGES - 1) * MS)
    assert (file.stopped, file.damage) == (None, [])


def test_a_file_without_messages(tmp_path):
    for file in (open_bytes(tmp_path, write(0)), open_bytes(tmp_path, write(0, use_chunking=False))):
        assert numbers(file) == []
        assert (file.start_ns, file.end_ns, file.stopped, file.damage) == (None, None, None, [])


def test_topics_written_one_after_the_other_come_in_the_order_of_recording(tmp_path):
    stream = io.BytesIO()
    writer = Writer(stream, chunk_size=500)
    writer.start()
    for topic in ("/a", "/b"):
        channel = writer.register_channel(topic, "json", 0)
        for i in range(50):
            writer.add_message(channel, i * MS, i.to_bytes(4, "little") + bytes(60), i * MS)
    writer.finish()
    file = open_bytes(tmp_path, stream.getvalue())
    assert numbers(file) == [i for i in range(50) for _ in "ab"]
    assert numbers(file, ["/b"]) == list(range(50))


def test_chunks_without_topics_asked_for_are_not_read(tmp_path, monkeypatch):
    stream = io.BytesIO()
    writer = Writer(stream, chunk_size=1)  # one message a chunk
    writer.start()
    channels = [writer.register_channel(topic, "json", 0) for topic in ("/a", "/b")]
    for i in range(10):
        writer.add_message(channels[i == 3], i * MS, i.to_bytes(4, "little"), i * MS)
    writer.finish()
    file = open_bytes(tmp_path, stream.getvalue())
    reads = []
    monkeypatch.setattr(
        McapFile, "_load", lambda self, *args, load=McapFile._load: reads.append(1) or load(self, *args)
    )
    assert numbers(file, ["/b"]) == [3]
    assert len(reads) == 1


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_cut_file_gives_every_complete_chunk_and_says_where_it_stops(tmp_path, tenth):
    data = write()
    cut = len(data) * tenth // 10
    whole = [message for _, end, messages in chunks_of(data) if end <= cut for message in messages]
    file = open_bytes(tmp_path, data[:cut])
    assert numbers(file) == sorted(whole)
    assert f"of {cut}" in file.stopped
    assert file.damage == []
    assert sum(file.counts.values()) == len(whole)


def test_cut_anywhere(tmp_path):
    data = write(40)
    chunks = chunks_of(data)
    for cut in range(len(MAGIC), len(data), 11):
        file = open_bytes(tmp_path, data[:cut])
        assert numbers(file) == sorted(m for _, end, messages in chunks if end <= cut for m in messages)
        assert file.stopped and file.damage == []


def test_messages_outside_of_chunks_come_back_up_to_the_cut(tmp_path):
    data = write(use_chunking=False)
    record_size = 9 + 22 + 100
    first = data.index(record(5, b"")[:1] + struct.pack("<Q", 22 + 100))
    file = open_bytes(tmp_path, data[: first + 10 * record_size + 60])
    assert len(numbers(file)) == 10
    assert f"at byte {first + 10 * record_size} of" in file.stopped


def test_a_writer_that_crashed(tmp_path):
    data = write(finish=False)
    file = open_bytes(tmp_path, data)
    assert numbers(file) == sorted(message for *_, messages in chunks_of(data) for message in messages)
    assert file.stopped == f"at byte {len(data)} of {len(data)}, 0.2 s into the log: the recording was not finished"


def test_zeros_at_the_end_as_after_a_loss_of_power(tmp_path):
    data = write(finish=False)
    file = open_bytes(tmp_path, data + bytes(4096))
    assert len(numbers(file)) > 100
    assert f"at byte {len(data)} of {len(data) + 4096}" in file.stopped and "zeros" in file.stopped


def test_garbage_after_the_end_costs_the_summary_only(tmp_path):
    file = open_bytes(tmp_path, write() + b"garbage")
    assert numbers(file) == list(range(MESSAGES))
    assert "all messages are there" in file.stopped


def test_the_length_of_a_record_is_absurd(tmp_path):
    data = write()
    begin, end, _ = chunks_of(data)[3]
    broken = data[:begin] + b"\x06" + b"\xff" * 8 + data[begin + 9 :]
    file = open_bytes(tmp_path, broken[:-1])  # without the footer nothing leads past it
    assert numbers(file) == sorted(m for _, e, messages in chunks_of(data) if e <= begin for m in messages)
    assert f"at byte {begin} of" in file.stopped

    file = open_bytes(tmp_path, broken)  # with the summary only this chunk is lost
    assert len(numbers(file)) == MESSAGES - len(chunks_of(data)[3][2])
    assert [line.startswith(f"chunk at byte {begin}, {end - begin} bytes") for line in file.damage] == [True]
    assert file.stopped is None


def test_lengths_inside_of_records_reach_no_further_than_their_record(tmp_path):
    """The index behind a chunk claims 16 MiB more than it has, and so do the data of another chunk."""
    data = bytearray(write()[:-1])  # without the footer
    chunks = chunks_of(bytes(data))
    index = chunks[2][1]  # the record behind the chunk: channel id, then length
    assert data[index] == 7
    data[index + 9 + 2 + 3] = 1
    data[chunks[4][0] + 9 + 8 + 8 + 8 + 4 + 4 + len("lz4") + 3] = 1
    file = open_bytes(tmp_path, bytes(data))
    assert numbers(file) == list(range(MESSAGES)) and file.damage == []


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
@pytest.mark.parametrize("with_summary", [True, False])
def test_a_chunk_with_a_flipped_bit_is_left_out_and_the_others_come_back(tmp_path, compression, with_summary):
    data = write(compression=compression)
    data = data if with_summary else data[:-1]
    begin, end, lost = chunks_of(data)[2]
    flipped = bytearray(data)
    flipped[end - 20] ^= 4
    file = open_bytes(tmp_path, bytes(flipped))
    for _ in range(2):  # reading twice reports it once
        assert numbers(file) == [i for i in range(MESSAGES) if i not in lost]
        assert len(file.damage) == 1
    assert file.damage[0].startswith(f"chunk at byte {begin}, {end - begin} bytes, 0.0")
    assert file.damage[0].endswith("it is left out")


def test_a_summary_with_a_wrong_checksum_is_not_used(tmp_path):
    data = bytearray(write())
    data[-100] ^= 1
    file = open_bytes(tmp_path, bytes(data))
    assert numbers(file) == list(range(MESSAGES))
    assert file.damage == ["the summary cannot be relied on and is not used: its checksum is wrong"]


def test_messages_of_a_channel_that_nothing_defines(tmp_path):
    messages = b"".join(record(5, struct.pack("<HIQQ", channel, 0, 0, 0) + b"data") for channel in (7, 7, 8))
    data = MAGIC + record(1, bytes(8)) + messages + chunk(messages, len(messages)) + record(15, bytes(4))
    file = open_bytes(tmp_path, data + record(2, bytes(20)) + MAGIC)
    assert list(file.messages()) == []
    assert sorted(line.split(" are")[0] for line in file.damage) == ["messages of channel 7", "messages of channel 8"]


def test_records_that_do_not_fit_a_chunk_without_checksum(tmp_path):
    good = record(4, struct.pack("<HH", 1, 0) + struct.pack("<I", 1) + b"t" + bytes(8))
    good += record(5, struct.pack("<HIQQ", 1, 0, 0, 0) + bytes(4))
    for bad in (b"\x05\xff", record(5, b"short"), struct.pack("<BQ", 5, 1 << 63), bytes(100)):
        file = open_bytes(tmp_path, MAGIC + chunk(good + bad, len(good + bad)))
        assert numbers(file) == [0]
        assert len(file.damage) == 1 and file.damage[0].endswith("the rest of it is left out")


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


def lz4(data: bytes) -> bytes:
    return pytest.importorskip("lz4.frame").compress(data)


@pytest.mark.parametrize("compress", [zstd, lz4])
def test_a_chunk_that_decompresses_to_more_or_less_than_it_declares(tmp_path, compress):
    bomb = compress(bytes(50 << 20))
    name = compress.__name__
    for declared in (0, 100, (50 << 20) - 1, (50 << 20) + 1, 1 << 40, (1 << 64) - 1):
        file = open_bytes(tmp_path, MAGIC + chunk(bomb, declared, name))
        assert list(file.messages()) == []
        assert len(file.damage) == 1 and str(declared) in file.damage[0], declared


def test_decompression_takes_no_more_than_what_is_declared():
    tracemalloc = pytest.importorskip("tracemalloc")
    bomb = Chunk(
        compression="lz4",
        data=lz4(bytes(50 << 20)),
        message_start_time=0,
        message_end_time=0,
        uncompressed_crc=0,
        uncompressed_size=1000,
    )
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="found more"):
            mcap_records.unpack(bomb, 1 << 28)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_zstd_frame_that_does_not_declare_its_size(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    body = record(4, struct.pack("<HH", 1, 0) + struct.pack("<I", 1) + b"t" + bytes(8))
    body += record(5, struct.pack("<HIQQ", 1, 0, 0, 0) + bytes(4))
    stored = zstandard.ZstdCompressor(write_content_size=False).compress(body)
    file = open_bytes(tmp_path, MAGIC + chunk(stored, len(body), "zstd", zlib.crc32(body)))
    assert numbers(file) == [0] and file.damage == []
    file = open_bytes(tmp_path, MAGIC + chunk(stored, len(body) - 1, "zstd"))
    assert numbers(file) == [] and len(file.damage) == 1


def test_an_unknown_compression(tmp_path):
    assert "'brotli'" in open_bytes(tmp_path, MAGIC + chunk(b"", 0, "brotli")).damage[0]


@pytest.mark.parametrize("content", [b"", b"\x89MCAP", b"SQLite format 3\0" + bytes(100), b"\x89MCAP1\r\n"])
def test_what_is_not_mcap_is_named(tmp_path, content):
    with pytest.raises(LogError, match=r"drive\.mcap: an MCAP file was expected, found (an empty file|b')"):
        open_bytes(tmp_path, content)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(LogError, match=r"absent\.mcap"):
        McapFile(tmp_path / "absent.mcap")
    with pytest.raises(LogError, match="an MCAP file was expected"):
        McapFile(tmp_path)


def test_magic_only(tmp_path):
    file = open_bytes(tmp_path, MAGIC)
    assert numbers(file) == []
    assert file.stopped == "at byte 8 of 8: the recording was not finished"


SOURCES = [write(60, **options) for options in OPTIONS.values()]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_happens_to_a_file_there_is_no_other_error(tmp_path_factory, data):
    mutated = bytearray(data.draw(st.sampled_from(SOURCES)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.integers(0, 4)):
            case 0:
                mutated[position] ^= 1 << data.draw(st.integers(0, 7))
            case 1:
                mutated[position : position + 8] = data.draw(st.binary(min_size=8, max_size=8))
            case 2:
                mutated[position : position + 8] = struct.pack("<Q", data.draw(st.integers(0, (1 << 64) - 1)))
            case 3:
                del mutated[max(position, 1) :]
            case 4:
                del mutated[position : position + data.draw(st.integers(1, 100))]
                mutated = mutated or bytearray(1)
    path = tmp_path_factory.getbasetemp() / "mutated.mcap"
    path.write_bytes(mutated)
    try:
        reader = McapReader(path)
        list(reader.messages())
        messages = list(McapFile(path).messages())
    except LogError as error:
        assert "mutated.mcap" in str(error)
    else:
        assert all(a[2] <= b[2] for a, b in itertools.pairwise(messages))


def fake_decoder(schema_name: str, schema_data: bytes, encoding: str):
    """Samples named by their numbers; message 5 has nothing in it, 6 two, and those from 20 cannot be read."""

    def decode(data, log_time_ns):
        number = int.from_bytes(data[:4], "little")
        if number >= 20:
            raise LogError(f"number {number} is too large")
        times = {5: [], 6: [1, 2]}.get(number, [0])
        return [(log_time_ns - time, Sample(str(number))) for time in times]

    return "sample", "", decode


def reader_of(tmp_path, monkeypatch, messages: int = MESSAGES) -> McapReader:
    monkeypatch.setattr(foxglove_messages, "decoder", fake_decoder)
    path = tmp_path / "drive.mcap"
    path.write_bytes(write(messages))
    return McapReader(path)


def test_the_reader_numbers_what_the_decoders_give(tmp_path, monkeypatch):
    reader = reader_of(tmp_path, monkeypatch, 10)
    topic = reader.topics["/odd"]
    assert (topic.type, topic.kind, topic.note, topic.count) == ("A", "sample", "", 5)
    found = [(m.topic, m.timestamp_ns, m.log_time_ns, m.sequence, m.data.token) for m in reader.messages()]
    assert found[4:8] == [
        ("/even", 4 * MS, 4 * MS, 4, "4"),
        ("/even", 6 * MS - 1, 6 * MS, 5, "6"),
        ("/even", 6 * MS - 2, 6 * MS, 6, "6"),
        ("/odd", 7 * MS, 7 * MS, 7, "7"),
    ]
    assert [m.data.token for m in reader.messages(["/odd", "/absent"])] == ["1", "3", "7", "9"]
    assert reader.path == tmp_path / "drive.mcap"
    assert (reader.stopped, reader.damage) == (None, [])


def test_messages_that_cannot_be_decoded_are_listed_up_to_ten_a_topic_or_raised(tmp_path, monkeypatch):
    reader = reader_of(tmp_path, monkeypatch)
    for _ in range(2):  # reading twice reports them once
        assert len(list(reader.messages())) == 20
        assert len(reader.damage) == 2 * 11
    assert reader.damage[0] == f"/even at {20 * MS} ns: number 20 is too large"
    assert reader.damage[10] == "/even: 80 more messages cannot be decoded"
    with pytest.raises(LogError, match=rf"drive\.mcap: /odd at {21 * MS} ns: number 21 is too large"):
        list(reader.messages(["/odd"], strict=True))


def test_topics_that_are_not_decoded_say_why(tmp_path):
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.start()
    json, idl = writer.register_schema("J", "jsonschema", b"{}"), writer.register_schema("I", "omgidl", b"")
    damaged = writer.register_schema("foxglove.CompressedImage", "protobuf", b"nonsense")
    for i, (encoding, schema) in enumerate([("json", json), ("cdr", idl), ("cdr", 0), ("", 0), ("protobuf", damaged)]):
        writer.add_message(writer.register_channel(f"/{i}", encoding, schema), 0, b"", 0)
    writer.finish()
    (tmp_path / "drive.mcap").write_bytes(stream.getvalue())
    reader = McapReader(tmp_path / "drive.mcap")
    assert [(topic.kind, topic.count) for topic in reader.topics.values()] == [(None, 1)] * 5
    assert [topic.note for topic in reader.topics.values()][:4] == [
        "not used, only images, clouds, calibrations and poses are",
        "type not known",
        "cdr messages without a schema",
        "unnamed messages are not decoded",
    ]
    assert "CompressedImage" in reader.topics["/4"].note
    assert list(reader.messages()) == []


def test_transforms_on_tf_static_hold_at_all_times(tmp_path):
    """A TFMessage in CDR, little-endian: one transform at 1.5 s, map to base_link, 1 m ahead."""
    pytest.importorskip("rosbags")
    cdr = b"\0\1\0\0" + struct.pack("<IiI", 1, 1, 500 * MS)
    for name in (b"map\0", b"base_link\0"):
        cdr += bytes(-(len(cdr) - 4) % 4) + struct.pack("<I", len(name)) + name
    cdr += bytes(-(len(cdr) - 4) % 8) + struct.pack("<7d", 1, 0, 0, 0, 0, 0, 1)
    stream = io.BytesIO()
    writer = Writer(stream)
    writer.start("ros2")
    schema = writer.register_schema("tf2_msgs/msg/TFMessage", "ros2msg", b"")
    for topic in ("/tf", "/tf_static"):
        writer.add_message(writer.register_channel(topic, "cdr", schema), 0, cdr, 0)
    writer.finish()
    (tmp_path / "drive.mcap").write_bytes(stream.getvalue())
    moving, static = McapReader(tmp_path / "drive.mcap").messages(strict=True)
    assert (moving.data.static, static.data.static) == (False, True)
    assert (static.timestamp_ns, static.data.parent, static.data.child) == (1_500 * MS, "map", "base_link")
    assert static.data.pose.tolist() == [1, 0, 0, 1, 0, 0, 0]


def test_the_benchmark_has_a_row_for_every_compression_and_reader(tmp_path):
    (tmp_path / "drive.mcap").write_bytes(write())
    rows = mcap_reading(tmp_path / "drive.mcap")
    assert [(row["name"], row["peer"]) for row in rows] == [
        (f"mcap_{compression}", peer)
        for compression in ("zstd", "lz4", "none")
        for peer in ("mcap", "mcap, in the order of the file")
    ]
