"""Beside the road: where clutter stands, behind one kerb of the main road or of the side road.

A place on a verge is (s, depth): metres along the road and metres from the kerb outwards. What is put there faces the
road, stays off the ground that annotated objects take up, and may echo to the radars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perception.sim.footprints import Occupied, overlap
from perception.sim.mesh import Mesh

_HEADROOM_M = 2.6  # what is higher than this is nobody's obstacle: branches, arms of lamps


@dataclass(eq=False)
class Clutter:
    """What has been put into a scene: meshes, lamp heads [3] and radar reflectors [4], see ``scenery.Scenery``.

    Args:
        occupied: where annotated objects are.
        roads: [N, 5] footprints that cover the carriageways.
    """

    occupied: Occupied
    roads: np.ndarray
    built: list[np.ndarray] = field(default_factory=list)  # footprints of buildings
    parts: list[Mesh] = field(default_factory=list)
    lamps: list[np.ndarray] = field(default_factory=list)
    reflectors: list[np.ndarray] = field(default_factory=list)

    def free(self, place: np.ndarray) -> bool:
        """Whether a footprint [5] is on no carriageway and nobody's place."""
        return not overlap(self.roads, place).any() and self.occupied.free(place)

    def meets_building(self, place: np.ndarray) -> bool:
        """Whether a footprint [5] overlaps a building's."""
        return bool(self.built) and bool(overlap(np.array(self.built), place).any())


@dataclass(frozen=True, eq=False)
class Verge:
    """Args:
    pose: (s, offset to the left) to world xy and the road's heading there.
    side: +1 left of the road, -1 right.
    kerb: metres from the road's centre line to the kerb.
    low, high: the stretch to be furnished, metres along the road.
    sidewalk: its width, metres; 0 for none.
    step: height of the sidewalk, metres.
    closed: whether nothing may stand at s.
    clutter: where it all goes.
    """

    pose: Callable
    side: int
    kerb: float
    low: float
    high: float
    sidewalk: float
    step: float
    closed: Callable[[float], bool]
    clutter: Clutter

    def at(self, s: float, depth: float) -> tuple[np.ndarray, float]:
        """World xy [2], and the yaw that makes something whose front is at -y face the road."""
        xy, heading = self.pose(s, self.side * (self.kerb + depth))
        return xy, float(heading) + (0.0 if self.side > 0 else np.pi)

    def put(self, mesh: Mesh, s: float, depth: float, turn: float = 0.0, echo_dbsm: float | None = None) -> bool:
        """Put a mesh there, turned by ``turn`` radians, if there is room for what of it is below head height."""
        xy, yaw = self.at(s, depth)
        low = mesh.vertices[mesh.vertices[:, 2] < _HEADROOM_M, :2]
        middle, size = 0.5 * (low.max(axis=0) + low.min(axis=0)), np.ptp(low, axis=0)
        yaw += turn
        cos, sin = np.cos(yaw), np.sin(yaw)
        place = np.array(
            [xy[0] + cos * middle[0] - sin * middle[1], xy[1] + sin * middle[0] + cos * middle[1], yaw, *size]
        )
        if self.closed(s) or not self.clutter.free(place):
            return False
        self.clutter.parts.append(mesh.moved(xy[0], xy[1], self.step if depth < self.sidewalk else 0.0, yaw))
        if echo_dbsm is not None:
            self.clutter.reflectors.append(np.array([*xy, 0.8, echo_dbsm]))
        return True

    def is_built(self, s: float, depth: float, margin: float = 0.5) -> bool:
        """Whether a building stands there."""
        xy, _ = self.at(s, depth)
        return self.clutter.meets_building(np.array([*xy, 0.0, margin, margin]))
