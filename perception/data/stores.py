"""Bytes by name, in a folder or below a URL: ``memory://``, ``s3://`` and whatever else fsspec knows, and ``http://``.

HTTP is read by the standard library, since that of fsspec needs packages that nothing else here does; the server has
to serve ranges. What fails at a URL for a moment is tried again.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from perception.data.nuscenes_files import DataError
from perception.files import ResultsError, open_regular, write_file

_PAUSES_S = (1.0, 5.0)  # before the second and the third try
# Of connecting, and of waiting for bytes. A server that stalls at both, at every try, has to fail before a loader takes
# its worker to hang (loader.STOPPED_S).
_TIMEOUT_S = 15.0


def is_url(root: str | Path) -> bool:
    return "://" in str(root)


def read(root: str, name: str, begin: int = 0, length: int | None = None) -> bytes:
    """``length`` bytes of a file from ``begin`` on, fewer where it ends before; None: all of it.

    Raises:
        DataError: it cannot be read.
    """
    if not is_url(root):
        return _read_file(Path(root) / name, begin, length)
    get = _get_http if root.startswith(_HTTP) else _get
    pauses_s = iter(_PAUSES_S)
    while True:
        try:
            return get(f"{root.rstrip('/')}/{name}", begin, length)
        except _FAILURES as error:
            pause_s = next(pauses_s, None) if _may_pass(error) else None
            if pause_s is None:
                raise DataError(f"{root}/{name}: cannot be read: {_in_one_line(error)}") from None
            time.sleep(pause_s)


def write(root: str, name: str, data: bytes) -> None:
    """Write a file, whole or not at all, as far as the store can.

    Raises:
        ResultsError: it cannot be written.
    """
    if not is_url(root):
        return write_file(Path(root) / name, data)
    try:
        filesystem, path = _filesystem(f"{root.rstrip('/')}/{name}")
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(path, data)
    except (*_FAILURES, NotImplementedError) as error:
        raise ResultsError(f"{root}/{name}: cannot be written: {_in_one_line(error)}") from None


def size(root: str, name: str) -> int | None:
    """How many bytes a file has, for one who writes there; None where there is none.

    Raises:
        ResultsError: it cannot be told.
    """
    try:
        if not is_url(root):
            return (Path(root) / name).stat().st_size
        filesystem, path = _filesystem(f"{root.rstrip('/')}/{name}")
        return int(filesystem.size(path))
    except FileNotFoundError:
        return None
    except _FAILURES as error:
        raise ResultsError(f"{root}/{name}: cannot be written: {_in_one_line(error)}") from None


_HTTP = ("http://", "https://")
_FAILURES = (OSError, ValueError, ImportError, http.client.HTTPException)
_MOMENTARY = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)


def _may_pass(error: Exception) -> bool:
    """Whether it may be gone the next time."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in _MOMENTARY
    final = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, ImportError)
    return not isinstance(error, final)


def _read_file(path: Path, begin: int, length: int | None) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(begin)
            return file.read(-1 if length is None else length)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _get_http(url: str, begin: int, length: int | None) -> bytes:
    wanted = {} if length is None else {"Range": f"bytes={begin}-{begin + length - 1}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=wanted), timeout=_TIMEOUT_S) as answer:
        if length is not None and answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            raise ValueError(f"a server that serves ranges was expected, found status {answer.status}")
        data = answer.read(length)
        if length is not None and len(data) < length and answer.length != 0:  # of what it announced, if it did
            raise http.client.IncompleteRead(data, answer.length)
        return data


def _get(url: str, begin: int, length: int | None) -> bytes:
    filesystem, path = _filesystem(url)
    return filesystem.cat_file(path, start=begin, end=None if length is None else begin + length)


def _filesystem(url: str) -> tuple[Any, str]:
    """That of a URL, and the path there. Made anew in every process: those of a fork may wait for ever."""
    import fsspec

    if url.startswith(_HTTP):
        raise ValueError("over HTTP shards are only read")
    return fsspec.core.url_to_fs(url)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
