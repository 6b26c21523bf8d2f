"""One frame replayed: what every output is told."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np

from perception.sample import Detections, Frame


@dataclass(frozen=True, eq=False)
class Step:
    """index: how many frames came before.  frame: as the detector saw it, ``boxes`` the ground truth where known.

    tracks: int64 [N], the id of the track each detection belongs to, -1 for none; None where nothing is tracked.
    faults: camera name, "radar" or "lidar" -> what the health monitor found.  latency_ms: stage -> milliseconds of
    this frame, of the stages up to here.
    """

    index: int
    frame: Frame
    detections: Detections
    tracks: np.ndarray | None
    faults: dict[str, str]
    latency_ms: dict[str, float]


class Sink(Protocol):
    """An output, used as a context manager: opened before the first step, closed properly whatever happens.

    It is written as it goes, in bounded memory, into ``<stem>.part<suffix>``, and takes its name when the block ends
    without an error (Ctrl-C counts as an end, and never reaches a sink). After an error the part file is left, closed
    and readable. What cannot be written raises ResultsError (``perception.eval.submission``).
    """

    def __enter__(self) -> Sink: ...

    def add(self, step: Step) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
