"""Evaluation by several processes: which frames each takes, and that they score what one does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_drive import save_tiny_detector, tiny_world

from perception.cli import run
from perception.data.nuscenes import NuScenes
from perception.eval.evaluate import own_share

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


def test_three_processes_score_what_one_does(tmp_path):
    """The report and the submissions, byte by byte."""
    root, checkpoint = tiny_world().write(tmp_path / "drive"), save_tiny_detector(tmp_path / "detector")
    outputs = []
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        arguments = ["evaluate", "--checkpoint", str(checkpoint), "--root", str(root), "--all-subsets"]
        arguments += ["--json", str(folder / "report.json"), "--results", str(folder / "results"), "--device", "cpu"]
        if processes == 1:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as below
            run(arguments)
            torch.set_num_threads(threads)
        else:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command = [sys.executable, *launcher, "-m", "perception", *arguments]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment)
            assert done.returncode == 0 and done.stdout.count("6 frames") == 1, done.stderr
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        outputs.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert len(outputs[0]) == 9 and outputs[0] == outputs[1]
