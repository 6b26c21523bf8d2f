"""Class-typical meshes of the motor vehicles: car, truck, bus, trailer and construction vehicle.

Every function draws one random example and returns a mesh standing on z = 0, nose towards +x. Sizes follow the means
and spreads of the nuScenes annotations.
"""

from __future__ import annotations

import numpy as np

from perception.sim.mesh import Color, Material, Mesh, box, frustum, hexahedron, merge, prism, tube, wheel

PAINTS: list[Color] = [
    (0.92, 0.92, 0.92),
    (0.08, 0.08, 0.09),
    (0.55, 0.57, 0.6),
    (0.75, 0.76, 0.78),
    (0.6, 0.08, 0.08),
    (0.1, 0.2, 0.5),
    (0.2, 0.22, 0.25),
    (0.35, 0.05, 0.1),
    (0.1, 0.35, 0.25),
    (0.8, 0.65, 0.15),
    (0.45, 0.38, 0.3),
    (0.2, 0.45, 0.7),
]
_GLASS: Color = (0.08, 0.1, 0.12)
_DARK: Color = (0.1, 0.1, 0.11)


def _lights(front: float, rear: float, y: float, z: float, width: float = 0.3) -> list[Mesh]:
    """Head lights, tail lights and number plates, a centimetre proud of the body."""
    parts = []
    for side in (-1, 1):
        parts.append(box([front - 0.03, side * y, z], [0.1, width, 0.14], (1.0, 0.97, 0.85), Material.HEADLIGHT))
        parts.append(box([rear + 0.03, side * y, z + 0.08], [0.1, width, 0.16], (0.75, 0.05, 0.05), Material.TAILLIGHT))
    parts.append(box([rear + 0.03, 0, z - 0.15], [0.1, 0.5, 0.12], (0.9, 0.9, 0.85), Material.RETRO))
    parts.append(box([front - 0.03, 0, z - 0.2], [0.1, 0.5, 0.12], (0.9, 0.9, 0.85), Material.RETRO))
    return parts


def _wheels(positions, half_width: float, radius: float, width: float = 0.24) -> list[Mesh]:
    return [wheel(x, side * (half_width - 0.5 * width - 0.02), radius, width) for x in positions for side in (-1, 1)]


def car(rng: np.random.Generator) -> Mesh:
    """Saloon, hatchback, sport utility vehicle or van."""
    kind = rng.choice(4, p=[0.4, 0.2, 0.28, 0.12])
    length = rng.normal([4.6, 3.95, 4.6, 5.0][kind], 0.18)
    width = np.clip(rng.normal([1.82, 1.75, 1.92, 1.98][kind], 0.06), 1.65, 2.15)
    height = rng.normal([1.48, 1.52, 1.78, 2.05][kind], 0.05)
    color = PAINTS[rng.integers(len(PAINTS))]
    front, rear, half = 0.5 * length, -0.5 * length, 0.5 * width
    belt, sill, radius = 0.58 * height + (0.06 if kind == 0 else 0.0), 0.24, 0.33 if kind < 2 else 0.37
    nose = 0.78 * belt if kind != 3 else 0.88 * belt
    body = prism(
        [
            [rear + 0.05, sill],
            [front - 0.06, sill],
            [front, 0.55 * nose],
            [front - 0.12, nose],
            [front - 0.28 * length, belt],
            [rear + 0.1, belt],
            [rear, 0.62 * belt],
        ],
        (-half, half),
        color,
        Material.PAINT,
    )
    cabin = {
        # Fractions of the length from the nose: foot and head of the wind screen, head and foot of the rear window.
        0: (0.28, 0.42, 0.78, 0.9),
        1: (0.27, 0.42, 0.9, 0.985),
        2: (0.26, 0.38, 0.93, 0.985),
        3: (0.14, 0.27, 0.97, 0.99),
    }[kind]
    foot_front, head_front, head_rear, foot_rear = [front - fraction * length for fraction in cabin]
    roof = height - 0.07
    glass = frustum(
        (foot_rear, foot_front), (head_rear, head_front), half - 0.06, half - 0.22, (belt, roof), _GLASS, Material.GLASS
    )
    top = frustum(
        (head_rear, head_front),
        (head_rear + 0.1, head_front - 0.1),
        half - 0.2,
        half - 0.3,
        (roof, height),
        color,
        Material.PAINT,
    )
    middle = 0.5 * (head_front + head_rear)
    pillars = [
        hexahedron(
            [
                [x + 0.06, s * (half - 0.05), belt],
                [x - 0.06, s * (half - 0.05), belt],
                [x - 0.06, s * (half - 0.12), belt],
                [x + 0.06, s * (half - 0.12), belt],
            ],
            [
                [x + 0.04, s * (half - 0.2), roof],
                [x - 0.04, s * (half - 0.2), roof],
                [x - 0.04, s * (half - 0.28), roof],
                [x + 0.04, s * (half - 0.28), roof],
            ],
            color,
            Material.PAINT,
        )
        for s in (-1, 1)
        for x in ([middle] if kind != 3 else [middle - 0.8, middle + 0.5])
    ]
    mirrors = [
        box([foot_front - 0.25, s * half, belt + 0.06], [0.12, 0.14, 0.12], color, Material.PAINT) for s in (-1, 1)
    ]
    bumper = box([0, 0, sill + 0.03], [length - 0.04, width - 0.04, 0.14], _DARK, Material.RUBBER)
    wheels = _wheels([front - 0.19 * length, rear + 0.2 * length], half + 0.03, radius)
    return merge(
        [body, glass, top, bumper, *pillars, *mirrors, *wheels, *_lights(front, rear, half - 0.22, 0.68 * belt)]
    )


def _cab(front: float, half: float, height: float, length: float, color: Color) -> list[Mesh]:
    """Cab of a lorry: body, wind screen, side windows, mirrors."""
    rear = front - length
    shell = prism(
        [[rear, 0.5], [front, 0.5], [front, 0.55 * height], [front - 0.22, height], [rear, height]],
        (-half, half),
        color,
        Material.PAINT,
    )
    screen = hexahedron(
        [
            [front + 0.01, half - 0.12, 0.58 * height],
            [front - 0.1, half - 0.12, 0.58 * height],
            [front - 0.1, 0.12 - half, 0.58 * height],
            [front + 0.01, 0.12 - half, 0.58 * height],
        ],
        [
            [front - 0.15, half - 0.15, 0.9 * height],
            [front - 0.3, half - 0.15, 0.9 * height],
            [front - 0.3, 0.15 - half, 0.9 * height],
            [front - 0.15, 0.15 - half, 0.9 * height],
        ],
        _GLASS,
        Material.GLASS,
    )
    windows = [
        box(
            [front - 0.5 * length, s * half, 0.73 * height], [0.5 * length, 0.03, 0.26 * height], _GLASS, Material.GLASS
        )
        for s in (-1, 1)
    ]
    mirrors = [
        box([front - 0.1, s * (half + 0.02), 0.7 * height], [0.08, 0.16, 0.4], _DARK, Material.RUBBER) for s in (-1, 1)
    ]
    return [shell, screen, *windows, *mirrors]


def truck(rng: np.random.Generator, tractor: bool = False) -> Mesh:
    """Box lorry, flat bed, tipper or pick-up; ``tractor`` draws the one that pulls a semi-trailer."""
    kind = 4 if tractor else rng.choice(4, p=[0.42, 0.16, 0.17, 0.25])
    color = PAINTS[rng.integers(len(PAINTS))]
    if kind == 3:
        return _pickup(rng, color)
    length = {0: rng.normal(7.6, 0.9), 1: rng.normal(7.4, 0.8), 2: rng.normal(7.0, 0.6), 4: rng.normal(6.2, 0.2)}[kind]
    width = np.clip(rng.normal(2.5, 0.1), 2.2, 2.8)
    height = np.clip(rng.normal(3.2, 0.3), 2.6, 3.8) if kind in (0, 4) else rng.normal(2.75, 0.12)
    front, rear, half = 0.5 * length, -0.5 * length, 0.5 * width
    cab_length = 1.9 if kind != 4 else 2.3
    cab_height = min(height, 2.75 if kind != 4 else 3.4)
    bed = front - cab_length - 0.12
    parts = _cab(front, half - 0.05, cab_height, cab_length, color)
    parts.append(box([0.5 * (front + rear) - 0.1, 0, 0.78], [length - 0.3, 0.9, 0.3], _DARK, Material.RUBBER))
    if kind == 0:
        tint = [(0.9, 0.9, 0.88), (0.85, 0.85, 0.85), color, (0.2, 0.35, 0.6)][rng.integers(4)]
        parts.append(
            box([0.5 * (bed + rear), 0, 0.5 * (1.0 + height)], [bed - rear, width, height - 1.0], tint, Material.PAINT)
        )
        stripe = PAINTS[rng.integers(len(PAINTS))]
        parts.append(
            box(
                [0.5 * (bed + rear), 0, 0.62 * height], [0.6 * (bed - rear), width + 0.02, 0.35], stripe, Material.PAINT
            )
        )
    elif kind == 1:
        parts.append(box([0.5 * (bed + rear), 0, 1.05], [bed - rear, width, 0.15], (0.35, 0.25, 0.18)))
        for x in np.arange(rear + 0.9, bed - 0.6, 1.3):
            parts.append(
                box([x, 0, 1.1 + 0.45], [1.1, rng.uniform(1.4, 2.1), rng.uniform(0.5, 1.0)], (0.55, 0.42, 0.25))
            )
    elif kind == 2:
        bottom = [
            [bed - 0.2, half - 0.2, 1.0],
            [rear + 0.2, half - 0.2, 1.0],
            [rear + 0.2, 0.2 - half, 1.0],
            [bed - 0.2, 0.2 - half, 1.0],
        ]
        top = [[bed, half, height], [rear, half, height - 0.2], [rear, -half, height - 0.2], [bed, -half, height]]
        parts.append(hexahedron(bottom, top, (0.8, 0.5, 0.1), Material.PAINT))
        parts.append(
            box([0.5 * (bed + rear), 0, height - 0.12], [bed - rear - 0.5, width - 0.4, 0.25], (0.4, 0.33, 0.25))
        )
    else:
        parts.append(tube([rear + 1.4, 0, 0.95], [rear + 1.4, 0, 1.2], 0.5, _DARK, Material.RUBBER, 8))
    axles = [front - 0.9, rear + 1.2] if length < 7.2 and kind != 4 else [front - 0.9, rear + 1.0, rear + 2.1]
    return merge(parts + _wheels(axles, half, 0.5, 0.32) + _lights(front, rear, half - 0.25, 0.8))


def _pickup(rng: np.random.Generator, color: Color) -> Mesh:
    length, width, height = rng.normal(5.7, 0.2), rng.normal(2.05, 0.05), rng.normal(1.92, 0.05)
    front, rear, half = 0.5 * length, -0.5 * length, 0.5 * width
    outline = [
        [rear + 0.05, 0.42],
        [front - 0.05, 0.42],
        [front, 0.7],
        [front - 0.06, 1.05],
        [front - 1.4, 1.16],
        [rear, 1.12],
    ]
    body = prism(outline, (-half, half), color, Material.PAINT)
    glass = frustum(
        (rear + 2.0, front - 1.4),
        (rear + 2.2, front - 2.1),
        half - 0.06,
        half - 0.22,
        (1.14, height - 0.07),
        _GLASS,
        Material.GLASS,
    )
    roof = frustum(
        (rear + 2.2, front - 2.1),
        (rear + 2.3, front - 2.2),
        half - 0.2,
        half - 0.28,
        (height - 0.07, height),
        color,
        Material.PAINT,
    )
    bed = box([rear + 1.0, 0, 1.13], [1.8, width - 0.3, 0.03], _DARK, Material.RUBBER)
    rails = [box([rear + 1.0, s * (half - 0.08), 1.2], [2.0, 0.12, 0.16], color, Material.PAINT) for s in (-1, 1)]
    wheels = _wheels([front - 1.05, rear + 1.2], half + 0.03, 0.42)
    return merge([body, glass, roof, bed, *rails, *wheels, *_lights(front, rear, half - 0.22, 0.9)])


def bus(rng: np.random.Generator) -> Mesh:
    """City bus: a long body with a band of windows, doors on the right, a destination sign."""
    length, width, height = rng.normal(11.4, 0.7), rng.normal(2.88, 0.06), rng.normal(3.4, 0.12)
    front, rear, half = 0.5 * length, -0.5 * length, 0.5 * width
    color = [(0.85, 0.75, 0.2), (0.9, 0.9, 0.9), (0.15, 0.35, 0.65), (0.7, 0.12, 0.12), (0.2, 0.5, 0.3)][
        rng.integers(5)
    ]
    trim = PAINTS[rng.integers(len(PAINTS))]
    parts = [
        box([0, 0, 0.5 * (0.35 + height - 0.2)], [length - 0.06, width, height - 0.55], color, Material.PAINT),
        box([0, 0, 0.62], [length, width + 0.02, 0.35], trim, Material.PAINT),
        box([-0.15 * length, 0, height - 0.1], [0.45 * length, width - 0.8, 0.2], (0.7, 0.7, 0.7)),
        box([front - 0.02, 0, 1.85], [0.08, width - 0.3, 1.35], _GLASS, Material.GLASS),
        box([front - 0.02, 0, height - 0.4], [0.09, width - 0.8, 0.28], (0.95, 0.6, 0.1), Material.LAMP),
        box([rear + 0.02, 0, 2.2], [0.08, width - 0.7, 0.8], _GLASS, Material.GLASS),
    ]
    panes = np.linspace(rear + 0.9, front - 1.7, 7)
    for x in panes:
        parts.append(box([x, 0, 2.1], [0.84 * (panes[1] - panes[0]), width + 0.03, 0.95], _GLASS, Material.GLASS))
    for x in (front - 0.8, -0.4):
        parts.append(box([x, -half, 1.5], [1.05, 0.05, 2.1], (0.15, 0.17, 0.2), Material.GLASS))
    parts += [box([front + 0.1, s * (half - 0.05), 2.5], [0.15, 0.2, 0.45], _DARK, Material.RUBBER) for s in (-1, 1)]
    return merge(
        parts + _wheels([front - 2.4, rear + 2.9], half + 0.03, 0.5, 0.32) + _lights(front, rear, half - 0.3, 0.85)
    )


def trailer(rng: np.random.Generator) -> Mesh:
    """Box, container or tank semi-trailer on rear axles with a landing leg."""
    kind = rng.choice(3, p=[0.55, 0.25, 0.2])
    length, width, height = rng.normal(11.8, 1.2), rng.normal(2.6, 0.08), np.clip(rng.normal(3.85, 0.12), 3.5, 4.2)
    front, rear, half = 0.5 * length, -0.5 * length, 0.5 * width
    color = [(0.9, 0.9, 0.9), (0.75, 0.77, 0.8), (0.55, 0.2, 0.12), (0.15, 0.35, 0.55), (0.25, 0.4, 0.28)][
        rng.integers(5)
    ]
    parts = [box([0, 0, 1.05], [length - 0.2, 1.1, 0.25], _DARK, Material.RUBBER)]
    if kind == 2:
        parts.append(tube([rear, 0, 2.45], [front, 0, 2.45], half - 0.02, (0.78, 0.8, 0.82), Material.PAINT, 14))
        parts.append(box([0, 0, 2.45 + half], [0.7 * length, 0.6, 0.12], _DARK))
    else:
        parts.append(box([0, 0, 0.5 * (1.2 + height)], [length, width, height - 1.2], color, Material.PAINT))
        red, green, blue = color
        shade = (0.8 * red, 0.8 * green, 0.8 * blue)
        for x in np.arange(rear + 0.6, front, 1.2 if kind == 0 else 0.6):
            parts.append(box([x, 0, 0.5 * (1.2 + height)], [0.08, width + 0.03, height - 1.3], shade, Material.PAINT))
        logo = PAINTS[rng.integers(len(PAINTS))]
        parts.append(box([0.1 * length, 0, 0.72 * height], [0.4 * length, width + 0.04, 0.7], logo, Material.PAINT))
    for side in (-1, 1):
        parts.append(box([front - 2.6, side * 0.8, 0.55], [0.15, 0.15, 1.1], (0.4, 0.4, 0.4)))
        parts.append(
            box([rear + 0.02, side * (half - 0.3), 1.0], [0.06, 0.35, 0.16], (0.75, 0.05, 0.05), Material.TAILLIGHT)
        )
        parts.append(box([0, side * half, 1.25], [0.9 * length, 0.04, 0.06], (0.95, 0.9, 0.3), Material.RETRO))
    parts.append(box([rear + 0.02, 0, 1.25], [0.06, width - 0.2, 0.08], (0.95, 0.3, 0.3), Material.RETRO))
    return merge(parts + _wheels([rear + 1.0, rear + 2.2], half, 0.5, 0.32))


def construction_vehicle(rng: np.random.Generator) -> Mesh:
    """Excavator, wheel loader or roller."""
    color = [(0.95, 0.7, 0.05), (0.95, 0.62, 0.1), (0.9, 0.4, 0.08)][rng.integers(3)]
    return [_excavator, _loader, _roller][rng.choice(3, p=[0.5, 0.3, 0.2])](rng, color)


def _excavator(rng: np.random.Generator, color: Color) -> Mesh:
    parts = []
    for side in (-1, 1):
        outline = [[-1.7, 0.25], [-1.4, 0.0], [1.4, 0.0], [1.7, 0.25], [1.6, 0.75], [-1.6, 0.75]]
        width = min(side * 0.85, side * 1.4), max(side * 0.85, side * 1.4)
        parts.append(prism(outline, width, (0.12, 0.12, 0.12), Material.RUBBER))
    parts.append(tube([0, 0, 0.7], [0, 0, 1.0], 0.8, (0.15, 0.15, 0.15), Material.MATTE, 10))
    parts.append(box([-0.7, 0, 1.5], [2.4, 2.5, 1.0], color, Material.PAINT))
    parts.append(box([-1.85, 0, 1.45], [0.6, 2.5, 1.1], _DARK))
    parts.append(box([0.55, 0.75, 2.05], [1.5, 1.0, 1.9], color, Material.PAINT, 0.9))
    parts.append(box([0.6, 0.75, 2.2], [1.56, 1.02, 1.1], _GLASS, Material.GLASS, 0.92))
    elbow = np.array([rng.uniform(2.6, 3.2), -0.3, rng.uniform(3.1, 3.7)])
    wrist = np.array([rng.uniform(4.0, 4.6), -0.3, rng.uniform(0.9, 1.5)])
    parts.append(tube([0.4, -0.3, 1.5], elbow, 0.3, color, Material.PAINT, 4, 0.24))
    parts.append(tube(elbow, wrist, 0.24, color, Material.PAINT, 4, 0.16))
    parts.append(tube([0.9, -0.3, 1.2], 0.5 * (elbow + [0.4, -0.3, 1.5]), 0.08, (0.7, 0.7, 0.72), Material.PAINT, 6))
    x, _, z = wrist
    bucket = [[x - 0.5, z - 0.8], [x + 0.2, z - 0.85], [x + 0.35, z], [x - 0.1, z + 0.1]]
    parts.append(prism(bucket, (-0.85, 0.25), (0.3, 0.28, 0.25), Material.MATTE))
    return merge(parts)


def _loader(rng: np.random.Generator, color: Color) -> Mesh:
    lift = rng.uniform(0.0, 0.8)
    parts = [
        box([-1.3, 0, 1.45], [2.4, 1.7, 1.1], color, Material.PAINT, 0.92),
        box([0.2, 0, 1.6], [1.5, 1.5, 0.8], color, Material.PAINT),
        box([0.1, 0, 2.5], [1.4, 1.4, 1.25], _GLASS, Material.GLASS, 0.88),
        box([0.1, 0, 3.17], [1.5, 1.45, 0.12], color, Material.PAINT),
        box([0.6, 0, 0.85], [3.6, 0.8, 0.5], _DARK),
        prism(
            [[2.5, 0.15 + lift], [3.6, 0.2 + lift], [3.5, 0.35 + lift], [2.8, 1.1 + lift], [2.5, 1.0 + lift]],
            (-1.35, 1.35),
            (0.35, 0.33, 0.3),
            Material.MATTE,
        ),
    ]
    for side in (-1, 1):
        parts.append(tube([0.8, side * 0.55, 1.7], [2.6, side * 0.55, 0.7 + lift], 0.14, color, Material.PAINT, 4))
    return merge(parts + _wheels([-1.5, 1.3], 1.32, 0.72, 0.5))


def _roller(rng: np.random.Generator, color: Color) -> Mesh:
    length = rng.uniform(4.6, 5.4)
    front, rear = 0.5 * length, -0.5 * length
    parts = [tube([front - 0.7, -1.0, 0.7], [front - 0.7, 1.0, 0.7], 0.7, (0.5, 0.5, 0.5), Material.PAINT, 16)]
    parts += [box([front - 1.0, s * 1.05, 0.9], [1.9, 0.1, 0.3], color, Material.PAINT) for s in (-1, 1)]
    parts.append(box([rear + 0.8, 0, 1.25], [1.6, 1.5, 0.9], color, Material.PAINT))
    parts.append(box([0.0, 0, 1.3], [1.2, 1.5, 0.5], _DARK))
    parts += [
        tube([x, s * 0.65, 1.4], [x, s * 0.65, 2.7], 0.04, _DARK, Material.MATTE, 4)
        for s in (-1, 1)
        for x in (-0.6, 0.5)
    ]
    parts.append(box([0, 0, 2.75], [1.5, 1.6, 0.1], color, Material.PAINT))
    return merge(parts + _wheels([rear + 0.75], 1.05, 0.7, 0.45))
