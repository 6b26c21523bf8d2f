"""Recorded clouds, whatever their sensor calls its fields, as the columns that the package works on.

LiDAR   Velodyne, Ouster, Hesai, Robosense, Livox and Autoware drivers differ in names, types and units of the same few
        things; they are known by name, and their units by their numbers (``units.py``).
Radar   Points as nuScenes has them keep their states, so that the filter of invalid returns works. Others are
        converted to velocities over ground: a Doppler speed is relative to the radar, so its own motion is added.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from perception.logs.messages import Cloud, LogError

# Names in small letters; those of a cloud may have capitals.
_INTENSITY = ("intensity", "i", "reflectivity", "reflectance")
_RING = ("ring", "channel", "laser_id", "line")
_TIME = ("time", "t", "timestamp", "time_stamp", "offset_time", "time_offset")
_RADIAL = ("doppler_velocity", "doppler", "radial_velocity", "radial_speed", "range_rate", "v_r", "vrad", "velocity")
_STRENGTH = ("rcs", "rcs_dbsm", "amplitude", "power", "snr", "intensity")
_STATES = ("invalid_state", "dyn_prop", "ambig_state")

_RADAR_NAMES = ("x", "y", "z", "rcs", "vx_comp", "vy_comp", *_STATES)
RADAR = np.dtype([(name, "i1" if name in _STATES else "<f4") for name in _RADAR_NAMES])

# A file may claim any number; what is not finite is dropped later, and counted.
_any_number: Callable = np.errstate(over="ignore", invalid="ignore")


@_any_number
def lidar_points(cloud: Cloud, intensity_max: float) -> np.ndarray:
    """float32 [N, 5], the caller's own: x, y, z (sensor frame, metres), intensity 0..255, ring; 0 where not recorded.

    Args:
        intensity_max: the recorded value that becomes 255.

    Raises:
        LogError: no x, y, z.
    """
    records = cloud.records
    names = _require(cloud, ("x", "y", "z"))
    intensity, ring = intensity_field(cloud), _first(records, _RING)
    names += filter(None, (intensity, ring))
    points = np.zeros((len(records), 5), dtype=np.float32)
    columns = [0, 1, 2] + [3] * (intensity is not None) + [4] * (ring is not None)
    for column, name in zip(columns, names):
        points[:, column] = records[name]
    if intensity is not None:
        if intensity_max != 255.0:
            points[:, 3] *= 255.0 / intensity_max
        np.clip(points[:, 3], 0, 255, out=points[:, 3])  # NaN stays, and is dropped with its point later
    return points


def intensity_field(cloud: Cloud) -> str | None:
    return _first(cloud.records, _INTENSITY)


def time_field(cloud: Cloud) -> str | None:
    """Of the time at which each point was measured."""
    return _first(cloud.records, _TIME)


@_any_number
def radar_records(cloud: Cloud, sensor_velocity: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
    """Records that :func:`perception.data.cloud_kernels.radar_to_ego` takes, and whether their states are the sensor's.

    Args:
        sensor_velocity: gives the radar's own [3] over ground, in its axes, m/s; called where it is needed.

    Raises:
        LogError: fields that tell neither where a return is nor how fast.
    """
    records = cloud.records
    names = _single(records)
    points = np.zeros(len(records), dtype=RADAR)  # always of this type: each new one would be compiled for
    if set(_RADAR_NAMES) <= set(names):
        for name in _RADAR_NAMES:
            points[name] = records[names[name]]
        return points, True
    position = _positions(cloud)
    points["x"], points["y"], points["z"] = position.T
    strength = _first(records, _STRENGTH)
    if strength is not None:
        points["rcs"] = records[strength]
    radial = _first(records, _RADIAL)
    if {"vx_comp", "vy_comp"} <= set(names):
        points["vx_comp"], points["vy_comp"] = records[names["vx_comp"]], records[names["vy_comp"]]
    elif radial is not None or {"vx", "vy"} <= set(names):  # both relative to the radar, as in nuScenes
        direction = position / np.maximum(np.linalg.norm(position, axis=1, keepdims=True), 1e-6)
        if radial is not None:
            speed = records[radial]
        else:  # some drivers say it along the line of sight, others in full: what is along the line is the same
            speed = records[names["vx"]] * direction[:, 0] + records[names["vy"]] * direction[:, 1]
        over_ground = (speed + direction @ sensor_velocity())[:, None] * direction
        points["vx_comp"], points["vy_comp"] = over_ground[:, 0], over_ground[:, 1]
    else:
        raise LogError(f"a field of a radar's speed was expected, such as {_RADIAL[0]}, found {_listed(records)}")
    return points, False


def _positions(cloud: Cloud) -> np.ndarray:
    """float64 [N, 3], x, y, z."""
    records, names = cloud.records, _single(cloud.records)
    if {"range", "azimuth"} <= set(names) and not {"x", "y"} <= set(names):
        scale = np.pi / 180 if is_in_degrees(cloud) else 1.0
        distance, azimuth = records[names["range"]].astype(np.float64), scale * records[names["azimuth"]]
        elevation = np.zeros(len(records))
        if "elevation" in names:  # NaN where a radar measures none
            elevation = scale * records[names["elevation"]].astype(np.float64)
            elevation = np.nan_to_num(elevation, posinf=np.inf, neginf=-np.inf)
        flat = distance * np.cos(elevation)
        return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=1)
    xyz = _require(cloud, ("x", "y", "z"))
    return structured_to_unstructured(records[xyz], dtype=np.float64).reshape(-1, 3)


@_any_number
def is_in_degrees(cloud: Cloud) -> bool:
    """Whether azimuths are: one is more than a full turn in radians. Among the returns of a scan there always is."""
    name = _single(cloud.records).get("azimuth")
    if name is None:
        return False
    azimuth = np.abs(cloud.records[name].astype(np.float64))
    return bool(((azimuth > 2 * np.pi + 1e-3) & (azimuth <= 360)).any())


def _first(records: np.ndarray, names: tuple[str, ...]) -> str | None:
    """The first of ``names`` that is a field of single numbers, as it is written there."""
    fields = _single(records)
    return next((fields[name] for name in names if name in fields), None)


def _single(records: np.ndarray) -> dict[str, str]:
    """The fields of single numbers, by their names in small letters; others hold several."""
    names = [name for name in records.dtype.names or () if records.dtype[name].shape == ()]
    return {name.lower(): name for name in names} | {name: name for name in names}


def _require(cloud: Cloud, names: tuple[str, ...]) -> list[str]:
    """``names`` as they are written in the cloud."""
    found = _single(cloud.records)
    missing = [name for name in names if name not in found]
    if missing:
        why = f" ({'; '.join(cloud.defects[:3])})" if cloud.defects else ""
        raise LogError(f"a field {missing[0]} was expected, found {_listed(cloud.records)}{why}")
    return [found[name] for name in names]


def _listed(records: np.ndarray) -> str:
    return " ".join(dict.fromkeys(_single(records).values())) or "none"
