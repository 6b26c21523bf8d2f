"""Files are written whole: each is written beside its place, as a part file, and renamed once it is complete.

A short write is one call or one block: :func:`write_file`, :func:`write_json`, :func:`replacing`. What is recorded over
a whole run goes into ``part_path(path)``, ``drive.part.mcap`` for ``drive.mcap``, between :func:`begin_part` and
:func:`finish_part`; after an error that file can be read up to there.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception.errors import PerceptionError


class ResultsError(PerceptionError):
    """A file that cannot be written."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what is done to write ``path``: an OSError becomes a ResultsError that names it."""
    try:
        yield
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Called before the work whose result will be the file ``path``; leaves nothing behind.

    Raises:
        ResultsError: it is a folder, or in a folder that is a file or takes no files.
    """
    with writing(path):
        _probe(path)


def write_file(path: Path, data: bytes) -> None:
    """Write ``path``, and its folder if need be; a failure leaves an earlier file as it was.

    Raises:
        ResultsError: it cannot be written.
    """
    with writing(path), replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """:func:`write_file` of a JSON-able value for reading."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def replacing(path: Path, *, contended: bool = False) -> Iterator[Path]:
    """The part file to write in the block. It becomes ``path`` when the block ends, and is removed after an error.

    Args:
        contended: several processes may write this file at the same time: each has its own part file, and the last
            one to finish wins.

    Raises:
        OSError: ``path`` cannot be written.
    """
    part = part_path(path.with_stem(f"{path.stem}.{secrets.token_hex(4)}") if contended else path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def part_path(path: Path) -> Path:
    """``name.part.suffix`` for ``name.suffix``: viewers and players still know the format."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def begin_part(path: Path) -> Path:
    """The part file to write, its folder made; one that an interrupted run left may be there.

    Raises:
        OSError: ``path`` cannot be written.
    """
    _probe(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return part_path(path)


def finish_part(path: Path) -> None:
    """Give the part file, complete and closed, its name.

    Raises:
        OSError: it cannot be written.
    """
    _rename(part_path(path), path)


def _probe(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    tempfile.TemporaryFile(dir=folder).close()


def _rename(part: Path, path: Path) -> None:
    """After a loss of power, too, ``path`` is the earlier file or the whole new one."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(path)
