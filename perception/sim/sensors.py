"""Which sensors a world has: idealised ones in the town, ones with the faults of recorded ones in the street."""

from __future__ import annotations

import numpy as np

from perception.sim.camera import Camera
from perception.sim.lidar import Lidar
from perception.sim.radar import Radar
from perception.sim.rig import CAMERA_DELAY_S, Sensor
from perception.sim.rolling_lidar import REVOLUTION_S, RollingLidar
from perception.sim.street_camera import StreetCamera
from perception.sim.street_radar import StreetRadar
from perception.sim.traffic import Actor
from perception.sim.weather import Weather


def make_lidar(world: str, sensor: Sensor, weather: Weather, rng: np.random.Generator) -> Lidar | RollingLidar:
    return RollingLidar(sensor, weather, rng) if world == "street" else Lidar(sensor, weather)


def make_radar(
    world: str, sensor: Sensor, actors: list[Actor], reflectors: np.ndarray, rng: np.random.Generator
) -> Radar | StreetRadar:
    return StreetRadar(sensor, actors, reflectors, rng) if world == "street" else Radar(sensor, actors, reflectors)


def make_camera(
    world: str,
    sensor: Sensor,
    size: tuple[int, int],
    weather: Weather,
    lamps: np.ndarray,
    rng: np.random.Generator,
) -> Camera:
    return (StreetCamera if world == "street" else Camera)(sensor, size, weather, lamps, rng)


def camera_delay_s(world: str, channel: str) -> float:
    """Seconds from the LiDAR's stamp to the exposure: the stamp is the middle of an instant sweep, but the end of one
    that takes its time, as in the recordings."""
    return CAMERA_DELAY_S[channel] - (0.5 * REVOLUTION_S if world == "street" else 0.0)
