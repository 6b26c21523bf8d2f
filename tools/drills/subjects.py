"""What is disturbed: how it is started, what must hold of what it leaves at any moment, and what it ends in.

A disturbed run is followed by the next in the same folder, which has to go on from what is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from drills.inputs import TINY, Inputs, command


class Subject(ABC):
    """In every class: ``left`` raises an error if something that a disturbed run left is damaged; ``result`` is what an
    undisturbed run ends in, whatever happened before."""

    codes: tuple[int, ...] = ()  # of interrupted runs, besides 128 + the number of the signal
    faults: tuple[str, ...] = ("kill", "end", "full")  # those that it has to stand
    afresh = True  # whether a run that has ended by itself is followed by one in a new folder

    def __init__(self, inputs: Inputs):
        self.inputs = inputs

    @abstractmethod
    def command(self, out: Path) -> list[str]: ...

    @abstractmethod
    def left(self, out: Path) -> None: ...

    @abstractmethod
    def result(self, out: Path) -> object: ...


class Train(Subject):
    """Saves at every step, and resumes."""

    codes = (130,)

    def command(self, out: Path) -> list[str]:
        every_step = ("train.epochs=2", "train.batch_size=1", "train.checkpoint_minutes=0", "data.workers=1")
        where = (f"data.root={self.inputs.drive}", "--out", out, "--device", "cpu")
        resume = ("--resume",) if out.is_dir() else ()
        return command("train", "sim", *TINY, "train.init=null", *every_step, *where, *resume)

    def left(self, out: Path) -> None:
        _one_state(out)

    def result(self, out: Path) -> object:
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        times = ("elapsed_s", "samples_per_s", "data_share", "memory_mb")
        timeless = [{k: v for k, v in line.items() if k not in times} for line in lines]
        return _sha256(out / "model.safetensors"), timeless


class Ranks(Train):
    """Two processes that train together. That one of them dies ends the other, too."""

    faults = ("rank",)
    processes = 2

    def command(self, out: Path) -> list[str]:
        python, *rest = super().command(out)
        return [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", *rest]


class Ranks4(Ranks):
    """Four of them."""

    processes = 4


class Save(Subject):
    """Nothing but saving: weights of the value 1, 2, 3, ..., until it is ended; then on from the last one saved."""

    afresh = False
    CODE = """
import sys
from pathlib import Path
import perception.__main__
from perception.cli.options import run_main

def save():
    import torch
    import perception
    from perception.commit import current
    from perception.train.checkpoint import read_checkpoint, write_checkpoint
    detector, path = perception.load(sys.argv[2]), Path(sys.argv[1], "checkpoint.safetensors")
    first = read_checkpoint(path)[1]["step"] if current(path).exists() else 0
    for step in range(first + 1, first + int(sys.argv[3])):
        state = {name: torch.full_like(tensor, step) for name, tensor in detector.state_dict().items()}
        tensors = {"ema": state, "more": {"numbers": torch.full((500_000,), float(step))}}
        write_checkpoint(path, tensors, {"step": step}, beside=detector.files(state))

run_main(save)
"""

    def __init__(self, inputs: Inputs):
        super().__init__(inputs)
        self.last = 0

    def command(self, out: Path) -> list[str]:
        return [sys.executable, "-c", self.CODE, str(out), str(self.inputs.detector), "20"]

    def left(self, out: Path) -> None:
        tensors, state = _one_state(out)
        if state:
            expect(state["step"] >= self.last, f"a step from {self.last} was expected, found {state['step']}")
            expect(all((t == state["step"]).all() for t in tensors["more"].values()), "tensors of two steps")
            self.last = state["step"]

    def result(self, out: Path) -> object:
        self.last = 0
        return sorted(path.name for path in out.iterdir())


class Index(Subject):
    """The first look at a drive, of which an index is kept."""

    CODE = """
import sys
import perception.__main__
from perception.cli.options import run_main

def read():
    import perception
    print([frame.token for frame in perception.NuScenes(sys.argv[1]).frames()])

run_main(read)
"""

    def command(self, out: Path) -> list[str]:
        if not out.exists():
            shutil.copytree(self.inputs.drive, out, ignore=shutil.ignore_patterns(".perception-index"))
        return [sys.executable, "-c", self.CODE, str(out)]

    def left(self, out: Path) -> None:
        pass  # a damaged index is told by the frames of the last run

    def result(self, out: Path) -> object:
        import perception

        frames = perception.NuScenes(out).frames()
        return [(frame.token, frame.lidar.points.tobytes()) for frame in frames if frame and frame.lidar]


class Replay(Subject):
    """With a video and a recording, again and again over what is there."""

    afresh = False
    OUTPUTS = "mp4,mcap"

    def command(self, out: Path) -> list[str]:
        what = ("--checkpoint", self.inputs.detector, "--device", "cpu", "--outputs", self.OUTPUTS)
        return command("replay", self.inputs.log, *what, "--out", out)

    def left(self, out: Path) -> None:
        _readable(out)

    def result(self, out: Path) -> object:
        summary = json.loads((out / "summary.json").read_text())
        return summary["complete"], summary["detections_sha256"], sorted(path.name for path in out.iterdir())


class Batch(Subject):
    """Three logs and two workers; what is done is not done again."""

    def command(self, out: Path) -> list[str]:
        what = ("--checkpoint", self.inputs.detector, "--device", "cpu", "--outputs", "none", "--jobs", "2")
        return command("replay", *self.inputs.logs, *what, "--out", out)

    def left(self, out: Path) -> None:
        if (out / "batch.json").exists():
            json.loads((out / "batch.json").read_text())
        for folder in (path for path in out.glob("*") if path.is_dir()):
            _readable(folder)

    def result(self, out: Path) -> object:
        logs = json.loads((out / "batch.json").read_text())["logs"]
        return [(log["name"], log["status"].split()[0], log["detections_sha256"]) for log in logs]


class Evaluate(Subject):
    """Every set of sensors, with submissions."""

    afresh = False

    def command(self, out: Path) -> list[str]:
        what = ("--checkpoint", self.inputs.detector, "--root", self.inputs.drive, "--device", "cpu", "--all-subsets")
        return command("evaluate", *what, "--json", out / "metrics.json", "--results", out / "submissions")

    def left(self, out: Path) -> None:
        for path in out.rglob("*.json"):
            if ".part" not in path.name:
                json.loads(path.read_text())

    def result(self, out: Path) -> object:
        return {str(path.relative_to(out)): _sha256(path) for path in sorted(out.rglob("*.json"))}


SUBJECTS = {
    subject.__name__.lower(): subject for subject in (Train, Ranks, Ranks4, Save, Index, Replay, Batch, Evaluate)
}


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def _one_state(out: Path) -> tuple[dict, dict]:
    """What a folder was trained to: weights and state are of one step, and load; ({}, {}) before the first one."""
    import torch

    import perception
    from perception.commit import current
    from perception.model.checkpoint import read_weights
    from perception.train.checkpoint import read_checkpoint

    if not current(out / "checkpoint.safetensors").exists():
        return {}, {}
    tensors, state = read_checkpoint(out / "checkpoint.safetensors")
    weights = read_weights(out)
    expect(
        all(torch.equal(weights[name], tensor) for name, tensor in tensors["ema"].items()), "weights of another step"
    )
    perception.load(out)
    copies = [path.name for path in out.rglob("*.safetensors") if path.name.startswith(".") or ".part" in path.name]
    expect(not copies, f"copies are left: {copies}")
    return tensors, state


def _readable(out: Path) -> None:
    """Whatever a replay has written, whole or in part."""
    from perception.logs.mcap_file import McapFile
    from perception.replay.result import ResultFile, read_summary

    read_summary(out)
    for name in ("result.jsonl", "result.part.jsonl"):
        if (out / name).exists():
            frames = len(list(ResultFile(out)))
            expect(name.endswith(".part.jsonl") or frames > 0, f"{name} is empty")
    for path in [*out.glob("replay.mcap"), *out.glob("replay.part.mcap")]:
        if path.stat().st_size > 1000:
            list(McapFile(path).messages())
    for path in out.glob("replay.mp4"):
        import cv2

        expect(cv2.VideoCapture(str(path)).grab(), f"{path.name} shows nothing")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
