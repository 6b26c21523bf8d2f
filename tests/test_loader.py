"""Batches from worker processes: in order, and with one clear line when a worker fails."""

import faulthandler
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from perception.batch import Batch
from perception.data import loader
from perception.data.loader import Loader, LoaderError, Whole
from perception.errors import PerceptionError
from perception.signals import STOP_SIGNALS
from perception.train.batches import Draw

DRAWS = [Draw(0, (i, i + 1), ()) for i in range(10)]


class Frames:
    tokens = tuple(f"token-{i}" for i in range(11))

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return index


class Data:
    """A stand-in of TrainingData: batches of the frames' numbers. ``on_read`` is called in the worker, with each."""

    def __init__(self, on_read=lambda index: None):
        self.frames, self.on_read = Frames(), on_read

    def __getitem__(self, draw):
        for index in draw.indices:
            self.on_read(self.frames[index])
        valid = torch.tensor([[threading.active_count() < 9] for _ in draw.indices])
        return Batch([str(index) for index in draw.indices], ("lidar",), valid) if draw.indices[0] != 3 else None


def at(index, action):
    return lambda read: action() if read == index else None


def tokens(batches):
    return [None if batch is None else batch.tokens for batch in batches]


def fails(on_read, workers=2, draws=DRAWS):
    """What loading raises; no worker is left."""
    with pytest.raises(Exception) as error:
        list(Loader(Data(on_read), workers).items(draws))
    assert multiprocessing.active_children() == []
    return error.value


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_from_any_number_of_workers(workers):
    slow = lambda index: time.sleep(0.05 * (index == 4))  # noqa: E731
    batches = Loader(Data(slow), workers)
    expected = [[str(i), str(i + 1)] if i != 3 else None for i in range(10)]
    assert tokens(batches.items(DRAWS)) == expected
    children = multiprocessing.active_children()
    assert len(children) == workers
    assert tokens(batches.items(DRAWS[:4])) == expected[:4]  # the next epoch
    assert multiprocessing.active_children() == children  # is read by the same workers
    batches.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("number", "why"),
    [("SIGKILL", ", perhaps for want of memory"), ("SIGSEGV", ""), ("SIGBUS", ", perhaps for want of sha")],
)
def test_a_worker_that_is_killed_is_named_with_what_it_read(number, why):
    def die():
        faulthandler.disable()  # which pytest enables
        os.kill(os.getpid(), getattr(signal, number))

    error = fails(at(6, die))
    assert isinstance(error, LoaderError)
    assert f" was ended by {number}{why}" in str(error) and str(error).endswith(", at frame token-6")


def test_a_worker_that_exits_is_named():
    assert str(fails(at(2, lambda: os._exit(3)))).endswith(" ended with exit code 3, at frame token-2")


def test_a_worker_that_was_killed_while_it_waited():
    batches = Loader(Data(), 1)
    found = batches.items(DRAWS)
    next(found)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(LoaderError, match=r"loader worker \d+ was ended by SIGKILL"):
        list(found)


def test_a_worker_that_hangs_is_noticed(monkeypatch):
    monkeypatch.setattr(loader, "STOPPED_S", 0.3)
    monkeypatch.setattr(loader, "_ENDING_S", 0.1)
    error = fails(at(5, lambda: time.sleep(100)))
    assert str(error).endswith(" hangs: nothing was read for 0.3 s, at frame token-5")


def test_a_worker_that_is_slow_but_reads_does_not_hang(monkeypatch):
    monkeypatch.setattr(loader, "STOPPED_S", 1.0)
    batches = Loader(Data(lambda index: time.sleep(0.6)), 1)
    assert tokens(batches.items(DRAWS[:2])) == [["0", "1"], ["1", "2"]]  # 1.2 s each
    batches.close()


def test_a_signal_ends_the_wait_for_a_batch(monkeypatch):
    monkeypatch.setattr(loader, "_ENDING_S", 0.1)
    batches = Loader(Data(lambda index: time.sleep(100)), 1)
    assert next(batches.items(DRAWS, stopped=lambda: True)) is None
    batches.close()


def test_signals_to_the_whole_group_are_left_to_the_trainer():
    batches = Loader(Data(), 2)
    found = batches.items(DRAWS)
    next(found)
    for child in multiprocessing.active_children():
        for number in STOP_SIGNALS:
            os.kill(child.pid, number)
    assert len(list(found)) == 9
    batches.close()


def test_so_are_those_that_arrive_while_a_worker_starts(monkeypatch):
    ignore = loader.ignore_signals

    def late():
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
        ignore()

    monkeypatch.setattr(loader, "ignore_signals", late)
    batches = Loader(Data(), 2)
    assert len(list(batches.items(DRAWS))) == 10
    batches.close()


class Unsendable(Data):
    def __getitem__(self, draw):
        return _NoRoom()


class _NoRoom:
    def __reduce__(self):
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")


def test_too_little_shared_memory_is_named():
    with pytest.raises(
        LoaderError,
        match=r"a loader worker: what it read .*shared memory \(.*No space .*docker.*workers=0, --workers 0\)",
    ):
        list(Loader(Unsendable(), 2).items(DRAWS))


def _raise(error):
    raise error


def test_errors_of_frames_arrive_as_they_are_and_bugs_with_their_traceback():
    error = fails(at(4, lambda: _raise(PerceptionError("frame 4: damaged"))))
    assert type(error) is PerceptionError and str(error) == "frame 4: damaged"
    error = fails(at(4, lambda: _raise(ZeroDivisionError("of ours"))))
    assert type(error) is ZeroDivisionError and "in <lambda>" in str(error.__cause__)
    error = fails(at(4, lambda: _raise(MemoryError("Unable to allocate 3 GiB"))))
    assert isinstance(error, LoaderError) and str(error).endswith("ran out of memory: Unable to allocate 3 GiB")


@pytest.mark.parametrize("workers", [0, 2])
def test_page_locked_batches_are_the_same_ones(monkeypatch, workers):
    pinned = []
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: pinned.append(threading.current_thread().name) or batch)
    batches = Loader(Data(), workers, pin_memory=True)
    assert tokens(batches.items(DRAWS))[:3] == [["0", "1"], ["1", "2"], ["2", "3"]]
    assert len(pinned) == 9 and "MainThread" not in pinned
    batches.close()
    failing = Loader(Data(at(6, lambda: os._exit(1))), 2, pin_memory=True)
    with pytest.raises(LoaderError, match="exit code 1, at frame token-6"):
        list(failing.items(DRAWS))


def test_arrays_arrive_as_they_were_sent():
    """Through shared memory: of any size, order and type, in whatever holds them."""
    image = np.arange(20 * 3000 * 3, dtype=np.uint8).reshape(20, 3000, 3)
    fixed = np.arange(5.0)
    fixed.flags.writeable = False
    sent = [
        {"image": image, "turned": image.T, "every other": image[:, ::2], "of few": fixed},
        np.zeros((0, 5), np.float32), np.array([True, False]), np.array(7), np.array(["a", None], object), None,
    ]  # fmt: skip

    class Items(Frames):
        def __getitem__(self, index):
            return sent

    found = Loader(Whole(Items()), 1)
    (received,) = found.items([0])
    for one, other in zip([*sent[0].values(), *sent[1:5]], [*received[0].values(), *received[1:5]]):
        assert (one.dtype, one.shape, one.flags.f_contiguous) == (other.dtype, other.shape, other.flags.f_contiguous)
        assert (one == other).all()
    assert received[0].keys() == sent[0].keys() and received[5] is None
    found.close()
    received[0]["image"] += 1  # is ours, also when the worker has ended
    assert (received[0]["image"] == image + 1).all()


def test_what_is_kept_of_an_item_does_not_keep_its_memory():
    """As an evaluation keeps the boxes of every frame: otherwise a file descriptor, and all pixels, for each."""

    class Items(Frames):
        def __getitem__(self, index):
            return np.zeros((300, 300, 3), np.uint8), np.arange(7.0)

    found, before = Loader(Whole(Items()), 1), len(os.listdir("/proc/self/fd"))
    kept = [small for _, small in found.items([index % 11 for index in range(60)])]
    assert len(os.listdir("/proc/self/fd")) < before + 12
    assert all(small.tolist() == list(range(7)) for small in kept)
    found.close()


def test_a_limit_of_open_files_is_named(monkeypatch):
    def full(*parts):
        raise RuntimeError("received 0 items of ancdata")

    monkeypatch.setattr(loader, "_received", full)
    with pytest.raises(LoaderError, match=r"cannot be taken over \(received 0 items of ancdata\); .*ulimit -n"):
        list(Loader(Data(), 1).items(DRAWS))
    assert multiprocessing.active_children() == []
