"""What a replay and a live stream do with a frame: the same checks, detector, memory and tracks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from perception.health import HealthMonitor
from perception.sample import Detections, Frame
from perception.task import NUSCENES
from perception.tracking import Tracker


@dataclass(frozen=True, eq=False)
class Perceived:
    """frame: as the detector saw it.  tracks: int64 [N], the track id of each detection, -1 for none.

    faults: camera name, "radar" or "lidar" -> fault found by the health monitor.
    """

    frame: Frame
    detections: Detections
    tracks: np.ndarray
    faults: dict[str, str]


class Perceiver:
    """The frames of drives, in order, to detections and tracks; what it remembers of them is its state.

    Args:
        detector: anything with ``prepare([frame]) -> batch``, ``__call__(batch) -> prediction`` and
            ``decode(prediction) -> [Detections]``; one that ``remembers`` is called with its memory, too.
        stage: a block for the time that each stage takes, such as :meth:`perception.replay.latency.Clock.stage`.
    """

    def __init__(self, detector: Any, stage: Callable[[str], AbstractContextManager] = nullcontext):
        self._stage, self.monitor = stage, HealthMonitor()
        self.tracker = Tracker(getattr(detector, "task", NUSCENES))
        self.detector = detector

    @property
    def detector(self) -> Any:
        """May be replaced between two frames: memories are of the old one and forgotten, tracks go on with its task."""
        return self._detector

    @detector.setter
    def detector(self, detector: Any) -> None:
        self._detector, self.memory = detector, None
        self._remembers = getattr(detector, "remembers", False)
        task = getattr(detector, "task", NUSCENES)
        if task != self.tracker.task:
            self.tracker = Tracker(task)

    @torch.inference_mode()
    def step(self, frame: Frame) -> Perceived:
        """One frame. Raises what the detector raises; its memory is then that of the frames before."""
        with self._stage("check"):
            healthy, faults = self.monitor.check(frame)
            frame = healthy if healthy.sensors else frame
        with self._stage("prepare"):
            batch = self.detector.prepare([frame])
        with self._stage("model"):
            prediction = self.detector(batch, self.memory) if self._remembers else self.detector(batch)
            memory = self.detector.remember(prediction, batch) if self._remembers else None
        with self._stage("decode"):
            detections = self.detector.decode(prediction)[0]
        self.memory = memory
        with self._stage("track"):
            tracks = self.tracker.step(frame, detections)
        return Perceived(frame, detections, tracks, faults)
