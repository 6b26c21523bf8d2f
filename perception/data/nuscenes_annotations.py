"""The boxes of the nuScenes tables, as columns in the world frame, by the rules of the devkit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from perception.data.nuscenes_constants import BICYCLE_RACK, DETECTION_CLASS, VISIBILITY_LEVEL
from perception.data.nuscenes_json import Columns, Damage, Rows, Table, read_pieces
from perception.data.nuscenes_rows import Instance, Named, SampleAnnotation, Visibility
from perception.data.nuscenes_tables import MOST_M, LinkedRows, stacked
from perception.task import ATTRIBUTES, CLASSES, Task

MAX_TIME_DIFF_S = 1.5  # between annotations, for a velocity; twice that for a central difference (devkit: box_velocity)
OTHER, RACK = -1, -2  # instead of a label
_MOST_SIZE_M = 1e3  # of a side of a box
_MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class Annotations:
    """Boxes of the ten detection classes in the world frame.

    box_offsets: int64 [S + 1], the boxes of sample i are box_offsets[i] to box_offsets[i + 1].
    center: [N, 3].  size: [N, 3] (l, w, h).  forward: [N, 3], the box's x axis.
    velocity: [N, 3] m/s, NaN where unknown.  label to num_radar_points as in Boxes3D, int64 [N].
    rack_offsets: int64 [S + 1], likewise of the bicycle racks.  rack_center: [R, 3].  rack_size: [R, 3] (l, w, h).
    rack_rotation: [R, 4] unit quaternions (w, x, y, z).
    """

    box_offsets: np.ndarray
    center: np.ndarray
    size: np.ndarray
    forward: np.ndarray
    velocity: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    visibility: np.ndarray
    num_lidar_points: np.ndarray
    num_radar_points: np.ndarray
    rack_offsets: np.ndarray
    rack_center: np.ndarray
    rack_size: np.ndarray
    rack_rotation: np.ndarray

    def of(self, samples: np.ndarray) -> Annotations:
        """Those of some samples, by index and in that order."""
        box_offsets, own = _gathered(self.box_offsets, samples)
        rack_offsets, rack = _gathered(self.rack_offsets, samples)
        columns = {name: column for name, column in vars(self).items() if not name.endswith("offsets")}
        columns = {name: column[rack if name.startswith("rack") else own] for name, column in columns.items()}
        return Annotations(box_offsets=box_offsets, rack_offsets=rack_offsets, **columns)

    def of_task(self, task: Task) -> Annotations:
        """The boxes of the task's classes, with its labels and attributes; racks stay."""
        label = task.labels_of(CLASSES)[self.label]
        attribute = np.append(task.attributes_of(ATTRIBUTES), -1)[self.attribute]
        sample = np.repeat(np.arange(len(self.box_offsets) - 1), np.diff(self.box_offsets))[label >= 0]
        columns = {
            name: column if name.startswith("rack") else column[label >= 0]
            for name, column in {**vars(self), "label": label, "attribute": attribute}.items()
            if name != "box_offsets"
        }
        return Annotations(box_offsets=np.searchsorted(sample, np.arange(len(self.box_offsets))), **columns)


def _gathered(offsets: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The offsets of the samples' rows once these are concatenated, [len(samples) + 1], and the indices of the rows."""
    begin, length = offsets[samples], offsets[samples + 1] - offsets[samples]
    new_offsets = np.concatenate([[0], np.cumsum(length)])
    return new_offsets, np.arange(new_offsets[-1]) + np.repeat(begin - new_offsets[:-1], length)


def read_annotations(
    folder: Path,
    samples: dict[str, int],
    timestamp_us: np.ndarray,
    damage: Damage,
    notes: list[str],
    progress: Callable[[int], object],
) -> Columns | None:
    """The columns of :class:`Annotations`; None in a version without any, such as v1.0-test.

    Args:
        samples: token -> sample.  timestamp_us: int64 [S], of every sample.

    Raises:
        DataError: a table is missing or malformed, or a row refers to nothing.
    """
    if not (folder / "sample_annotation.json").exists():
        return None
    pieces = read_pieces(folder, "sample_annotation", SampleAnnotation, damage, progress)
    empty, first = next(pieces), next(pieces, None)
    if first is None:
        return None
    reader = _Reader(folder, samples, damage)
    parts = [reader.columns(piece) for piece in chain([empty, first], pieces)]
    notes += reader.notes()
    every, boxes, racks = (stacked(part[i] for part in parts) for i in range(3))
    velocity = _velocities(folder, every, timestamp_us, damage)[every["label"] >= 0]
    every_sample = np.arange(len(timestamp_us) + 1)
    order = np.argsort(boxes["sample"], kind="stable")  # the table's order within a sample, as the devkit has it
    rack_order = np.argsort(racks["sample"], kind="stable")
    return {
        "box_offsets": np.searchsorted(boxes.pop("sample")[order], every_sample),
        "velocity": velocity[order],
        **{name: column[order] for name, column in boxes.items()},
        "rack_offsets": np.searchsorted(racks.pop("sample")[rack_order], every_sample),
        **{f"rack_{name}": column[rack_order] for name, column in racks.items()},
    }


class _Reader:
    """Makes columns of pieces of sample_annotation, with the small tables that it refers to."""

    def __init__(self, folder: Path, samples: dict[str, int], damage: Damage):
        self._samples = samples
        categories, instances = Table(folder, "category", Named, damage), Table(folder, "instance", Instance, damage)
        self._categories = categories.strings("name")
        self._category = np.append(instances.references("category_token", categories.positions()), -1)
        self._label = np.array([*map(_label, self._categories), OTHER], dtype=np.int64)
        self._instances = {token: i for token, i in instances.positions().items() if instances.sound[i]}
        attributes = Table(folder, "attribute", Named, damage)
        self._attributes = dict(zip(attributes.positions(), attributes.strings("name")))
        visibility = Table(folder, "visibility", Visibility, damage)
        self._visibilities = visibility.positions()
        level = [VISIBILITY_LEVEL.get(name, 0) for name in visibility.strings("level")]
        self._level = np.array([*level, 0], dtype=np.int64)  # the last for an empty token
        self._of_category = np.zeros(len(self._categories), dtype=np.int64)  # how many annotations
        self._of_attribute: Counter[str] = Counter()  # that is not known

    def columns(self, rows: Rows) -> tuple[Columns, Columns, Columns]:
        """What velocities need of every row, the boxes of the ten classes, and the bicycle racks."""
        instance = rows.references("instance_token", self._instances)
        category = self._category[instance]
        self._of_category += np.bincount(category[category >= 0], minlength=len(self._of_category))
        label = self._label[category]
        every = {
            "token": rows.bytes("token"),
            "sample": rows.references("sample_token", self._samples),
            "instance": instance,
            "label": label,
            "center": rows.vectors("translation", most=MOST_M),
            "prev": rows.bytes("prev"),
            "next": rows.bytes("next"),
        }
        kept = np.flatnonzero((label != OTHER) & rows.sound)
        own, label = rows.chosen(kept), label[kept]
        rotation, size = own.quaternions("rotation"), own.numbers("size", np.float64, (3,), most=_MOST_SIZE_M)
        own.refuse(np.any(size <= 0, axis=1), "size", "three positive numbers")
        w, x, y, z = rotation.T
        common = {"sample": every["sample"][kept], "center": every["center"][kept], "size": size[:, [1, 0, 2]]}
        boxes = {
            **common,
            "forward": np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=1),
            "label": label,
            "attribute": self._attribute(own),
            "visibility": self._level[own.references("visibility_token", self._visibilities, optional=True)],
            "num_lidar_points": own.numbers("num_lidar_pts", np.int64, least=-1),
            "num_radar_points": own.numbers("num_radar_pts", np.int64, least=-1),
        }
        racks = {**common, "rotation": rotation}
        rows.sound[kept] = own.sound
        return rows.kept(every), _where(boxes, own.sound & (label >= 0)), _where(racks, own.sound & (label == RACK))

    def _attribute(self, rows: Rows) -> np.ndarray:
        """int64 [N] index into ATTRIBUTES, -1 for none; nuScenes gives a box of the ten classes at most one."""
        attribute, unknown = np.full(len(rows.rows), -1, dtype=np.int64), np.zeros(len(rows.rows), dtype=bool)
        for i, tokens in enumerate(rows.values("attribute_tokens")):
            unknown[i] = not all(token in self._attributes for token in tokens)
            names = [self._attributes.get(token, "") for token in tokens]
            known = [name for name in names if name in ATTRIBUTES]
            if known:
                attribute[i] = ATTRIBUTES.index(known[0])
            if len(known) < len(names):
                self._of_attribute.update(name for name in names if name not in ATTRIBUTES)
        rows.refuse(unknown, "attribute_tokens", "a list of tokens that exist")
        return attribute

    def notes(self) -> list[str]:
        """What was left out since nuScenes does not have it."""
        categories = {
            name: number
            for name, number in zip(self._categories, self._of_category.tolist())
            if number and name not in DETECTION_CLASS
        }
        found = {"boxes of other categories than nuScenes'": categories, "other attributes": self._of_attribute}
        return [f"going without {what}: {_counted(counts)}" for what, counts in found.items() if counts]


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{number} {name}" for name, number in sorted(counts.items(), key=lambda item: -item[1])[:_MOST_NAMED]]
    return ", ".join(shown) + (", ..." if len(counts) > _MOST_NAMED else "")


def _where(columns: Columns, mask: np.ndarray) -> Columns:
    return {name: column[mask] for name, column in columns.items()}


def _label(category: str) -> int:
    if category == BICYCLE_RACK:
        return RACK
    name = DETECTION_CLASS.get(category)
    return OTHER if name is None else CLASSES.index(name)


def _velocities(folder: Path, rows: Columns, timestamp_us: np.ndarray, damage: Damage) -> np.ndarray:
    """[N, 3] m/s, world frame: the difference to the neighbours in time, as the devkit's ``box_velocity`` has it."""
    table = LinkedRows(folder / "sample_annotation.json", rows["token"], damage)
    positions = table.positions()
    before, after = (_neighbour(table, positions, rows, key) for key in ("prev", "next"))
    own, timestamp_us = np.arange(len(before)), timestamp_us[rows["sample"]]
    max_time_diff_s = np.where((before >= 0) & (after >= 0), 2 * MAX_TIME_DIFF_S, MAX_TIME_DIFF_S)
    before, after = np.where(before >= 0, before, own), np.where(after >= 0, after, own)
    seconds = 1e-6 * timestamp_us[after] - 1e-6 * timestamp_us[before]  # rounded as the devkit rounds, 1e-7 s
    seconds[(seconds <= 0) | (seconds > max_time_diff_s)] = np.nan
    return (rows["center"][after] - rows["center"][before]) / seconds[:, None]


def _neighbour(table: LinkedRows, positions: dict[bytes, int], rows: Columns, key: str) -> np.ndarray:
    """int32 [N]: another row of the same instance, -1 for none."""
    found = table.resolve(key, rows[key], positions, optional=True)
    wrong = (found >= 0) & (rows["instance"][np.maximum(found, 0)] != rows["instance"])
    table.refuse(wrong, key, "an annotation of the same instance", rows[key], loosely=True)
    return np.where(wrong, -1, found)
