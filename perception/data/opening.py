"""Opens a folder of frames, or a URL, with the reader that its layout wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.config import Config
from perception.data.astyx import Astyx, is_astyx
from perception.data.nuscenes import NuScenes
from perception.data.shards import Contents, Shards, classes_of, is_shards
from perception.errors import PerceptionError


def open_source(
    root: str | Path,
    config: Config,
    version: str | None = None,
    *,
    part: Sequence[float] = (0.0, 1.0),
    **selection: Any,
) -> NuScenes | Astyx | Shards:
    """A dataset as the detector of ``config`` wants it: its task, and the sweeps and returns it was trained on.

    A URL, and a folder with ``shards.json``, is :class:`perception.data.shards.Shards`; a folder with ``frames.json``
    is :class:`perception.data.astyx.Astyx`; any other a :class:`perception.NuScenes`.

    Args:
        version, part: as :class:`perception.NuScenes` takes them; an Astyx has one version, and no parts of scenes.
        selection: split, scenes, image_size and on_error as all take them, and for NuScenes its other arguments.

    Raises:
        PerceptionError: an argument that names nothing, or shards of another version or of other sweeps.
        DataError: what is there is missing or malformed.
    """
    clouds = {name: getattr(config.data, name) for name in ("lidar_sweeps", "radar_sweeps", "radar_filter")}
    if is_shards(root):
        shards = Shards(root, part=part, **{"task": config.task, **selection})
        for name, expected in {"version": version or shards.version, **clouds}.items():
            found = getattr(shards.contents, name)
            if found != expected:
                raise PerceptionError(f"{root}: shards with data.{name} {expected} were expected, found {found}")
        return shards
    if not is_astyx(root):
        return NuScenes(root, version, part=part, **{"task": config.task, **clouds, **selection})
    if version not in (None, Astyx.version) or tuple(part) != (0.0, 1.0):
        found = f"version {version}, part {tuple(part)}"
        raise PerceptionError(
            f"{root}: version {Astyx.version} and whole scenes, of a frame each, were expected, found {found}"
        )
    return Astyx(root, **{"task": config.task, **selection})


def shard_contents(frames: NuScenes | Astyx | Shards, config: Config, lidar_step_m: float) -> Contents:
    """What there is to say of the frames that :func:`open_source` returned when they are written as shards."""
    return Contents(
        version=frames.version,
        simulated=frames.simulated,
        classes=classes_of(config.task),
        attributes=list(config.task.attributes),
        lidar_sweeps=config.data.lidar_sweeps,
        radar_sweeps=config.data.radar_sweeps,
        radar_filter=config.data.radar_filter,
        lidar_step_m=lidar_step_m,
        splits=frames.splits,
    )
