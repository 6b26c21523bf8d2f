"""What the LiDAR sees of the vehicle that carries it: its roof and its bonnet, which hide what is below.

No beam meets the screen and the rear window. Measured from the sensor, since both are one rigid body, and as
wide and long as the shadow in nuScenes recordings.
"""

from __future__ import annotations

import numpy as np

from perception.sim.mesh import Mesh, hexahedron, merge

_PAINT = (0.85, 0.85, 0.85)
# (front, rear) end of the slab in metres ahead of the sensor, its height at both ends below the sensor, half width.
_SLABS = (
    ((0.8, -0.92), (-0.37, -0.35), 0.54),
    ((2.35, 1.5), (-1.08, -0.84), 0.62),
)
_THICKNESS_M = 0.05


def own_vehicle() -> Mesh:
    """Mesh about the LiDAR's place; x forward, y left, z up."""
    parts = []
    for (front, rear), (low_front, low_rear), half in _SLABS:
        corners = [(front, half, low_front), (rear, half, low_rear), (rear, -half, low_rear), (front, -half, low_front)]
        top = np.array(corners)
        parts.append(hexahedron(top - [0.0, 0.0, _THICKNESS_M], top, _PAINT))
    return merge(parts)
