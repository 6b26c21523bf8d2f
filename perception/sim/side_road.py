"""The side road of a street: wider than its lanes by strips for parked cars, and at an angle to the main road."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.sim.road import Layout, Path

SIDE_PARKING_M = 2.6  # strip for parked cars on either side
_SEARCHED_M = 45.0


def side_road_edges(path: Path, layout: Layout, offset: float, margin: float = 0.0) -> tuple[float, float]:
    """Arc lengths of the main road at which its line ``offset`` metres to the left comes within ``margin`` metres of
    the side road, and leaves it."""
    s = layout.cross_s + np.arange(-_SEARCHED_M, _SEARCHED_M, 0.25)
    center, heading = path.pose(layout.cross_s)
    yaw, half = float(heading) + layout.cross_angle, layout.cross_half_width + SIDE_PARKING_M + margin
    across = (path.pose(s, offset)[0] - center) @ [np.sin(yaw), -np.cos(yaw)]
    low, high = np.interp([-half, half], across, s).tolist()
    return low, high


def with_room(path: Path, layout: Layout) -> Layout:
    """The layout with as much room around the crossing as the side road takes up to the houses."""
    edges = np.array([side_road_edges(path, layout, side * layout.house_line) for side in (-1, 1)])
    return replace(layout, cross_room=float(np.abs(edges - layout.cross_s).max()) - layout.cross_half_width)
