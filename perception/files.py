"""Files are written whole: one takes its name when it is complete, and what cannot be written is found out early."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception.errors import PerceptionError


class ResultsError(PerceptionError):
    """A file that cannot be written."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what is done to write ``path``: what the system says against it becomes a ResultsError that names it."""
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
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        tempfile.TemporaryFile(dir=folder).close()


def write_file(path: Path, data: bytes) -> None:
    """Write ``path``, and its folder if need be; a failure leaves an earlier file as it was.

    Raises:
        ResultsError: it cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    """:func:`write_file` of a JSON-able value for reading."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
