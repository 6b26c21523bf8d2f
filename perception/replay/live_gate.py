"""Who may connect to a live view: apps on this machine, and no web page of somebody else's.

A page in a browser may open WebSockets to this machine, and reach it under any name that its owner lets point to it
(DNS rebinding). The SDK's server checks neither, and waits for clients that say nothing when it is to end. It therefore
listens at a loopback address that cannot be guessed, behind this gate, which reads the head of every request: ``Host``
must name this machine, and ``Origin``, which every page has, must be Foxglove's, of this machine, or no web page's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1")
APP = "app.foxglove.dev"
_HEAD_BYTES, _HEAD_S = 1 << 14, 5.0
_PIECE_BYTES = 1 << 16
_REFUSAL = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n%s\n"


class Gate:
    """Passes connections to ``port`` of ``host`` on to ``server``, until it is closed, and they with it.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, host: str, port: int, server: tuple[str, int]):
        self._to = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="live view", daemon=True)
        self._thread.start()
        try:
            self._listening = self._run(asyncio.start_server(self._serve, host, port, limit=_HEAD_BYTES))
        except OSError:
            self._end()
            raise
        self.port: int = self._listening.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._run(self._close())
        self._end()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_S)
            if problem := refusal(head):
                writer.write(_REFUSAL % problem.encode())
                await writer.drain()
                return
            answers, there = await asyncio.open_connection(*self._to)
            writers.append(there)
            there.write(head)
            ways = [asyncio.ensure_future(_pass_on(*way)) for way in ((reader, there), (answers, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            pass  # a client that is gone, or none that speaks HTTP
        except asyncio.CancelledError:
            pass  # the live view ends; streams of Python 3.11 print a traceback for a task that ends as cancelled
        finally:
            for each in writers:
                each.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()


def refusal(head: bytes) -> str | None:
    """Why the head of a request is refused, None if it is not."""
    fields: dict[str, list[str]] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), []).append(value.strip())
    hosts, origins = fields.get("host", []), fields.get("origin", [])
    if len(hosts) != 1 or _hostname(f"//{hosts[0]}") not in HOSTS:
        return "Host: a name of this machine was expected"
    if len(origins) > 1 or not all(map(_is_app, origins)):
        return "Origin: Foxglove's, or one of this machine, was expected"
    return None


def _is_app(origin: str) -> bool:
    """Of this machine, Foxglove in a browser, or an app of its own, whose pages are files; "null" is any page's."""
    scheme = origin.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return _hostname(origin) in HOSTS or origin == f"https://{APP}"
    return scheme != origin.lower()


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
