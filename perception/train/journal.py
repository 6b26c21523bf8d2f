"""Training logs: losses, throughput and skipped steps."""

from __future__ import annotations

import json
import logging
import math
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.errors import missing_extra
from perception.files import make_folder, not_through_a_link, write_file, writing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """losses: empty for a step that was skipped.  data_s: for how long the ``samples`` were waited for.

    labels: boxes that were learned from.
    """

    losses: dict[str, float]
    samples: int
    data_s: float = 0.0
    labels: int = 0

    @classmethod
    def joined(cls, parts: Sequence[Step]) -> Step:
        """The same step in several processes: a loss is the mean over those that have it."""
        names = dict.fromkeys(name for part in parts for name in part.losses)
        means = {name: statistics.fmean(part.losses[name] for part in parts if name in part.losses) for name in names}
        samples, labels = sum(part.samples for part in parts), sum(part.labels for part in parts)
        return cls(means, samples, statistics.fmean(part.data_s for part in parts), labels)


class Window:
    """Accumulates mean losses and throughput since the last :meth:`pop`.

    data_share is the share of the time in which samples were waited for.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.samples, self.data_s, self.start_s = 0, 0.0, time.monotonic()

    def add(self, step: Step) -> None:
        self.samples += step.samples
        self.data_s += step.data_s
        for name, value in step.losses.items():
            self.sums[name] = value + self.sums.get(name, 0.0)
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means and throughput, empty if nothing was added. A loss is averaged over the steps that have it."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        if means:
            elapsed_s = time.monotonic() - self.start_s
            means["samples_per_s"], means["data_share"] = self.samples / elapsed_s, self.data_s / elapsed_s
        return means

    def pop(self) -> dict[str, float]:
        """The means; from now on those of what is added later."""
        means = self.means()
        self._clear()
        return means

    def state(self) -> dict:
        """All of it, JSON-serialisable, for :meth:`restore`."""
        times = {"elapsed_s": time.monotonic() - self.start_s, "data_s": self.data_s}
        return {"sums": self.sums, "counts": self.counts, "samples": self.samples, **times}

    def restore(self, state: dict) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.samples, self.data_s = state["samples"], state.get("data_s", 0.0)
        self.start_s = time.monotonic() - state["elapsed_s"]


class Journal:
    """Writes ``log.jsonl``, one JSON object per line, and TensorBoard logs. Only the first process writes.

    Args:
        step: that the run goes on from; rows of later steps are dropped, since they will be written again.
        without: kinds of rows that will be written again for this step, too.
    """

    def __init__(self, out: Path, step: int, rank: int, without: Sequence[str] = ()):
        self.path, self.writes, self.tensorboard = out / "log.jsonl", rank == 0, None
        if not self.writes:
            return
        lines = self.path.read_text(errors="replace").splitlines() if step and self.path.exists() else []
        again = {(step, kind) for kind in without}
        kept = [line for line in lines if (logged := _logged(line))[0] <= step and logged not in again]
        write_file(self.path, "".join(f"{line}\n" for line in kept).encode())
        self.hook, threading.excepthook = threading.excepthook, self._raised_in_a_thread
        try:
            from torch.utils.tensorboard import SummaryWriter

            with writing(self.path.with_name("tensorboard")):
                self.tensorboard = SummaryWriter(str(make_folder(out, "tensorboard")), purge_step=step or None)
        except ImportError:
            log.info(missing_extra("train", "log.jsonl has the same numbers as TensorBoard logs, which need an extra"))

    def write(self, kind: str, step: int, numbers: dict[str, float], **other) -> None:
        """kind: "steps", "epoch" or "broken".  numbers: values that are also written to TensorBoard."""
        if not self.writes:
            return
        with writing(self.path), open(self.path, "a", opener=not_through_a_link) as file:
            file.write(json.dumps({"kind": kind, "step": step, **numbers, **other}) + "\n")
        if self.tensorboard is not None:
            with writing(self.path.with_name("tensorboard")):
                for name, value in numbers.items():
                    self.tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def show(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Write pictures, uint8 [H, W, 3] RGB by name, to TensorBoard, if there are such logs."""
        if self.tensorboard is not None:
            with writing(self.path.with_name("tensorboard")):
                for name, picture in pictures.items():
                    self.tensorboard.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writes:
            threading.excepthook = self.hook
        if self.tensorboard is not None:
            with writing(self.path.with_name("tensorboard")):
                self.tensorboard.close()

    def _raised_in_a_thread(self, error: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread cannot write: it prints a traceback, and the next call from here raises the error."""
        if not isinstance(error.exc_value, OSError):
            self.hook(error)


def _logged(line: str) -> tuple[float, str]:
    """Step and kind of a line of log.jsonl; an infinite step for a line truncated by a crash."""
    try:
        row = json.loads(line)
        return row["step"], row.get("kind", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return math.inf, ""
