"""Training batches from worker processes, in order and ahead of their use.

Each worker has a pipe of its own for draws and batches; tensors go through shared memory. Whatever happens to a worker
disturbs no other: a pipe that closes tells which one ended, and notes in memory shared with it tell at which frame.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any

import cv2
import torch
import torch.multiprocessing  # lets tensors be sent through pipes

from perception.batch import Batch
from perception.data.sources import FrameSource
from perception.device import is_out_of_memory
from perception.errors import PerceptionError
from perception.sample import Frame
from perception.signals import blocked, ignore_signals
from perception.train.batches import Draw, TrainingData

AHEAD = 2  # batches that each worker prepares before they are needed
STOPPED_S = 120.0  # without a new frame a worker is taken to hang
_TICK_S = 0.2  # how often signals and hanging workers are looked for
_ENDING_S = 5.0  # for workers to end by themselves


class LoaderError(PerceptionError):
    """A worker process that ended, hangs, or cannot pass on its batches."""


class Loader:
    """Batches for draws.

    Args:
        workers: number of processes, which live as long as the loader; 0 prepares batches in this one.
        pin_memory: return batches in page-locked memory, copied there by a thread.
    """

    def __init__(self, data: TrainingData, workers: int, pin_memory: bool = False):
        self.data, self.workers, self.pin_memory = data, workers, pin_memory
        self._processes: list[_Worker] = []

    def batches(self, draws: Iterable[Draw], stopped: Callable[[], bool] = lambda: False) -> Iterator[Batch | None]:
        """The batch of every draw; None where no frame is usable, and at once when ``stopped`` while one is waited for.

        Raises:
            LoaderError: see the class.  PerceptionError: whatever preparing a batch raises.
        """
        found = self._from_workers(draws, stopped) if self.workers else iter(map(self.data.__getitem__, draws))
        return self._pinned(found) if self.pin_memory else found

    def close(self) -> None:
        """End the workers; the next batches start new ones."""
        while self._processes:
            self._processes.pop().end()

    def _from_workers(self, draws: Iterable[Draw], stopped: Callable[[], bool]) -> Iterator[Batch | None]:
        while len(self._processes) < self.workers:
            self._processes.append(_Worker(self.data, [worker.pipe for worker in self._processes]))
        draws, turns = iter(draws), itertools.cycle(self._processes)
        waiting: deque[_Worker] = deque()

        def ask(number: int) -> None:
            for draw in itertools.islice(draws, number):
                waiting.append(next(turns))
                waiting[-1].ask(draw)

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
            if waiting:  # answers that nobody takes would be taken for those to the next draws
                self.close()

    def _pinned(self, batches: Iterator[Batch | None]) -> Iterator[Batch | None]:
        end = object()

        def take() -> Any:
            batch = next(batches, end)
            return batch.pin_memory() if isinstance(batch, Batch) else batch

        with ThreadPoolExecutor(1, "page-locked memory") as thread:
            try:
                following = thread.submit(take)
                while (batch := following.result()) is not end:
                    following = thread.submit(take)
                    yield batch
            except BaseException:
                self.close()  # else the thread is waited for, and it for a worker
                raise


class _Worker:
    """A process that answers draws with batches or with errors, in order."""

    def __init__(self, data: TrainingData, of_others: list[Connection]):
        self.tokens = data.frames.tokens
        self.note = multiprocessing.RawArray("q", 2)  # the frame that is read, counted from 1, and how many have been
        self.pipe, theirs = multiprocessing.Pipe()
        # Those that a fork inherits would stay open when the trainer ends.
        inherited = [*of_others, self.pipe] if multiprocessing.get_start_method() == "fork" else []
        arguments = (data, theirs, self.note, inherited)
        self.process = multiprocessing.Process(target=_work, args=arguments, daemon=True)
        with blocked():
            self.process.start()
        theirs.close()

    def ask(self, draw: Draw) -> None:
        try:
            self.pipe.send(draw)
        except OSError:
            pass  # it has ended, which is told where its answer is missing

    def answer(self, stopped: Callable[[], bool]) -> Batch | Exception | None:
        note, since = list(self.note), time.monotonic()
        try:
            while not self.pipe.poll(_TICK_S):
                if stopped():
                    return None
                if note != list(self.note):
                    note, since = list(self.note), time.monotonic()
                elif time.monotonic() - since > STOPPED_S:
                    raise LoaderError(f"{self._name()} hangs: nothing was read for {STOPPED_S:g} s{self._place()}")
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(_ENDING_S)
            raise LoaderError(f"{self._name()} {_ending(self.process.exitcode)}{self._place()}") from None

    def end(self) -> None:
        self.pipe.close()
        self.process.join(_ENDING_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _name(self) -> str:
        return f"data.workers: loader worker {self.process.pid}"

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


# The rest runs in the workers.


class _Noted:
    """Frames that leave a note of which one is read. The note of a frame stays until its batch is on its way."""

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


def _work(data: TrainingData, pipe: Connection, note: Any, inherited: list[Connection]) -> None:
    ignore_signals()
    for connection in inherited:
        connection.close()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    data.frames = _Noted(data.frames, note)
    try:
        while True:
            draw = pipe.recv()
            _send(pipe, _answer(data, draw))
            note[0] = 0
    except (EOFError, ConnectionError):
        pass  # the trainer has closed the pipe, or has ended


def _answer(data: TrainingData, draw: Draw) -> Any:
    try:
        return data[draw]
    except PerceptionError as error:
        return error
    except Exception as error:
        if is_out_of_memory(error):
            return LoaderError(f"data.workers: a loader worker ran out of memory: {error}")
        return ExceptionWithTraceback(error, error.__traceback__)  # arrives as the error, its traceback as the cause


def _send(pipe: Connection, answer: Any) -> None:
    try:
        pipe.send(answer)
    except ConnectionError:
        raise
    except (OSError, RuntimeError) as error:  # from torch, while it copies tensors
        reason = " ".join(str(error).split())
        pipe.send(
            LoaderError(
                f"data.workers: a batch does not fit into shared memory ({reason}); give /dev/shm more, such as docker "
                "run --shm-size=2g, or load without workers (data.workers=0)"
            )
        )
