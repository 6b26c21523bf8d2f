"""Reading MCAP files beside the mcap library: from opening to the last message, as stored, nothing decoded.

Checksums of chunks are checked by ours, and not by the library, whose plain iteration leaves that out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.timing import compare
from perception.errors import PerceptionError
from perception.logs.mcap_file import McapFile

Messages = Iterator[tuple[str, int, bytes | memoryview]]  # topic, log time, data


def mcap_reading(log: Path) -> list[dict]:
    """Rows for the messages of an MCAP file, written anew in chunks of 1 MiB: with zstd, with lz4, not compressed."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for compression in ("zstd", "lz4", "none"):
            path = Path(folder) / f"{compression}.mcap"
            _rewrite(log, path, compression)
            if not all(a == b for a, b in zip(_ours(path), _library(path), strict=True)):
                raise PerceptionError(f"{log}: the messages that the mcap library reads were expected, found others")
            peers = {
                "mcap": _reading(_library, path),
                "mcap, in the order of the file": _reading(_library_in_file_order, path),
            }
            rows += compare(f"mcap_{compression}", _reading(_ours, path), peers)
    return rows


def _rewrite(log: Path, out: Path, compression: str) -> None:
    from mcap.writer import CompressionType, Writer

    file = McapFile(log)
    with out.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType[compression.upper()])
        writer.start()
        schemas = {
            key: writer.register_schema(schema.name, schema.encoding, schema.data)
            for key, schema in sorted(file.schemas.items())
        }
        channels = {
            key: writer.register_channel(channel.topic, channel.message_encoding, schemas.get(channel.schema_id, 0))
            for key, channel in sorted(file.channels.items())
        }
        for channel, sequence, log_time_ns, publish_time_ns, data in file.messages():
            writer.add_message(channels[channel], log_time_ns, bytes(data), publish_time_ns, sequence)
        writer.finish()


def _reading(messages: Callable[[Path], Messages], path: Path) -> Callable[[], int]:
    return lambda: sum(len(data) for _, _, data in messages(path))


def _ours(path: Path) -> Messages:
    file = McapFile(path)
    for channel, _, log_time_ns, _, data in file.messages():
        yield file.channels[channel].topic, log_time_ns, data


def _library(path: Path) -> Messages:
    from mcap.reader import make_reader

    with path.open("rb") as stream:
        for _, channel, message in make_reader(stream).iter_messages():
            yield channel.topic, message.log_time, message.data


def _library_in_file_order(path: Path) -> Messages:
    from mcap.reader import NonSeekingReader

    with path.open("rb") as stream:
        for _, channel, message in NonSeekingReader(stream).iter_messages(log_time_order=False):
            yield channel.topic, message.log_time, message.data
