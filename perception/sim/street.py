"""The world "street": undulating ground, clutter of the kind and amount of real streets, traffic from all sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from perception.sim import furniture
from perception.sim.clutter import furnish
from perception.sim.mesh import Material, box, merge
from perception.sim.road import SIDEWALK_HEIGHT_M, Layout, Path
from perception.sim.scenery import ASPHALT, CROSS_LENGTH_M, Scenery, crossing, ground, kerb_reflectors
from perception.sim.side_road import SIDE_PARKING_M, side_road_edges
from perception.sim.street_traffic import StreetTraffic
from perception.sim.terrain import Terrain, draped
from perception.sim.verge import Clutter, Verge
from perception.sim.world import World

# Longest edges, metres, of what must follow the ground: pavement lies millimetres above other pavement.
_PAVED_M, _SOIL_M = 4.0, 10.5


def build_street(
    rng: Callable[[str], np.random.Generator], path: Path, layout: Layout, seconds: float, speed: float
) -> World:
    """``rng`` makes the generator of a purpose; ``speed`` is the ego vehicle's, m/s, over ``seconds``."""
    layout, terrain = _widened(rng("layout"), layout), Terrain.draw(rng("terrain"))
    traffic = StreetTraffic(rng("traffic"), path, layout, seconds, speed)
    layout = traffic.layout  # with the room that the side road needs
    return World(layout, terrain, traffic, _scenery(rng("scenery"), path, layout, terrain, traffic))


def _widened(rng: np.random.Generator, layout: Layout) -> Layout:
    """A broader sidewalk, and a parking strip that in some of the scenes takes cars at an angle."""
    parking = rng.uniform(3.0, 3.4) if rng.random() < 0.85 else rng.uniform(5.2, 5.6)
    return replace(layout, parking_width=parking, sidewalk_width=layout.sidewalk_width + rng.uniform(0.0, 1.5))


def _scenery(rng: np.random.Generator, path: Path, layout: Layout, terrain: Terrain, traffic: StreetTraffic) -> Scenery:
    edges = partial(side_road_edges, path, layout)
    soil, *paved = ground(rng, path, layout, edges)
    crossing(paved, path, layout, edges, SIDE_PARKING_M)
    center, heading = path.pose(layout.cross_s)
    half = layout.cross_half_width + SIDE_PARKING_M
    strip = box([0, 0, -0.065], [2 * CROSS_LENGTH_M, 2 * half, 0.1], ASPHALT, Material.ASPHALT)
    paved.append(strip.moved(center[0], center[1], 0.0, float(heading) + layout.cross_angle))
    clutter = Clutter(traffic.occupied, _roads(path, layout))
    for side in (-1, 1):
        furnish(rng, _main_verge(path, layout, side, clutter), [lot[:2] for lot in layout.lots if lot[2] == side])
        _lights(rng, _main_verge(path, layout, side, clutter), edges(side * layout.kerb, 5.5))
        _screens(rng, _main_verge(path, layout, side, clutter), layout)
        reflectors: list = []
        kerb_reflectors(rng, path, layout, side, reflectors)
        clutter.reflectors += reflectors
    for arm in (-1, 1):
        for side in (-1, 1):
            furnish(rng, _side_verge(center, float(heading), layout, arm, side, clutter), [])
    mesh = merge(
        [
            draped(soil, terrain, _SOIL_M),
            draped(merge(paved), terrain, _PAVED_M),
            draped(merge(clutter.parts), terrain),
        ]
    )
    lamps, echoes = np.array(clutter.lamps).reshape(-1, 3), np.array(clutter.reflectors)
    for places in (lamps, echoes):
        places[:, 2] += terrain.height(places[:, :2])
    return Scenery(mesh, lamps, echoes)


def _roads(path: Path, layout: Layout) -> np.ndarray:
    """[N, 5] footprints of the main road, in pieces, and of the side road."""
    s = np.arange(layout.start - 60, layout.end + 60, 4.0)
    xy, heading = path.pose(s)
    main = np.column_stack([xy, heading, np.full(len(s), 4.0), np.full(len(s), 2 * layout.kerb)])
    center, along = path.pose(layout.cross_s)
    width = 2 * (layout.cross_half_width + SIDE_PARKING_M)
    return np.vstack([main, [*center, float(along) + layout.cross_angle, 2 * CROSS_LENGTH_M, width]])


def _main_verge(path: Path, layout: Layout, side: int, clutter: Clutter) -> Verge:
    ends = np.array([side_road_edges(path, layout, side * offset, 3.5) for offset in (layout.kerb, layout.house_line)])

    def closed(s: float) -> bool:
        return bool(ends[:, 0].min() < s < ends[:, 1].max())

    low, high = layout.start - 25, layout.end + 25
    return Verge(path.pose, side, layout.kerb, low, high, layout.sidewalk_width, SIDEWALK_HEIGHT_M, closed, clutter)


def _side_verge(center: np.ndarray, heading: float, layout: Layout, arm: int, side: int, clutter: Clutter) -> Verge:
    """One side of one arm of the side road, beyond the houses of the main road."""
    yaw = heading + layout.cross_angle + (0.0 if arm > 0 else np.pi)
    out, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])

    def pose(s, offset) -> tuple[np.ndarray, float]:
        return center + s * out + offset * left, yaw

    low, kerb = layout.house_line + 2.0, layout.cross_half_width + SIDE_PARKING_M
    return Verge(pose, side, kerb, low, 85.0, 0.0, 0.0, lambda s: False, clutter)


def _lights(rng: np.random.Generator, verge: Verge, corners: tuple[float, float]) -> None:
    """Traffic lights at the corners of the crossing."""
    for s in corners:
        reach = rng.uniform(3.0, 6.0)
        verge.put(furniture.traffic_light(rng, reach), s, 0.5, 0.0, rng.normal(7, 3))


def _screens(rng: np.random.Generator, verge: Verge, layout: Layout) -> None:
    """Fences with cloth behind the work zones."""
    for low, high, side in layout.zones:
        if side != verge.side or rng.random() < 0.3:
            continue
        color = [(0.45, 0.12, 0.1), (0.15, 0.3, 0.2), (0.2, 0.25, 0.45), (0.7, 0.7, 0.68)][rng.integers(4)]
        kind = ["screen", "mesh", "boards"][rng.choice(3, p=[0.55, 0.3, 0.15])]
        for s in np.arange(low + 1.0, high - 1.0, 2.2).tolist():
            verge.put(furniture.fence(rng, kind, 2.2, 2.0, color), s, rng.uniform(0.15, 0.25), rng.normal(0, 0.03))
