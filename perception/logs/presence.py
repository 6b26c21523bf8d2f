"""What a frame has of each sensor, and why it lacks what it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
