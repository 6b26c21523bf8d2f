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

# Layers of height, metres: branches may hang over cars, arms of lamps over everything.
_LAYERS_M = ((-np.inf, 2.5), (2.5, 4.6))


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

    def free(self, place: np.ndarray, above: float = 0.0) -> bool:
        """Whether a footprint [5] meets nobody taller than ``above`` metres and, at the ground, no carriageway."""
        return (above > 0.0 or not overlap(self.roads, place).any()) and self.occupied.free(place, above)

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
        """Put a mesh there, turned by ``turn`` radians, if there is room for it."""
        xy, yaw = self.at(s, depth)
        yaw += turn
        if self.closed(s) or not all(self._fits(mesh, xy, yaw, *layer) for layer in _LAYERS_M):
            return False
        self.clutter.parts.append(mesh.moved(xy[0], xy[1], self.step if depth < self.sidewalk else 0.0, yaw))
        if echo_dbsm is not None:
            self.clutter.reflectors.append(np.array([*xy, 0.8, echo_dbsm]))
        return True

    def _fits(self, mesh: Mesh, xy: np.ndarray, yaw: float, low: float, high: float) -> bool:
        """Whether what of the mesh is between two heights is clear of whatever reaches that high."""
        inside = (mesh.vertices[:, 2] >= low) & (mesh.vertices[:, 2] < high)
        if not inside.any():
            return True
        outline = mesh.vertices[inside, :2]
        middle, size = 0.5 * (outline.max(axis=0) + outline.min(axis=0)), np.ptp(outline, axis=0)
        cos, sin = np.cos(yaw), np.sin(yaw)
        center = xy + [cos * middle[0] - sin * middle[1], sin * middle[0] + cos * middle[1]]
        return self.clutter.free(np.array([*center, yaw, *size]), low)

    def is_built(self, s: float, depth: float, margin: float = 0.5) -> bool:
        """Whether a building stands there."""
        xy, _ = self.at(s, depth)
        return self.clutter.meets_building(np.array([*xy, 0.0, margin, margin]))
