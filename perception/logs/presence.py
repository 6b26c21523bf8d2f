"""What a frame has of each sensor, and why it lacks what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from perception.logs.rig import Rig
from perception.sample import Frame


@dataclass(frozen=True)
class Presence:
    """Of one sensor in one frame.

    state: "active": a measurement of it is in the frame.
        "stale": none is near enough: the latest is too old, or stamped with a time yet to come.
        "rejected": one is near enough, or came just now, but cannot be used, for ``reason``.
        "waiting": none has come since the drive began.
    age_s: reference time minus time of that measurement, in seconds; None where none has come.
    """

    state: Literal["active", "stale", "rejected", "waiting"]
    age_s: float | None = None
    reason: str = ""


def with_faults(
    presence: Mapping[str, Presence], faults: Mapping[str, str], frame: Frame, rig: Rig
) -> dict[str, Presence]:
    """What the health monitor has found is the reason; a sensor whose data it took away from the frame is rejected.

    faults: camera name, "lidar" or "radar" -> fault.  frame: as the monitor has left it.
    """
    clouds = {"lidar": rig.lidars, "radar": rig.radars}
    found = dict(presence)
    for part, fault in faults.items():
        names = clouds.get(part, (part,))
        left = frame.data.get(part) if part in clouds else (frame.cameras or {}).get(part)
        for name in names:
            if found[name].state == "active":
                found[name] = replace(found[name], state="rejected" if left is None else "active", reason=fault)
    return found
