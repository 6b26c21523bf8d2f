"""Whether an index is what this package writes: whoever can write there may have planted another one.

Its numbers are places in its own columns, and its folders are below the data root. That it says what the tables say
cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perception.data.nuscenes_constants import MODALITIES
from perception.data.nuscenes_files import is_below_root
from perception.data.nuscenes_json import Columns
from perception.task import ATTRIBUTES, CLASSES

_ROW = ("token", "filename", "timestamp_us", "world_SE3_ego", "calibration", "previous", "image_size")


def is_consistent(tables: Columns, names: dict) -> bool:
    """Whether columns and names, as ``nuscenes_index.py`` has them, lead nowhere else."""
    try:
        return all(_checks(tables, names))
    except (LookupError, TypeError, ValueError, AttributeError):  # a column that is missing or of another shape
        return False


def lists_files(tables: Columns, files: Columns, names: dict) -> bool:
    """Whether ``files`` tells of every row of the tables whether its file is there."""
    return files["present"].shape == tables["row.token"].shape and files["absent"].shape[1:] == (4,)


def _checks(tables: Columns, names: dict) -> Iterator[bool]:
    """One after the other, since each relies on those before."""
    scenes, channels, folders = names["scenes"], names["modality"], names["folders"]
    yield all(isinstance(scene, str) for scene in scenes)
    yield all(modality in MODALITIES for modality in channels.values())
    yield all(is_below_root(f"{folder}/x" if folder else "x") for folder in folders)
    yield all(len(entry) == 4 for entry in names["damage"]) and all(isinstance(note, str) for note in names["notes"])

    samples, rows, calibrations = (len(tables[name]) for name in ("sample.token", "row.token", "calibration.pose"))
    yield tables["calibration.pose"].shape[1:] == (7,) and tables["calibration.intrinsics"].shape[1:] == (3, 3)
    yield all(len(column) == calibrations for name, column in tables.items() if name.startswith("calibration."))
    yield all(len(tables[f"row.{name}"]) == rows for name in _ROW) and len(tables["file.folder"]) == rows
    yield tables["row.world_SE3_ego"].shape[1:] == (7,) and tables["row.image_size"].shape[1:] == (2,)
    yield _are_offsets(tables["scene_offsets"], len(scenes), samples)
    yield _are_offsets(tables["link.row_offsets"], samples, None)
    yield len(tables["sample.scene"]) == samples and _lie_within(tables["sample.scene"], 0, len(scenes))
    yield _lie_within(tables["calibration.channel"], 0, len(channels))
    yield _lie_within(tables["row.calibration"], 0, calibrations) and _lie_within(tables["row.previous"], -1, rows)
    yield _lie_within(tables["file.folder"], 0, len(folders))
    yield tables["link.keyframe"].shape == (samples, len(channels)) and _lie_within(tables["link.keyframe"], -1, rows)
    yield tables["link.reference"].shape == (samples,) and _lie_within(tables["link.reference"], -1, rows)
    yield tables["link.reference_us"].shape == (samples,)
    if "annotation.box_offsets" in tables:
        boxes, racks = len(tables["annotation.center"]), len(tables["annotation.rack_center"])
        yield _are_offsets(tables["annotation.box_offsets"], samples, boxes)
        yield _are_offsets(tables["annotation.rack_offsets"], samples, racks)
        yield _lie_within(tables["annotation.label"], 0, len(CLASSES))
        yield _lie_within(tables["annotation.attribute"], -1, len(ATTRIBUTES))
        own = {
            name: column for name, column in tables.items() if name.startswith("annotation.") and "_offsets" not in name
        }
        yield all(len(column) == (racks if "rack_" in name else boxes) for name, column in own.items())


def _lie_within(column: np.ndarray, least: int, end: int) -> bool:
    return not len(column) or bool(column.min() >= least and column.max() < end)


def _are_offsets(column: np.ndarray, number: int, end: int | None) -> bool:
    ends_there = end is None or not len(column) or column[-1] == end
    return len(column) == number + 1 and column[0] == 0 and bool(ends_there and (np.diff(column) >= 0).all())
