"""The tables of a nuScenes version as columns in a file, which every process maps into memory instead of reading JSON.

The tables are read once. From then on a version opens in milliseconds, whatever its size: only the pages of the columns
that are accessed are loaded, and all processes on a machine share them. There are two files:

tables.safetensors   the columns of all scenes; rebuilt when a table's size or times differ.
files.safetensors    which sensor files exist; rebuilt when the times of a folder of theirs differ.

They are in ``<root>/.perception-index/<version>`` or, where that cannot be written, in a folder of the user's cache
(``$XDG_CACHE_HOME``, ``~/.cache``). Readers see a whole file or none (``perception/files.py``), and it does not matter
which of several processes writes it last: they write the same. One that is truncated or not what its
header says is rebuilt.

Changes are detected by size, modification time and change time, in nanoseconds as far as the file system has them. What
had changed less than a tenth of a second before it was read may change again undetected: it is read again next time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from perception.data.column_file import MappedColumns, read_columns, write_columns
from perception.data.nuscenes_annotations import Annotations, read_annotations
from perception.data.nuscenes_calibrations import Calibrations, read_calibrations
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_index_check import is_consistent, lists_files
from perception.data.nuscenes_json import Columns, Damage
from perception.data.nuscenes_tables import Recording, SensorRows, link_keyframes, read_samples, read_sensor_rows

logger = logging.getLogger(__name__)

SCHEMA = 4  # of the columns: another one is another index
FOLDER = ".perception-index"
_BIG_TABLES = ("sample_data", "ego_pose", "sample_annotation")
_TABLES = (*_BIG_TABLES, *"scene sample sensor calibrated_sensor category instance attribute visibility".split())
_SETTLED_NS = 100_000_000


@dataclass(frozen=True, eq=False)
class Index:
    """All scenes of a version. Arrays are read-only views of a mapped file.

    sources: what the tables looked like when they were read.
    scenes: names, in the table's order; the samples of scene c are scene_offsets[c] to scene_offsets[c + 1].
    sample_token: bytes [S].  sample_scene: int32 [S].  absent: int32 [A, 4], one row each: scene, channel, sweeps after
    it until the keyframe, and how many files are absent.
    damage: a table, "row" or "link", how many of them were left out, and what was wrong with the first.
    files: those that are mapped.
    notes: what else was left out or taken for something in all of the tables, in words.
    """

    sources: dict
    scenes: list[str]
    scene_offsets: np.ndarray
    sample_token: np.ndarray
    sample_scene: np.ndarray
    recording: Recording
    annotations: Annotations | None
    modality: dict[str, str]
    absent: np.ndarray
    damage: list[tuple[str, str, int, str]]
    notes: list[str]
    files: tuple[MappedColumns, ...]

    def require_whole(self) -> None:
        """Raises DataError if a mapped file has been cut: to read what was there would kill the process."""
        for file in self.files:
            if file.is_cut():
                raise DataError(f"{file.path}: the index as it was opened was expected, found a part of it")

    def samples(self, scene: int) -> np.ndarray:
        return np.arange(self.scene_offsets[scene], self.scene_offsets[scene + 1])

    def count_absent(self, scenes: list[int], samples: np.ndarray, sweeps: dict[str, int]) -> Counter:
        """(channel, what) -> how many of what a dataset wants is absent.

        Args:
            samples: of the scenes.  sweeps: modality -> sweeps in a cloud, the keyframe included.
        """
        counts: Counter = Counter()
        channel, age, number = self.absent[np.isin(self.absent[:, 0], scenes), 1:].T
        for c, (name, modality) in enumerate(self.modality.items()):
            if modality in sweeps:
                own = channel == c
                counts[name, "keyframe row"] = int((self.recording.keyframes[name][samples] < 0).sum())
                counts[name, "keyframe file"] = int(number[own & (age == 0)].sum())
                counts[name, "sweep file"] = int(number[own & (age > 0) & (age < sweeps[modality])].sum())
        return +counts


def open_index(root: Path, version: str, skip_damaged: bool = False) -> Index:
    """The index of a version, made first where there is none that fits.

    Args:
        skip_damaged: rows that are not what they should be are left out and counted, instead of being an error.

    Raises:
        DataError: tables that are missing, malformed or refer to nothing; no place to write to.
    """
    folder = root / version
    sources = {name: _state(folder / f"{name}.json") for name in _TABLES}
    build: Callable = partial(_read_tables, folder, Damage(skip_damaged))
    tables, names = _mapped(root, version, "tables", {"tables": sources}, build, is_consistent)
    if names["damage"] and not skip_damaged:
        raise DataError(names["damage"][0][-1])
    states = {"tables": sources, "folders": {name: _state(root / name) for name in names["folders"]}}
    build = partial(_list_files, root, tables, names)
    files, _ = _mapped(root, version, "files", states, build, partial(lists_files, tables))

    modality, channels = names["modality"], list(names["modality"])
    keyframe = tables["link.keyframe"]
    return Index(
        sources=sources,
        scenes=names["scenes"],
        scene_offsets=tables["scene_offsets"],
        sample_token=tables["sample.token"],
        sample_scene=tables["sample.scene"],
        recording=Recording(
            rows=SensorRows(present=files["present"], **_below(tables, "row")),
            calibrations=Calibrations(modality, _below(tables, "calibration")),
            keyframes={name: keyframe[:, c] for c, name in enumerate(channels)},
            reference=tables["link.reference"],
            reference_us=tables["link.reference_us"],
        ),
        annotations=Annotations(**_below(tables, "annotation")) if "annotation.box_offsets" in tables else None,
        modality=modality,
        absent=files["absent"],
        damage=[tuple(entry) for entry in names["damage"]],
        notes=names["notes"],
        files=(tables, files),
    )


def _below(columns: Columns, name: str) -> Columns:
    """The columns called ``name.something``, as something."""
    return {key.partition(".")[2]: column for key, column in columns.items() if key.startswith(f"{name}.")}


def _state(path: Path) -> list[int] | None:
    """Size and times, None where there is nothing."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be looked up: {error.strerror or error}") from None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _mapped(
    root: Path,
    version: str,
    part: str,
    states: dict[str, dict],
    build: Callable[[], tuple[Columns, dict]],
    fits: Callable[[Columns, dict], bool],
) -> tuple[MappedColumns, dict]:
    """Columns and names of one file of the index; where none has been built from what is there now, one is.

    Args:
        states: of everything that they are built from.
        fits: whether columns and names are what ``build`` makes, as far as that can be seen.
    """
    key = json.dumps([SCHEMA, states])
    paths = [place / version / f"{part}.safetensors" for place in _places(root, version)]
    for path in paths:
        found = read_columns(path)
        if found is not None and found[1].get("key") == key:
            try:
                names = json.loads(found[1]["names"])
                if fits(found[0], names):
                    return found[0], names
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
                pass  # planted by somebody who knows the key

    now = time.time_ns()
    times = [ns for group in states.values() for state in group.values() if state for ns in state[1:]]
    settled = all(abs(now - ns) > _SETTLED_NS for ns in times)
    columns, names = build()
    metadata = {"key": key if settled else "", "names": json.dumps(names)}  # "" fits nothing
    failures = []
    for path in paths:
        try:
            return write_columns(path, columns, metadata)[0], names
        except OSError as error:
            failures.append(f"{path.parent} ({error.strerror or error})")
    raise DataError(
        f"{root / version}: a place for the index of its tables was expected, found none that can be written: "
        f"{', '.join(failures)}; XDG_CACHE_HOME names another"
    )


def _places(root: Path, version: str) -> list[Path]:
    """Folders for the index, the best first.

    One without write permission is left alone, even by a superuser, and so is one that is a link: it may lead anywhere.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    of_user = cache / "perception" / hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    own = root / FOLDER
    is_usable = root.stat().st_mode & 0o222 and not own.is_symlink() and not (own / version).is_symlink()
    return [own, of_user] if is_usable else [of_user]


def _read_tables(folder: Path, damage: Damage) -> tuple[Columns, dict]:
    from tqdm import tqdm

    logger.info("%s: building the index of its tables, once", folder)
    quiet = "TQDM_DISABLE" in os.environ or None  # None: unless it is shown on a terminal
    sizes = [path.stat().st_size for path in (folder / f"{name}.json" for name in _BIG_TABLES) if path.exists()]
    with tqdm(desc=f"index of {folder.name}", total=sum(sizes), unit="B", unit_scale=True, disable=quiet) as bar:
        notes: list[str] = []
        samples, scenes, sample_position = read_samples(folder, damage, notes)
        calibrations, modality, calibration_position = read_calibrations(folder, damage)
        rows, folders = read_sensor_rows(
            folder, samples, sample_position, calibrations, calibration_position, damage, notes, bar.update
        )
        link = link_keyframes(
            folder / "sample_data.json", rows, samples, calibrations["channel"], list(modality), damage
        )
        annotations = read_annotations(folder, sample_position, samples["timestamp_us"], damage, notes, bar.update)
    files = {"folder": rows.pop("folder")}
    del rows["sample"], rows["key"]
    groups = {"sample": samples, "calibration": calibrations, "row": rows, "file": files, "link": link}
    groups["annotation"] = annotations or {}
    columns = {f"{group}.{name}": column for group, own in groups.items() for name, column in own.items()}
    columns["scene_offsets"] = np.searchsorted(samples["scene"], np.arange(len(scenes) + 1))
    names = {"scenes": scenes, "modality": modality, "folders": folders, "notes": notes}
    found = [[*place, number, damage.first[place]] for place, number in damage.counts.items()]
    return columns, {**names, "damage": found}


def _list_files(root: Path, tables: Columns, names: dict) -> tuple[Columns, dict]:
    """Which files are there, and how many are not. Folders are listed, rather than millions of files tried singly."""
    folder, filename = tables["file.folder"], tables["row.filename"]
    present = np.zeros(len(folder), dtype=bool)
    order = np.argsort(folder, kind="stable")
    bounds = np.searchsorted(folder[order], np.arange(len(names["folders"]) + 1))
    for name, begin, end in zip(names["folders"], bounds, bounds[1:]):
        there, prefix = _listing(root / name), len(name.encode()) + 1 if name else 0
        if there:
            rows = order[begin:end]
            present[rows] = [path[prefix:] in there for path in filename[rows].tolist()]

    age = _sweep_age(tables["link.keyframe"], tables["row.previous"])
    row = np.flatnonzero(~present & (age >= 0))
    sample = np.searchsorted(tables["link.row_offsets"], row, side="right") - 1
    channel = tables["calibration.channel"][tables["row.calibration"][row]]
    shape = (len(names["scenes"]), len(names["modality"]), 1 + age.max(initial=0))
    cell = np.ravel_multi_index((tables["sample.scene"][sample], channel, age[row]), shape)
    cells, counts = np.unique(cell, return_counts=True)
    absent = np.stack([*np.unravel_index(cells, shape), counts], axis=1).astype(np.int32)
    return {"present": present, "absent": absent}, {}


def _listing(folder: Path) -> set[bytes]:
    """The names of what is in a folder. A link that leads nowhere is not: so git-annex has files not downloaded."""
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            return {entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from None


def _sweep_age(keyframe: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """int32 [N]: how many sweeps lie from every row to the nearest keyframe that follows it; -1 where none does."""
    age, rows, steps = np.full(len(previous), -1, dtype=np.int32), keyframe.ravel(), 0
    while len(rows := rows[rows >= 0]):
        rows = rows[age[rows] < 0]  # which also ends a circle of rows
        age[rows], rows, steps = steps, previous[rows], steps + 1
    return age
