"""The returns of a radar's file as nuScenes has them, whatever its radar calls its fields.

Files with nuScenes' fields are taken as they are. Others have no states, so that nothing is filtered, and velocities
relative to the radar, of which the radar's own motion along the line of sight is taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

STATES = ("invalid_state", "dyn_prop", "ambig_state")
USED = ("x", "y", "z", "rcs", "vx_comp", "vy_comp", *STATES)
_RECORD = np.dtype([(name, "i1" if name in STATES else "<f4") for name in USED])
_STRENGTH = ("rcs", "rcs_dbsm", "amplitude", "power", "snr", "intensity")
_RADIAL = ("doppler", "doppler_velocity", "radial_velocity", "radial_speed", "range_rate", "v_r")
_RELATIVE = (("vx", "vy"), ("vrel_x", "vrel_y"))  # nuScenes' own names, and those of TruckScenes


def radar_records(records: np.ndarray, sensor_velocity: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
    """Records for :func:`perception.data.cloud_kernels.radar_to_ego`, and whether their states are the radar's.

    Args:
        records: structured [N].
        sensor_velocity: gives the radar's own [3] over ground, in its axes, m/s; called where it is needed.

    Raises:
        ValueError: fields that do not tell where a return is and how fast.
    """
    if _has_all(records.dtype):
        return records, True
    names = _single(records.dtype)
    for name in ("x", "y", "z"):
        if name not in names:
            raise ValueError(f"a field {name} was expected, found {' '.join(names)}")
    found = np.zeros(len(records), dtype=_RECORD)  # always of this type: each new one would be compiled for
    for name in ("x", "y", "z"):
        found[name] = records[name]
    strength = next((name for name in _STRENGTH if name in names), None)
    if strength is not None:
        found["rcs"] = records[strength]
    found["vx_comp"], found["vy_comp"] = _over_ground(records, names, sensor_velocity).T
    return found, False


@lru_cache  # asked for every file
def _has_all(dtype: np.dtype) -> bool:
    return set(USED) <= set(_single(dtype))


def _single(dtype: np.dtype) -> list[str]:
    """The fields of single numbers; others hold several."""
    return [name for name in dtype.names or () if dtype[name].shape == ()]


def _over_ground(records: np.ndarray, names: list[str], sensor_velocity: Callable[[], np.ndarray]) -> np.ndarray:
    """float64 [N, 2]: vx, vy along the line of sight."""
    if {"vx_comp", "vy_comp"} <= set(names):
        return structured_to_unstructured(records[["vx_comp", "vy_comp"]], dtype=np.float64).reshape(-1, 2)
    position = structured_to_unstructured(records[["x", "y", "z"]], dtype=np.float64).reshape(-1, 3)
    direction = position / np.maximum(np.linalg.norm(position, axis=1, keepdims=True), 1e-6)
    radial = next((name for name in _RADIAL if name in names), None)
    relative = next((pair for pair in _RELATIVE if set(pair) <= set(names)), None)
    if radial is not None:
        speed = records[radial].astype(np.float64)
    elif relative is not None:  # along the line of sight, or in full, of which what is along the line is the same
        speed = sum(records[name].astype(np.float64) * direction[:, axis] for axis, name in enumerate(relative))
    else:
        raise ValueError(f"a field of a radar's speed was expected, such as {_RADIAL[0]}, found {' '.join(names)}")
    return (speed + direction @ sensor_velocity())[:, None] * direction[:, :2]
