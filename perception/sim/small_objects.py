"""Class-typical meshes of everything smaller than a car: pedestrian, motorcycle, bicycle, traffic cone, barrier.

Every function draws one random example and returns a mesh standing on z = 0, facing +x. A barrier faces +x as nuScenes
annotates it: its long side lies along y.
"""

from __future__ import annotations

import numpy as np

from perception.sim.mesh import Color, Material, Mesh, ball, box, merge, prism, tube
from perception.sim.vehicles import PAINTS

_CLOTHES: list[Color] = [
    (0.15, 0.2, 0.4),
    (0.6, 0.1, 0.12),
    (0.85, 0.85, 0.82),
    (0.1, 0.1, 0.1),
    (0.3, 0.45, 0.3),
    (0.7, 0.55, 0.3),
    (0.45, 0.45, 0.5),
    (0.75, 0.35, 0.5),
    (0.2, 0.5, 0.65),
    (0.85, 0.7, 0.2),
]
_SKIN: list[Color] = [(0.9, 0.72, 0.6), (0.75, 0.55, 0.42), (0.5, 0.34, 0.25), (0.33, 0.22, 0.17)]
_WORKWEAR: Color = (0.98, 0.5, 0.05)
_RUBBER: Color = (0.07, 0.07, 0.08)


def _pick(rng: np.random.Generator, colors: list[Color]) -> Color:
    return colors[rng.integers(len(colors))]


def _head(rng: np.random.Generator, x: float, z: float, scale: float, hat: Color | None) -> list[Mesh]:
    parts = [ball([x, 0, z], [0.1 * scale, 0.085 * scale, 0.125 * scale], _pick(rng, _SKIN), Material.MATTE, rings=4)]
    top = hat or _pick(rng, [(0.1, 0.07, 0.05), (0.35, 0.22, 0.12), (0.75, 0.6, 0.35), (0.5, 0.5, 0.5)])
    parts.append(
        ball([x - 0.02, 0, z + 0.05 * scale], [0.115 * scale, 0.1 * scale, 0.1 * scale], top, Material.MATTE, rings=4)
    )
    return parts


def pedestrian(rng: np.random.Generator, kind: str = "adult", walking: bool = True) -> Mesh:
    """A walking or standing person; ``kind`` is adult, child or construction_worker. Limbs swing."""
    height = rng.normal(1.74, 0.08) if kind != "child" else rng.uniform(1.05, 1.45)
    s = height / 1.75
    worker = kind == "construction_worker"
    shirt = _WORKWEAR if worker else _pick(rng, _CLOTHES)
    legs, shoes = (
        _pick(rng, _CLOTHES[:4] + _CLOTHES[6:7]),
        _pick(rng, [(0.1, 0.1, 0.1), (0.8, 0.8, 0.8), (0.35, 0.2, 0.1)]),
    )
    stride = rng.uniform(0.4, 0.5) if walking else 0.0
    parts = _head(rng, 0.02, 1.6 * s, s, (0.98, 0.85, 0.1) if worker else None)
    parts.append(tube([0, 0, 1.4 * s], [0.01, 0, 1.52 * s], 0.055 * s, _pick(rng, _SKIN)))
    torso = box([0, 0, 1.16 * s], [0.22 * s, 0.36 * s, 0.56 * s], shirt, Material.MATTE, 1.1)
    parts += [torso, box([0, 0, 0.88 * s], [0.22 * s, 0.33 * s, 0.16 * s], legs)]
    if worker:
        parts.append(box([0, 0, 1.18 * s], [0.25 * s, 0.4 * s, 0.07], (0.95, 0.95, 0.6), Material.RETRO))
    if rng.random() < 0.3 and not worker:
        parts.append(box([-0.19 * s, 0, 1.2 * s], [0.16 * s, 0.3 * s, 0.4 * s], _pick(rng, PAINTS), Material.MATTE))
    for side in (-1, 1):
        y = side * 0.1 * s
        leg = merge(
            [
                tube([0, y, 0.86 * s], [0.01, y, 0.46 * s], 0.085 * s, legs, sides=6, end_radius=0.065 * s),
                tube([0.01, y, 0.46 * s], [-0.02, y, 0.08 * s], 0.065 * s, legs, sides=6, end_radius=0.05 * s),
                box([0.05 * s, y, 0.05 * s], [0.27 * s, 0.09 * s, 0.1 * s], shoes),
            ]
        )
        arm = merge(
            [
                tube([0, side * 0.23 * s, 1.42 * s], [-0.02, side * 0.27 * s, 1.12 * s], 0.055 * s, shirt),
                tube(
                    [-0.02, side * 0.27 * s, 1.12 * s],
                    [0.06, side * 0.27 * s, 0.86 * s],
                    0.045 * s,
                    shirt,
                    end_radius=0.035 * s,
                ),
                ball(
                    [0.07, side * 0.27 * s, 0.82 * s],
                    [0.045 * s, 0.035 * s, 0.06 * s],
                    _pick(rng, _SKIN),
                    Material.MATTE,
                    rings=3,
                ),
            ]
        )
        parts += [leg.swinging(side * stride, 0.86 * s), arm.swinging(-side * 0.8 * stride, 1.42 * s)]
    return merge(parts)


def _ring(x: float, radius: float, thickness: float, color: Color) -> list[Mesh]:
    """A spoked wheel in the x-z plane: tyre of straight pieces and six spokes."""
    angle = 2 * np.pi * np.arange(15) / 14
    rim = np.stack(
        [x + (radius - thickness) * np.cos(angle), np.zeros(15), radius + (radius - thickness) * np.sin(angle)], 1
    )
    parts = [tube(rim[i], rim[i + 1], thickness, color, Material.RUBBER, 4) for i in range(14)]
    hub = np.array([x, 0, radius])
    return parts + [tube(hub, rim[i], 0.008, (0.6, 0.6, 0.6), Material.PAINT, 3) for i in (0, 2, 5, 7, 9, 12)]


def _rider(rng: np.random.Generator, saddle, grips, pedals, helmet: Color) -> list[Mesh]:
    """A seated person between saddle, grips and pedals (points of the right-hand side, mirrored)."""
    shirt, trousers, skin = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES[:4]), _pick(rng, _SKIN)
    saddle, grips, pedals = (np.asarray(point, float) for point in (saddle, grips, pedals))
    lean = 0.35 * (grips[0] - saddle[0])
    shoulder = saddle + [lean, 0, 0.52]
    parts = [tube(saddle + [0, 0, 0.02], shoulder, 0.16, shirt, sides=8, end_radius=0.19)]
    parts += _head(rng, float(shoulder[0]) + 0.05, float(shoulder[2]) + 0.2, 1.1, helmet)
    for side in (-1, 1):
        flip = np.array([1.0, side, 1.0])
        knee = 0.5 * (saddle + pedals) + [0.22, 0.12, 0.1 if side > 0 else 0.16]
        foot = pedals + ([0.0, 0, 0.0] if side > 0 else [0.05, 0, 0.12])
        parts.append(tube((saddle + [0, 0.09, 0]) * flip, knee * flip, 0.085, trousers, end_radius=0.07))
        parts.append(tube(knee * flip, foot * flip, 0.065, trousers, end_radius=0.05))
        parts.append(box(foot * flip + [0.06, 0, -0.03], [0.25, 0.09, 0.08], (0.1, 0.1, 0.1)))
        elbow = 0.5 * (shoulder + grips) + [-0.03, 0.18, -0.1]
        parts.append(tube((shoulder + [0, 0.19, -0.04]) * flip, elbow * flip, 0.055, shirt))
        parts.append(tube(elbow * flip, grips * flip, 0.045, shirt, end_radius=0.035))
        parts.append(ball(grips * flip, [0.05, 0.05, 0.05], skin, Material.MATTE, rings=3))
    return parts


def bicycle(rng: np.random.Generator, rider: bool) -> Mesh:
    """Diamond frame, two spoked wheels, handlebar; with or without a rider."""
    color, radius = _pick(rng, PAINTS), 0.34
    back, front = -0.52, 0.53
    crank, seat, head = np.array([-0.08, 0, 0.3]), np.array([-0.24, 0, 0.86]), np.array([0.38, 0, 0.88])
    bars = head + [0.03, 0, 0.16]
    frame = [
        (crank, seat),
        (crank, head - [0, 0, 0.1]),
        (seat - [-0.03, 0, 0.1], head),
        (np.array([back, 0, radius]), crank),
    ]
    frame += [
        (np.array([back, 0, radius]), seat - [-0.03, 0, 0.08]),
        (np.array([front, 0, radius]), head),
        (head, bars),
    ]
    parts = [tube(a, b, 0.024, color, Material.PAINT, 5) for a, b in frame]
    parts.append(tube(bars + [0, -0.28, 0], bars + [0, 0.28, 0], 0.018, _RUBBER, Material.RUBBER, 5))
    parts.append(box(seat + [0, 0, 0.06], [0.26, 0.13, 0.06], _RUBBER, Material.RUBBER))
    parts += [
        tube(crank + [0, 0, 0.0], crank + [0.05, side * 0.12, -side * 0.15], 0.016, (0.4, 0.4, 0.4), sides=4)
        for side in (-1, 1)
    ]
    parts += _ring(back, radius, 0.022, _RUBBER) + _ring(front, radius, 0.022, _RUBBER)
    parts.append(box([back - 0.1, 0, 0.72], [0.03, 0.06, 0.05], (0.9, 0.1, 0.1), Material.RETRO))
    if rider:
        parts += _rider(
            rng, seat + [0, 0, 0.1], bars + [0, 0.26, 0.02], crank + [0.05, 0.13, -0.12], _pick(rng, PAINTS)
        )
    return merge(parts)


def motorcycle(rng: np.random.Generator, rider: bool) -> Mesh:
    """Motorcycle or scooter: engine block, tank, seat, fork, lights; with or without a rider."""
    color, scooter = _pick(rng, PAINTS), rng.random() < 0.35
    radius = 0.24 if scooter else 0.32
    back, front = (-0.62, 0.66) if scooter else (-0.72, 0.76)
    parts = [tube([x, -0.07, radius], [x, 0.07, radius], radius, _RUBBER, Material.RUBBER, 12) for x in (back, front)]
    parts += [
        tube([x, -0.08, radius], [x, 0.08, radius], 0.6 * radius, (0.65, 0.65, 0.67), Material.PAINT, 8)
        for x in (back, front)
    ]
    bars = np.array([front - 0.3, 0, 1.02])
    for side in (-1, 1):
        parts.append(
            tube([front, side * 0.1, radius], bars + [0, side * 0.1, -0.05], 0.03, (0.6, 0.6, 0.62), Material.PAINT, 5)
        )
        parts.append(tube(bars + [0.05, side * 0.2, 0.02], bars + [0.03, side * 0.29, 0.18], 0.012, _RUBBER, sides=4))
        parts.append(ball(bars + [0.02, side * 0.29, 0.2], [0.02, 0.06, 0.05], _RUBBER, Material.GLASS, rings=3))
    parts.append(tube(bars + [-0.05, -0.31, 0], bars + [-0.05, 0.31, 0], 0.02, _RUBBER, Material.RUBBER, 5))
    if scooter:
        parts.append(
            prism(
                [[0.25, 0.25], [0.4, 0.3], [0.48, 0.95], [0.38, 0.95], [0.28, 0.4]], (-0.2, 0.2), color, Material.PAINT
            )
        )
        parts.append(box([0.05, 0, 0.27], [0.6, 0.34, 0.08], _RUBBER))
        parts.append(
            prism([[-0.85, 0.5], [-0.2, 0.3], [-0.1, 0.72], [-0.8, 0.76]], (-0.17, 0.17), color, Material.PAINT)
        )
    else:
        parts.append(box([0.02, 0, 0.45], [0.55, 0.34, 0.4], (0.3, 0.3, 0.32), Material.PAINT))
        parts.append(
            prism(
                [[-0.05, 0.68], [0.38, 0.7], [0.42, 0.9], [0.2, 0.98], [-0.05, 0.82]],
                (-0.15, 0.15),
                color,
                Material.PAINT,
            )
        )
        parts.append(
            prism([[-0.95, 0.78], [-0.4, 0.6], [-0.3, 0.74], [-0.9, 0.9]], (-0.12, 0.12), color, Material.PAINT)
        )
        parts.append(tube([-0.2, -0.22, 0.35], [-0.95, -0.22, 0.45], 0.06, (0.6, 0.6, 0.6), Material.PAINT))
    parts.append(box([-0.4, 0, 0.78], [0.65, 0.28, 0.1], _RUBBER, Material.RUBBER))
    parts.append(box([front - 0.18, 0, 0.9], [0.1, 0.18, 0.16], (1.0, 0.97, 0.85), Material.HEADLIGHT))
    parts.append(box([back - 0.2, 0, 0.75], [0.08, 0.16, 0.1], (0.75, 0.05, 0.05), Material.TAILLIGHT))
    parts.append(box([back - 0.22, 0, 0.58], [0.03, 0.2, 0.14], (0.9, 0.9, 0.85), Material.RETRO))
    if rider:
        parts += _rider(rng, [-0.35, 0, 0.84], bars + [-0.05, 0.29, 0.03], [-0.1, 0.22, 0.35], _pick(rng, PAINTS))
    return merge(parts)


def traffic_cone(rng: np.random.Generator) -> Mesh:
    """A cone on a square foot with retro-reflecting stripes, or a slim delineator tube."""
    orange: Color = (0.95, float(rng.uniform(0.28, 0.4)), 0.05)
    white: Color = (0.95, 0.95, 0.95)
    if rng.random() < 0.25:
        height, bands, radius, tip = rng.uniform(1.05, 1.25), 7, 0.06, 0.045
        foot = tube([0, 0, 0], [0, 0, 0.07], 0.2, _RUBBER, Material.RUBBER, 8)
    else:
        height, bands, tip = rng.uniform(0.72, 1.05), 5, 0.03
        radius = 0.17 + 0.05 * (height - 0.7)
        foot = box([0, 0, 0.025], [0.42, 0.42, 0.05], orange if rng.random() < 0.5 else _RUBBER)
    edges = np.linspace(0.05, height, bands + 1)
    width = np.interp(edges, [0.05, height], [radius, tip])
    parts = [foot]
    for i in range(bands):
        stripe = i % 2 == 1
        color, material = (white, Material.RETRO) if stripe else (orange, Material.MATTE)
        parts.append(tube([0, 0, edges[i]], [0, 0, edges[i + 1]], width[i], color, material, 10, width[i + 1]))
    return merge(parts)


def barrier(rng: np.random.Generator) -> Mesh:
    """Concrete profile, water-filled plastic or striped board; the long side lies along y."""
    kind = rng.choice(3, p=[0.4, 0.35, 0.25])
    length = float(np.clip(rng.normal([2.9, 2.0, 2.4][kind], 0.2), 1.5, 3.6))
    half = 0.5 * length
    if kind == 2:
        height = rng.uniform(0.95, 1.1)
        parts = [
            tube([0.25 * s, y, 0], [0, y, height], 0.03, (0.8, 0.8, 0.8), sides=5)
            for y in (0.1 - half, half - 0.1)
            for s in (-1, 1)
        ]
        pieces = np.linspace(-half, half, 9)
        for z in (0.45, height - 0.12):
            for i in range(8):
                stripe = ((0.95, 0.4, 0.05), Material.MATTE) if i % 2 else ((0.95, 0.95, 0.95), Material.RETRO)
                place, size = [0, 0.5 * (pieces[i] + pieces[i + 1]), z], [0.06, pieces[1] - pieces[0], 0.22]
                parts.append(box(place, size, *stripe))
        return merge(parts)
    height, foot = rng.uniform(0.82, 1.05), rng.uniform(0.25, 0.32)
    profile = [
        [-foot, 0],
        [foot, 0],
        [foot, 0.08],
        [0.14, 0.35],
        [0.09, height],
        [-0.09, height],
        [-0.14, 0.35],
        [-foot, 0.08],
    ]
    # The outline is not convex at the waist, so it is drawn as three convex courses.
    courses = [
        [profile[i] for i in (7, 0, 1, 2)],
        [profile[i] for i in (7, 2, 3, 6)],
        [profile[i] for i in (6, 3, 4, 5)],
    ]
    gray = float(rng.uniform(0.55, 0.7))
    color: Color = (
        (gray, gray, 0.95 * gray)
        if kind == 0
        else _pick(rng, [(0.9, 0.2, 0.1), (0.95, 0.95, 0.95), (0.95, 0.45, 0.05)])
    )
    material = Material.CONCRETE if kind == 0 else Material.MATTE
    parts = [prism(course, (-half, half), color, material) for course in courses]
    if kind == 1:
        parts.append(box([0, 0, height - 0.2], [0.24, 0.7 * length, 0.12], (0.95, 0.95, 0.9), Material.RETRO))
    else:
        parts.append(box([0, 0, height - 0.1], [0.22, 0.2, 0.1], (0.95, 0.7, 0.1), Material.RETRO))
    return merge(parts)
