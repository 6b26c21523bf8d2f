"""Everything that is not annotated: ground, carriageway, markings, kerbs, houses, trees, lamps and signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perception.sim.mesh import Color, Material, Mesh, ball, box, merge, ribbon, tube
from perception.sim.road import MAP_MARGIN_M, SIDEWALK_HEIGHT_M, Layout, Path

CROSS_LENGTH_M = 110.0
_GAP_M = 1.0  # between the side road and what lies along the main one
ASPHALT: Color = (0.34, 0.34, 0.35)
# (offset, margin) to the arc lengths at which the side road, widened by the margin, begins and ends at that offset.
Edges = Callable[[float, float], tuple[float, float]]
_WALK: Color = (0.58, 0.57, 0.55)
_WHITE: Color = (0.85, 0.85, 0.83)
_YELLOW: Color = (0.85, 0.68, 0.15)


@dataclass(frozen=True, eq=False)
class Scenery:
    """Args:
    mesh: all of it.
    lamps: [N, 3] street lamp heads, world metres.
    reflectors: [N, 4] radar reflectors of the scenery: world x, y, z in metres and mean RCS in dBsm.
    """

    mesh: Mesh
    lamps: np.ndarray
    reflectors: np.ndarray


def build_scenery(rng: np.random.Generator, path: Path, layout: Layout) -> Scenery:
    """Draw the scenery of one scene."""

    def edges(offset: float, margin: float) -> tuple[float, float]:
        reach = layout.cross_half_width + margin
        return layout.cross_s - reach, layout.cross_s + reach

    parts = ground(rng, path, layout, edges)
    lamps: list = []
    reflectors: list = []
    crossing(parts, path, layout, edges)
    for side in (-1, 1):
        _houses(rng, path, layout, side, parts, reflectors)
        _street_furniture(rng, path, layout, side, parts, lamps, reflectors)
        kerb_reflectors(rng, path, layout, side, reflectors)
    return Scenery(merge(parts), np.asarray(lamps), np.asarray(reflectors))


@dataclass(frozen=True, eq=False)
class _Piece:
    """Arc lengths of the main road before the side road (``way`` -1) or behind it (1): those of ``s`` [N], but at every
    offset none nearer than where the side road's border crosses it."""

    s: np.ndarray
    way: int
    edges: Edges

    def __call__(self, offset: float) -> np.ndarray:
        low, high = self.edges(offset, _GAP_M)
        return np.minimum(self.s, low) if self.way < 0 else np.maximum(self.s, high)


def _strip(path: Path, s, low: float, high: float, z: float, color: Color, material: Material) -> Mesh:
    """Ribbon between two offsets along the road; ``s`` are arc lengths [N], or what they are at an offset."""
    sides = []
    for offset in (high, low):
        line = s(offset) if callable(s) else s
        sides.append(np.column_stack([path.pose(line, np.full(len(line), offset))[0], np.full(len(line), z)]))
    return ribbon(sides[0], sides[1], color, material)


def _wall(path: Path, piece: _Piece, offset: float, low: float, high: float, color: Color) -> Mesh:
    """Vertical ribbon: the face of a kerb."""
    s = piece(offset)
    xy = path.pose(s, np.full(len(s), offset))[0]
    lower, upper = (np.column_stack([xy, np.full(len(s), z)]) for z in (low, high))
    return ribbon(lower, upper, color, Material.CONCRETE)


def ground(rng: np.random.Generator, path: Path, layout: Layout, edges: Edges) -> list[Mesh]:
    """The soil first, then all that is paved or painted on the main road and in its yards."""
    reach, middle = 450.0, 0.5 * (path.extent + MAP_MARGIN_M)
    soil = [((0.33, 0.42, 0.2), Material.GRASS), ((0.5, 0.48, 0.44), Material.CONCRETE)][int(rng.random() < 0.4)]
    parts = [box([*middle, -0.13], [2 * reach, 2 * reach, 0.2], *soil)]
    s = np.arange(layout.start - 60, layout.end + 60.1, 2.5)
    parts.append(_strip(path, s, -layout.kerb, layout.kerb, 0.0, ASPHALT, Material.ASPHALT))
    double = 0.12 if layout.lanes == 2 else 0.0
    low, high = np.array([edges(side * layout.house_line, _GAP_M) for side in (-1, 0, 1)]).T
    for piece in (_Piece(s[s < low.max()], -1, edges), _Piece(s[s > high.min()], 1, edges)):
        for offset in {double, -double}:
            parts.append(_strip(path, piece, offset - 0.06, offset + 0.06, 0.008, _YELLOW, Material.MARKING))
        for side in (-1, 1):
            for offset in (layout.lane_edge, layout.parking_edge):
                parts.append(
                    _strip(path, piece, side * offset - 0.06, side * offset + 0.06, 0.008, _WHITE, Material.MARKING)
                )
            near, far = sorted((side * layout.kerb, side * layout.house_line))
            parts.append(_strip(path, piece, near, far, SIDEWALK_HEIGHT_M, _WALK, Material.CONCRETE))
            parts.append(_wall(path, piece, side * layout.kerb, 0.0, SIDEWALK_HEIGHT_M, (0.66, 0.66, 0.64)))
            for first, last, which in layout.lots:
                if which == side:
                    line = piece(side * layout.house_line)
                    yard = line[(line > first) & (line < last)]
                    if len(yard) > 1:
                        near, far = sorted((side * layout.house_line, side * (layout.house_line + 22)))
                        parts.append(_strip(path, yard, near, far, 0.0, (0.42, 0.41, 0.4), Material.ASPHALT))
    for dash in np.arange(s[0], s[-1], 7.5) if layout.lanes == 2 else []:
        for side in (-1, 1):
            offset = side * layout.lane_width
            before, behind = edges(offset, _GAP_M + 3)
            if not before <= dash <= behind:
                ends = np.array([dash, dash + 2.8])
                parts.append(_strip(path, ends, offset - 0.06, offset + 0.06, 0.008, _WHITE, Material.MARKING))
    return parts


def crossing(parts: list[Mesh], path: Path, layout: Layout, edges: Edges, parking: float = 0.0) -> None:
    """The side road, its stop lines and zebra crossings, which cross strips of ``parking`` metres, too."""
    center, heading = path.pose(layout.cross_s)
    yaw, half = float(heading) + layout.cross_angle, layout.cross_half_width
    local = []
    local.append(box([0, 0, -0.058], [2 * CROSS_LENGTH_M, 2 * half, 0.1], ASPHALT, Material.ASPHALT))
    for side in (-1, 1):
        middle = side * (layout.kerb + 6 + 0.5 * CROSS_LENGTH_M)
        local.append(box([middle, 0, -0.005], [CROSS_LENGTH_M, 0.14, 0.01], _YELLOW, Material.MARKING))
        local.append(
            box(
                [side * (layout.kerb + 5.5), side * 0.5 * half, -0.003],
                [0.4, half - 0.3, 0.01],
                _WHITE,
                Material.MARKING,
            )
        )
        for y in np.arange(-half - parking + 0.5, half + parking, 1.0):
            local.append(box([side * (layout.kerb + 2.6), y, -0.003], [2.6, 0.5, 0.01], _WHITE, Material.MARKING))
    parts.append(merge(local).moved(center[0], center[1], 0.0, yaw))
    for which in (0, 1):
        for offset in np.arange(-layout.kerb + 0.6, layout.kerb, 1.0).tolist():
            s = edges(offset, 2.6)[which] + np.array([-1.3, 1.3])
            parts.append(_strip(path, s, offset - 0.25, offset + 0.25, 0.006, _WHITE, Material.MARKING))


_FACADES: list[Color] = [
    (0.55, 0.32, 0.25),
    (0.7, 0.66, 0.58),
    (0.5, 0.5, 0.52),
    (0.78, 0.74, 0.68),
    (0.42, 0.36, 0.33),
    (0.6, 0.48, 0.36),
    (0.35, 0.4, 0.46),
]


def _houses(rng, path: Path, layout: Layout, side: int, parts: list[Mesh], reflectors: list) -> None:
    s = layout.start - 50 + rng.uniform(0, 8)
    while s < layout.end + 50:
        length, depth = rng.uniform(11, 24), rng.uniform(9, 14)
        middle = s + 0.5 * length
        s += length + rng.uniform(1, 9)
        blocked = abs(middle - layout.cross_s) < layout.cross_half_width + 6 + 0.7 * length
        setback = 24.0 if layout.within(layout.lots, middle, side, 0.5 * length) else rng.uniform(1.0, 6.0)
        if blocked or rng.random() < 0.12:
            continue
        height = rng.uniform(5, 11) if rng.random() < 0.6 else rng.uniform(11, 28)
        (x, y), heading = path.pose(middle, side * (layout.house_line + setback + 0.5 * depth))
        color = tuple(np.clip(np.array(_FACADES[rng.integers(len(_FACADES))]) * rng.uniform(0.85, 1.15), 0, 1))
        house = [box([0, 0, 0.5 * height], [length, depth, height], color, Material.FACADE)]
        house.append(
            box([0, 0, height + 0.15], [length + 0.5, depth + 0.5, 0.3], (0.35, 0.33, 0.32), Material.CONCRETE)
        )
        front = -side * 0.5 * depth
        shop = _FACADES[rng.integers(len(_FACADES))]
        house.append(box([0, front, 2.9], [0.9 * length, 0.9, 0.25], shop, Material.MATTE))
        parts.append(merge(house).moved(x, y, 0, float(heading)))
        for along in np.arange(-0.5 * length, 0.5 * length + 0.1, 2.2):
            place, _ = path.pose(middle + along, side * (layout.house_line + setback))
            reflectors.append([*place, rng.uniform(0.5, 3.0), rng.normal(7, 6)])


def _street_furniture(
    rng, path: Path, layout: Layout, side: int, parts: list[Mesh], lamps: list, reflectors: list
) -> None:
    z = SIDEWALK_HEIGHT_M
    for s in np.arange(layout.start - 40, layout.end + 40, 28.0) + (14.0 if side > 0 else 0.0):
        if layout.near_crossing(s):
            continue
        (x, y), heading = path.pose(s, side * (layout.kerb + 0.5))
        pole = [tube([0, 0, 0], [0, 0, 7.2], 0.09, (0.4, 0.42, 0.42), Material.MATTE, 6, 0.05)]
        pole.append(tube([0, 0, 7.1], [0, -side * 2.2, 7.6], 0.05, (0.4, 0.42, 0.42), Material.MATTE, 5))
        pole.append(box([0, -side * 2.4, 7.55], [0.3, 0.7, 0.12], (1.0, 0.9, 0.7), Material.LAMP))
        parts.append(merge(pole).moved(x, y, z, float(heading)))
        head, _ = path.pose(s, side * (layout.kerb + 0.5 - 2.4))
        lamps.append([*head, 7.5])
        reflectors.append([x, y, 1.0, rng.normal(5, 4)])
    s = layout.start - 30 + rng.uniform(0, 10)
    while s < layout.end + 30:
        s += rng.uniform(8, 20)
        if layout.near_crossing(s, 2.0) or layout.within(layout.zones, s, side, 2.0):
            continue
        kind = rng.random()
        (x, y), heading = path.pose(s, side * (layout.kerb + 0.9))
        if kind < 0.55:
            height, spread = rng.uniform(2.2, 3.4), rng.uniform(1.2, 2.0)
            tree = [tube([0, 0, 0], [0, 0, height], 0.14, (0.32, 0.24, 0.17), Material.FOLIAGE, 6, 0.1)]
            green = (rng.uniform(0.15, 0.35), rng.uniform(0.33, 0.48), rng.uniform(0.1, 0.2))
            tree.append(ball([0, 0, height + 0.9], [spread, spread, 1.2 * spread], green, Material.FOLIAGE, rng))
            parts.append(merge(tree).moved(x, y, z, rng.uniform(0, 6)))
            reflectors.append([x, y, 1.0, rng.normal(0, 4)])
        elif kind < 0.8:
            color = [(0.8, 0.1, 0.1), (0.1, 0.3, 0.75), (0.9, 0.8, 0.1), (0.1, 0.5, 0.25)][rng.integers(4)]
            sign = [tube([0, 0, 0], [0, 0, 2.5], 0.035, (0.6, 0.6, 0.6), Material.MATTE, 5)]
            sign.append(box([0, 0, 2.4], [0.04, 0.65, 0.65], color, Material.RETRO))
            parts.append(merge(sign).moved(x, y, z, float(heading)))
            reflectors.append([x, y, 1.0, rng.normal(4, 4)])
        else:
            bin_color = [(0.15, 0.3, 0.2), (0.25, 0.25, 0.28), (0.1, 0.2, 0.45)][rng.integers(3)]
            parts.append(box([0, 0, 0.5], [0.55, 0.55, 1.0], bin_color).moved(x, y, z, float(heading)))
            reflectors.append([x, y, 0.5, rng.normal(1, 3)])


def kerb_reflectors(rng, path: Path, layout: Layout, side: int, reflectors: list) -> None:
    """Kerbs, gratings and the gravel behind the sidewalk: many weak reflectors."""
    for offset, step, mean in (
        (layout.kerb, 2.0, 0.5),
        (layout.house_line + 2, 2.5, 3.0),
        (layout.house_line + 14, 4.0, 4.5),
    ):
        for s in np.arange(layout.start - 50, layout.end + 50, step):
            place, _ = path.pose(s + rng.uniform(-1, 1), side * (offset + rng.uniform(-0.3, 0.8)))
            reflectors.append([*place, 0.2, rng.normal(mean, 3)])
