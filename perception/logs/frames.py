"""A log as frames: messages in order, through the assembler, once each time it is iterated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from perception.config import Config
from perception.data.logs import Log
from perception.logs.assemble import LIDAR_HZ, RADAR_HZ, Assembler, sweep_span_s
from perception.logs.faults import Fault, Faults, biases
from perception.logs.measurements import Assembly
from perception.logs.messages import LogError
from perception.logs.rig import Rig
from perception.sample import Frame


def assembly_for(config: Config, **changes) -> Assembly:
    """How frames are made for a detector of this configuration; ``changes`` are fields of Assembly."""
    return Assembly(
        lidar_span_s=sweep_span_s(config.data.lidar_sweeps, LIDAR_HZ),
        radar_span_s=sweep_span_s(config.data.radar_sweeps, RADAR_HZ),
        image_size=tuple(config.camera.image_size),
        **changes,
    )


class LogFrames:
    """The frames of a log, with faults put into it if there are any.

    Attributes:
        problems: one line each of what was left out; complete once it has been iterated.
    """

    def __init__(self, log: Log, rig: Rig, assembly: Assembly, faults: Sequence[Fault] = ()):
        self._log, self._rig, self._faults = log, rig, faults
        self._assembly = replace(assembly, bias=biases(faults))
        self._assembler: Assembler | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Raises LogError at the end of a log that gave no frame, saying what is missing."""
        self._log.change = Faults(self._faults)
        self._assembler = Assembler(self._rig, self._assembly, self._log.name, str(self._log.path))
        empty = True
        for message in self._log:
            for frame in self._assembler.push(message):
                empty = False
                yield frame
        for frame in self._assembler.finish():
            empty = False
            yield frame
        if empty:
            wanted = self._rig.samples or self._rig.reference or "a sensor in the rig"
            reasons = "; ".join(self.problems) or f"nothing on {wanted}"
            raise LogError(f"{self._log.path}: at least one frame was expected, found none: {reasons}")

    @property
    def problems(self) -> list[str]:
        counts = {} if self._assembler is None else self._assembler.counts
        late = [f"{topic}: {n} messages came too late to be sorted in" for topic, n in sorted(self._log.late.items())]
        stopped = [self._log.stopped] if self._log.stopped else []
        return [*stopped, *self._log.damage, *late, *(f"{what}: {n}" for what, n in sorted(counts.items()))]
