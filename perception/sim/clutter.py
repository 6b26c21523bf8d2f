"""How a street is furnished: houses, fences and hedges, what stands on the sidewalk, gardens, banks, wires."""

from __future__ import annotations

import numpy as np

from perception.sim import furniture, plants
from perception.sim.buildings import building
from perception.sim.mesh import Color, Material, Mesh, merge, ribbon
from perception.sim.verge import Verge

_LAMP_STEP_M, _POLE_STEP_M = 28.0, 33.0
_SMALL = [
    (furniture.sign, 0.2, 3.0),
    (furniture.bin_, 0.18, 1.0),
    (furniture.bollard, 0.14, -2.0),
    (furniture.hydrant, 0.08, -1.0),
    (furniture.cabinet, 0.12, 3.0),
    (furniture.bench, 0.08, 0.0),
    (furniture.board, 0.08, 3.0),
    (furniture.rubbish, 0.07, -3.0),
    (furniture.bicycle_stand, 0.05, 1.0),
]  # what, how often, mean RCS in dBsm


def furnish(rng: np.random.Generator, verge: Verge, yards: list[tuple[float, float]]) -> None:
    """Everything behind one kerb; ``yards`` are the stretches (s from, s to) that stay open behind the sidewalk."""
    _buildings(rng, verge, yards)
    _boundaries(rng, verge, verge.sidewalk + 0.6, 0.85)
    if verge.sidewalk:  # a second row at the kerb
        _boundaries(rng, verge, 0.6, 0.4)
    _sidewalk(rng, verge)
    _garden(rng, verge)
    _poles(rng, verge)
    _mounds(rng, verge, yards)


def _within(yards: list[tuple[float, float]], s: float, margin: float = 0.0) -> bool:
    return any(low - margin < s < high + margin for low, high in yards)


def _buildings(rng: np.random.Generator, verge: Verge, yards) -> None:
    s = verge.low + rng.uniform(0, 10)
    while s < verge.high:
        length, depth = rng.uniform(8, 22), rng.uniform(8, 13)
        middle = s + 0.5 * length
        s += length + (rng.uniform(0, 3) if rng.random() < 0.5 else rng.uniform(3, 16))
        setback = 24.5 if _within(yards, middle, 0.5 * length) else rng.choice([1.6, rng.uniform(1.6, 8.0)])
        if rng.random() < 0.22:
            continue
        height = rng.uniform(3.2, 9) if rng.random() < 0.6 else rng.uniform(9, 24)
        front = verge.sidewalk + setback
        xy, yaw = verge.at(middle, front)
        inward = np.array([-np.sin(yaw), np.cos(yaw)])
        place = np.array([*(xy + 0.5 * depth * inward), yaw, length + 1.0, depth + 1.0])
        if verge.closed(middle) or not verge.clutter.free(place) or verge.clutter.meets_building(place):
            continue
        verge.clutter.built.append(place)
        verge.clutter.parts.append(building(rng, length, depth, height).moved(xy[0], xy[1], 0.0, yaw))
        for along in np.arange(-0.5 * length, 0.5 * length + 0.1, 2.2).tolist():
            spot, _ = verge.at(middle + along, front)
            verge.clutter.reflectors.append(np.array([*spot, rng.uniform(0.5, 3.0), rng.normal(7, 6)]))


def _boundaries(rng: np.random.Generator, verge: Verge, depth: float, share: float) -> None:
    """Runs of one fence, wall or hedge along a ``share`` of the verge, with gates between them."""
    kinds = [*furniture.FENCES, "hedge"]
    s = verge.low
    while s < verge.high:
        run, kind = rng.uniform(5, 26), str(rng.choice(kinds, p=[0.14, 0.11, 0.15, 0.1, 0.1, 0.07, 0.33]))
        height, lateral, piece = rng.uniform(0.8, 2.1), depth + rng.uniform(-0.2, 0.4), 2.2
        color, green, present = furniture.paint(rng), plants.green(rng), rng.random() < share
        for place in np.arange(s, s + run, piece).tolist() if present else []:
            if verge.is_built(place, lateral, 1.5):
                continue
            if kind == "hedge":
                panel = plants.hedge(rng, piece, min(height, 1.7), green)
            else:
                panel = furniture.fence(rng, kind, piece, height, color)
            verge.put(panel, place, lateral, rng.normal(0, 0.02), rng.normal(1, 4) if rng.random() < 0.5 else None)
        s += run + rng.uniform(1.0, 6.0)


def _sidewalk(rng: np.random.Generator, verge: Verge) -> None:
    """Trees in a row, and small things between kerb and houses."""
    step = rng.uniform(7.0, 13.0)
    for s in np.arange(verge.low, verge.high, step).tolist():
        if rng.random() < 0.75:
            verge.put(
                plants.tree(rng), s + rng.normal(0, 0.7), rng.uniform(0.7, 1.1), rng.uniform(0, 6), rng.normal(0, 4)
            )
    makers = [maker for maker, _, _ in _SMALL]
    share = np.array([share for _, share, _ in _SMALL])
    s = verge.low
    while s < verge.high:
        s += rng.exponential(3.2)
        which = rng.choice(len(makers), p=share / share.sum())
        depth = rng.uniform(0.35, 1.0) if rng.random() < 0.6 else verge.sidewalk - rng.uniform(-0.2, 0.6)
        turn = rng.choice([0.0, 0.5, 1.0, 1.5]) * np.pi + rng.normal(0, 0.1)
        for copy in range(int(rng.integers(2, 6)) if makers[which] is furniture.bollard else 1):
            verge.put(makers[which](rng), s + 1.4 * copy, depth, turn, _SMALL[which][2] + rng.normal(0, 3))
    for s in rng.uniform(verge.low, verge.high, 2).tolist():
        verge.put(furniture.shelter(rng), s, verge.sidewalk - 0.6, 0.0, rng.normal(6, 3))


def _garden(rng: np.random.Generator, verge: Verge) -> None:
    """Behind the sidewalk, between and behind the houses: trees, bushes, grass, stones, things left outside."""
    area = (verge.high - verge.low) * 26.0
    for _ in range(int(area / 17.0)):
        s, depth = rng.uniform(verge.low, verge.high), verge.sidewalk + 0.6 + 26.0 * rng.random() ** 1.5
        if verge.is_built(s, depth):
            continue
        kind = rng.random()
        if kind < 0.17:
            mesh = plants.tree(rng, rng.uniform(4.0, 12.0))
        elif kind < 0.5:
            mesh = plants.bush(rng)
        elif kind < 0.86:
            mesh = plants.grass(rng)
        elif kind < 0.93:
            mesh = furniture.stones(rng)
        else:
            mesh = [furniture.rubbish, furniture.bin_, furniture.bench][rng.integers(3)](rng)
        verge.put(mesh, s, depth, rng.uniform(0, 6), rng.normal(0, 4) if rng.random() < 0.4 else None)


def _poles(rng: np.random.Generator, verge: Verge) -> None:
    """Lamps on one verge; on the other often wooden poles with wires, some of them across the road."""
    if verge.side > 0 or rng.random() < 0.4:
        for s in np.arange(verge.low, verge.high, _LAMP_STEP_M).tolist():
            if verge.put(furniture.lamp_post(2.2), s, 0.45, 0.0, rng.normal(5, 4)):
                head, _ = verge.at(s, -2.0)
                verge.clutter.lamps.append(np.array([*head, 7.5]))
        return
    last = None
    for s in np.arange(verge.low, verge.high, _POLE_STEP_M).tolist():
        if not verge.put(furniture.utility_pole(rng), s, 0.5, 0.5 * np.pi, rng.normal(3, 4)):
            last = None
            continue
        ends = [np.array([*verge.at(s, 0.5 + lateral)[0], 8.0]) for lateral in (-0.9, 0.0, 0.9)]
        if last is not None:
            verge.clutter.parts += [furniture.wire(a, b, 0.5) for a, b in zip(last, ends, strict=True)]
        if rng.random() < 0.5:
            over = np.array([*verge.at(s, -2 * verge.kerb - 3.0)[0], 7.0])
            verge.clutter.parts.append(furniture.wire(ends[1], over, 0.6))
        last = ends


def _mounds(rng: np.random.Generator, verge: Verge, yards: list[tuple[float, float]]) -> None:
    """Grassy banks behind the sidewalk, up to taller than a person."""
    s = verge.low + rng.uniform(0, 10)
    while s < verge.high:
        length, depth = rng.uniform(6, 20), rng.uniform(4, 10)
        middle, inward = s + 0.5 * length, verge.sidewalk + 1.2 + rng.uniform(0, 14) + 0.5 * depth
        s += length + rng.uniform(2, 14)
        if not (_within(yards, middle, 0.5 * length) or verge.is_built(middle, inward, max(length, depth))):
            verge.put(_mound(rng, length, depth), middle, inward)


def _mound(rng: np.random.Generator, length: float, depth: float) -> Mesh:
    """A hump of that extent, higher and lower along its crest."""
    x, y = np.linspace(-0.5, 0.5, 12), np.linspace(-0.5, 0.5, 7)
    height = rng.uniform(0.4, 2.6) * (0.8 + 0.2 * np.sin(rng.uniform(4, 12) * x + rng.uniform(0, 6)))
    rows = []
    for across in y:
        z = height * np.cos(np.pi * across) * np.sqrt(np.maximum(np.cos(np.pi * x), 0.0)) - 0.06
        rows.append(np.column_stack([length * x, np.full(12, depth * across), z]))
    color: Color = (float(rng.uniform(0.28, 0.45)), float(rng.uniform(0.34, 0.44)), 0.22)
    return merge([ribbon(a, b, color, Material.GRASS) for a, b in zip(rows, rows[1:], strict=False)])
