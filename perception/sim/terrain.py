"""Gentle hills: the height of the ground, and the flat scenery laid over it.

Whoever draws a world draws it flat; :func:`draped` lays meshes over the terrain, and whatever stands on the ground
stands as high as the ground below its middle. Vehicles and objects stay upright, as their annotations are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from perception.sim.mesh import Mesh

STEEPEST = 0.04  # slope, metres a metre


@dataclass(frozen=True, eq=False)
class Terrain:
    """A sum of plane waves. Args: waves: [K, 4] amplitude in metres, wave vector x and y in rad/m, phase."""

    waves: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Terrain:
        """Three waves whose slopes together stay below :data:`STEEPEST`."""
        count = 3
        wave_number, direction = 2 * np.pi / rng.uniform(110, 260, count), rng.uniform(0, 2 * np.pi, count)
        slope = STEEPEST * rng.uniform(0.4, 1.0) * rng.dirichlet(np.full(count, 4.0))
        vector = wave_number * np.stack([np.cos(direction), np.sin(direction)])
        return cls(np.column_stack([slope / wave_number, *vector, rng.uniform(0, 2 * np.pi, count)]))

    def _phase(self, xy) -> np.ndarray:
        return np.asarray(xy, float) @ self.waves[:, 1:3].T + self.waves[:, 3]

    def height(self, xy) -> np.ndarray:
        """Metres [...] above the flat map at world xy [..., 2]."""
        return np.sin(self._phase(xy)) @ self.waves[:, 0]

    def pitch_and_roll(self, x: float, y: float, yaw: float) -> tuple[float, float]:
        """Radians, of a vehicle whose wheels follow the ground: nose down and left side up are positive."""
        slope = (np.cos(self._phase([x, y])) * self.waves[:, 0]) @ self.waves[:, 1:3]
        ahead, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        return float(-np.arctan(slope @ ahead)), float(np.arctan(slope @ left))


FLAT = Terrain(np.zeros((0, 4)))


def draped(mesh: Mesh, terrain: Terrain, longest_edge_m: float = np.inf) -> Mesh:
    """A mesh built on the flat map, on the terrain; longer edges are cut first, for plates that must follow it."""
    mesh = _cut(mesh, longest_edge_m)
    lift = terrain.height(mesh.vertices[:, :2])
    return replace(mesh, vertices=mesh.vertices + np.column_stack([np.zeros((len(lift), 2)), lift]))


def _cut(mesh: Mesh, longest_edge_m: float) -> Mesh:
    """Triangles halved at their longest edge, seen from above, until none is longer. For meshes that do not swing."""
    vertices, triangles, source = mesh.vertices, mesh.triangles, np.arange(len(mesh.triangles))
    while True:
        corners = vertices[triangles][..., :2]
        edges = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=-1)
        long = edges.max(axis=1) > longest_edge_m
        if not long.any():
            break
        first = edges[long].argmax(axis=1)[:, None]
        a, b, c = (np.take_along_axis(triangles[long], (first + i) % 3, 1)[:, 0] for i in range(3))
        # Neighbours halve a common edge at the same place, and share the new vertex.
        pairs, middle = np.unique(np.sort(np.stack([a, b], 1), axis=1), axis=0, return_inverse=True)
        middle = middle.reshape(-1) + len(vertices)
        vertices = np.concatenate([vertices, vertices[pairs].mean(axis=1)])
        halves = [np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)]
        triangles = np.concatenate([triangles[~long], *halves])
        source = np.concatenate([source[~long], source[long], source[long]])
    still = np.zeros(len(vertices))
    return Mesh(vertices, triangles, mesh.color[source], mesh.material[source], still, still)
