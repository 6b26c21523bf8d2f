"""The nuScenes JSON tables, read in small pieces and checked.

The tables of trainval hold millions of rows, which as Python objects take gigabytes. They are decoded a few hundred
rows at a time, which also stay in the processor's cache, and turned into columns.

Format: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from perception.data.nuscenes_files import DataError

_BLOCK_BYTES = 1 << 18


class Rows:
    """Some rows of a table, and the checks that turn them into columns. Every method raises DataError."""

    def __init__(self, path: Path, rows: list[dict]):
        self.path, self.rows = path, rows

    def positions(self) -> dict[str, int]:
        """token -> where its row stands."""
        return {token: i for i, token in enumerate(self.strings("token"))}

    def chosen(self, rows: np.ndarray) -> Rows:
        """Some of the rows, by index and in that order."""
        return Rows(self.path, [self.rows[i] for i in rows])

    def strings(self, key: str) -> list[str]:
        values = [row[key] for row in self.rows]
        try:
            printable = "".join(values).isprintable()
        except TypeError:
            printable = False
        if not printable:
            i = next(i for i, value in enumerate(values) if not isinstance(value, str) or not value.isprintable())
            self.fail(i, key, "text")
        return values

    def bytes(self, key: str) -> np.ndarray:
        """The text under ``key`` as bytes [N], UTF-8."""
        return np.array([string.encode() for string in self.strings(key)], dtype=np.bytes_)

    def numbers(self, key: str, dtype, shape: tuple[int, ...] = ()) -> np.ndarray:
        """The finite numbers under ``key`` as [N, *shape]."""
        values = [row[key] for row in self.rows]
        if not values:
            return np.zeros((0, *shape), dtype)
        array = as_numbers(values, dtype)
        if array is not None and array.shape == (len(values), *shape):
            return array
        arrays = []
        for i, value in enumerate(values):  # find the row to name
            array = as_numbers(value, dtype)
            if array is None or array.shape != shape:
                self.fail(i, key, f"{shape[0]} numbers" if shape else "a number")
            arrays.append(array)
        return np.stack(arrays)

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
        try:
            return np.array([positions[row[key]] for row in self.rows], dtype=np.int32)
        except (KeyError, TypeError):
            pass  # find the row to name
        i = next(i for i, row in enumerate(self.rows) if not isinstance(row[key], str) or row[key] not in positions)
        self.fail(i, key, "a token that exists")

    def fail(self, i: int, key: str, expected: str) -> NoReturn:
        raise bad_value(self.path, self.rows[i]["token"], key, expected, self.rows[i][key])


class Table(Rows):
    """All rows of ``<folder>/<name>.json``, a list of objects with at least a token and ``keys``."""

    def __init__(self, folder: Path, name: str, keys: tuple[str, ...]):
        pieces = read_pieces(folder, name, keys)
        super().__init__(folder / f"{name}.json", [row for piece in pieces for row in piece.rows])


def read_pieces(
    folder: Path, name: str, keys: tuple[str, ...], progress: Callable[[int], object] = lambda size: None
) -> Iterator[Rows]:
    """The same, some hundred rows at a time; ``progress`` is told how many bytes were read.

    The first piece has no row, so that whoever makes columns of every piece learns their types from an empty table too.
    """
    path, wanted, first = folder / f"{name}.json", {"token", *keys}, 0
    yield Rows(path, [])
    for rows in _decoded(path, progress):
        _check(path, rows, wanted, first)
        yield Rows(path, rows)
        first += len(rows)


def bad_value(path: Path, token: str, key: str, expected: str, found) -> DataError:
    return DataError(f"{path}: token {token}: {expected} was expected in {key}, found {found!r}")


def as_numbers(value, dtype) -> np.ndarray | None:
    """The value as an array of ``dtype``; None unless it is made of finite numbers that fit. Booleans do not."""
    try:
        found = np.asarray(value)
    except ValueError:  # ragged lists
        return None
    if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        return None
    with np.errstate(invalid="ignore"):
        array = found.astype(dtype)
    return array if (array == found).all() else None


def _decoded(path: Path, progress: Callable[[int], object]) -> Iterator[list]:
    import msgspec

    decoder, done = msgspec.json.Decoder(list), 0
    try:
        with path.open("rb", buffering=0) as file:
            for text in _lists(file, progress):
                rows = decoder.decode(text)
                yield rows
                done += len(rows)
    except OSError as error:
        raise DataError(f"{path}: table '{path.stem}' cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        # What is no list, no JSON, or has numbers such as NaN, which Python's own decoder takes and says more about.
        yield _decoded_whole(path)[done:]


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


def _check(path: Path, rows: list, wanted: set[str], first: int) -> None:
    for i, row in enumerate(rows, first):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {i}: an object was expected, found {type(row).__name__}")
        if not wanted <= row.keys():
            missing = ", ".join(sorted(wanted - row.keys()))
            raise DataError(f"{path}: row {i} (token {row.get('token')!r}): missing {missing}")
