"""Signals that ask a process to end: Ctrl-C, SIGTERM, SIGHUP when its terminal goes away, and SIGUSR1, with which
schedulers of clusters give notice.

Commands end with exit code 128 plus the number of the signal, as programs do by convention. SIGHUP stays ignored where
it is, as under ``nohup``.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

Item = TypeVar("Item")


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C's; ``number`` is its number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    return 128 + getattr(interrupt, "number", signal.SIGINT)


def raise_on_signals() -> None:
    """From now on, signals raise a KeyboardInterrupt. During an import they end the process at once.

    Nothing is written by then, and C code that is being imported may swallow an exception, or turn it into another.
    """
    _install(_raise_or_exit)


@contextmanager
def blocked() -> Iterator[None]:
    """In the block, signals wait, also in processes that are started in it until they call :func:`ignore_signals`."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """For workers: terminals and service managers send signals to all processes, and the first one ends the others."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """In the block, ``handle`` receives the signals. Only the main thread does; in any other one this does nothing."""
    before = _install(handle) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """In the block, signals wait; then whoever handled them before does. A second Ctrl-C does not wait.

    For libraries that turn an exception which is raised somewhere in them into another one.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        with handled_by(handle):
            yield
    finally:
        for number in received[:1]:
            signal.raise_signal(number)


class Interrupts:
    """In the block, signals wait until it is left, or :meth:`between` two items, and then raise a KeyboardInterrupt.

    Ctrl-C pressed again interrupts at once.
    """

    def __init__(self) -> None:
        self._received: KeyboardInterrupt | None = None
        self._allowed = False
        self._handlers = handled_by(self._handle)

    def __enter__(self) -> Interrupts:
        self._handlers.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._handlers.__exit__(None, None, None)
        if kind is None and self._received is not None:
            raise self._received

    @property
    def received(self) -> bool:
        """Whether a signal waits."""
        return self._received is not None

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items. A signal interrupts the wait for the next one, never what is done with one."""
        iterator = iter(items)
        while True:
            try:
                with self.allowed():
                    item = next(iterator)
            except StopIteration:
                return
            yield item

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """In the block, signals interrupt at once."""
        self._allowed = True
        try:
            if self._received is not None:
                raise self._received
            yield
        finally:
            self._allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._received = self._received is not None, self._received or _interrupt(number)
        if self._allowed or (again and number == signal.SIGINT):  # others are often sent twice, such as SIGHUP
            self._allowed = False
            raise self._received


def _install(handle: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Returns the handlers before."""
    taken = [n for n in STOP_SIGNALS if n != getattr(signal, "SIGHUP", None) or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handle) for number in taken}


def _interrupt(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


def _raise_or_exit(number: int, frame: FrameType | None) -> None:
    interrupt, importing = _interrupt(number), frame
    while importing is not None:
        if importing.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(exit_code(interrupt))
        importing = importing.f_back
    raise interrupt
