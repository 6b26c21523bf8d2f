"""Coloured triangle meshes and the solids that every shape of the simulator is built from.

Metres; x forward, y left, z up. Colours are display RGB in [0, 1]. Triangles are listed counter-clockwise seen from
outside, but nothing relies on it: the sensors flip every normal towards the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np

Color = tuple[float, float, float]


class Material(IntEnum):
    """What a surface is made of: decides its texture in the camera and its reflectivity in the LiDAR."""

    MATTE = 0
    PAINT = 1
    GLASS = 2
    RUBBER = 3
    ASPHALT = 4
    CONCRETE = 5
    GRASS = 6
    FACADE = 7
    FOLIAGE = 8
    HEADLIGHT = 9
    TAILLIGHT = 10
    RETRO = 11
    MARKING = 12
    LAMP = 13


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with a colour and a material each.

    Args:
        vertices: [V, 3] float64 metres.
        triangles: [T, 3] int64 indices into the vertices.
        color: [T, 3] float64 display RGB in [0, 1].
        material: [T] uint8, see :class:`Material`.
        swing: [V] float64, amplitude in radians with which a vertex swings about the y axis through its pivot (limbs).
        pivot_z: [V] float64 metres, height of that pivot above the ground.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    color: np.ndarray
    material: np.ndarray
    swing: np.ndarray
    pivot_z: np.ndarray

    @classmethod
    def build(cls, vertices, triangles, color: Color, material: Material) -> Mesh:
        """One part of one colour and material that does not swing."""
        vertices, triangles = (
            np.asarray(vertices, dtype=np.float64),
            np.asarray(triangles, dtype=np.int64).reshape(-1, 3),
        )
        count = len(triangles)
        return cls(
            vertices,
            triangles,
            np.tile(np.asarray(color, dtype=np.float64), (count, 1)),
            np.full(count, material, dtype=np.uint8),
            np.zeros(len(vertices)),
            np.zeros(len(vertices)),
        )

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> Mesh:
        """The same mesh rotated by ``yaw`` radians about the z axis, then shifted by metres."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        vertices = self.vertices @ rotation.T + np.array([x, y, z])
        return Mesh(vertices, self.triangles, self.color, self.material, self.swing, self.pivot_z + z)

    def swinging(self, amplitude: float, pivot_z: float) -> Mesh:
        """The same mesh as a limb: every vertex swings by ``amplitude`` radians about the height ``pivot_z``."""
        count = len(self.vertices)
        return Mesh(
            self.vertices, self.triangles, self.color, self.material, np.full(count, amplitude), np.full(count, pivot_z)
        )

    def posed(self, phase) -> np.ndarray:
        """Vertices [V, 3] with every limb at ``sin(phase)`` times its amplitude; ``phase`` is one or [V]."""
        if not self.swing.any():
            return self.vertices
        angle = self.swing * np.sin(phase)
        cos, sin = np.cos(angle), np.sin(angle)
        x, z = self.vertices[:, 0], self.vertices[:, 2] - self.pivot_z
        return np.stack([cos * x + sin * z, self.vertices[:, 1], cos * z - sin * x + self.pivot_z], axis=1)


def merge(parts: list[Mesh]) -> Mesh:
    """One mesh of many parts."""
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.color for part in parts]),
        np.concatenate([part.material for part in parts]),
        np.concatenate([part.swing for part in parts]),
        np.concatenate([part.pivot_z for part in parts]),
    )


_BOX_FACES = [
    [0, 2, 1],
    [0, 3, 2],
    [4, 5, 6],
    [4, 6, 7],
    [0, 1, 5],
    [0, 5, 4],
    [1, 2, 6],
    [1, 6, 5],
    [2, 3, 7],
    [2, 7, 6],
    [3, 0, 4],
    [3, 4, 7],
]


def hexahedron(bottom, top, color: Color, material: Material = Material.MATTE) -> Mesh:
    """Between a bottom and a top quadrilateral, each [4, 3] counter-clockwise seen from above."""
    return Mesh.build(np.concatenate([np.asarray(bottom, float), np.asarray(top, float)]), _BOX_FACES, color, material)


def box(center, size, color: Color, material: Material = Material.MATTE, taper: float = 1.0) -> Mesh:
    """Axis-aligned block; ``taper`` scales the top face."""
    center, half = np.asarray(center, float), 0.5 * np.asarray(size, float)
    square = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)
    bottom = np.column_stack([square * half[:2], np.full(4, -half[2])]) + center
    top = np.column_stack([square * half[:2] * taper, np.full(4, half[2])]) + center
    return hexahedron(bottom, top, color, material)


def frustum(x_bottom, x_top, y_bottom: float, y_top: float, z, color: Color, material: Material) -> Mesh:
    """Symmetric about y: ``x_*`` and ``z`` are (low, high) pairs, ``y_*`` half widths. Cabins and wind screens."""
    (a, b), (c, d), (low, high) = x_bottom, x_top, z
    bottom = [[b, y_bottom, low], [a, y_bottom, low], [a, -y_bottom, low], [b, -y_bottom, low]]
    top = [[d, y_top, high], [c, y_top, high], [c, -y_top, high], [d, -y_top, high]]
    return hexahedron(bottom, top, color, material)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """numpy's for two vectors [3], without its overhead: a scene has thousands of tubes."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def tube(
    start, end, radius: float, color: Color, material: Material = Material.MATTE, sides: int = 6, end_radius=None
) -> Mesh:
    """Closed cylinder or cone between two points."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    u = _cross(axis, helper)
    u /= np.linalg.norm(u)
    v = _cross(axis, u)
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
    end_radius = radius if end_radius is None else end_radius
    vertices = np.concatenate([start + radius * ring, end + end_radius * ring, [start, end]])
    return Mesh.build(vertices, _tube_faces(sides), color, material)


@cache
def _tube_faces(sides: int) -> np.ndarray:
    """[4 * sides, 3] the mantle's triangles, then those of both ends; the ends' middles are the last two vertices."""
    i, j = np.arange(sides), (np.arange(sides) + 1) % sides
    low, high = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
    return np.concatenate(
        [
            np.stack([i, j, j + sides], 1),
            np.stack([i, j + sides, i + sides], 1),
            np.stack([j, i, low], 1),
            np.stack([i + sides, j + sides, high], 1),
        ]
    )


def prism(profile, y: tuple[float, float], color: Color, material: Material) -> Mesh:
    """A convex (x, z) outline drawn out along y from ``y[0]`` to ``y[1]``."""
    profile = np.asarray(profile, float)
    count = len(profile)
    sides = [np.column_stack([profile[:, 0], np.full(count, value), profile[:, 1]]) for value in y]
    i, j = np.arange(count), (np.arange(count) + 1) % count
    fan = np.stack([np.zeros(count - 2, int), np.arange(1, count - 1), np.arange(2, count)], 1)
    triangles = np.concatenate(
        [fan, fan[:, ::-1] + count, np.stack([i, i + count, j + count], 1), np.stack([i, j + count, j], 1)]
    )
    return Mesh.build(np.concatenate(sides), triangles, color, material)


def wheel(x: float, y: float, radius: float, width: float) -> Mesh:
    """A tyre with a bright hub, its axle along y at height ``radius``."""
    outer = y + np.sign(y) * 0.5 * width
    inner = y - np.sign(y) * 0.5 * width
    tyre = tube([x, inner, radius], [x, outer, radius], radius, (0.06, 0.06, 0.07), Material.RUBBER, 12)
    hub = tube(
        [x, y, radius], [x, outer + np.sign(y) * 0.01, radius], 0.55 * radius, (0.6, 0.6, 0.62), Material.PAINT, 8
    )
    return merge([tyre, hub])


def ball(
    center, radius, color: Color, material: Material, rng: np.random.Generator | None = None, rings: int = 5
) -> Mesh:
    """An ellipsoid with half axes ``radius`` [3]; with ``rng`` a lumpy one (tree crowns)."""
    sides = 2 * rings
    polar = np.pi * np.arange(1, rings) / rings
    angle = 2 * np.pi * np.arange(sides) / sides
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.sin(polar)[:, None] * np.sin(angle),
            np.tile(np.cos(polar)[:, None], sides),
        ],
        axis=-1,
    ).reshape(-1, 3)
    unit = np.concatenate([unit, [[0, 0, 1], [0, 0, -1]]])
    if rng is not None:
        unit = unit * rng.uniform(0.75, 1.15, (len(unit), 1))
    row, column = np.meshgrid(np.arange(rings - 2), np.arange(sides), indexing="ij")
    a, b = row * sides + column, row * sides + (column + 1) % sides
    quads = [np.stack([a, a + sides, b + sides], -1).reshape(-1, 3), np.stack([a, b + sides, b], -1).reshape(-1, 3)]
    i, j = np.arange(sides), (np.arange(sides) + 1) % sides
    top, last = len(unit) - 2, (rings - 2) * sides
    caps = [np.stack([np.full(sides, top), i, j], 1), np.stack([np.full(sides, top + 1), last + j, last + i], 1)]
    return Mesh.build(np.asarray(center) + unit * np.asarray(radius), np.concatenate(quads + caps), color, material)


def ribbon(left: np.ndarray, right: np.ndarray, color: Color, material: Material) -> Mesh:
    """A strip between two polylines [N, 3] of equal length: roads, kerbs, markings."""
    count = len(left)
    i = np.arange(count - 1)
    triangles = np.concatenate([np.stack([i, i + 1, i + count + 1], 1), np.stack([i, i + count + 1, i + count], 1)])
    return Mesh.build(np.concatenate([left, right]), triangles, color, material)
