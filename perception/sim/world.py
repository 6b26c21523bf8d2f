"""A world: what a scene drives through. "town" is flat, clean and orderly; "street" is in ``street.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from perception.sim.road import Layout, Path
from perception.sim.scenery import Scenery, build_scenery
from perception.sim.terrain import FLAT, Terrain
from perception.sim.traffic import Traffic


class World(NamedTuple):
    """Plan, ground, everybody on it and everything else."""

    layout: Layout
    terrain: Terrain
    traffic: Traffic
    scenery: Scenery


def build_town(
    rng: Callable[[str], np.random.Generator], path: Path, layout: Layout, seconds: float, speed: float
) -> World:
    """``rng`` makes the generator of a purpose; ``speed`` is the ego vehicle's, m/s, over ``seconds``."""
    traffic = Traffic(rng("traffic"), path, layout, seconds, speed)
    return World(layout, FLAT, traffic, build_scenery(rng("scenery"), path, layout))
