"""Evaluation by several processes: which frames each takes, who reads them, and that they score what one does."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from frames import make_frame
from tiny_drive import save_tiny_detector, tiny_world

import perception
from perception.cli import run
from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError
from perception.eval.evaluate import evaluate, own_share
from perception.eval.significance import compare_detectors
from perception.sample import Boxes3D, Detections
from perception.signals import exit_code
from perception.task import NUSCENES

ROOT = Path(__file__).parent.parent


def scene_source(*lengths: int):
    """A NuScenes with scenes of so many frames, as far as its share is concerned."""
    source = object.__new__(NuScenes)
    source._scene_offsets = np.cumsum([0, *lengths])
    source.scenes, source.tokens = [str(number) for number in range(len(lengths))], ["t"] * sum(lengths)
    return source


@pytest.mark.parametrize(
    ("lengths", "processes", "whole_scenes", "shares"),
    [
        ((10,), 1, False, [(0, 10)]),
        ((10,), 3, False, [(0, 3), (3, 6), (6, 10)]),
        ((1,), 3, False, [(0, 0), (0, 0), (0, 1)]),
        ((4, 4, 2), 2, True, [(0, 8), (8, 10)]),  # the half, 5, is within the second scene
        ((4, 4, 2), 3, True, [(0, 4), (4, 8), (8, 10)]),
        ((10,), 3, True, [(0, 10), (10, 10), (10, 10)]),
    ],
)
def test_processes_share_the_frames(monkeypatch, lengths, processes, whole_scenes, shares):
    monkeypatch.setattr(NuScenes, "__len__", lambda self: len(self.tokens))
    for rank, share in enumerate(shares):
        monkeypatch.setattr("perception.eval.evaluate.place", lambda rank=rank: (rank, processes))
        assert own_share(scene_source(*lengths), whole_scenes) == range(*share)


def test_frames_in_no_known_scenes_stay_with_one_process(monkeypatch):
    for rank, share in enumerate([range(5), range(5, 5)]):
        monkeypatch.setattr("perception.eval.evaluate.place", lambda rank=rank: (rank, 2))
        assert own_share([None] * 5, whole_scenes=True) == share


def forked(rank: int, port: int, arguments: list[str]) -> None:
    """One of two processes, with the environment that torchrun gives it."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    run(arguments)


@pytest.mark.long
def test_several_processes_score_what_one_does(tmp_path):
    """The report and the submissions, byte by byte. Three are torchrun's; two are forked, which is faster."""
    root, checkpoint = tiny_world().write(tmp_path / "drive"), save_tiny_detector(tmp_path / "detector")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in processes of torchrun
    outputs = []
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        arguments = ["evaluate", "--checkpoint", str(checkpoint), "--root", str(root), "--all-subsets"]
        arguments += ["--json", str(folder / "report.json"), "--results", str(folder / "results"), "--device", "cpu"]
        if processes == 1:
            run(arguments)
        elif processes == 2:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            context = multiprocessing.get_context("fork")
            children = [context.Process(target=forked, args=(rank, port, arguments)) for rank in (0, 1)]
            for child in children:
                child.start()
            for child in children:
                child.join(200)
            assert [child.exitcode for child in children] == [0, 0]
        else:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command = [sys.executable, *launcher, "-m", "perception", *arguments]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment)
            assert done.returncode == 0 and done.stdout.count("6 frames") == 1, done.stderr
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        outputs.append({path.relative_to(folder): path.read_bytes() for path in files})
    torch.set_num_threads(threads)
    assert len(outputs[0]) == 9 and outputs[0] == outputs[1] == outputs[2]


def test_whoever_reads_the_frames_the_scores_are_the_same(tmp_path):
    root, checkpoint = tiny_world().write(tmp_path / "drive"), save_tiny_detector(tmp_path / "detector")
    arguments = ["evaluate", "--checkpoint", str(checkpoint), "--root", str(root), "--device", "cpu", "--json"]
    outputs = []
    for workers in (0, 1, 2):
        report = tmp_path / f"{workers}.json"
        run([*arguments, str(report), "--workers", str(workers)])
        outputs.append(report.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    with pytest.raises(PerceptionError, match="--workers: 0 or more was expected, found -1"):
        run([*arguments, "x.json", "--workers", "-1"])
    drive, detector = NuScenes(root), perception.load(checkpoint)
    first, second = (compare_detectors(detector, detector, drive, draws=2, workers=workers) for workers in (0, 2))
    assert repr(first) == repr(second)  # which has NaN


class Drive(list):
    """Six frames that ``on_read`` is told of, in the process that reads them."""

    def __init__(self, on_read):
        super().__init__(replace(make_frame(seed), boxes=Boxes3D.empty()) for seed in range(6))
        self.on_read, self.tokens = on_read, [frame.token for frame in self]

    def __getitem__(self, index):
        self.on_read(index)
        return super().__getitem__(index)


class Blind:
    task, sensors = NUSCENES, ("lidar",)

    def __init__(self):
        self.seen = []

    def detect(self, frame):
        self.seen.append(frame.token)
        return Detections(Boxes3D.empty(), np.zeros(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_the_wait_for_a_frame_and_the_workers(monkeypatch, workers):
    """It comes while the third frame is read, for a minute where another process reads it."""
    monkeypatch.setattr("perception.data.loader._ENDING_S", 0.1)

    def read(index):
        if index == 2:
            os.kill(os.getpid() if workers == 0 else os.getppid(), signal.SIGTERM)
            threading.Event().wait(60.0 * (workers > 0))

    detector, before = Blind(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        evaluate(detector, Drive(read), workers=workers)
    assert exit_code(interrupt.value) == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert multiprocessing.active_children() == [] and set(detector.seen) <= {"frame-0", "frame-1", "frame-2"}


def test_what_a_worker_cannot_read_is_one_line():
    def read(index):
        if index == 4:
            raise PerceptionError("frame-4: damaged")

    with pytest.raises(PerceptionError, match="frame-4: damaged"):
        evaluate(Blind(), Drive(read), workers=2)
    assert multiprocessing.active_children() == []
