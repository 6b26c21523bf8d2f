"""Simulated drives in the nuScenes layout: settings, resuming, spreading scenes over processes, the final tables.

Layout of the output folder besides what nuScenes prescribes: ``.simulation/settings.json`` says how it was made,
``.simulation/<scene>.json`` holds the table rows of one finished scene, and ``splits.json`` beside the tables names all
scenes as the split "all". Running the same command again keeps finished scenes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from perception.data.nuscenes_constants import KEYFRAME_HZ
from perception.data.scene_tables import TABLES, write_json, write_tables
from perception.errors import PerceptionError
from perception.files import ResultsError, make_folder, writing
from perception.lock import locked
from perception.sim.rig import CAMERA_NAMES, LIDAR_NAME, RADAR_NAMES
from perception.sim.weather import WEATHER_NAMES

_REVISION = 2  # of the simulator: scenes of another revision are not continued
_NOTES = ".simulation"
WORLDS = ("town", "street")
_CHANNELS = (
    {channel: "camera" for channel in CAMERA_NAMES}
    | {LIDAR_NAME: "lidar"}
    | {channel: "radar" for channel in RADAR_NAMES}
)
_DATA_FOLDERS = ("samples", "sweeps", "maps")


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
        version: name of the folder with the tables; not one of samples, sweeps and maps, which hold the data.
        world: "town", clean and orderly, or "street", cluttered as real ones are, with sensors that have their faults.

    Raises:
        SimulationError: a value out of range.
    """

    scenes: int
    seconds: float
    seed: int = 0
    image_size: tuple[int, int] = (800, 450)
    weather: tuple[str, ...] = WEATHER_NAMES
    version: str = "v1.0-sim"
    world: str = "town"

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
        if self.world not in WORLDS:
            raise SimulationError(f"world: {' or '.join(WORLDS)} expected, found {self.world}")
        if not _names_a_version(self.version):
            raise SimulationError(
                f"version: a plain folder name other than {', '.join(_DATA_FOLDERS)} expected, found {self.version!r}"
            )

    @property
    def keyframes(self) -> int:
        """Of one scene."""
        return max(int(self.seconds * KEYFRAME_HZ), 1)

    @staticmethod
    def scene_name(index: int) -> str:
        return f"sim-{index:04d}"


def _names_a_version(name) -> bool:
    plain = isinstance(name, str) and re.fullmatch(r"[^/\\\0.][^/\\\0]*", name) is not None
    return plain and name.lower() not in _DATA_FOLDERS


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
        progress: show a progress bar on standard error: files of keyframes, twelve a keyframe.

    Returns:
        The folder, loadable as ``NuScenes(version="v1.0-sim", dataroot=folder)``.

    Raises:
        SimulationError: settings out of range, or a folder that cannot be used.
        InUseError: another run is writing to the folder.
    """
    settings, root = Settings(scenes, seconds, seed, **options), Path(out)
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise SimulationError(f"workers: at least 1 expected, found {workers}")
    if root.exists() and not root.is_dir():
        raise SimulationError(f"{root}: a folder expected, found a file")
    try:
        with locked(root):
            _prepare(root, settings, overwrite)
            missing = [index for index in range(settings.scenes) if not _notes(root, index).exists()]
            _run_scenes(settings, missing, root, min(workers, max(len(missing), 1)), progress)
            _merge(root, settings)
    except BrokenProcessPool as error:
        raise SimulationError(
            f"{root}: a worker process was killed, probably for want of memory; use fewer workers"
        ) from error
    except ResultsError as error:
        raise SimulationError(str(error)) from error
    except OSError as error:
        raise SimulationError(f"{error.filename or root}: cannot be written: {error.strerror or error}") from error
    return root


def _notes(root: Path, index: int) -> Path:
    return root / _NOTES / f"{Settings.scene_name(index)}.json"


def _prepare(root: Path, settings: Settings, overwrite: bool) -> None:
    """Check the output folder, remove or continue what is in it, and write the settings."""
    note = root / _NOTES / "settings.json"
    wanted = json.loads(json.dumps({**asdict(replace(settings, scenes=1)), "revision": _REVISION}))
    if any(root.iterdir()):
        if not note.exists():
            raise SimulationError(f"{root}: an empty folder or an earlier simulation expected, found other files")
        found = _read_json(note)
        if not isinstance(found, dict) or not _names_a_version(found.get("version")):
            raise SimulationError(
                f"{note}: the settings of a simulation, its version among them, expected, found {_short(found)}; "
                "use another folder"
            )
        if overwrite:
            for folder in (*_DATA_FOLDERS, found["version"], _NOTES):  # the notes last: until then this can be resumed
                if (root / folder).exists():
                    shutil.rmtree(root / folder)
        elif (found := {"world": "town", **found}) != wanted:  # which earlier ones do not say
            differing = ", ".join(
                f"{key} {found.get(key)} not {value}" for key, value in wanted.items() if found.get(key) != value
            )
            raise SimulationError(
                f"{root}: holds a simulation of other settings ({differing}); use --overwrite or another folder"
            )
    with writing(root):
        make_folder(root, settings.version)
        for channel in _CHANNELS:
            make_folder(root, "samples", channel)
    write_json(note, wanted)


def _read_json(path: Path):
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SimulationError(f"{path}: JSON expected: {error}") from error


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _run_scene(settings: Settings, index: int, root: Path, on_keyframe_file: Callable[[], object]) -> None:
    from perception.sim.scene import SceneRun

    write_json(_notes(root, index), SceneRun(settings, index, root, on_keyframe_file).run())


def _run_scenes(settings: Settings, indices: list[int], root: Path, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    files = settings.keyframes * len(_CHANNELS)  # of one scene
    kept = files * (settings.scenes - len(indices))
    with tqdm(total=files * settings.scenes, initial=kept, unit="file", disable=not progress) as bar:
        if workers > 1:
            _run_in_processes(settings, indices, root, workers, lambda count: bar.update(kept + count - bar.n))
            return
        for index in indices:
            _run_scene(settings, index, root, bar.update)


def _run_in_processes(
    settings: Settings, indices: list[int], root: Path, workers: int, report: Callable[[int], object]
) -> None:
    """Spread the scenes over processes; ``report`` is told now and then how many keyframe files they have written."""
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    count = context.Value("Q")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(count,)) as pool:
        try:
            with _interrupts_held():
                pending = {pool.submit(_run_scene_in_worker, settings, index, root) for index in indices}
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                report(count.get_obj().value)  # without the lock, which a killed worker would keep
                for job in done:
                    job.result()
        except KeyboardInterrupt:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # files and notes appear whole or not at all
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end of the block; a process started within never sees it, not even while it imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_count: Any = None  # in a worker: the keyframe files that all workers have written so far


def _start_worker(count) -> None:
    global _count
    _count = count
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C


def _count_keyframe_file() -> None:
    with _count.get_lock():
        _count.value += 1


def _run_scene_in_worker(settings: Settings, index: int, root: Path) -> None:
    _run_scene(settings, index, root, _count_keyframe_file)


def _merge(root: Path, settings: Settings) -> None:
    """The thirteen tables of all scenes, and the split that names them."""
    scenes = []
    for index in range(settings.scenes):
        scene = _read_json(_notes(root, index))
        if not isinstance(scene, dict) or not all(
            name in TABLES and isinstance(rows, list) for name, rows in scene.items()
        ):
            raise SimulationError(
                f"{_notes(root, index)}: the table rows of a scene expected, found {_short(scene)}; "
                "remove this file to simulate the scene again"
            )
        scenes.append(scene)
    write_tables(root / settings.version, settings.seed, scenes, _CHANNELS)
