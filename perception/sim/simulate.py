"""Simulated drives in the nuScenes layout: settings, resuming, spreading scenes over processes, the final tables.

Layout of the output folder besides what nuScenes prescribes: ``.simulation/settings.json`` says how it was made and
``.simulation/<scene>.json`` holds the table rows of one finished scene. Running the same command again keeps finished
scenes.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from perception.errors import PerceptionError
from perception.sim import tables
from perception.sim.rig import CAMERA_NAMES, LIDAR_NAME, RADAR_NAMES
from perception.sim.weather import WEATHER_NAMES

_REVISION = 2  # of the simulator: scenes of another revision are not continued
_NOTES = ".simulation"


class SimulationError(PerceptionError):
    """Settings or an output folder that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What to simulate.

    Args:
        scenes: how many scenes.
        seconds: length of a scene; keyframes come every 0.5 s, at least one.
        seed: scene ``i`` depends on (seed, i) only.
        image_size: (width, height) of the images in pixels; calibrations are those of this size.
        weather: scene ``i`` has weather ``weather[i % len(weather)]``.
        version: name of the folder with the tables.

    Raises:
        SimulationError: a value out of range.
    """

    scenes: int
    seconds: float
    seed: int = 0
    image_size: tuple[int, int] = (800, 450)
    weather: tuple[str, ...] = WEATHER_NAMES
    version: str = "v1.0-sim"

    def __post_init__(self):
        if self.scenes < 1 or self.scenes > 9999:
            raise SimulationError(f"scenes: 1 to 9999 expected, found {self.scenes}")
        if not 0 < self.seconds <= 600:
            raise SimulationError(f"seconds: more than 0 and at most 600 expected, found {self.seconds}")
        if self.seed < 0:
            raise SimulationError(f"seed: a number >= 0 expected, found {self.seed}")
        if min(self.image_size) < 32 or max(self.image_size) > 4096:
            raise SimulationError(
                f"image size: 32 to 4096 pixels a side expected, found {self.image_size[0]}x{self.image_size[1]}"
            )
        unknown = [name for name in self.weather if name not in WEATHER_NAMES]
        if unknown or not self.weather:
            raise SimulationError(
                f"weather: one or more of {', '.join(WEATHER_NAMES)} expected, found {', '.join(unknown) or 'none'}"
            )
        if not self.version or "/" in self.version or self.version.startswith("."):
            raise SimulationError(f"version: a plain folder name expected, found {self.version!r}")


def simulate(
    out,
    scenes: int,
    seconds: float,
    seed: int = 0,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = False,
    **options,
) -> Path:
    """Simulate drives into the folder ``out``; same arguments, same bytes, whatever ``workers`` is.

    Args:
        out: folder to write; empty, absent, or made by the same settings: then finished scenes are kept, and more
            ``scenes`` may be asked for.
        scenes, seconds, seed, **options: see :class:`Settings`.
        overwrite: remove an earlier simulation found in ``out`` first.
        workers: processes; by default one a core. They are spawned: a script that calls this with more than one needs
            the usual ``if __name__ == "__main__"``.
        progress: show a progress bar on standard error.

    Returns:
        The folder, loadable as ``NuScenes(version="v1.0-sim", dataroot=folder)``.

    Raises:
        SimulationError: settings out of range, or a folder that cannot be used.
    """
    settings, root = Settings(scenes, seconds, seed, **options), Path(out)
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise SimulationError(f"workers: at least 1 expected, found {workers}")
    try:
        _prepare(root, settings, overwrite)
        missing = [index for index in range(settings.scenes) if not _notes(root, index).exists()]
        _run_scenes(settings, missing, root, min(workers, max(len(missing), 1)), progress)
        _merge(root, settings)
    except BrokenProcessPool as error:
        raise SimulationError(
            f"{root}: a worker process was killed, probably for want of memory; use fewer workers"
        ) from error
    except OSError as error:
        raise SimulationError(f"{error.filename or root}: cannot be written: {error.strerror or error}") from error
    return root


def _notes(root: Path, index: int) -> Path:
    return root / _NOTES / f"sim-{index:04d}.json"


def _prepare(root: Path, settings: Settings, overwrite: bool) -> None:
    """Check the output folder, remove or continue what is in it, and write the settings."""
    note = root / _NOTES / "settings.json"
    wanted = json.loads(json.dumps({**asdict(replace(settings, scenes=1)), "revision": _REVISION}))
    if root.exists() and not root.is_dir():
        raise SimulationError(f"{root}: a folder expected, found a file")
    if root.exists() and any(root.iterdir()):
        if not note.exists():
            raise SimulationError(f"{root}: an empty folder or an earlier simulation expected, found other files")
        try:
            found = json.loads(note.read_text())
        except ValueError as error:
            raise SimulationError(f"{note}: JSON expected: {error}") from error
        if overwrite:
            for folder in ("samples", "sweeps", "maps", found["version"], _NOTES):
                shutil.rmtree(root / folder, ignore_errors=True)
        elif found != wanted:
            differing = ", ".join(
                f"{key} {found.get(key)} not {value}" for key, value in wanted.items() if found.get(key) != value
            )
            raise SimulationError(
                f"{root}: holds a simulation of other settings ({differing}); use --overwrite or another folder"
            )
    for channel in (*CAMERA_NAMES, LIDAR_NAME, *RADAR_NAMES):
        (root / "samples" / channel).mkdir(parents=True, exist_ok=True)
    tables.write_json(note, wanted)


def _run_scene(settings: Settings, index: int, root: Path) -> int:
    from perception.sim.scene import SceneRun

    tables.write_json(_notes(root, index), SceneRun(settings, index, root).run())
    return index


def _run_scenes(settings: Settings, indices: list[int], root: Path, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    with tqdm(total=settings.scenes, initial=settings.scenes - len(indices), unit="scene", disable=not progress) as bar:
        if workers == 1:
            for index in indices:
                _run_scene(settings, index, root)
                bar.update()
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_run_scene, settings, index, root) for index in indices]
            try:
                for job in as_completed(jobs):
                    job.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _merge(root: Path, settings: Settings) -> None:
    """The thirteen tables of all scenes; the folder appears at once."""
    merged = {name: [] for name in tables.TABLES}
    channels = (
        {channel: "camera" for channel in CAMERA_NAMES}
        | {LIDAR_NAME: "lidar"}
        | {channel: "radar" for channel in RADAR_NAMES}
    )
    merged.update(tables.fixed_tables(settings.seed, channels))
    for index in range(settings.scenes):
        for name, rows in json.loads(_notes(root, index).read_text()).items():
            merged[name].extend(rows)
    for name, rows in merged.items():
        tables.write_json(root / settings.version / f"{name}.json", rows)
