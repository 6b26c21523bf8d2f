"""Day, night, rain and fog: what each does to light, camera and LiDAR. Radar is left alone, as it is in reality."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Weather:
    """One scene's light and air. Light is linear RGB, 1.0 being a white surface in full exposure.

    Args:
        name: day, night, rain or fog; ``text`` is the wording used in scene descriptions.
        sun: light of the sun (or of the brightest part of an overcast sky); ``sun_direction`` [3] points at it.
        ambient: light from everywhere.
        sky_top, sky_horizon: colours of the sky; the horizon is also the colour of fog.
        camera_extinction: 1/m, how fast contrast fades with distance.
        lidar_extinction: 1/m, one way.
        lidar_loss: share of returns lost at random.
        lidar_backscatter: share of beams that return from drops near the sensor.
        noise: standard deviation of the camera noise, in units of full scale.
        clouds: brightness of clouds against the sky.
    """

    name: str
    text: str
    sun: Rgb
    sun_direction: tuple[float, float, float]
    ambient: Rgb
    sky_top: Rgb
    sky_horizon: Rgb
    camera_extinction: float
    lidar_extinction: float
    lidar_loss: float
    lidar_backscatter: float
    noise: float
    clouds: float = 0.0

    @property
    def is_night(self) -> bool:
        return self.name == "night"


_OVERCAST = (0.12, 0.08, 0.99)
_WEATHERS = {
    "day": Weather(
        "day",
        "Day, clear",
        (1.0, 0.94, 0.82),
        _OVERCAST,
        (0.3, 0.34, 0.4),
        (0.22, 0.42, 0.8),
        (0.68, 0.76, 0.85),
        0.0012,
        0.0,
        0.03,
        0.0,
        0.008,
        0.5,
    ),
    "night": Weather(
        "night",
        "Night, street lamps",
        (0.0, 0.0, 0.0),
        _OVERCAST,
        (0.012, 0.014, 0.022),
        (0.002, 0.003, 0.008),
        (0.02, 0.018, 0.02),
        0.002,
        0.0,
        0.03,
        0.0,
        0.035,
    ),
    "rain": Weather(
        "rain",
        "Rain, wet road",
        (0.16, 0.16, 0.17),
        _OVERCAST,
        (0.26, 0.28, 0.3),
        (0.36, 0.38, 0.42),
        (0.46, 0.48, 0.5),
        0.009,
        0.006,
        0.12,
        0.02,
        0.02,
        0.15,
    ),
    "fog": Weather(
        "fog",
        "Fog, overcast",
        (0.12, 0.12, 0.12),
        _OVERCAST,
        (0.34, 0.35, 0.37),
        (0.6, 0.62, 0.64),
        (0.6, 0.62, 0.64),
        0.03,
        0.02,
        0.06,
        0.012,
        0.012,
    ),
}
WEATHER_NAMES = tuple(_WEATHERS)


def draw_weather(name: str, rng: np.random.Generator) -> Weather:
    """The weather of that name with this scene's sun and density."""
    weather = _WEATHERS[name]
    density = rng.uniform(0.7, 1.4)
    weather = replace(
        weather,
        camera_extinction=weather.camera_extinction * density,
        lidar_extinction=weather.lidar_extinction * density,
    )
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(25, 60))
    if name != "day":
        return weather
    across = np.cos(elevation)
    sun = (float(np.cos(azimuth) * across), float(np.sin(azimuth) * across), float(np.sin(elevation)))
    return replace(weather, sun_direction=sun)
