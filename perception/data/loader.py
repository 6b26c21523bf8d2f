"""What is made of frames, such as training batches, from worker processes: in order, and ahead of its use.

Each worker has a pipe of its own for keys and items; tensors and arrays go through shared memory. Whatever happens to a
worker disturbs no other: a pipe that closes tells which one ended, and notes in memory shared with it tell at which
frame.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.multiprocessing  # lets tensors be sent through pipes

from perception.batch import Batch
from perception.data.sources import FrameSource
from perception.device import is_out_of_memory
from perception.errors import PerceptionError
from perception.sample import Frame
from perception.signals import blocked, ignore_signals

AHEAD = 2  # items that each worker prepares before they are needed
STOPPED_S = 120.0  # without a new frame a worker is taken to hang
_TICK_S = 0.2  # how often signals and hanging workers are looked for
_ENDING_S = 5.0  # for workers to end by themselves
_ALIGNED = 64  # bytes, of each array in shared memory
_LARGE = 64_000  # bytes; smaller arrays are pickled, so that whoever keeps one does not keep the whole item's memory


class LoaderError(PerceptionError):
    """A worker process that ended, hangs, or cannot pass on its items."""


class Data(Protocol):
    """What a loader reads; pickled into its workers where they are not forked. It reads ``frames``, by index."""

    frames: FrameSource

    def __getitem__(self, key: Any, /) -> Any:
        """The item of a key."""


@dataclass
class Whole:
    """The frames themselves, by index."""

    frames: FrameSource

    def __getitem__(self, index: int) -> Frame | None:
        return self.frames[index]


class Loader:
    """Items of ``data`` by key.

    Args:
        workers: number of processes, which live as long as the loader; 0 prepares items in this one.
        pin_memory: return batches in page-locked memory, copied there by a thread.
    """

    def __init__(self, data: Data, workers: int, pin_memory: bool = False):
        self.data, self.workers, self.pin_memory = data, workers, pin_memory
        self._processes: list[_Worker] = []

    def items(self, keys: Iterable[Any], stopped: Callable[[], bool] = lambda: False) -> Iterator[Any]:
        """The item of every key; None at once when ``stopped`` while one is waited for.

        Raises:
            LoaderError: see the class.  PerceptionError: whatever preparing an item raises.
        """
        found = self._from_workers(keys, stopped) if self.workers else iter(map(self.data.__getitem__, keys))
        return self._pinned(found) if self.pin_memory else found

    def close(self) -> None:
        """End the workers; the next items start new ones."""
        while self._processes:
            self._processes.pop().end()

    def _from_workers(self, keys: Iterable[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
        while len(self._processes) < self.workers:
            self._processes.append(_Worker(self.data, [worker.pipe for worker in self._processes]))
        keys, turns = iter(keys), itertools.cycle(self._processes)
        waiting: deque[_Worker] = deque()

        def ask(number: int) -> None:
            for key in itertools.islice(keys, number):
                waiting.append(next(turns))
                waiting[-1].ask(key)

        try:
            ask(AHEAD * self.workers)
            while waiting:
                answer = waiting[0].answer(stopped)
                waiting.popleft()
                ask(1)
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            if waiting:  # answers that nobody takes would be taken for those to the next keys
                self.close()

    def _pinned(self, items: Iterator[Any]) -> Iterator[Any]:
        end = object()

        def take() -> Any:
            item = next(items, end)
            return item.pin_memory() if isinstance(item, Batch) else item

        with ThreadPoolExecutor(1, "page-locked memory") as thread:
            try:
                following = thread.submit(take)
                while (item := following.result()) is not end:
                    following = thread.submit(take)
                    yield item
            except BaseException:
                self.close()  # else the thread is waited for, and it for a worker
                raise


class _Worker:
    """A process that answers keys with items or with errors, in order."""

    def __init__(self, data: Data, of_others: list[Connection]):
        self.tokens = data.frames.tokens
        self.note = multiprocessing.RawArray("q", 2)  # the frame that is read, counted from 1, and how many have been
        self.pipe, theirs = multiprocessing.Pipe()
        # Those that a fork inherits would stay open when this process ends.
        inherited = [*of_others, self.pipe] if multiprocessing.get_start_method() == "fork" else []
        arguments = (data, theirs, self.note, inherited)
        self.process = multiprocessing.Process(target=_work, args=arguments, daemon=True)
        with blocked():
            self.process.start()
        theirs.close()

    def ask(self, key: Any) -> None:
        try:
            self.pipe.send(key)
        except OSError:
            pass  # it has ended, which is told where its answer is missing

    def answer(self, stopped: Callable[[], bool]) -> Any:
        """The next item, or the error in its place."""
        note, since = list(self.note), time.monotonic()
        try:
            while not self.pipe.poll(_TICK_S):
                if stopped():
                    return None
                if note != list(self.note):
                    note, since = list(self.note), time.monotonic()
                elif time.monotonic() - since > STOPPED_S:
                    raise LoaderError(f"{self._name()} hangs: nothing was read for {STOPPED_S:g} s{self._place()}")
            return _received(*self.pipe.recv())
        except (EOFError, OSError):
            self.process.join(_ENDING_S)
            raise LoaderError(f"{self._name()} {_ending(self.process.exitcode)}{self._place()}") from None
        except RuntimeError as error:  # from torch, which takes over a file descriptor for each item
            reason = " ".join(str(error).split())
            raise LoaderError(
                f"{self._name()}: what it read cannot be taken over ({reason}); a larger limit of open files "
                "(ulimit -n), or no workers (data.workers=0, --workers 0), may help"
            ) from None

    def end(self) -> None:
        self.pipe.close()
        self.process.join(_ENDING_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _name(self) -> str:
        return f"loader worker {self.process.pid}"

    def _place(self) -> str:
        return f", at frame {self.tokens[self.note[0] - 1]}" if self.note[0] else ""


def _ending(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code >= 0:
        return f"ended with exit code {code}"
    why = {
        signal.SIGKILL: ", perhaps for want of memory",
        signal.SIGBUS: ", perhaps for want of shared memory (/dev/shm), or because a file was cut while it was read",
    }
    return f"was ended by {signal.Signals(-code).name}{why.get(signal.Signals(-code), '')}"


def _received(pickled: bytes, shared: torch.Tensor, sizes: list[int]) -> Any:
    memory = shared.numpy().data
    return pickle.loads(pickled, buffers=[memory[start : start + size] for start, size in zip(_starts(sizes), sizes)])


def _starts(sizes: list[int]) -> list[int]:
    """Of buffers of so many bytes in shared memory, and the end of the last one."""
    return list(itertools.accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))


# The rest runs in the workers.


class _Noted:
    """Frames that leave a note of which one is read. The note of a frame stays until its item is on its way."""

    def __init__(self, frames: FrameSource, note: Any):
        self.frames, self.note = frames, note

    @property
    def tokens(self) -> Any:
        return self.frames.tokens

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame | None:
        self.note[0] = index + 1
        self.note[1] += 1
        return self.frames[index]


def _work(data: Data, pipe: Connection, note: Any, inherited: list[Connection]) -> None:
    ignore_signals()
    for connection in inherited:
        connection.close()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    data.frames = _Noted(data.frames, note)
    try:
        while True:
            key = pipe.recv()
            _send(pipe, _answer(data, key))
            note[0] = 0
    except (EOFError, ConnectionError):
        pass  # the loader has closed the pipe, or its process has ended


def _answer(data: Data, key: Any) -> Any:
    try:
        return data[key]
    except PerceptionError as error:
        return error
    except Exception as error:
        if is_out_of_memory(error):
            return LoaderError(f"a loader worker ran out of memory: {error}")
        return ExceptionWithTraceback(error, error.__traceback__)  # arrives as the error, its traceback as the cause


def _send(pipe: Connection, answer: Any) -> None:
    try:
        pipe.send(_shared(answer))
    except ConnectionError:
        raise
    except (OSError, RuntimeError) as error:  # from torch, while it copies tensors
        reason = " ".join(str(error).split())
        message = (
            f"a loader worker: what it read does not fit into shared memory ({reason}); give /dev/shm more, such as "
            "docker run --shm-size=2g, or load without workers (data.workers=0, --workers 0)"
        )
        pipe.send(_shared(LoaderError(message)))


def _shared(answer: Any) -> tuple[bytes, torch.Tensor, list[int]]:
    """The answer pickled, the content of its large numpy arrays in shared memory, and the sizes of those in bytes.

    One piece of shared memory for all arrays: each costs a connection to hand it over.
    """
    file, buffers = io.BytesIO(), list[memoryview]()

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE:
            return True
        buffers.append(raw)
        return False

    ForkingPickler(file, 5, True, is_small).dump(answer)
    sizes = [buffer.nbytes for buffer in buffers]
    shared = torch.empty(_starts(sizes)[-1], dtype=torch.uint8)
    if len(shared):
        shared.share_memory_()
        memory = shared.numpy()
        for start, buffer in zip(_starts(sizes), buffers):
            memory[start : start + buffer.nbytes] = np.frombuffer(buffer, np.uint8)
    return file.getvalue(), shared, sizes
