"""The nuScenes JSON tables, read in small pieces and checked.

The tables of trainval hold millions of rows, which as Python objects take gigabytes. They are decoded a few hundred
rows at a time, which also stay in the processor's cache, and turned into columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Generic, NoReturn, TypeVar

import msgspec
import numpy as np

from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_rows import Row

RowType = TypeVar("RowType", bound=Row)
_BLOCK_BYTES = 1 << 18


class Rows(Generic[RowType]):
    """Some rows of a table, and the checks that turn them into columns. Every method raises DataError."""

    def __init__(self, path: Path, rows: list[RowType]):
        self.path, self.rows = path, rows

    def values(self, key: str) -> list:
        return [getattr(row, key) for row in self.rows]

    def positions(self) -> dict[str, int]:
        """token -> where its row stands."""
        return {token: i for i, token in enumerate(self.strings("token"))}

    def chosen(self, rows: np.ndarray) -> Rows[RowType]:
        """Some of the rows, by index and in that order."""
        return Rows(self.path, [self.rows[i] for i in rows])

    def strings(self, key: str) -> list[str]:
        values = self.values(key)
        if not "".join(values).isprintable():
            self.fail(next(i for i, value in enumerate(values) if not value.isprintable()), key, "text")
        return values

    def bytes(self, key: str) -> np.ndarray:
        """The text under ``key`` as bytes [N], UTF-8."""
        return np.array([string.encode() for string in self.strings(key)], dtype=np.bytes_)

    def numbers(self, key: str, dtype, shape: tuple[int, ...] = ()) -> np.ndarray:
        """The numbers under ``key``, finite and such as ``dtype`` can hold, as [N, *shape]."""
        found = np.array(self.values(key)).reshape(-1, *shape)
        with np.errstate(invalid="ignore"):
            array = found.astype(dtype)
        valid = (np.isfinite(found) & (array == found)).all(axis=tuple(range(1, found.ndim)))
        for i in np.flatnonzero(~valid)[:1]:
            self.fail(i, key, f"{shape[0]} numbers" if shape else "a number")
        return array

    def quaternions(self, key: str) -> np.ndarray:
        """Unit quaternions [N, 4] (w, x, y, z), normalised here."""
        quaternions = self.numbers(key, np.float64, (4,))
        norms = np.linalg.norm(quaternions, axis=1)
        for i in np.flatnonzero(np.abs(norms - 1) > 0.1)[:1]:
            self.fail(i, key, "a unit quaternion")
        return quaternions / norms[:, None]

    def references(self, key: str, positions: dict[str, int], optional: bool = False) -> np.ndarray:
        """int32 [N]: the position of the token under ``key``; -1 for an empty one where ``optional``."""
        if optional:
            positions = {**positions, "": -1}
        values = self.values(key)
        for i in (i for i, value in enumerate(values) if value not in positions):
            self.fail(i, key, "a token that exists")
        return np.array([positions[value] for value in values], dtype=np.int32)

    def fail(self, i: int, key: str, expected: str) -> NoReturn:
        row = self.rows[i]
        raise bad_value(self.path, row.token, key, expected, getattr(row, key))


class Table(Rows[RowType]):
    """All rows of ``<folder>/<name>.json``."""

    def __init__(self, folder: Path, name: str, kind: type[RowType]):
        pieces = read_pieces(folder, name, kind)
        super().__init__(folder / f"{name}.json", [row for piece in pieces for row in piece.rows])


def read_pieces(
    folder: Path, name: str, kind: type[RowType], progress: Callable[[int], object] = lambda size: None
) -> Iterator[Rows[RowType]]:
    """The same, some hundred rows at a time; ``progress`` is told how many bytes were read.

    The first piece has no row, so that the columns of an empty table have their types too.
    """
    path = folder / f"{name}.json"
    yield Rows(path, [])
    for rows in _decoded(path, kind, progress):
        yield Rows(path, rows)


def bad_value(path: Path, token: str, key: str, expected: str, found) -> DataError:
    return DataError(f"{path}: token {token}: {expected} was expected in {key}, found {found!r}")


def _decoded(path: Path, kind: type[RowType], progress: Callable[[int], object]) -> Iterator[list[RowType]]:
    decoder, done = msgspec.json.Decoder(list[kind]), 0  # type: ignore[valid-type]  # a type that is an argument
    try:
        with path.open("rb", buffering=0) as file:
            for text in _lists(file, progress):
                rows = decoder.decode(text)
                yield rows
                done += len(rows)
    except OSError as error:
        raise DataError(f"{path}: table '{path.stem}' cannot be read: {error.strerror or error}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # What is no list, no JSON, has rows of another kind or numbers such as NaN, which only Python's decoder takes.
        yield [_converted(path, i, row, kind) for i, row in enumerate(_decoded_whole(path))][done:]


def _lists(file: BinaryIO, progress: Callable[[int], object]) -> Iterator[bytes]:
    """A JSON list of objects as several, cut behind closing braces.

    A cut anywhere but between two elements leaves a bracket, brace or quotation mark open, so that what comes of it is
    no JSON and the decoder refuses it.

    Raises:
        ValueError: not a list of objects.
    """
    rest, opening = b"", b"["
    while block := file.read(_BLOCK_BYTES):
        progress(len(block))
        text = (rest + block).lstrip()
        end = text.rfind(b"}") + 1
        if end:
            if not text.startswith(opening):
                raise ValueError
            yield b"[" + text[1:end] + b"]"
            opening = b","
        rest = text[end:]
    if rest.split() not in ([b"]"], [b"[", b"]"], [b"[]"]) or (opening == b"[") != rest.startswith(b"["):
        raise ValueError


def _decoded_whole(path: Path) -> list:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: a list of rows was expected, found {type(rows).__name__}")
    return rows


def _converted(path: Path, i: int, row, kind: type[RowType]) -> RowType:
    if not isinstance(row, dict):
        raise DataError(f"{path}: row {i}: an object was expected, found {type(row).__name__}")
    missing = ", ".join(sorted(set(kind.__struct_fields__) - row.keys()))
    if missing:
        raise DataError(f"{path}: row {i} (token {row.get('token')!r}): missing {missing}")
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at `$.")
        key = re.split(r"\W", place)[0]
        raise DataError(f"{path}: token {row['token']}: {expected} in {key}, found {row[key]!r}") from None
