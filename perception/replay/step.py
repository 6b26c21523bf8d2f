"""One replayed frame, as every output receives it."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np

from perception.sample import Detections, Frame


@dataclass(frozen=True, eq=False)
class Step:
    """index: number of frames before this one.  frame: as the detector saw it; ``boxes`` is ground truth, where known.

    tracks: int64 [N], the track id of each detection, -1 for none; None where nothing is tracked.
    faults: camera name, "radar" or "lidar" -> fault found by the health monitor.  latency_ms: stage -> milliseconds,
    of the stages of this frame that are done.
    """

    index: int
    frame: Frame
    detections: Detections
    tracks: np.ndarray | None
    faults: dict[str, str]
    latency_ms: dict[str, float]


class Sink(Protocol):
    """An output, used as a context manager: opened before the first step, closed properly whatever happens.

    It is written frame by frame, in bounded memory, into ``<stem>.part<suffix>``, and gets its name when the block ends
    without an error (Ctrl-C counts as a regular end, and never reaches a sink). After an error the part file is left,
    closed and readable. What cannot be written raises ResultsError (``perception.files``).
    """

    def __enter__(self) -> Sink: ...

    def add(self, step: Step) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
