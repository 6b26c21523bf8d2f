"""What surfaces of the street look like close by: grain, stains, bricks, leaves, panels, clothes; compiled with numba.

Everything is procedural noise: that of scenery is fixed to the world, that of objects to the object. Details fade with
distance before they become smaller than a pixel.
"""

from __future__ import annotations

import math

import numpy as np

from perception.ops.compiled import compiled
from perception.sim.shading import hash_01, value_noise

_MATTE, _PAINT, _GLASS, _RUBBER, _ASPHALT, _CONCRETE, _GRASS, _FACADE, _FOLIAGE = range(9)
_MARKING = 12


@compiled
def _ground(kind, x, y, t):
    """Asphalt, concrete, grass and markings seen from above: patches, grain, cracks, wear."""
    near, middle = math.exp(-t / 9.0), math.exp(-t / 30.0)
    patch = value_noise(0.11 * x + 7, 0.11 * y, 31) + 0.5 * value_noise(0.6 * x, 0.6 * y, 32) - 0.75
    grain = near * (value_noise(45 * x, 45 * y, 33) - 0.5) + middle * (value_noise(6 * x, 6 * y, 34) - 0.5)
    if kind == _GRASS:
        return 0.85 + 0.5 * patch + 0.7 * grain
    if kind == _MARKING:  # worn off in places
        return 1.0 - 0.55 * max(value_noise(1.7 * x, 1.7 * y, 35) - 0.45, 0.0) * 2 + 0.2 * grain
    crack = abs(value_noise(0.45 * x + 3, 0.45 * y, 36) - 0.5)
    dark = 0.35 * middle if crack < 0.006 + 0.0004 * t else 0.0
    bleached = 1.6 if kind == _ASPHALT else 1.1
    return bleached * (1.0 + 0.35 * patch + 0.4 * grain - dark)


@compiled
def _wall(along, z, t):
    """Rows of bricks that differ, and stains that run down."""
    near = math.exp(-t / 25.0)
    row = math.floor(z / 0.22)
    brick = math.floor(along / 0.5 + 0.5 * (row % 2))
    stain = value_noise(1.3 * along, 0.25 * z, 41) - 0.5
    return 0.95 + 0.3 * stain + near * 0.35 * (hash_01(int(brick), int(row), 42) - 0.5)


@compiled
def _leaves(x, y, z, t):
    """Clumps of leaves with dark gaps."""
    near = math.exp(-t / 25.0)
    clump = value_noise(2.2 * x + 1.3 * z, 2.2 * y + 1.7 * z, 51)
    leaf = value_noise(7 * x + 5 * z, 7 * y - 6 * z, 52) + 0.6 * near * (
        value_noise(19 * (x + z), 19 * (y - z), 54) - 0.5
    )
    gap = 0.25 if leaf < 0.36 else 1.0
    return gap * (0.3 + 1.1 * clump) * (0.7 + 0.9 * leaf)


@compiled
def _body(actor, along, u, v, w, facing, t):
    """Paint of a vehicle: dirt below, gaps between panels, a grille in front, a dark bumper behind.

    u, v: place along and across, -1 to 1; w: height, 0 to 1; along: u in metres; facing: the normal's share along u.
    """
    value = 0.8 + 0.3 * w - 0.4 * math.exp(-w / 0.15) * value_noise(2.5 * along + actor, 9 * w, 61)
    value += 0.12 * (value_noise(1.5 * along + 3.1 * actor, 4 * w, 62) - 0.5)
    if facing > 0.6 and abs(v) < 0.6 and 0.26 < w < 0.42:
        return 0.15
    if facing < -0.6 and w < 0.28:
        return 0.45 * value
    if abs(facing) < 0.3 and w > 0.2:
        gap = (along + 0.37 * (actor % 3)) % 1.15
        if gap < 0.012 + 0.0006 * t:
            return 0.45 * value
    return value


@compiled
def _clothes(actor, u, v, w, t):
    """Folds, and on some people stripes or checks."""
    value = 0.75 + 0.5 * value_noise(7 * w + actor, 3 * v + 2 * u, 71)
    style, near = hash_01(actor, 5, 72), math.exp(-t / 30.0)
    if 0.45 < w < 0.85 and style < 0.45:
        stripe = (w * 22) % 1.0 < 0.5
        if style < 0.15:
            stripe = stripe != ((v * 4) % 1.0 < 0.5)
        if stripe:
            value *= 1 - 0.6 * near
    return value


@compiled
def tints(distance, triangle, directions, starts, material, normals, instance, poses, half, heights):
    """float32 [P, 3]: what multiplies the colour of every pixel.

    The first six as in :func:`perception.sim.shading.shade`; instance [T] is the actor of a triangle, -1 for scenery;
    poses [A, 4] x, y, yaw and height of the ground, half [A, 3] half the size, heights [A] above the ground.
    """
    tint = np.ones((len(distance), 3), np.float32)
    for p in range(len(distance)):
        index = triangle[p]
        if index < 0:
            continue
        t, kind, actor = distance[p], material[index], instance[index]
        dx, dy, dz = directions[p, 0], directions[p, 1], directions[p, 2]
        x, y, z = starts[p, 0] + t * dx, starts[p, 1] + t * dy, starts[p, 2] + t * dz
        nx, ny, nz = normals[index, 0], normals[index, 1], normals[index, 2]
        if dx * nx + dy * ny + dz * nz > 0:
            nx, ny, nz = -nx, -ny, -nz
        value, warm = 1.0, 0.0
        if actor >= 0:
            cos, sin = math.cos(poses[actor, 2]), math.sin(poses[actor, 2])
            east, north = x - poses[actor, 0], y - poses[actor, 1]
            along, across = cos * east + sin * north, cos * north - sin * east
            u, v = along / half[actor, 0], across / half[actor, 1]
            w = (z - heights[actor] - poses[actor, 3]) / (2 * half[actor, 2])
            if kind == _PAINT:
                value = _body(actor, along, u, v, w, cos * nx + sin * ny, t)
                warm = 0.1 * math.exp(-w / 0.15)
            elif kind == _MATTE:
                value = _clothes(actor, u, v, w, t)
            elif kind == _CONCRETE or kind == _RUBBER:
                value = 0.7 + 0.6 * value_noise(2.5 * along + actor, 2.5 * (z + across), 73)
        elif kind == _FOLIAGE:
            value = _leaves(x, y, z, t)
            warm = 0.3 * (value_noise(0.3 * x, 0.3 * y, 53) - 0.5)
        elif abs(nz) > 0.6 and (kind == _ASPHALT or kind == _CONCRETE or kind == _GRASS or kind == _MARKING):
            value = _ground(kind, x, y, t)
            warm = 0.1 * (value_noise(0.09 * x, 0.09 * y, 37) - 0.5)
        elif kind == _FACADE or kind == _CONCRETE:
            value = _wall(nx * y - ny * x, z, t)
        elif kind == _MATTE or kind == _PAINT:
            value = 0.85 + 0.3 * value_noise(1.5 * (x + y), 1.5 * z, 43)
        value = max(value, 0.05)
        tint[p, 0], tint[p, 1], tint[p, 2] = value * (1 + warm), value, value * (1 - warm)
    return tint
