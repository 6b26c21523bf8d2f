"""The nuScenes tables of frames and boxes: the rows of one scene, and the version that several scenes make.

The schema: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md. Tokens are hashes of names,
so that the same scenes give the same tables.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from perception.data.nuscenes_constants import DETECTION_CLASS, VISIBILITY_LEVEL
from perception.files import write_file
from perception.geometry import SE3
from perception.task import ATTRIBUTES

TABLES = (
    "scene", "sample", "sample_data", "sample_annotation", "instance", "category", "attribute", "visibility", "sensor",
    "calibrated_sensor", "ego_pose", "log", "map",
)  # fmt: skip
_ORDERED_ATTRIBUTES = (*ATTRIBUTES[:5], *reversed(ATTRIBUTES[5:]))  # as in the official table


class SceneTables:
    """The rows of one scene. Samples are added in order of time, and so are the files of a channel.

    Args:
        key: of the version, such as its name: tokens of another differ.
        name: of the scene.

    Attributes:
        categories: of the instances so far.
    """

    def __init__(self, key: object, name: str):
        self.name, self.categories = name, dict[object, str]()
        self._key = key
        self._rows: dict[str, list[dict]] = {table: [] for table in TABLES}
        self._calibrations: dict[str, list[dict]] = {}  # channel -> rows, without tokens
        self._files: dict[str, list[dict]] = {}  # channel -> rows
        self._boxes: dict[object, list[dict]] = {}  # instance -> rows

    @property
    def times_us(self) -> list[int]:
        """Of the samples so far."""
        return [sample["timestamp"] for sample in self._rows["sample"]]

    @property
    def filenames(self) -> list[str]:
        """Of the sensors' files so far."""
        return [row["filename"] for row in self._rows["sample_data"]]

    def add_sample(self, time_us: int) -> int:
        """Returns its number."""
        samples = self._rows["sample"]
        row = {"token": self.token("sample", len(samples)), "timestamp": time_us, "scene_token": self.token("scene")}
        samples.append(row)
        return len(samples) - 1

    def add_calibration(self, channel: str, ego_SE3_sensor: SE3, intrinsics: np.ndarray | None = None) -> str:
        """The token of a calibration, which is written again only where it has changed."""
        row = {
            "sensor_token": token_of(self._key, "sensor", channel),
            "translation": ego_SE3_sensor.translation.tolist(),
            "rotation": ego_SE3_sensor.quaternion.tolist(),
            "camera_intrinsic": [] if intrinsics is None else intrinsics.tolist(),
        }
        known = self._calibrations.setdefault(channel, [])
        if not known or row != known[-1]:
            known.append(row)
            self._rows["calibrated_sensor"].append({"token": self._calibration_token(channel), **row})
        return self._calibration_token(channel)

    def _calibration_token(self, channel: str) -> str:
        """Of the latest of the channel."""
        number = len(self._calibrations[channel])
        return self.token("calibrated", channel, *([number] if number > 1 else []))

    def add_file(
        self,
        sample: int | None,
        channel: str,
        calibration: str,
        time_us: int,
        world_SE3_ego: SE3,
        filename: str,
        image_size: tuple[int, int] = (0, 0),
    ) -> None:
        """A sensor's file of a sample, or a sweep (None), with the ego pose at its time. image_size: height, width."""
        token = self.token("data", channel, time_us)
        row = {
            "token": token, "sample_token": "" if sample is None else self._rows["sample"][sample]["token"],
            "ego_pose_token": token, "calibrated_sensor_token": calibration, "timestamp": time_us,
            "fileformat": filename.removesuffix(".bin").rpartition(".")[2], "is_key_frame": sample is not None,
            "height": image_size[0], "width": image_size[1], "filename": filename,
        }  # fmt: skip
        self._rows["sample_data"].append(row)
        self._files.setdefault(channel, []).append(row)
        where = {"rotation": world_SE3_ego.quaternion.tolist(), "translation": world_SE3_ego.translation.tolist()}
        self._rows["ego_pose"].append({"token": token, "timestamp": time_us, **where})

    def add_box(
        self,
        sample: int,
        instance: object,
        category: str,
        world_SE3_box: SE3,
        size: Sequence[float] | np.ndarray,
        points: Sequence[int],
        attribute: str = "",
        visibility: int = 0,
        **more: object,
    ) -> None:
        """A box of an object, which has the category that it had first.

        Args:
            size: length, width, height in metres.  points: of LiDAR and radar in the box, -1 for unknown.
            attribute: "" for none.  visibility: level 1 to 4, 0 for unknown.
            more: columns that the schema does not have, which readers of it pass over.
        """
        self.categories.setdefault(instance, category)
        row = {
            "token": self.token("annotation", sample, instance),
            "sample_token": self._rows["sample"][sample]["token"],
            "instance_token": self.token("instance", instance),
            "visibility_token": str(visibility) if visibility else "",
            "attribute_tokens": [token_of(self._key, "attribute", attribute)] if attribute else [],
            "translation": world_SE3_box.translation.tolist(),
            "size": [float(size[i]) for i in (1, 0, 2)],  # width, length, height
            "rotation": world_SE3_box.quaternion.tolist(),
            "num_lidar_pts": points[0],
            "num_radar_pts": points[1],
            **more,
        }
        self._rows["sample_annotation"].append(row)
        self._boxes.setdefault(instance, []).append(row)

    def finished(self, map_image: str, description: str = "", **log: str) -> dict[str, list[dict]]:
        """Table -> rows, of all tables that depend on the scene.

        Args:
            map_image: file name of the image of the map, which the devkit wants.  log: columns of the row of the log.
        """
        rows, samples = self._rows, self._rows["sample"]
        times_us = self.times_us
        for row in rows["sample_data"]:  # a sweep is of the sample that follows it
            follower = min(bisect_left(times_us, row["timestamp"]), len(samples) - 1)
            row["sample_token"] = row["sample_token"] or samples[follower]["token"]
        for linked in (samples, *self._files.values(), *self._boxes.values()):
            link(linked)
        for instance, boxes in self._boxes.items():
            rows["instance"].append(
                {
                    "token": self.token("instance", instance),
                    "category_token": token_of(self._key, "category", self.categories[instance]),
                    "nbr_annotations": len(boxes),
                    "first_annotation_token": boxes[0]["token"],
                    "last_annotation_token": boxes[-1]["token"],
                }
            )
        rows["scene"] = [
            {
                "token": self.token("scene"),
                "log_token": self.token("log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": self.name,
                "description": description,
            }
        ]
        log = {"logfile": self.name, "vehicle": "", "date_captured": "", "location": "unknown", **log}
        rows["log"] = [{"token": self.token("log"), **log}]
        facts = {"log_tokens": [self.token("log")], "category": "semantic_prior", "filename": map_image}
        rows["map"] = [{"token": self.token("map"), **facts}]
        return rows

    def token(self, *name: object) -> str:
        """Of something in the scene."""
        return token_of(self._key, self.name, *name)


def write_tables(
    folder: Path,
    key: object,
    scenes: Iterable[Mapping[str, list[dict]]],
    channels: Mapping[str, str],
    splits: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write the tables of a version, which is known by ``scene.json``, the last one.

    Args:
        key: as of the scenes.  scenes: the rows of each.  channels: channel -> modality.
        splits: name -> scenes; "all" is always there.
    """
    rows: dict[str, list[dict]] = {table: [] for table in TABLES} | fixed_tables(key, channels)
    for scene in scenes:
        for table, own in scene.items():
            rows[table] += own
    splits = {"all": [scene["name"] for scene in rows["scene"]], **splits}
    write_json(folder / "splits.json", splits)
    for table in sorted(TABLES, key="scene".__eq__):
        write_json(folder / f"{table}.json", rows[table])


def fixed_tables(key: object, channels: Mapping[str, str]) -> dict[str, list[dict]]:
    """The tables that do not depend on the scenes; ``channels`` maps channel to modality."""

    def named(table: str, names: Iterable[str]) -> list[dict]:
        return [{"token": token_of(key, table, name), "name": name, "description": ""} for name in names]

    return {
        "category": named("category", DETECTION_CLASS),
        "attribute": named("attribute", _ORDERED_ATTRIBUTES),
        "visibility": [
            {"token": str(i + 1), "level": level, "description": f"visibility of whole object, per cent: {level[1:]}"}
            for i, level in enumerate(VISIBILITY_LEVEL)
        ],
        "sensor": [
            {"token": token_of(key, "sensor", channel), "channel": channel, "modality": modality}
            for channel, modality in channels.items()
        ],
    }


def link(rows: list[dict]) -> None:
    """Fill ``prev`` and ``next`` of rows already in order of time."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""


def write_json(path: Path, content: object) -> None:
    """Write a JSON file with a value a line, as nuScenes has its tables."""
    write_file(path, json.dumps(content, indent=0).encode())


def token_of(*name: object) -> str:
    """32 hexadecimal digits that depend on the name only."""
    return hashlib.md5("/".join(map(str, name)).encode(), usedforsecurity=False).hexdigest()
