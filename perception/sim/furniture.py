"""Street furniture and fences: what is about as large as a person, a cone or a car and is none of them.

Every function draws one random example standing on z = 0, its front towards -y, its length along x.
"""

from __future__ import annotations

import numpy as np

from perception.sim.mesh import Color, Material, Mesh, ball, box, merge, tube

_STEEL: Color = (0.5, 0.52, 0.53)
_IRON: Color = (0.15, 0.16, 0.17)
_WOOD: Color = (0.45, 0.33, 0.22)
_STONE: Color = (0.6, 0.59, 0.56)
_ORANGE: Color = (0.8, 0.4, 0.1)
_TINTS: list[Color] = [
    (0.75, 0.12, 0.1),
    (0.12, 0.28, 0.6),
    (0.15, 0.35, 0.2),
    (0.85, 0.7, 0.1),
    (0.25, 0.25, 0.27),
    (0.85, 0.85, 0.83),
    _ORANGE,
]


def _tint(rng: np.random.Generator) -> Color:
    return _TINTS[rng.integers(len(_TINTS))]


def paint(rng: np.random.Generator) -> Color:
    """Of fences and walls: stone, brick, wood, white, green or black, more or less clean."""
    shades = [_STONE, (0.5, 0.3, 0.24), _WOOD, (0.82, 0.81, 0.78), (0.2, 0.3, 0.22), (0.2, 0.2, 0.21), (0.7, 0.64, 0.5)]
    red, green, blue = np.clip(np.array(shades[rng.integers(len(shades))]) * rng.uniform(0.75, 1.2), 0, 1).tolist()
    return red, green, blue


def _post(height: float, radius: float, color: Color = _STEEL, sides: int = 5) -> Mesh:
    return tube([0, 0, 0], [0, 0, height], radius, color, Material.PAINT, sides)


def sign(rng: np.random.Generator) -> Mesh:
    """A post with one or two plates, facing any way."""
    height, side = rng.uniform(2.0, 3.0), rng.uniform(0.4, 0.8)
    parts = [_post(height, 0.035)]
    for level in range(int(rng.integers(1, 3))):
        plate = box([0, -0.05, height - 0.35 - 0.75 * level], [side, 0.02, side], _tint(rng), Material.RETRO)
        parts.append(plate)
    return merge(parts)


def board(rng: np.random.Generator) -> Mesh:
    """An advertisement on one or two feet, or a folding board before a shop."""
    width, height, foot = rng.uniform(0.6, 2.4), rng.uniform(0.9, 2.2), rng.uniform(0.0, 0.6)
    panel = box([0, 0, foot + 0.5 * height], [width, 0.12, height], _tint(rng))
    return merge([panel] + [box([s * 0.4 * width, 0, 0.5 * foot], [0.1, 0.3, foot + 0.05], _IRON) for s in (-1, 1)])


def bin_(rng: np.random.Generator) -> Mesh:
    """A litter bin, a wheeled bin or a container."""
    size = [[0.45, 0.45, 0.9], [0.6, 0.75, 1.1], [1.35, 1.0, 1.3], [2.0, 1.3, 1.5]][
        rng.choice(4, p=[0.4, 0.35, 0.15, 0.1])
    ]
    color = _tint(rng)
    if size[0] < 0.5 and rng.random() < 0.6:
        return tube([0, 0, 0], [0, 0, size[2]], 0.25, color, Material.MATTE, 8)
    lid = box([0, -0.03, size[2]], [size[0] + 0.05, size[1] + 0.06, 0.08], _IRON)
    return merge([box([0, 0, 0.5 * size[2]], size, color, Material.MATTE, 1.05), lid])


def hydrant(rng: np.random.Generator) -> Mesh:
    color, height = _tint(rng), rng.uniform(0.65, 0.95)
    arm = tube([-0.2, 0, 0.65 * height], [0.2, 0, 0.65 * height], 0.06, color, sides=6)
    cap = ball([0, 0, height], [0.13, 0.13, 0.1], color, Material.PAINT, rings=3)
    return merge([tube([0, 0, 0], [0, 0, height], 0.11, color, Material.PAINT, 8), arm, cap])


def bollard(rng: np.random.Generator) -> Mesh:
    """Of any colour but that of cones."""
    color = _TINTS[rng.integers(_TINTS.index(_ORANGE))]
    height, radius = rng.uniform(0.6, 1.15), rng.uniform(0.05, 0.16)
    band = tube([0, 0, 0.8 * height], [0, 0, 0.9 * height], radius + 0.006, (0.9, 0.9, 0.9), Material.RETRO, 8)
    return merge([tube([0, 0, 0], [0, 0, height], radius, color, Material.MATTE, 8, 0.9 * radius), band])


def cabinet(rng: np.random.Generator) -> Mesh:
    """A post box, a cabinet of switches, a parking meter, a kiosk or a planter with its flowers."""
    kind = rng.choice(4, p=[0.3, 0.35, 0.25, 0.1])
    if kind == 0:
        legs = box([0, 0, 0.2], [0.3, 0.3, 0.4], _IRON)
        return merge([legs, box([0, 0, 0.85], [0.55, 0.5, 0.95], _tint(rng), Material.PAINT)])
    if kind == 1:
        width, height = rng.uniform(0.5, 1.4), rng.uniform(0.9, 1.7)
        return box([0, 0, 0.5 * height], [width, 0.42, height], (0.55, 0.57, 0.52), Material.PAINT)
    if kind == 2:
        return merge([_post(1.2, 0.05, _IRON), box([0, 0, 1.3], [0.22, 0.18, 0.4], _IRON, Material.PAINT)])
    roof = box([0, 0, 2.55], [2.4, 2.0, 0.15], _tint(rng))
    return merge([box([0, 0, 1.25], [2.1, 1.7, 2.5], _tint(rng), Material.PAINT), roof])


def bench(rng: np.random.Generator) -> Mesh:
    width = rng.uniform(1.3, 2.0)
    parts = [box([0, y, 0.45], [width, 0.13, 0.05], _WOOD) for y in (-0.2, -0.03, 0.14)]
    parts += [box([0, 0.26, z], [width, 0.05, 0.12], _WOOD) for z in (0.65, 0.85)]
    parts += [box([s * 0.4 * width, 0.03, 0.25], [0.06, 0.5, 0.5], _IRON) for s in (-1, 1)]
    return merge(parts)


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus stop: roof on posts, glass behind, a bench and a sign."""
    width = rng.uniform(3.0, 4.6)
    parts = [box([0, 0.2, 2.5], [width, 1.6, 0.12], _IRON)]
    for x in (-0.48 * width, 0.0, 0.48 * width):
        parts.append(tube([x, 0.9, 0], [x, 0.9, 2.5], 0.05, _IRON, Material.PAINT, 4))
    parts.append(box([0, 0.92, 1.3], [0.95 * width, 0.02, 1.9], (0.2, 0.24, 0.25), Material.GLASS))
    parts.append(box([0.5 * width, 0.3, 1.25], [0.08, 1.1, 2.0], _tint(rng)))
    return merge([*parts, bench(rng).moved(-0.1 * width, 0.5), sign(rng).moved(0.5 * width + 0.9, -0.4)])


def rubbish(rng: np.random.Generator) -> Mesh:
    """Bags, boxes, a heap of gravel or a stack of pallets: small things that lie about."""
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.normal(0, 0.4, 2)
        size = rng.uniform(0.15, 0.45, 3)
        if rng.random() < 0.5:
            parts.append(ball([x, y, 0.8 * size[2]], size, (0.12, 0.12, 0.13), Material.MATTE, rng, rings=4))
        else:
            parts.append(box([x, y, 0.5 * size[2]], size, _WOOD).moved(yaw=rng.uniform(0, 3)))
    return merge(parts)


def bicycle_stand(rng: np.random.Generator) -> Mesh:
    """Hoops in a row."""
    parts = []
    for x in 0.8 * np.arange(rng.integers(2, 6)):
        parts += [tube([x, y, 0], [x, y, 0.8], 0.025, _STEEL, Material.PAINT, 4) for y in (-0.35, 0.35)]
        parts.append(tube([x, -0.35, 0.8], [x, 0.35, 0.8], 0.025, _STEEL, Material.PAINT, 4))
    return merge(parts)


def stones(rng: np.random.Generator) -> Mesh:
    """Boulders, or the ends of a wall."""
    gray = rng.uniform(0.4, 0.6)
    half = rng.uniform([0.2, 0.2, 0.2], [0.8, 0.6, 0.55])
    return ball([0, 0, 0.5 * half[2]], half, (gray, gray, 0.95 * gray), Material.CONCRETE, rng, rings=4)


def traffic_light(rng: np.random.Generator, reach: float) -> Mesh:
    """A post with a head for people, and an arm of ``reach`` metres towards -y with heads for the road."""
    parts = [_post(5.8, 0.09, _IRON, 6), box([0.2, 0, 2.4], [0.3, 0.25, 0.75], _IRON)]
    parts.append(tube([0, 0, 5.6], [0, -reach, 5.9], 0.06, _IRON, Material.PAINT, 5))
    for share in (0.55, 1.0):
        parts.append(box([0, -share * reach, 5.5], [0.28, 0.32, 0.95], _IRON))
    return merge([*parts, box([0.4, 0.3, 0.6], [0.45, 0.35, 1.2], (0.6, 0.6, 0.58), Material.PAINT)])


def lamp_post(side_reach: float) -> Mesh:
    """A street lamp whose head hangs ``side_reach`` metres towards -y."""
    parts = [tube([0, 0, 0], [0, 0, 7.2], 0.09, _STEEL, Material.MATTE, 6, 0.05)]
    parts.append(tube([0, 0, 7.1], [0, -side_reach, 7.6], 0.05, _STEEL, Material.MATTE, 5))
    parts.append(box([0, -side_reach - 0.2, 7.55], [0.3, 0.7, 0.12], (1.0, 0.9, 0.7), Material.LAMP))
    return merge(parts)


def utility_pole(rng: np.random.Generator) -> Mesh:
    """A wooden pole with a cross-arm; some carry a transformer."""
    parts = [tube([0, 0, 0], [0, 0, 8.5], 0.15, _WOOD, Material.MATTE, 7, 0.11)]
    parts.append(box([0, 0, 8.0], [0.1, 2.0, 0.12], _WOOD))
    if rng.random() < 0.3:
        parts.append(tube([0, 0.35, 6.2], [0, 0.35, 7.2], 0.25, _STEEL, Material.PAINT, 8))
    return merge(parts)


def wire(start, end, sag: float) -> Mesh:
    """A cable hanging between two points."""
    share = np.linspace(0, 1, 7)[:, None]
    line = np.asarray(start) * (1 - share) + np.asarray(end) * share
    line[:, 2] -= 4 * sag * (share * (1 - share))[:, 0]
    return merge([tube(line[i], line[i + 1], 0.015, (0.08, 0.08, 0.08), Material.RUBBER, 3) for i in range(6)])


FENCES = ("wall", "pickets", "mesh", "boards", "railing", "screen")


def fence(rng: np.random.Generator, kind: str, length: float, height: float, color: Color) -> Mesh:
    """One panel of ``length`` metres along x, of one of :data:`FENCES`."""
    half = 0.5 * length
    if kind == "wall":
        cap = box([0, 0, height], [length, 0.36, 0.08], _STONE, Material.CONCRETE)
        return merge([box([0, 0, 0.5 * height - 0.2], [length, 0.26, height + 0.4], color, Material.CONCRETE), cap])
    if kind == "boards":
        return merge(
            [box([x, 0, 0.5 * height], [0.17, 0.03, height * rng.uniform(0.96, 1.0)], color)
             for x in np.arange(-half + 0.09, half, 0.2)]
        )  # fmt: skip
    posts = [tube([x, 0, 0], [x, 0, height], 0.035, _STEEL, Material.PAINT, 5) for x in (-half, half)]
    if kind == "screen":  # cloth on a fence, as around building sites
        bulge = rng.uniform(-0.12, 0.12)
        cloth = [
            box([s * 0.25 * length, 0.5 * bulge, 0.5 * height], [0.5 * length, 0.02, height - 0.1], color)
            for s in (-1, 1)
        ]
        return merge([*posts, *cloth])
    rails = [tube([-half, 0, z], [half, 0, z], 0.02, color, Material.PAINT, 3) for z in (0.15 * height, 0.95 * height)]
    if kind == "pickets":
        bars = [box([x, -0.03, 0.5 * height], [0.08, 0.02, height], color) for x in np.arange(-half, half, 0.18)]
    elif kind == "railing":
        bars = [tube([x, 0, 0], [x, 0, height], 0.01, color, Material.PAINT, 3) for x in np.arange(-half, half, 0.16)]
    else:
        bars = [
            tube([x, 0, 0.05], [np.clip(x + lean * height, -half, half), 0, height], 0.004, _STEEL, Material.PAINT, 3)
            for x in np.arange(-half, half, 0.25)
            for lean in (-0.6, 0.6)
        ]
    return merge([*posts, *rails, *bars])
