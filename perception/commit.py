"""Files that belong together, such as weights and their config: replaced all at once, and checked when they are read.

New files are written to ``.next`` in their folder, which is renamed to ``.commit`` when all of them are on disk: from
then on they hold. Only then are they moved to their places. Readers look into ``.commit`` first, so that after SIGKILL
or a power failure at any moment all files are of one commit; the next commit completes the moves.

``SHA256SUMS`` lists the digests, in the format of ``sha256sum --check``. Files that it does not list are not checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from perception.errors import PerceptionError
from perception.files import writing

SUMS = "SHA256SUMS"
_NEXT, _COMMIT = ".next", ".commit"
_TRIES = 3  # a commit between reading a file and reading the digests looks like damage


class DamagedFileError(PerceptionError):
    """A file that is not what was written."""


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of a folder, by name, all or none; other files stay as they are.

    Raises:
        ResultsError: they cannot be written; the earlier ones hold.
    """
    with writing(folder):
        finish_commit(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _NEXT).mkdir()
    try:
        _write(folder, {**files, SUMS: _updated_sums(folder, files)})
        with writing(folder):
            (folder / _NEXT).rename(folder / _COMMIT)
            _sync(folder)
            finish_commit(folder)
    finally:
        shutil.rmtree(folder / _NEXT, ignore_errors=True)


def finish_commit(folder: Path) -> None:
    """Complete what a killed process began, or remove it if it had not got far enough.

    Raises:
        OSError: the folder cannot be written.
    """
    shutil.rmtree(folder / _NEXT, ignore_errors=True)
    commit = folder / _COMMIT
    if commit.is_symlink():  # not made here: files of others would be moved
        commit.unlink()
    elif commit.is_dir():
        for path in commit.iterdir():
            path.replace(folder / path.name)
        commit.rmdir()
        _sync(folder)


def current(path: Path) -> Path:
    """Where the file that holds lies, which need not exist."""
    moving = path.parent / _COMMIT / path.name
    return moving if moving.is_file() else path


def read_file(path: Path) -> bytes:
    """The file that holds.

    Raises:
        DamagedFileError: its digest is not the listed one.
        OSError: it cannot be read.
    """
    for _ in range(_TRIES):
        try:
            data = (path.parent / _COMMIT / path.name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            data = path.read_bytes()
        expected = _sums(path.parent).get(path.name)
        if expected is None or expected == hashlib.sha256(data).hexdigest():
            return data
    raise DamagedFileError(
        f"{path}: the SHA-256 that {SUMS} lists was expected, found another: the file is damaged, or was changed by "
        f"hand (then delete {SUMS})"
    )


def read_files(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Those of the files that are there, by name; what the digests list is all of one commit.

    Raises:
        DamagedFileError: as :func:`read_file`; files that are replaced again and again while they are read.
        OSError: one cannot be read.
    """
    for _ in range(_TRIES):
        files = {name: read_file(folder / name) for name in names if current(folder / name).is_file()}
        sums = _sums(folder)
        if all(sums.get(name, digest) == digest for name, digest in digests(files).items()):
            return files
    raise DamagedFileError(f"{folder}: files that belong together were expected, found that they are being replaced")


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, by name."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def sums_file(sums: Mapping[str, str]) -> bytes:
    """The contents of ``SHA256SUMS``. sums: digests by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to ``.next``, on to the disk. Their names come last, so that killed processes leave no copies."""
    with ExitStack() as stack:
        unnamed: dict[str, int] = {}
        for name, data in files.items():
            with writing(folder / name):
                try:
                    unnamed[name] = file = os.open(folder / _NEXT, os.O_TMPFILE | os.O_WRONLY, 0o666)
                except (AttributeError, OSError):  # of Linux, and not of every file system
                    file = os.open(folder / _NEXT / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
                stack.callback(os.close, file)
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
        with writing(folder):
            place = os.open(folder / _NEXT, os.O_RDONLY)
            stack.callback(os.close, place)
            for name, file in unnamed.items():
                os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=place)
            os.fsync(place)


def _updated_sums(folder: Path, files: Mapping[str, bytes]) -> bytes:
    return sums_file(_sums(folder) | digests(files))


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = current(folder / SUMS).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _sync(folder: Path) -> None:
    """Put the names of a folder's files on the disk."""
    with suppress(OSError):  # not every system can open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
