"""The nuScenes tables of a simulated drive and its binary files.

Tokens are hashes of the seed and a name, so the same seed gives the same tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path as FilePath

import numpy as np

from perception.data.nuscenes_constants import DETECTION_CLASS, VISIBILITY_LEVEL
from perception.files import write_file
from perception.task import ATTRIBUTES

TABLES = (
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "instance",
    "category",
    "attribute",
    "visibility",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "map",
)
# In the order of the official table.
_ATTRIBUTES = (*ATTRIBUTES[:5], *reversed(ATTRIBUTES[5:]))


def token(seed: int, *name) -> str:
    """32 hexadecimal digits that depend on the seed and the name only."""
    return hashlib.md5("/".join(map(str, (seed, *name))).encode(), usedforsecurity=False).hexdigest()


def scene_name(index: int) -> str:
    return f"sim-{index:04d}"


def fixed_tables(seed: int, channels: dict[str, str]) -> dict[str, list[dict]]:
    """The tables that every dataset shares; ``channels`` maps channel to modality."""

    def named(table: str, names: Iterable[str]) -> list[dict]:
        return [{"token": token(seed, table, name), "name": name, "description": ""} for name in names]

    return {
        "category": named("category", DETECTION_CLASS),
        "attribute": named("attribute", _ATTRIBUTES),
        "visibility": [
            {"token": str(i + 1), "level": level, "description": f"visibility of whole object, per cent: {level[1:]}"}
            for i, level in enumerate(VISIBILITY_LEVEL)
        ],
        "sensor": [
            {"token": token(seed, "sensor", channel), "channel": channel, "modality": modality}
            for channel, modality in channels.items()
        ],
    }


def link(rows: list[dict]) -> None:
    """Fill ``prev`` and ``next`` of rows already in order of time."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""


def write_json(path: FilePath, content) -> None:
    """Write a JSON file with a value a line, as nuScenes has its tables."""
    write_file(path, json.dumps(content, indent=0).encode())


def radar_file(clusters: np.ndarray) -> bytes:
    """The PCD file of a structured array of radar clusters, at least one."""
    names = clusters.dtype.names or ()
    kinds = [clusters.dtype[name] for name in names]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(names),
        "SIZE " + " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE " + " ".join("F" if kind.kind == "f" else "I" for kind in kinds),
        "COUNT" + " 1" * len(names),
        f"WIDTH {len(clusters)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(clusters)}",
        "DATA binary",
    ]
    # The devkit's reader wants bytes after the last point.
    return ("\n".join(header) + "\n").encode() + clusters.tobytes() + b"\n"
