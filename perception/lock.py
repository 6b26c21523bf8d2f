"""Folders that one process writes to at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perception.errors import PerceptionError
from perception.files import writing

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()  # descriptors


class InUseError(PerceptionError):
    """A folder that another run is writing to."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """In the block, the folder is ours; it is created, and removed if it is still empty then.

    The lock is one of the folder itself (flock), which leaves no file behind and ends with the process, however that
    ends. File systems without such locks are taken as they are.

    Raises:
        InUseError: another run holds it.
        ResultsError: it cannot be created.
    """
    with writing(folder):
        created = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        with suppress(OSError):
            if not _lock(descriptor):
                raise InUseError(f"{folder}: another run is writing to it; wait for its end, or choose another folder")
        yield
    finally:
        _held.discard(descriptor)
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
        for path in created:
            with suppress(OSError):
                path.rmdir()


def _lock(descriptor: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release() -> None:
    """A forked process would keep the locks that its parent dies with."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release)
