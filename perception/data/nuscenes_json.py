"""The nuScenes JSON tables, read in small pieces and checked.

The tables of trainval hold millions of rows, which as Python objects take gigabytes. They are decoded a few hundred
rows at a time, which also stay in the processor's cache, and turned into columns.

A row that is not what it should be is an error or, where damage is tolerated, left out: see :class:`Damage`.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import msgspec
import numpy as np

from perception.data.json_stream import elements
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_rows import Row
from perception.files import open_regular

Columns = dict[str, np.ndarray]
RowType = TypeVar("RowType", bound=Row)
MAX_ROW_BYTES = 1 << 20  # of a row as text; those of nuScenes have 600
MAX_TOKEN, MAX_FILENAME = 256, 1024  # characters; a column takes the longest one's for every row
_BLOCK_BYTES = 1 << 18
_SLOW_ROWS = 500  # at a time, of those that are decoded one by one
_SHOWN = 80  # characters of a value in an error
_FLAGS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}  # 1 and 1.0 are True


class Damage:
    """Rows, or links from one row to another, that are not what they should be: an error, or counted and left out.

    counts: (table, "row" or "link") -> how many were left out.  first: likewise, what was wrong with the first of them.
    """

    def __init__(self, tolerated: bool = False):
        self.tolerated = tolerated
        self.counts: Counter[tuple[str, str]] = Counter()
        self.first: dict[tuple[str, str], str] = {}

    def add(self, path: Path, message: str, number: int = 1, what: str = "row") -> None:
        """Raises DataError unless damage is tolerated."""
        if not self.tolerated:
            raise DataError(message)
        self.counts[path.stem, what] += number
        self.first.setdefault((path.stem, what), message)


class Rows(Generic[RowType]):
    """Some rows of a table, and the checks that turn them into columns.

    sound: bool [N], the rows without damage so far. What is damaged has some value or other in a column.
    """

    def __init__(self, path: Path, rows: list[RowType], damage: Damage):
        self.path, self.rows, self.damage = path, rows, damage
        self.sound = np.ones(len(rows), dtype=bool)

    def values(self, key: str) -> list:
        return [getattr(row, key) for row in self.rows]

    def positions(self) -> dict[str, int]:
        """token -> where its row stands. Raises DataError if two rows have one token."""
        tokens = self.strings("token")
        positions = {token: i for i, token in enumerate(tokens)}
        if len(positions) < len(tokens):
            raise repeated_token(self.path, tokens)
        return positions

    def chosen(self, rows: np.ndarray) -> Rows[RowType]:
        """Some of the rows, by index and in that order."""
        return Rows(self.path, [self.rows[i] for i in rows], self.damage)

    def strings(self, key: str, longest: int = MAX_TOKEN) -> list[str]:
        """The text under ``key``, of printable characters."""
        values = self.values(key)
        if not "".join(values).isprintable() or max(map(len, values), default=0) > longest:
            bad = [not value.isprintable() or len(value) > longest for value in values]
            self.refuse(bad, key, f"text of at most {longest} printable characters")
            values = ["" if refused else value for refused, value in zip(bad, values)]
        return values

    def bytes(self, key: str, longest: int = MAX_TOKEN) -> np.ndarray:
        """The text under ``key`` as bytes [N], UTF-8."""
        return np.array([string.encode() for string in self.strings(key, longest)], dtype=np.bytes_)

    def flags(self, key: str) -> np.ndarray:
        """bool [N]; a flag may be written as 1, "1" or "True"."""
        values = self.values(key)
        if not all(type(value) is bool for value in values):
            values = [_FLAGS.get(value.lower() if isinstance(value, str) else value) for value in values]
            self.refuse([value is None for value in values], key, "true or false")
        return np.array(values, dtype=bool)

    def numbers(
        self, key: str, dtype, shape: tuple[int, ...] = (), least: float = -np.inf, most: float = np.inf
    ) -> np.ndarray:
        """The numbers under ``key``, finite, in a range and such as ``dtype`` can hold, as [N, *shape]."""
        found = np.array(self.values(key)).reshape(-1, *shape)
        with np.errstate(invalid="ignore"):
            array = found.astype(dtype)
            valid = np.isfinite(found) & (array == found) & (least <= found) & (found <= most)
        valid = valid.all(axis=tuple(range(1, found.ndim)))
        if not valid.all():
            lower = "" if least == -np.inf else f" from {least:g}"
            upper = "" if most == np.inf else f" up to {most:g}"
            self.refuse(~valid, key, (f"{shape[0]} numbers" if shape else "a number") + lower + upper)
            array[~valid] = 0
        return array

    def quaternions(self, key: str) -> np.ndarray:
        """Unit quaternions [N, 4] (w, x, y, z), normalised here."""
        quaternions = self.numbers(key, np.float64, (4,))
        norms = np.linalg.norm(quaternions, axis=1)
        bad = np.abs(norms - 1) > 0.1
        self.refuse(bad & self.sound, key, "a unit quaternion")
        quaternions[bad], norms[bad] = (1, 0, 0, 0), 1
        return quaternions / norms[:, None]

    def vectors(self, key: str, most: float) -> np.ndarray:
        """float64 [N, 3], every number of at most that size."""
        return self.numbers(key, np.float64, (3,), -most, most)

    def columns_of_numbers(self, *keys: str) -> np.ndarray:
        """int32 [N, len(keys)], not negative."""
        return np.stack([self.numbers(key, np.int32, least=0) for key in keys], axis=1)

    def references(self, key: str, positions: dict[str, int], optional: bool = False) -> np.ndarray:
        """int32 [N]: the position of the token under ``key``; -1 for an empty one where ``optional``."""
        found = np.array([positions.get(value, -2) for value in self.values(key)], dtype=np.int32)
        if optional:
            found[[value == "" for value in self.values(key)]] = -1
        self.refuse(found == -2, key, "a token that exists")
        return np.maximum(found, -1)

    def kept(self, columns: Columns) -> Columns:
        """The sound rows of columns."""
        return columns if self.sound.all() else {name: column[self.sound] for name, column in columns.items()}

    def refuse(self, bad: np.ndarray | Sequence[bool], key: str, expected: str) -> None:
        """Rows, bool [N], are damaged: under ``key`` something else was expected."""
        damaged = np.asarray(bad, dtype=bool) & self.sound
        for i in np.flatnonzero(damaged)[:1]:
            row = self.rows[i]
            message = bad_value(self.path, row.token, key, expected, getattr(row, key))
            self.damage.add(self.path, message, int(damaged.sum()))
        self.sound &= ~damaged


class Table(Rows[RowType]):
    """All rows of ``<folder>/<name>.json``."""

    def __init__(self, folder: Path, name: str, kind: type[RowType], damage: Damage | None = None):
        damage = damage or Damage()
        pieces = read_pieces(folder, name, kind, damage)
        super().__init__(folder / f"{name}.json", [row for piece in pieces for row in piece.rows], damage)


def read_pieces(
    folder: Path,
    name: str,
    kind: type[RowType],
    damage: Damage,
    progress: Callable[[int], object] = lambda size: None,
) -> Iterator[Rows[RowType]]:
    """The same, some hundred rows at a time; ``progress`` is told how many bytes were read.

    The first piece has no row, so that the columns of an empty table have their types too.
    """
    path = folder / f"{name}.json"
    yield Rows(path, [], damage)
    for rows in _decoded(path, kind, damage, progress):
        yield Rows(path, rows, damage)


def bad_value(path: Path, token: str, key: str, expected: str, found) -> str:
    """What a DataError says about a value."""
    return f"{path}: token {token[:_SHOWN]}: {expected} was expected in {key}, found {_shown(found)}"


def repeated_token(path: Path, tokens: list) -> DataError:
    """For a table in which two rows have one token, so that nobody knows which of them is meant."""
    token = next(token for token, number in Counter(tokens).items() if number > 1)
    token = token.decode() if isinstance(token, bytes) else token
    return DataError(f"{path}: token {token}: one row with this token was expected, found several")


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _decoded(
    path: Path, kind: type[RowType], damage: Damage, progress: Callable[[int], object]
) -> Iterator[list[RowType]]:
    decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]  # a type that is an argument
    done, resume = 0, 0  # rows so far, and the byte behind them
    try:
        with open_regular(path) as file:
            try:
                for text, end in _lists(file, progress):
                    rows = decoder.decode(text)
                    yield rows
                    done, resume = done + len(rows), end
                return
            except (msgspec.MsgspecError, ValueError, RecursionError):
                # What is no list, no JSON, has rows of another kind or numbers such as NaN, which only Python takes.
                file.seek(resume)
            rows = []
            for row in elements(file, MAX_ROW_BYTES, first=done == 0):
                rows += _converted(path, done, row, kind, damage)
                done += 1
                if len(rows) == _SLOW_ROWS:
                    yield rows
                    rows = []
            yield rows
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON at row {done}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: table '{path.stem}' cannot be read: {error.strerror or error}") from None


def _lists(file: BinaryIO, progress: Callable[[int], object]) -> Iterator[tuple[bytes, int]]:
    """A JSON list of objects as several, cut behind closing braces, and where in the file each ends.

    A cut anywhere but between two elements leaves a bracket, brace or quotation mark open, so that what comes of it is
    no JSON and the decoder refuses it.

    Raises:
        ValueError: not a list of objects of a usual size.
    """
    rest, opening, at = file.read(len(codecs.BOM_UTF8)), b"[", 0
    if rest == codecs.BOM_UTF8:
        rest, at = b"", len(rest)
    progress(at + len(rest))
    while block := file.read(_BLOCK_BYTES):
        progress(len(block))
        text = rest + block
        end = text.rfind(b"}") + 1
        if end:
            part = text[:end].lstrip()
            if not part.startswith(opening):
                raise ValueError
            at += end
            yield b"[" + part[1:] + b"]", at
            opening = b","
        rest = text[end:]
        if len(rest) > MAX_ROW_BYTES:
            raise ValueError
    if rest.split() not in ([b"]"], [b"[", b"]"], [b"[]"]) or (opening == b"[") != rest.lstrip().startswith(b"["):
        raise ValueError


def _converted(path: Path, i: int, row, kind: type[RowType], damage: Damage) -> list[RowType]:
    """The row as it should be; none if it is damaged, and that is tolerated."""
    if not isinstance(row, dict):
        damage.add(path, f"{path}: row {i}: an object was expected, found {type(row).__name__}")
        return []
    missing = ", ".join(
        field.name for field in msgspec.structs.fields(kind) if field.required and field.name not in row
    )
    if missing:
        damage.add(path, f"{path}: row {i} (token {_shown(row.get('token'))}): missing {missing}")
        return []
    try:
        return [msgspec.convert(row, kind)]
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at `$.")
        key = re.split(r"\W", place)[0]
        token = str(row["token"])[:_SHOWN]
        damage.add(path, f"{path}: token {token}: {expected} in {key}, found {_shown(row[key])}")
        return []
