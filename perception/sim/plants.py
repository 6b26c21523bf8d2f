"""Trees, bushes, hedges and grass of many single leaves: a ray may pass between them, so echoes come from every depth.

Every function draws one random example standing on z = 0. A leaf is one triangle and stands for a twig of leaves.
"""

from __future__ import annotations

import numpy as np

from perception.sim.mesh import Color, Material, Mesh, merge, tube

_BARK: Color = (0.32, 0.25, 0.18)


def green(rng: np.random.Generator) -> np.ndarray:
    """Mostly green; now and then the red or yellow of autumn."""
    if rng.random() < 0.12:
        return np.array([rng.uniform(0.4, 0.6), rng.uniform(0.25, 0.4), 0.1])
    return np.array([rng.uniform(0.14, 0.34), rng.uniform(0.28, 0.46), rng.uniform(0.08, 0.2)])


def _leaves(rng: np.random.Generator, places: np.ndarray, size: float, tint: np.ndarray) -> Mesh:
    """One triangle of about ``size`` metres at each of places [N, 3], turned at random, lit differently."""
    count = len(places)
    corners = places[:, None] + rng.normal(0, 0.55 * size, (count, 3, 3))
    corners[..., 2] = np.maximum(corners[..., 2], 0.0)
    mesh = Mesh.build(corners.reshape(-1, 3), np.arange(3 * count), (0.0, 0.0, 0.0), Material.FOLIAGE)
    mesh.color[:] = np.clip(tint * rng.uniform(0.6, 1.3, (count, 1)), 0, 1)
    return mesh


def _clumps(rng: np.random.Generator, count: int, clumps: int, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clump centres [C, 3] and leaves [N, 3] around them, in an ellipsoid of half axes ``half``."""
    ray = rng.normal(size=(clumps, 3))
    centers = ray / np.linalg.norm(ray, axis=1, keepdims=True) * rng.uniform(0.25, 0.8, (clumps, 1))
    leaves = centers[rng.integers(clumps, size=count)] + rng.normal(0, 0.2, (count, 3))
    return centers * half, leaves * half


def tree(rng: np.random.Generator, height: float | None = None) -> Mesh:
    """A broad-leaved tree or a conifer, ``height`` metres tall."""
    height = rng.uniform(4.5, 10.0) if height is None else height
    tint = green(rng)
    count = int(np.clip(130 * height, 500, 1200))
    if rng.random() < 0.2:
        low, spread = 0.12 * height, rng.uniform(0.16, 0.24) * height
        up = 1 - np.sqrt(rng.random(count))
        radius, angle = spread * (1 - up) * np.sqrt(rng.uniform(0.15, 1.0, count)), rng.uniform(0, 2 * np.pi, count)
        places = np.stack([radius * np.cos(angle), radius * np.sin(angle), low + up * (height - low)], 1)
        trunk = tube([0, 0, 0], [0, 0, 0.9 * height], 0.018 * height, _BARK, Material.MATTE, 5, 0.02)
        return merge([trunk, _leaves(rng, places, 0.24, tint * [0.8, 0.85, 0.9])])
    crown = rng.uniform(0.5, 0.66) * height
    half = np.array([1.0, 1.0, 0.0]) * rng.uniform(0.26, 0.42) * height + [0.0, 0.0, 0.5 * crown]
    middle = np.array([0.0, 0.0, height - 0.5 * crown])
    centers, places = _clumps(rng, count, int(rng.integers(7, 14)), half)
    fork = np.array([*rng.normal(0, 0.08, 2), height - 0.8 * crown])
    wood = [tube([0, 0, 0], fork, 0.02 * height, _BARK, Material.MATTE, 6, 0.014 * height)]
    wood += [tube(fork, middle + end, 0.035, _BARK, Material.MATTE, 3, 0.01) for end in centers[:6]]
    return merge([*wood, _leaves(rng, places + middle, 0.26, tint)])


def bush(rng: np.random.Generator) -> Mesh:
    """From knee-high to taller than a person."""
    half = np.array([rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.0), rng.uniform(0.25, 0.95)])
    count = int(70 + 130 * half.mean() ** 2 * 2)
    _, places = _clumps(rng, count, int(rng.integers(4, 9)), half)
    return _leaves(rng, places + [0.0, 0.0, half[2]], 0.2, green(rng))


def hedge(rng: np.random.Generator, length: float, height: float, tint: np.ndarray) -> Mesh:
    """A piece of ``length`` metres along x, 0.5 to 0.9 m thick, with thin places."""
    thick = rng.uniform(0.5, 0.9)
    count = int(130 * length * height * rng.uniform(0.6, 1.1))
    places = rng.uniform([-0.5 * length, -0.5 * thick, 0.05], [0.5 * length, 0.5 * thick, height], (count, 3))
    return _leaves(rng, places, 0.17, tint)


def grass(rng: np.random.Generator) -> Mesh:
    """A tuft of upright blades."""
    count, height = 24, rng.uniform(0.2, 0.7)
    foot = np.column_stack([rng.normal(0, 0.22, (count, 2)), np.zeros(count)])
    tip = foot + np.column_stack([rng.normal(0, 0.14, (count, 2)), height * rng.uniform(0.5, 1.0, count)])
    side = np.column_stack([rng.normal(0, 0.03, (count, 2)), np.zeros(count)])
    corners = np.stack([foot - side, foot + side, tip], 1).reshape(-1, 3)
    blade = np.array([rng.uniform(0.3, 0.5), rng.uniform(0.38, 0.5), 0.2])
    mesh = Mesh.build(corners, np.arange(3 * count), (0.0, 0.0, 0.0), Material.FOLIAGE)
    mesh.color[:] = np.clip(blade * rng.uniform(0.7, 1.2, (count, 1)), 0, 1)
    return mesh
