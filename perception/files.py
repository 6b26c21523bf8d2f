"""Files: those of others are read, and our own written atomically.

Reading: :func:`open_regular` opens no FIFO and no device.

Writing: a file is written as a part file in the same folder, and renamed once it is complete. Short writes are one call
or one block: :func:`write_file`, :func:`write_json`, :func:`replacing`. Long recordings are written to
``part_path(path)``, such as ``drive.part.mcap`` for ``drive.mcap``, between :func:`begin_part` and
:func:`finish_part`; after an error the part file remains readable up to that point.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from perception.errors import PerceptionError


class ResultsError(PerceptionError):
    """A file that cannot be written."""


def open_regular(path: str | Path) -> FileIO:
    """Open a file of somebody else for reading, unbuffered, if it is one.

    A FIFO would wait for a writer, a device has no end, and opening one may do something: those are never opened.

    Raises:
        OSError: there is no such file, or what is there is no regular file.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"a file was expected, found {kind}")
    return FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # should it be replaced now


_KINDS = {
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context in which ``path`` is written: turns an OSError into a ResultsError that names the path."""
    try:
        yield
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Check, before the work that produces it, that ``path`` can be written; leaves nothing behind.

    Raises:
        ResultsError: ``path`` is a folder, or its folder is a file or not writable.
    """
    with writing(path):
        _probe(path)


def write_file(path: Path, data: bytes) -> None:
    """Write ``path``, creating its folder if necessary; on failure an existing file is left unchanged.

    Raises:
        ResultsError: the file cannot be written.
    """
    with writing(path), replacing(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """:func:`write_file` for a JSON-serialisable value, indented."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


@contextmanager
def replacing(path: Path, *, contended: bool = False) -> Iterator[Path]:
    """Yield the part file to write. It is renamed to ``path`` when the block ends, and removed after an error.

    Args:
        contended: for files that several processes may write at the same time: each uses its own part file, and the
            last to finish wins.

    Raises:
        OSError: ``path`` cannot be written.
    """
    part = part_path(path.with_stem(f"{path.stem}.{secrets.token_hex(4)}") if contended else path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)  # it may be a link, or a pipe
    try:
        yield part
        _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def part_path(path: Path) -> Path:
    """``name.part.suffix`` for ``name.suffix``, so that viewers still recognise the format."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def begin_part(path: Path) -> Path:
    """Create the folder and return the part file to write; one left by an interrupted run, or planted, is removed.

    Raises:
        OSError: ``path`` cannot be written.
    """
    _probe(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    part.unlink(missing_ok=True)  # it may be a link, or a pipe
    return part


def make_folder(root: Path, *names: str) -> Path:
    """Create a folder below ``root``, through no link: an output folder of others may have some that lead out of it.

    Raises:
        OSError: it cannot be created, or is a link.
    """
    folder = root
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "a folder was expected, found a link", str(folder))
        folder.mkdir(exist_ok=True)
    return folder


def not_through_a_link(path: str, flags: int) -> int:
    """An opener, as :func:`open` takes it, of files that are written where they are."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def finish_part(path: Path) -> None:
    """Rename the complete, closed part file to ``path``.

    Raises:
        OSError: ``path`` cannot be written.
    """
    _rename(part_path(path), path)


def _probe(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    tempfile.TemporaryFile(dir=folder).close()


def _rename(part: Path, path: Path) -> None:
    """Durable rename: even after a power failure ``path`` is either the old or the complete new file."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    part.replace(path)
