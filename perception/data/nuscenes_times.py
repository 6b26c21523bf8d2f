"""The times of the tables in microseconds, as nuScenes has them, whatever unit they were written in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perception.data.nuscenes_files import DataError

_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "microseconds": 1.0, "nanoseconds": 1e-3}
_EPOCH_US = 946_684_800 * 10**6, 4_102_444_800 * 10**6  # the years 2000 to 2100, in which no two units overlap
_KEYFRAMES_US = 10**3, 600 * 10**6  # apart, of a clock that does not count from 1970


def to_microseconds(times: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """The unit shows in the size of the times, since nobody drove before 2000.

    Times of which most are no date in any unit, such as those of a clock that started with the drive, are taken for
    microseconds; :func:`require_plausible` tells whether they can be.

    Args:
        times: [N], whole numbers or not.

    Returns:
        int64 [N] microseconds; bool [N], whether each is a time of the same clock; the unit.
    """
    middle = float(np.sort(times)[len(times) // 2]) if len(times) else 0.0
    units = [unit for unit, factor in _UNITS.items() if _is_date(middle * factor)]
    factor = _UNITS[units[0]] if units else 1.0
    about = times * factor
    sound = _is_date(about) if units else (about >= 0) & (about < _EPOCH_US[0]) & (np.rint(times) == times)
    times = np.where(sound, times, 0)
    exact = times * int(factor) if factor >= 1 else times // round(1 / factor)
    if times.dtype.kind == "f":
        exact = np.rint(times * factor)
    return exact.astype(np.int64), sound, units[0] if units else "microseconds"


def require_plausible(path: Path, timestamp_us: np.ndarray, scene: np.ndarray) -> None:
    """Raises DataError unless the samples of scenes, in order, are as far apart as key frames can be."""
    apart = np.diff(timestamp_us)[np.diff(scene) == 0]
    least, most = _KEYFRAMES_US
    if len(apart) and not _is_date(timestamp_us).any() and not least <= np.median(apart) <= most:
        raise DataError(
            f"{path}: timestamps since 1970, or in microseconds, were expected, found samples "
            f"{int(np.median(apart))} apart"
        )


def _is_date(time_us: Any) -> Any:
    return (_EPOCH_US[0] <= time_us) & (time_us < _EPOCH_US[1])
