"""Replay for Foxglove and Lichtblick: an MCAP file, and a live view in a running app.

Both get the same messages; :mod:`perception.replay.foxglove_publisher` lists the topics.
"""

from __future__ import annotations

import logging
import secrets
import sys
from pathlib import Path
from typing import BinaryIO

from perception.errors import PerceptionError, missing_extra
from perception.files import ResultsError, begin_part, finish_part, writing
from perception.replay.live_gate import Gate
from perception.replay.step import Step
from perception.viz import Layout

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"  # a live view shows camera images: it is for this machine only
BACKLOG = 128  # messages kept for an app that is slow, a few frames; then the oldest are dropped


class FoxgloveSink:
    """An MCAP file, a :class:`perception.replay.step.Sink`; chunks are zstd, each written when it is full.

    Args:
        score_threshold: of the boxes that are shown.
        sensors: False leaves images and points out: a hundredth of the size.
        layout: task of the detector; None for nuScenes.
    """

    def __init__(
        self, path: str | Path, score_threshold: float = 0.3, sensors: bool = True, layout: Layout | None = None
    ):
        self.path = Path(path)
        self._options = score_threshold, sensors, (layout or Layout()).task

    def __enter__(self) -> FoxgloveSink:
        foxglove = import_foxglove()
        from foxglove.mcap import MCAPWriteOptions

        from perception.replay.foxglove_publisher import Publisher

        with writing(self.path):
            self._file = _File(begin_part(self.path).open("wb"))
        context = foxglove.Context()  # of its own: in the default one, all sinks of a process would mix
        # Without seeking, a chunk is written at once and whole, so that a killed run leaves whole chunks.
        options = MCAPWriteOptions(disable_seeking=True, compression_threads=0)
        self._writer = foxglove.open_mcap(self._file, context=context, writer_options=options)
        self._publisher = Publisher(context, *self._options)
        return self

    def add(self, step: Step) -> None:
        self._publisher.publish(step)
        with writing(self.path):
            self._file.check()

    def __exit__(self, kind, error, trace) -> None:
        self._writer.close()
        self._publisher.close()
        try:
            with writing(self.path):
                self._file.close()
                if kind is None:
                    finish_part(self.path)
        except ResultsError:
            if kind is None:  # else the error that ended the block is the one to report
                raise


class LiveSink:
    """A server for Foxglove ("Open connection", Foxglove WebSocket), a :class:`perception.replay.step.Sink`.

    It keeps nothing: an app that connects late sees what comes from then on, a slow one misses messages. Its clock
    follows the recording. The subprotocol is foxglove.sdk.v1, which Lichtblick knows since December 2025.

    Args:
        port: 0 for any that is free; ``url`` says which.
        score_threshold, sensors, layout: as of :class:`FoxgloveSink`.

    Raises:
        ResultsError: on entering, the port is taken.
    """

    def __init__(
        self, port: int = 8765, score_threshold: float = 0.3, sensors: bool = True, layout: Layout | None = None
    ):
        self._port = port
        self._options = score_threshold, sensors, (layout or Layout()).task

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self._port}"

    def __enter__(self) -> LiveSink:
        foxglove = import_foxglove()
        from foxglove.websocket import Capability

        from perception.replay.foxglove_publisher import Publisher

        context, host = foxglove.Context(), _unguessable_host()
        self._server = foxglove.start_server(
            name="perception",
            host=host,
            port=0,
            context=context,
            # Apps would else take the time of arrival, at which the boxes of a recording are long gone.
            capabilities=[Capability.Time],
            message_backlog_size=BACKLOG,
        )
        try:
            self._gate = Gate(HOST, self._port, (host, self._server.port))
        except OSError as error:
            self._server.stop()
            raise ResultsError(f"{self.url}: cannot be served: {error}") from None
        self._port = self._gate.port
        logger.info("live view for Foxglove: %s", self.url)
        self._publisher = Publisher(context, *self._options)
        return self

    def add(self, step: Step) -> None:
        from perception.replay.foxglove_publisher import time_of

        self._server.broadcast_time(time_of(step.frame))
        self._publisher.publish(step)

    def __exit__(self, kind, error, trace) -> None:
        self._gate.close()
        self._server.stop()
        self._publisher.close()


def _unguessable_host() -> str:
    """One of the 16 million addresses that Linux has for this machine; elsewhere there is only the usual one."""
    if sys.platform != "linux":
        return HOST
    return ".".join(["127", *(str(1 + secrets.randbelow(254)) for _ in range(3))])


class _File:
    """The file that the SDK writes to, sequentially. An error is kept for :meth:`check`.

    One raised into the SDK would be printed with every further message and end in a panic, but never be raised.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._position = file, 0
        self._error: OSError | None = None

    def write(self, data: bytes | bytearray) -> int:
        self._try(lambda: self._file.write(data))
        self._position += len(data)
        return len(data)

    def flush(self) -> None:
        self._try(self._file.flush)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._position  # asked for the position only

    def check(self) -> None:
        """Raises the OSError that there was."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._try(self._file.close)
        self.check()

    def _try(self, action) -> None:
        try:
            if self._error is None:
                action()
        except OSError as error:
            self._error = error


def import_foxglove():
    """The module ``foxglove``."""
    try:
        import foxglove
    except ImportError:
        raise PerceptionError(missing_extra("logs", "Foxglove outputs need foxglove-sdk")) from None
    return foxglove
