"""The replay without a detector: frames from all over a log, and what the replay would say of it, by its own code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from perception.logs.assemble import UNUSABLE
from perception.logs.beginning import BEGINNING_S
from perception.logs.default_rig import left_out, usable_rig
from perception.logs.frames import LogFrames
from perception.logs.inspect import inspect
from perception.logs.log import Log
from perception.logs.measurements import Assembly
from perception.logs.messages import LogError
from perception.logs.rig import Rig

FRAMES = 50
_SIZE = (64, 64)  # of pictures: what cannot be decoded cannot at any size


@dataclass
class Rehearsal:
    """frames: how many came out.

    refused: why a replay ends: for good, or until --skip-damaged is given.  lost: what it goes on without. A line each.
    """

    frames: int = 0
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def rehearse(log: Log, rig: Rig | None, duration_s: float) -> Rehearsal:
    """Read a log as the replay does, with FRAMES frames at even intervals.

    Args:
        rig: None: the one that the replay proposes.
        duration_s: of the log.
    """
    found = Rehearsal()
    if rig is None:
        start = inspect(log, seconds=BEGINNING_S)
        found.lost = left_out(start)
        try:
            rig = usable_rig(log, start)
        except LogError:
            if not start.rig.sensors:
                return Rehearsal(refused=start.missing)
            return Rehearsal(refused=["a rig file was expected (--rig)", *found.lost])
    try:
        rate_hz = FRAMES / duration_s if duration_s > 0 else None
        frames = LogFrames(log, rig, Assembly(image_size=_SIZE, rate_hz=rate_hz, skip_damaged=True))
        points: Counter[str] = Counter()
        for frame in frames:
            found.frames += 1
            points.update({kind: len(c.points) for kind in ("lidar", "radar") if (c := getattr(frame, kind))})
        found.lost += [f"no point of any {kind} is left in any frame" for kind, count in points.items() if not count]
        for line in frames.problems:
            if line not in (log.stopped, *log.damage):
                (found.refused if UNUSABLE in line else found.lost).append(line)
    except LogError as error:
        found.refused.append(str(error).removeprefix(f"{log.path}: "))
    return found
