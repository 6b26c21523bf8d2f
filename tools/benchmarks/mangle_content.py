"""Damage that knows what it damages: tables and metadata that still parse, bags that compute, pictures that move."""

from __future__ import annotations

import re
import sqlite3
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\w.+-]+')
_VALUES = (
    b"null", b"true", b"{}", b"[]", b"-1", b"0", b"1e308", b"-1e308", b"1e-320", b"NaN", b"Infinity", b"9" * 400,
    b"2024_01_01", b"18446744073709551616", b"-9223372036854775809", b'""', b'"\\u0000"', b'"\\ud800"',
    b'"../../etc/passwd"', b'"/dev/zero"', b'"' + b"a" * 100_000 + b'"', b"[" * 5_000, b"[" * 300 + b"]" * 300,
    b"{a: " * 500, b"&a [*a]", b"*a", b"!!python/object:os.system x", b"${oc.env:HOME}", b"[" + b"0," * 20_000 + b"0]",
    b"\xff\xfe", b"#", b": ", b"- ",
)  # fmt: skip


def damage_text(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON or YAML of which one to three words are replaced: by another word of it, or by what no writer writes."""
    for _ in range(rng.integers(1, 4)):
        words = list(_TOKEN.finditer(data))
        if not words:
            break
        word, other = (words[int(rng.integers(len(words)))] for _ in range(2))
        new = other.group() if rng.random() < 0.3 else _VALUES[int(rng.integers(len(_VALUES)))]
        data = data[: word.start()] + new + data[word.end() :]
    return data


_COMPUTED = (
    "zeroblob(900000000)",
    "hex(zeroblob(1000000))",
    "id",
    "abs(-7)",
    "NULL",
)
_QUERIES = (
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r)"
    " SELECT x id, x topic_id, x timestamp, 'a' data FROM r",
    "SELECT * FROM old_{table}",
    "SELECT a.* FROM old_{table} a, old_{table} b, old_{table} c",
)


def damage_bag(data: bytes, rng: np.random.Generator) -> bytes:
    """A .db3 in which a table has become a view, or a column of it is computed or of other values."""
    table = ("topics", "messages")[int(rng.integers(2))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag.db3"
        path.write_bytes(data)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA legacy_alter_table = ON")
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column, kind = columns[int(rng.integers(len(columns)))], rng.integers(3)
        value = _COMPUTED[int(rng.integers(len(_COMPUTED)))]
        if kind == 0:
            query = _QUERIES[int(rng.integers(len(_QUERIES)))].format(table=table)
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            connection.execute(f"CREATE VIEW {table} AS {query}")
        elif kind == 1 and column != columns[0]:
            others = ", ".join(name for name in columns if name != column)
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            connection.execute(
                f"CREATE TABLE {table}({others}, {column} AS ({value.replace('id', columns[0])}) VIRTUAL)"
            )
            connection.execute(f"INSERT INTO {table}({others}) SELECT {others} FROM old_{table} LIMIT 5")
        else:
            values = ("-1", "'x'", "x'00'", "NULL", "1e300", "9223372036854775807", "zeroblob(3000000)")
            chosen = values[int(rng.integers(len(values)))]
            with suppress(sqlite3.IntegrityError):  # a key that is no number
                connection.execute(
                    f"UPDATE OR IGNORE {table} SET {column} = {chosen} WHERE rowid IN"
                    f" (SELECT rowid FROM {table} ORDER BY rowid LIMIT 3)"
                )
        connection.commit()
        connection.close()
        return path.read_bytes()


def damage_picture(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG in place of a picture, with chunks that no camera writes, changed at random; all checksums are right."""
    width, height = (int(side) for side in rng.choice([0, 1, 16, 160, 60_000, 1 << 31], 2))
    depth, colour, interlaced = int(rng.choice([1, 8, 16])), int(rng.choice([0, 2, 3, 4, 6])), int(rng.integers(2))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
    chunks += [(b"acTL", struct.pack(">II", int(rng.choice([0, 2, 1 << 31])), 0))] * int(rng.integers(2))
    frame = [int(side) for side in rng.choice([0, 1, 160, 60_000, (1 << 31) - 1], 4)]
    chunks += [(b"fcTL", struct.pack(">IIIIIHHBB", 0, *frame, 1, 1, 0, 0))] * int(rng.integers(2))
    chunks += [(b"PLTE", bytes(int(rng.choice([0, 3, 768, 771]))))] * int(rng.integers(2))
    chunks += [(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20)))] * int(rng.integers(2))
    chunks += [(b"IDAT", zlib.compress(bytes(int(rng.choice([0, 100, 1 << 16, 1 << 20])))))] * int(rng.integers(1, 3))
    chunks += [(b"fdAT", bytes(20))] * int(rng.integers(2)) + [(b"IEND", b"")]
    picture = bytearray(b"\x89PNG\r\n\x1a\n")
    for kind, content in chunks:
        if rng.random() < 0.1 and content:
            content = bytearray(content)
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        picture += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return bytes(picture)
