"""When frames are delivered: at once, at the pace of the recording, or as on a live vehicle.

at once     The default: the next frame when the last one is done. Every frame, in order, however long it takes.
at a rate   No frame before its time; none is ever dropped.
real time   Frames come when they are due, whether or not the consumer is ready. As on a vehicle the queue holds one: a
            frame that has not been taken when the next one comes is dropped, and counted.

In a terminal SPACE pauses and resumes, RIGHT gives one frame while paused, UP and DOWN change the rate by a tenth, q
quits.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from perception.sample import Frame

_TICK_S = 0.02  # the longest delay of a key press
_KEY = re.compile(rb"\x1b\[.|.", re.DOTALL)
_KEYS = {b" ": "pause", b"\x1b[C": "step", b"\x1b[A": "faster", b"\x1b[B": "slower", b"q": "quit"}


class Playback:
    """The clock of a replay, and the keys that stop it.

    Args:
        rate: recorded seconds a second; None is at once, or 1 in real time.

    Attributes:
        dropped: tokens of the frames that came before the one before them was taken.
        quit: whether the end was requested.
    """

    def __init__(self, rate: float | None = None, realtime: bool = False, paused: bool = False):
        self.rate = 1.0 if rate is None and realtime else rate
        self.realtime, self.paused, self.quit = realtime, paused, False
        self.dropped: list[str] = []
        self._steps = 0
        self._scene: str | None = None
        self._frame_ns = 0  # of the frame that is due next
        self._position_ns, self._looked = 0, 0.0  # where the recording is, as of this time on the wall

    def play(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        """The same frames, when they are due. Raises KeyboardInterrupt once the user quits."""
        return self._live(frames) if self.realtime else self._due(frames, threading.Event())

    def press(self, key: str) -> None:
        """key: one of pause, step, faster, slower, quit."""
        if key == "pause":
            self.paused = not self.paused
        elif key == "step":
            self._steps += 1
        elif key in ("faster", "slower"):
            self.rate = (self.rate or 1.0) * (1.1 if key == "faster" else 0.9)
        elif key == "quit":
            self.quit = True

    def _due(self, frames: Iterable[Frame], over: threading.Event) -> Generator[Frame, None, None]:
        for frame in frames:
            self._wait_for(frame, over)
            if self.quit:
                raise KeyboardInterrupt
            if over.is_set():
                return
            yield frame

    def _wait_for(self, frame: Frame, over: threading.Event) -> None:
        while not (self.quit or over.is_set()):
            wait_s = self._due_in_s(frame)
            if self.paused and self._steps:
                self._steps -= 1
                self._position_ns = frame.timestamp_ns
                return
            if not self.paused and wait_s <= 0:
                return
            time.sleep(_TICK_S if self.paused else min(wait_s, _TICK_S))

    def _due_in_s(self, frame: Frame) -> float:
        """Advances the recording to now. It restarts with another scene, and where time goes backwards."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        if frame.scene != self._scene or frame.timestamp_ns < self._frame_ns:
            self._position_ns = frame.timestamp_ns
        elif not self.paused:
            self._position_ns += round(1e9 * (now - self._looked) * self.rate)
        self._scene, self._frame_ns, self._looked = frame.scene, frame.timestamp_ns, now
        return (frame.timestamp_ns - self._position_ns) * 1e-9 / self.rate

    def _live(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        room: queue.Queue[Frame | BaseException | None] = queue.Queue(maxsize=1)
        over = threading.Event()  # no more frames are taken

        def deliver() -> None:
            last: BaseException | None = None
            try:
                for frame in self._due(frames, over):
                    with suppress(queue.Empty):
                        late = room.get_nowait()
                        if isinstance(late, Frame):  # always: nothing else is put in before the end
                            self.dropped.append(late.token)
                    room.put(frame)
            except BaseException as error:  # raised where the frames are taken
                last = error
            while not over.is_set():
                try:
                    return room.put(last, timeout=_TICK_S)
                except queue.Full:
                    pass

        thread = threading.Thread(target=deliver, name="replay in real time", daemon=True)
        thread.start()
        try:
            while (item := room.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            over.set()
            thread.join()


def looped(frames: Iterable[Frame | None]) -> Iterator[Frame | None]:
    """Again and again, without end. From the second pass on, scenes and tokens end in the number of the pass."""
    for number in itertools.count():
        for frame in frames:
            if frame is not None and number:
                frame = replace(frame, token=f"{frame.token}#{number}", scene=f"{frame.scene}#{number}")
            yield frame


@contextmanager
def keyboard(press: Callable[[str], None]) -> Iterator[bool]:
    """In the block, keys typed into the terminal are passed on; yields whether there is a terminal."""
    try:
        import termios
        import tty
    except ImportError:  # on Windows
        yield False
        return
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        # Writing settings from the background stops the whole process.
        foreground = os.tcgetpgrp(terminal) == os.getpgrp()
    except (OSError, ValueError, AttributeError, termios.error):
        foreground = False
    if not foreground:
        yield False
        return
    stop = threading.Event()

    def listen() -> None:
        while not stop.is_set():
            if select.select([terminal], [], [], _TICK_S)[0]:
                try:
                    typed = os.read(terminal, 64)
                except OSError:
                    typed = b""
                if not typed:
                    return
                for key in _KEY.findall(typed):
                    if key in _KEYS:
                        press(_KEYS[key])

    thread = threading.Thread(target=listen, name="keyboard", daemon=True)
    tty.setcbreak(terminal)
    thread.start()
    try:
        yield True
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        stop.set()
        thread.join()
