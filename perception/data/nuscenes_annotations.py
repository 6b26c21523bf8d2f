"""The boxes of the nuScenes tables, as columns in the world frame, by the rules of the devkit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes_tables import Samples, Table
from perception.sample import ATTRIBUTES, CLASSES

MAX_TIME_DIFF_S = 1.5  # between annotations, for a velocity; twice that for a central difference (devkit: box_velocity)
DETECTION_CLASS = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}  # every other category is outside the detection task
VISIBILITY_LEVEL = {"v0-40": 1, "v40-60": 2, "v60-80": 3, "v80-100": 4}


@dataclass(frozen=True, eq=False)
class Annotations:
    """Boxes of the ten detection classes in the world frame; those of sample i are first[i] to first[i + 1].

    first: int64 [S + 1].  center: [N, 3].  size: [N, 3] (l, w, h).  forward: [N, 3], the box's x axis.
    velocity: [N, 3] m/s, NaN where unknown.  The rest as in Boxes3D, int64 [N].
    """

    first: np.ndarray
    center: np.ndarray
    size: np.ndarray
    forward: np.ndarray
    velocity: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    visibility: np.ndarray
    num_lidar_points: np.ndarray
    num_radar_points: np.ndarray


def read_annotations(folder: Path, samples: Samples) -> Annotations | None:
    """Read the tables about boxes; None in a version without any, such as v1.0-test.

    Raises:
        DataError: a table is missing or malformed, or a row refers to nothing.
    """
    if not (folder / "sample_annotation.json").exists():
        return None
    keys = ("sample_token", "instance_token", "visibility_token", "attribute_tokens", "translation", "size", "rotation")
    table = Table(folder, "sample_annotation", (*keys, "prev", "next", "num_lidar_pts", "num_radar_pts"))
    if not table.rows:
        return None
    table.keep(np.flatnonzero(table.references("sample_token", samples.position) >= 0))
    sample = table.references("sample_token", samples.position)
    label = _labels(folder, table)
    velocity = _velocities(table, samples.timestamp_us[sample])

    order = np.argsort(sample, kind="stable")  # the table's order within a sample, as the devkit has it
    order = order[label[order] >= 0]
    table.keep(order)
    size = table.numbers("size", np.float64, (3,))[:, [1, 0, 2]]
    for i in np.flatnonzero((size <= 0).any(axis=1))[:1]:
        table.fail(i, "size", "three positive numbers")
    w, x, y, z = table.quaternions("rotation").T
    return Annotations(
        first=np.searchsorted(sample[order], np.arange(len(samples.tokens) + 1)),
        center=table.numbers("translation", np.float64, (3,)),
        size=size,
        forward=np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=1),
        velocity=velocity[order],
        label=label[order],
        attribute=_attributes(folder, table),
        visibility=_visibilities(folder, table),
        num_lidar_points=table.numbers("num_lidar_pts", np.int64),
        num_radar_points=table.numbers("num_radar_pts", np.int64),
    )


def _labels(folder: Path, table: Table) -> np.ndarray:
    """int64 [N] index into CLASSES, -1 for the categories outside the detection task."""
    categories = Table(folder, "category", ("name",))
    instances = Table(folder, "instance", ("category_token",))
    names = [DETECTION_CLASS.get(name) for name in categories.strings("name")]
    label = np.array([CLASSES.index(name) if name else -1 for name in names], dtype=np.int64)
    category = instances.references("category_token", categories.positions())
    return label[category[table.references("instance_token", instances.positions())]]


def _velocities(table: Table, timestamp_us: np.ndarray) -> np.ndarray:
    """[N, 3] m/s, world frame: the difference to the neighbours in time, as the devkit's ``box_velocity`` has it."""
    center = table.numbers("translation", np.float64, (3,))
    own = np.arange(len(table.rows))
    positions = table.positions()
    before = table.references("prev", positions, optional=True)
    after = table.references("next", positions, optional=True)
    max_time_diff_s = np.where((before >= 0) & (after >= 0), 2 * MAX_TIME_DIFF_S, MAX_TIME_DIFF_S)
    before, after = np.where(before >= 0, before, own), np.where(after >= 0, after, own)
    seconds = 1e-6 * (timestamp_us[after] - timestamp_us[before])
    seconds[(seconds <= 0) | (seconds > max_time_diff_s)] = np.nan
    return (center[after] - center[before]) / seconds[:, None]


def _attributes(folder: Path, table: Table) -> np.ndarray:
    """int64 [N] index into ATTRIBUTES, -1 for none; nuScenes gives a box of the ten classes at most one."""
    attributes = Table(folder, "attribute", ("name",))
    names = dict(zip(attributes.strings("token"), attributes.strings("name")))
    attribute = np.full(len(table.rows), -1, dtype=np.int64)
    for i, row in enumerate(table.rows):
        tokens = row["attribute_tokens"]
        if not isinstance(tokens, list) or not all(isinstance(t, str) and names.get(t) in ATTRIBUTES for t in tokens):
            table.fail(i, "attribute_tokens", "a list of tokens of known attributes")
        if tokens:
            attribute[i] = ATTRIBUTES.index(names[tokens[0]])
    return attribute


def _visibilities(folder: Path, table: Table) -> np.ndarray:
    """int64 [N] level 1..4, 0 for unknown."""
    visibility = Table(folder, "visibility", ("level",))
    level = np.array([VISIBILITY_LEVEL.get(name, 0) for name in visibility.strings("level")] + [0], dtype=np.int64)
    return level[table.references("visibility_token", visibility.positions(), optional=True)]
