"""Which version of a nuScenes folder, which of its scenes and which part of each scene a dataset serves."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from perception.data.nuscenes_files import DataError, read_bytes
from perception.errors import PerceptionError, missing_extra, require

logger = logging.getLogger(__name__)

_MOST_BYTES = 16 << 20  # of log.json and splits.json; those of trainval have 20 KB


def is_simulated(folder: Path) -> bool:
    """Whether ``perception.sim`` made the version in this folder of tables, by what its ``log.json`` says."""
    try:
        logs = msgspec.json.decode(read_bytes(folder / "log.json", most=_MOST_BYTES))
        return any(row["location"] == "simulation" for row in logs)
    except (DataError, msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError):
        return False


def part_of_scene(samples: np.ndarray, part: Sequence[float]) -> np.ndarray:
    """Those samples of a scene, in order of time, that lie in the part."""
    expected = "begin and end as shares, 0 <= begin < end <= 1,"
    require("part", part, expected, lambda part: len(part) == 2 and 0 <= part[0] < part[1] <= 1)
    begin, end = part
    place = np.arange(len(samples)) / max(len(samples), 1)
    return samples[(place >= begin) & (place < end)]


def are_names(names: Sequence[str]) -> bool:
    return not isinstance(names, str) and all(isinstance(name, str) for name in names)


def require_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        closest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
        hint = f"the closest is '{closest[0]}'" if closest else "there is none at all"
        raise PerceptionError(f"unknown {kind} '{name}'; {hint}")


def find_version(root: Path, version: str | None) -> str:
    """The version below the root that is asked for, or the only one there is."""
    if not root.is_dir():
        raise DataError(f"{root}: a folder with nuScenes data was expected, found none")
    candidates = sorted(path.parent.name for path in root.glob("*/scene.json"))
    if version in candidates:
        return version
    if version is None and len(candidates) == 1:
        return candidates[0]
    wanted = f"version '{version}'" if version is not None else "exactly one version"
    found = ", ".join(candidates) or "none"
    if (root / "scene.json").exists():
        found = f"the tables themselves: this is a version's folder, and the root is the one above, {root.parent}"
    raise DataError(f"{root}: {wanted}, a folder with scene.json, was expected, found {found}")


def choose_scenes(
    where: str | Path,
    names: list[str],
    split: str | None,
    scenes: Sequence[str] | None,
    own_splits: Mapping[str, Sequence[str]],
) -> list[str]:
    """Those of the names in a version that are asked for.

    own_splits: names of its scenes by split; they come before the official ones.
    """
    if scenes is not None and not isinstance(scenes, str):
        require("scenes", scenes, "a list of names", are_names)
    if split is not None and scenes:
        raise PerceptionError(f"either split or scenes was expected, found both: '{split}' and {list(scenes)}")
    if scenes:
        scenes = [scenes] if isinstance(scenes, str) else list(dict.fromkeys(scenes))
        for name in scenes:
            require_known("scene", name, names)
        return scenes
    if split is None:
        return names
    wanted = set(own_splits[split] if split in own_splits else _official_split(split, own_splits))
    present = [name for name in names if name in wanted]
    if not present:
        raise PerceptionError(f"{where}: none of the {len(wanted)} scenes of split '{split}' is here")
    if len(present) < len(wanted):
        absent = len(wanted) - len(present)
        logger.warning("%s: %d of %d scenes of split '%s' are absent", where, absent, len(wanted), split)
    return present


def read_splits(folder: Path) -> dict[str, list[str]]:
    """The names of the scenes of every split in a version's ``splits.json`` (the devkit's custom splits), if any."""
    path = folder / "splits.json"
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(read_bytes(path, most=_MOST_BYTES), type=dict[str, list[str]])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: an object of split names to lists of scenes was expected: {error}") from None


def _official_split(split: str, own_splits: Mapping[str, Sequence[str]]) -> list[str]:
    try:
        from nuscenes.utils.splits import create_splits_scenes
    except ImportError:
        message = missing_extra("nuscenes", f"split '{split}': the official splits need an extra")
        raise PerceptionError(message) from None
    official = create_splits_scenes()
    require_known("split", split, [*official, *own_splits])
    return official[split]
