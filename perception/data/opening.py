"""Opens a folder of frames with the reader that its layout wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.config import Config
from perception.data.astyx import Astyx, is_astyx
from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError


def open_source(
    root: str | Path,
    config: Config,
    version: str | None = None,
    *,
    part: Sequence[float] = (0.0, 1.0),
    **selection: Any,
) -> NuScenes | Astyx:
    """A dataset as the detector of ``config`` wants it: its task, and the sweeps and returns it was trained on.

    A folder with ``frames.json`` is :class:`perception.data.astyx.Astyx`, any other a :class:`perception.NuScenes`.

    Args:
        version, part: as :class:`perception.NuScenes` takes them; an Astyx has one version, and no parts of scenes.
        selection: split, scenes, image_size and on_error as both take them, and for NuScenes its other arguments.
    """
    if not is_astyx(root):
        data = config.data
        clouds = {
            "lidar_sweeps": data.lidar_sweeps,
            "radar_sweeps": data.radar_sweeps,
            "radar_filter": data.radar_filter,
        }
        return NuScenes(root, version, part=part, **{"task": config.task, **clouds, **selection})
    if version not in (None, Astyx.version) or tuple(part) != (0.0, 1.0):
        found = f"version {version}, part {tuple(part)}"
        raise PerceptionError(
            f"{root}: version {Astyx.version} and whole scenes, of a frame each, were expected, found {found}"
        )
    return Astyx(root, **{"task": config.task, **selection})
