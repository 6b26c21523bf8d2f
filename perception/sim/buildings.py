"""Buildings with depth: recessed windows and doors, balconies, stairs, porches, awnings, pipes and scaffolding.

In its own frame a building's front lies in the plane y = 0 and faces -y; its length runs along x about the origin.
"""

from __future__ import annotations

import numpy as np

from perception.sim.mesh import Color, Material, Mesh, box, hexahedron, merge, prism, tube

_WALLS: list[Color] = [
    (0.55, 0.32, 0.25),
    (0.72, 0.68, 0.6),
    (0.5, 0.5, 0.52),
    (0.8, 0.77, 0.7),
    (0.42, 0.36, 0.33),
    (0.62, 0.5, 0.38),
    (0.36, 0.41, 0.46),
    (0.66, 0.6, 0.46),
]
_GLASS: Color = (0.07, 0.09, 0.11)
_FRAME: Color = (0.75, 0.74, 0.72)
_STONE: Color = (0.62, 0.61, 0.58)
_IRON: Color = (0.16, 0.17, 0.18)
_FLOOR_M = 3.1
_BURIED_M = 0.8  # walls reach below the map: the ground falls away along them


def building(rng: np.random.Generator, length: float, depth: float, height: float) -> Mesh:
    """One house, office or shop."""
    wall = np.clip(np.array(_WALLS[rng.integers(len(_WALLS))]) * rng.uniform(0.85, 1.15), 0, 1)
    color: Color = (float(wall[0]), float(wall[1]), float(wall[2]))
    recess, tall = rng.uniform(0.15, 0.45), height + _BURIED_M
    parts = [
        box([0, recess + 0.5 * depth, 0.5 * tall - _BURIED_M], [length, depth, tall], color, Material.FACADE),
        *_front(rng, length, height, recess, color),
        *_roof(rng, length, depth + recess, height, color),
    ]
    if rng.random() < 0.1:
        parts += _scaffolding(length, height)
    return merge(parts)


def _front(rng: np.random.Generator, length: float, height: float, recess: float, color: Color) -> list[Mesh]:
    """A grid of piers and bands before panes of glass, and what hangs on it."""
    bays, floors = max(int(length / rng.uniform(2.4, 3.6)), 2), max(round(height / _FLOOR_M), 1)
    edges, story = np.linspace(-0.5 * length, 0.5 * length, bays + 1), height / floors
    pier, sill, band = rng.uniform(0.5, 1.3), rng.uniform(0.6, 1.0), rng.uniform(0.3, 0.6)
    door = int(rng.integers(bays))
    pane = box([0, recess - 0.01, 0.5 * height], [length, 0.02, height - 0.1], _GLASS, Material.GLASS)
    tall = height + _BURIED_M
    parts = [pane] + [
        box([x, 0.5 * recess, 0.5 * tall - _BURIED_M], [pier, recess, tall], color, Material.CONCRETE) for x in edges
    ]
    for floor in range(floors):
        z = floor * story
        parts.append(box([0, 0.5 * recess, z + story - 0.5 * band], [length, recess, band], color, Material.CONCRETE))
        for bay in range(bays):
            x, wide = 0.5 * (edges[bay] + edges[bay + 1]), edges[1] - edges[0]
            if (floor, bay) == (0, door):
                parts += _entrance(rng, x, min(wide - pier, 1.4), recess)
                continue
            parts.append(box([x, 0.5 * recess, z + 0.5 * sill], [wide, recess, sill], color, Material.CONCRETE))
            if floor < 3:
                bar = box([x, 0.5 * recess, z + 0.5 * (sill + story)], [0.07, 0.08, story - sill], _FRAME)
                parts.append(bar)
            if floor > 0 and rng.random() < 0.16:
                parts += _balcony(x, wide - 0.4, z)
            elif rng.random() < 0.12:
                parts.append(box([x, -0.18, z + sill], [0.75, 0.4, 0.5], (0.7, 0.7, 0.68)))  # air conditioner
    if rng.random() < 0.5:
        parts.append(box([0, -0.12, height - 0.15], [length + 0.2, 0.3, 0.3], _STONE, Material.CONCRETE))
    if rng.random() < 0.35:
        parts += _awning(rng, edges, story)
    for x in edges[[0, -1]]:
        if rng.random() < 0.4:
            parts.append(tube([x * 0.98, -0.08, 0], [x * 0.98, -0.08, height], 0.05, _IRON, Material.PAINT, 4))
    return parts


def _entrance(rng: np.random.Generator, x: float, width: float, recess: float) -> list[Mesh]:
    """A door behind stairs; sometimes a porch on two posts."""
    paint: Color = (float(rng.uniform(0.1, 0.5)), float(rng.uniform(0.1, 0.35)), float(rng.uniform(0.1, 0.3)))
    steps = int(rng.integers(1, 4))
    parts = [box([x, recess - 0.04, 1.1 + 0.16 * steps], [width, 0.06, 2.1], paint, Material.PAINT)]
    for step in range(steps):
        reach = 0.35 * (steps - step)
        parts.append(box([x, -0.5 * reach, 0.08 + 0.16 * step], [width + 0.5, reach, 0.16], _STONE, Material.CONCRETE))
    if rng.random() < 0.4:
        parts.append(box([x, -0.7, 2.75], [width + 0.9, 1.5, 0.16], _STONE, Material.CONCRETE))
        for side in (-1, 1):
            place = x + side * (0.5 * width + 0.3)
            parts.append(tube([place, -1.35, 0], [place, -1.35, 2.7], 0.07, (0.8, 0.8, 0.78), sides=5))
    return parts


def _balcony(x: float, width: float, z: float) -> list[Mesh]:
    parts = [box([x, -0.55, z], [width, 1.1, 0.14], _STONE, Material.CONCRETE)]
    for side in (-1, 1):
        end = x + side * 0.5 * width
        parts.append(tube([end, -1.08, z + 1.0], [end, 0, z + 1.0], 0.025, _IRON, Material.PAINT, 3))
    parts.append(tube([x - 0.5 * width, -1.08, z + 1.0], [x + 0.5 * width, -1.08, z + 1.0], 0.025, _IRON, sides=3))
    for bar in np.linspace(x - 0.5 * width, x + 0.5 * width, 8):
        parts.append(tube([bar, -1.08, z], [bar, -1.08, z + 1.0], 0.012, _IRON, sides=3))
    return parts


def _awning(rng: np.random.Generator, edges: np.ndarray, story: float) -> list[Mesh]:
    reach, low = rng.uniform(0.7, 1.4), min(story, 3.2) - 0.7
    cloth: Color = (float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.1, 0.5)), float(rng.uniform(0.1, 0.4)))
    first, last = sorted(rng.choice(len(edges), 2, replace=False))
    a, b = edges[first] + 0.1, edges[last] - 0.1
    foot = [[b, -reach, low], [b, 0, low + 0.5], [a, 0, low + 0.5], [a, -reach, low]]
    return [hexahedron(foot, np.array(foot) + [0.0, 0.0, 0.06], cloth)]


def _roof(rng: np.random.Generator, length: float, depth: float, height: float, color: Color) -> list[Mesh]:
    """A gable over low houses, otherwise a parapet with boxes of machinery behind it."""
    if height < 8 and rng.random() < 0.6:
        rise = rng.uniform(1.2, 2.8)
        gable = prism(
            [[-0.4, height], [depth + 0.4, height], [0.5 * depth, height + rise]], (-0.5, 0.5), color, Material.CONCRETE
        )
        vertices = gable.vertices[:, [1, 0, 2]] * [length + 0.6, 1.0, 1.0]
        roof = Mesh.build(vertices, gable.triangles, (0.3, 0.22, 0.2), Material.CONCRETE)
        chimney = box([0.3 * length, 0.6 * depth, height + rise], [0.6, 0.6, 1.4], (0.45, 0.28, 0.22))
        return [roof, chimney]
    parts = [box([0, 0.5 * depth, height + 0.3], [length, depth, 0.6], (0.35, 0.33, 0.32), Material.CONCRETE)]
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(-0.35, 0.35) * length, rng.uniform(0.3, 0.7) * depth
        parts.append(box([x, y, height + 1.2], [rng.uniform(1, 3), 1.6, 1.5], (0.6, 0.6, 0.6)))
    return parts


def _scaffolding(length: float, height: float) -> list[Mesh]:
    """Tubes and planks before the front."""
    parts: list[Mesh] = []
    steel: Color = (0.55, 0.56, 0.57)
    posts, levels = np.arange(-0.5 * length, 0.5 * length, 2.2), np.arange(2.0, min(height, 9.0), 2.0)
    for x in posts:
        parts += [tube([x, y, 0], [x, y, levels[-1] + 1.0], 0.03, steel, Material.PAINT, 4) for y in (-0.5, -1.4)]
    for z in levels:
        parts.append(box([0, -0.95, z], [length, 0.8, 0.06], (0.5, 0.38, 0.25)))
        for rail in (0.5, 1.0):
            parts.append(tube([posts[0], -1.4, z + rail], [posts[-1], -1.4, z + rail], 0.025, steel, Material.PAINT, 4))
    return parts
