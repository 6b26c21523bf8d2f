"""What the numbers in the clouds of a LiDAR mean, where its messages do not say it: told from its first sweeps.

Intensity   The largest values say what the brightest is: 1, 255, 4095 or 65535.
Times       of points are in seconds, milliseconds, microseconds, nanoseconds or shares of a sweep; they count from the
            cloud's stamp, from 1970 (in UTC, or in the clocks of GPS and TAI, which are some leap seconds ahead), or
            from the last full hour. A sweep lasts no longer than two follow one another; that and the stamp tell them.
            Times of another clock, such as since the sensor was switched on, cannot be brought to the stamp: whether
            that is of the first point or of the last differs among drivers. They are not used.

What is not as usual is said in ``notes``. Usual are 255, or 65535 for 16 bits; seconds for floating point and
nanoseconds for integers; from the stamp or from 1970.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from perception.logs.clouds import intensity_field, time_field
from perception.logs.messages import Cloud

SWEEPS = 5  # that are looked at
_S, _HOUR_NS = 1_000_000_000, 3_600_000_000_000
FARTHEST_NS = _S  # from a point to its cloud's stamp; no sweep takes longer
_LONGEST = 2.5  # intervals that a sweep may last: clouds of several sensors begin at different times
_SHORTEST = 0.02  # of them that one lasts where its unit is not the usual one
_TICKS = {"s": 1e9, "ms": 1e6, "µs": 1e3, "ns": 1.0}
_LEAP_S = (37, 18)  # that TAI and GPS time are ahead of UTC
_TWELVE_BITS, _SIXTEEN_BITS = 4095.0, 65535.0

# A file may claim any number.
_any_number: Callable = np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class Units:
    """Of the clouds of one topic.

    intensity_max: the recorded value that becomes 255.
    tick_ns: what 1 is in the field of times; None: they are not used.  origin: what they count from: "stamp", "1970"
        or "hour".  ahead_ns: how far their clock is ahead of that of the stamps.  reach_ns: how far a point may be from
        the middle of its sweep.
    notes: what is not as usual, in a few words each.
    """

    intensity_max: float = 255.0
    tick_ns: float | None = None
    origin: str = "stamp"
    ahead_ns: int = 0
    reach_ns: float = FARTHEST_NS
    notes: tuple[str, ...] = ()


class FirstSweeps:
    """The units of topics, from the first sweeps of each that are looked at."""

    def __init__(self) -> None:
        self._sweeps: dict[str, list[tuple[int, Cloud]]] = defaultdict(list)
        self._units: dict[str, Units] = {}

    def look(self, topic: str, stamp_ns: int, cloud: Cloud) -> None:
        if topic not in self._units and len(cloud.records) and len(self._sweeps[topic]) < SWEEPS:
            self._sweeps[topic].append((stamp_ns, cloud))

    def units(self, topic: str) -> Units:
        """From here on they stay what they are."""
        if topic not in self._units:
            self._units[topic] = units_of(self._sweeps.pop(topic, []))
        return self._units[topic]


@_any_number
def units_of(sweeps: Sequence[tuple[int, Cloud]]) -> Units:
    """Args: the stamp and the cloud of each, all of one topic."""
    intensity_max, notes = _intensity_max([cloud for _, cloud in sweeps])
    fields = [(stamp_ns, cloud, name) for stamp_ns, cloud in sweeps if (name := time_field(cloud)) is not None]
    timed = [(stamp_ns, *found) for stamp_ns, cloud, name in fields if (found := _first_and_last(cloud, name))]
    if not timed:
        return Units(intensity_max, notes=notes)
    _, cloud, name = fields[0]
    stamps = sorted({stamp_ns for stamp_ns, _ in sweeps})
    interval_ns = float(np.median(np.diff(stamps))) if len(stamps) > 1 else None
    reach_ns = min(_LONGEST * interval_ns, FARTHEST_NS) if interval_ns else FARTHEST_NS
    usual = "s" if cloud.records.dtype[name].kind == "f" else "ns"
    ticks = _ticks(timed, usual, interval_ns, reach_ns)
    for unit, tick_ns in ticks.items():
        clock = _clock([(stamp, first * tick_ns, last * tick_ns) for stamp, first, last in timed], reach_ns)
        if clock is not None:
            origin, ahead_s = clock
            if (unit, ahead_s) != (usual, 0) or origin == "hour":
                since = {"stamp": "from the stamp", "1970": "since 1970", "hour": "since the full hour"}[origin]
                shift = f", {abs(ahead_s)} s {'ahead of' if ahead_s > 0 else 'behind'} the stamps" if ahead_s else ""
                notes += (f"times of points in {unit} {since}{shift} (field {name})",)
            return Units(intensity_max, tick_ns, origin, ahead_s * _S, reach_ns, notes)
    spread = max(last - first for _, first, last in timed)
    sweep = f"a sweep of {interval_ns / _S:.3g} s" if interval_ns else "a sweep of unknown length"
    why = "is by another clock than the stamps" if ticks else f"spans {spread:.4g}, in no unit {sweep}"
    return Units(intensity_max, notes=(*notes, f"times of points that are not used: field {name} {why}"))


@_any_number
def point_times_ns(cloud: Cloud, stamp_ns: int, units: Units) -> np.ndarray | None:
    """int64 [N]: when each point was measured; None where the cloud does not say, or not in a way that is known.

    A time that is not finite or far from those of the other points, such as the 0 of a point without return, is taken
    to be the stamp.
    """
    name = time_field(cloud)
    if name is None or not len(cloud.records) or units.tick_ns is None:
        return None
    times = cloud.records[name]
    if times.dtype.kind == "f" or units.tick_ns != 1.0:  # doubles since 1970 resolve a quarter of a microsecond
        times = np.round(times.astype(np.float64) * units.tick_ns)
    origin_ns = {"stamp": stamp_ns, "1970": 0, "hour": stamp_ns - stamp_ns % _HOUR_NS}[units.origin]
    offsets = times.astype(np.int64) + (origin_ns - units.ahead_ns - stamp_ns)
    near = (-FARTHEST_NS <= offsets) & (offsets <= FARTHEST_NS)
    if near.any():
        near &= np.abs(offsets - int(np.median(offsets[near]))) <= units.reach_ns
    return stamp_ns + np.where(near, offsets, 0)


def _intensity_max(clouds: Sequence[Cloud]) -> tuple[float, tuple[str, ...]]:
    """The value that becomes 255, and a note where that is not the usual one."""
    columns = [cloud.records[name] for cloud in clouds if (name := intensity_field(cloud)) is not None]
    if not columns:
        return 255.0, ()
    dtype = columns[0].dtype
    wide = dtype.kind in "iu" and dtype.itemsize == 2
    usual = _SIXTEEN_BITS if wide else 255.0
    values = np.concatenate([column.astype(np.float64) for column in columns])
    values = values[np.isfinite(values)]
    top = float(values.max(initial=0.0))
    if top <= 0 or dtype.itemsize == 1:
        return usual, ()
    if dtype.kind == "f" and top <= 1 and (values % 1).any():
        most = 1.0
    elif top <= 255 or not (wide or np.median(values) > 255):  # a few beyond 255 are reflectors
        most = 255.0
    else:
        most = _TWELVE_BITS if top <= _TWELVE_BITS else _SIXTEEN_BITS
    return most, () if most == usual else (f"intensities up to {top:.4g}, of which {most:g} is taken as full",)


def _first_and_last(cloud: Cloud, name: str) -> tuple[float, float] | None:
    """Of the times of its points, without a hundredth at either end; None without any."""
    times = cloud.records[name].astype(np.float64)
    times = times[np.isfinite(times)]
    measured = times[times != 0]  # points without return have no time
    times = measured if len(measured) > 1 else times
    if not len(times):
        return None
    first, last = np.percentile(times, [1, 99], method="nearest")
    return float(first), float(last)


def _ticks(
    timed: Sequence[tuple[int, float, float]], usual: str, interval_ns: float | None, reach_ns: float
) -> dict[str, float]:
    """The units in which sweeps last as long as they may, the usual one first. timed: stamp, first, last."""
    spread = max(last - first for _, first, last in timed)
    first, last = min(first for _, first, _ in timed), max(last for *_, last in timed)
    if usual == "s" and first >= 0 and last <= 1 and spread > 0.9 and not 0.67 * _S < (interval_ns or 0) < 1.5 * _S:
        return {"shares of a sweep": interval_ns} if interval_ns else {}
    fitting = {unit: tick for unit, tick in _TICKS.items() if spread * tick <= reach_ns}
    shortest_ns = _SHORTEST * (interval_ns or 0.1 * _S)
    plausible = {unit: tick for unit, tick in fitting.items() if spread * tick >= shortest_ns}
    # All points may have nearly the same time; then nothing is known of the unit.
    chosen = plausible or fitting
    return dict(sorted(chosen.items(), key=lambda item: (item[0] != usual, -item[1])))


def _clock(timed: Sequence[tuple[int, float, float]], reach_ns: float) -> tuple[str, int] | None:
    """What times count from, and by how many seconds their clock is ahead; for most sweeps. timed: all in ns."""

    def fits(origin: str, ahead_s: int, reach_ns: float) -> bool:
        count = 0
        for stamp_ns, first_ns, last_ns in timed:
            since_ns = {"stamp": 0, "1970": stamp_ns, "hour": stamp_ns % _HOUR_NS}[origin] + ahead_s * _S
            count += -reach_ns <= first_ns - since_ns and last_ns - since_ns <= reach_ns
        return 2 * count > len(timed)

    if fits("stamp", 0, reach_ns):
        return "stamp", 0
    for origin, ahead_s in (("1970", 0), *(("1970", sign * leap) for leap in _LEAP_S for sign in (1, -1)), ("hour", 0)):
        if fits(origin, ahead_s, reach_ns if ahead_s else FARTHEST_NS):
            return origin, ahead_s
    return None
