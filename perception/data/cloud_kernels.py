"""One pass over the points of a sweep: filter, transform, add the age. Compiled on first use and cached on disk.

Numbers are float64 until they are stored: positions in the world reach kilometres. A point with a number that is not
finite, or that its field cannot have (``perception.sample.LIMITS``), is dropped: one of 1e30 would empty the frame.
"""

from __future__ import annotations

import numpy as np

from perception.ops.compiled import compiled
from perception.sample import LIMITS

_MOST_M, _MOST_INTENSITY = LIMITS["x"], LIMITS["intensity"]
_MOST_RCS_DBSM, _MOST_MPS = LIMITS["rcs_dbsm"], LIMITS["vx"]
_BLOCK = 128  # points whose columns stay in the fastest cache; loops over columns become vector instructions


@compiled
def lidar_to_ego(
    points: np.ndarray,
    ego_T_sensor: np.ndarray,
    age_s: float,
    min_distance_m: float,
    all_rings: bool,
    ring_kept: np.ndarray,
) -> tuple[int, int, int]:
    """Convert the points of one LiDAR sweep to those of a LidarCloud, in place; those that are kept move to the front.

    Args:
        points: float32 [N, 5] as x, y, z (sensor frame), intensity, ring; becomes x, y, z (ego frame), intensity, age.
        ego_T_sensor: float64 [4, 4].
        min_distance_m: points closer in both x and y are dropped: a square, not a circle (devkit: remove_close).
        all_rings: keep the points of all rings, else of those for which ``ring_kept`` (bool [R]) holds.

    Returns:
        How many points are kept, and how many were dropped because a number is not finite, or out of range.
    """
    kept = not_finite = out_of_range = 0
    age = np.float32(age_s)
    x, y = np.empty(_BLOCK, dtype=np.float32), np.empty(_BLOCK, dtype=np.float32)
    z, intensity = np.empty(_BLOCK, dtype=np.float32), np.empty(_BLOCK, dtype=np.float32)
    for first in range(0, len(points), _BLOCK):
        block = points[first : first + _BLOCK]
        count = 0
        for i in range(len(block)):
            px, py = block[i, 0], block[i, 1]
            x[count], y[count], z[count], intensity[count] = px, py, block[i, 2], block[i, 3]
            near = (abs(px) < min_distance_m) & (abs(py) < min_distance_m)
            count += (not near) & (all_rings or _is_kept(block[i, 4], ring_kept))
        for i in range(count):
            x[i], y[i], z[i] = _moved(ego_T_sensor, np.float64(x[i]), np.float64(y[i]), np.float64(z[i]))
        possible, infinite = _possible_first(x, y, z, intensity, count)
        block = points[kept : kept + possible]
        for i in range(possible):
            block[i, 0], block[i, 1], block[i, 2], block[i, 3], block[i, 4] = x[i], y[i], z[i], intensity[i], age
        kept += possible
        not_finite += infinite
        out_of_range += count - possible - infinite
    return kept, not_finite, out_of_range


@compiled
def radar_to_ego(
    records: np.ndarray,
    ego_T_sensor: np.ndarray,
    age_s: float,
    min_distance_m: float,
    filtered: bool,
    out: np.ndarray,
) -> tuple[int, int, int]:
    """Write the returns of one radar sweep as points of a RadarCloud.

    Args:
        records: structured [N] with at least x, y, z, rcs, vx_comp, vy_comp and the three states, of any number types.
        ego_T_sensor, min_distance_m: see :func:`lidar_to_ego`.
        filtered: keep what the devkit keeps by default: valid, any dynamic property but "stopped", unambiguous.
        out: float32 [>= N, 7]: x, y, z, rcs, vx, vy, age.

    Returns:
        How many points are written, and how many were dropped because a number is not finite, or out of range.
    """
    kept = not_finite = out_of_range = 0
    for i in range(len(records)):
        p = records[i]
        if filtered and not (p.invalid_state == 0 and 0 <= p.dyn_prop <= 6 and p.ambig_state == 3):
            continue
        x, y, z = np.float64(p.x), np.float64(p.y), np.float64(p.z)
        if abs(x) < min_distance_m and abs(y) < min_distance_m:
            continue
        vx, vy = np.float64(p.vx_comp), np.float64(p.vy_comp)
        out[kept, 0], out[kept, 1], out[kept, 2] = _moved(ego_T_sensor, x, y, z)
        out[kept, 3] = p.rcs
        out[kept, 4] = ego_T_sensor[0, 0] * vx + ego_T_sensor[0, 1] * vy
        out[kept, 5] = ego_T_sensor[1, 0] * vx + ego_T_sensor[1, 1] * vy
        out[kept, 6] = age_s
        if not np.isfinite(out[kept]).all():
            not_finite += 1
        elif _is_possible(out[kept]):
            kept += 1
        else:
            out_of_range += 1
    return kept, not_finite, out_of_range


@compiled(inline="always")
def _moved(
    transform: np.ndarray, x: np.float64, y: np.float64, z: np.float64
) -> tuple[np.float32, np.float32, np.float32]:
    """A point under a transform [4, 4]."""
    return (
        np.float32(transform[0, 0] * x + transform[0, 1] * y + transform[0, 2] * z + transform[0, 3]),
        np.float32(transform[1, 0] * x + transform[1, 1] * y + transform[1, 2] * z + transform[1, 3]),
        np.float32(transform[2, 0] * x + transform[2, 1] * y + transform[2, 2] * z + transform[2, 3]),
    )


@compiled(inline="always")
def _is_kept(ring: float, ring_kept: np.ndarray) -> bool:
    return 0 <= ring < len(ring_kept) and ring == int(ring) and ring_kept[int(ring)]


@compiled
def _possible_first(x: np.ndarray, y: np.ndarray, z: np.ndarray, intensity: np.ndarray, count: int) -> tuple[int, int]:
    """Moves the possible ones of the first ``count`` points to the front; how many they are, and how many infinite."""
    broken = 0
    for i in range(count):
        near = (abs(x[i]) <= _MOST_M) & (abs(y[i]) <= _MOST_M) & (abs(z[i]) <= _MOST_M)
        broken += not (near & (abs(intensity[i]) <= _MOST_INTENSITY))  # NaN too
    if broken == 0:
        return count, 0
    kept = infinite = 0
    for i in range(count):
        total = np.float64(x[i]) + y[i] + z[i] + intensity[i]  # of float32, so it cannot overflow by itself
        near = (abs(x[i]) <= _MOST_M) & (abs(y[i]) <= _MOST_M) & (abs(z[i]) <= _MOST_M)
        possible = near & (abs(intensity[i]) <= _MOST_INTENSITY)
        x[kept], y[kept], z[kept], intensity[kept] = x[i], y[i], z[i], intensity[i]
        kept += possible
        infinite += total - total != 0
    return kept, infinite


@compiled(inline="always")
def _is_possible(point: np.ndarray) -> bool:
    """Whether a radar's point has no number out of range."""
    near = max(abs(point[0]), abs(point[1]), abs(point[2])) <= _MOST_M
    return near and abs(point[3]) <= _MOST_RCS_DBSM and max(abs(point[4]), abs(point[5])) <= _MOST_MPS
