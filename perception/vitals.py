"""How a live stream is doing: its latency, what it lost, and whether anything should worry those who rely on it."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from perception.logs.inbox import Inbox
from perception.logs.presence import Presence

Level = Literal["OK", "WARN", "ERROR", "STALE"]
_RECENT = 4096  # results whose latency is remembered
_TROUBLE_NS = 5_000_000_000  # how long a loss is a warning


@dataclass(frozen=True)
class SensorHealth:
    """Of one sensor of the rig, or another topic.

    state: of the latest result (:class:`perception.logs.presence.Presence`); "waiting" before the first one.
    rate_hz: at which it arrives; None where that is not known.  age_s: since the latest arrival.
    received, dropped: messages; those that were dropped for newer ones, before they were looked at.
    """

    state: str
    rate_hz: float | None
    age_s: float | None
    received: int
    dropped: int

    @classmethod
    def of(cls, topic: str, inbox: Inbox, presence: Presence | None, now_ns: int) -> SensorHealth:
        """Of what has come on its topic, and what the latest result had of it."""
        arrived_ns = inbox.arrived_ns(topic)
        return cls(
            state="waiting" if presence is None else presence.state,
            rate_hz=inbox.rate_hz(topic),
            age_s=None if arrived_ns is None else 1e-9 * (now_ns - arrived_ns),
            received=inbox.received[topic],
            dropped=inbox.dropped[topic],
        )


@dataclass(frozen=True)
class Health:
    """level: the first that holds: "ERROR", inference hangs or fails; "STALE", there are no results; "WARN", some
        sensor is not active, or something was lost in the last five seconds; "OK".
    reasons: a line each; none where all is well.
    sensors: those of the rig that the detector takes.
    latency_ms: "p50", "p99" and "p99.9" of the latest results, from the last message a frame waited for to its result;
        empty before the first.
    counts: what was lost or left out, and how often.
    """

    level: Level
    reasons: tuple[str, ...]
    sensors: dict[str, SensorHealth]
    results: int
    latency_ms: dict[str, float]
    counts: dict[str, int]


@dataclass
class Vitals:
    """What a stream notes down. Times are in ns, by the stream's clock; to be guarded by its lock.

    hang_ns: how long inference may take.  stale_ns: how long there may be no result.
    """

    hang_ns: int
    stale_ns: int
    counts: Counter[str] = field(default_factory=Counter)
    results: int = 0
    error: str = ""  # of the latest inference
    presence: dict[str, Presence] = field(default_factory=dict)
    _latencies: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _busy_since_ns: int | None = None
    _result_ns: int | None = None
    _lost_ns: int | None = None

    def lost(self, what: str, now_ns: int, number: int = 1) -> None:
        self.counts[what] += number
        self._lost_ns = now_ns

    def begin(self, now_ns: int) -> None:
        """Inference does."""
        self._busy_since_ns = now_ns

    def failed(self, error: str) -> None:
        """Inference has; to be counted as lost, too."""
        self._busy_since_ns, self.error = None, error

    def done(self, presence: dict[str, Presence], latency_ns: int, now_ns: int) -> None:
        self._busy_since_ns, self.error, self.presence = None, "", presence
        self._latencies.append(latency_ns)
        self.results, self._result_ns = self.results + 1, now_ns

    def judged(self, now_ns: int) -> tuple[Level, tuple[str, ...]]:
        """The level, and why."""
        reasons: dict[Level, list[str]] = {"ERROR": [], "STALE": [], "WARN": []}
        if self._busy_since_ns is not None and now_ns - self._busy_since_ns > self.hang_ns:
            reasons["ERROR"].append(f"inference hangs: for {1e-9 * (now_ns - self._busy_since_ns):.1f} s so far")
        if self.error:
            reasons["ERROR"].append(f"inference failed: {self.error}")
        if self._result_ns is None:
            reasons["STALE"].append("no result yet")
        elif now_ns - self._result_ns > self.stale_ns:
            reasons["STALE"].append(f"no result for {1e-9 * (now_ns - self._result_ns):.1f} s")
        for name, presence in self.presence.items():
            if presence.state != "active" or presence.reason:
                reasons["WARN"].append(f"{name}: {presence.state}{f', {presence.reason}' * bool(presence.reason)}")
        if self._lost_ns is not None and now_ns - self._lost_ns < _TROUBLE_NS:
            reasons["WARN"].append("messages, frames or results were lost in the last seconds")
        level: Level = next((level for level, lines in reasons.items() if lines), "OK")
        return level, tuple(line for lines in reasons.values() for line in lines)

    @property
    def latency_ms(self) -> dict[str, float]:
        if not self._latencies:
            return {}
        quantiles = np.quantile(np.array(self._latencies), (0.5, 0.99, 0.999)) * 1e-6
        return dict(zip(("p50", "p99", "p99.9"), quantiles.tolist()))
