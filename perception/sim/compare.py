"""How close simulated drives come to recorded ones: counts, sizes, speeds, distances, points, intensity, RCS.

Reads the tables of any nuScenes folder and the sensor files of its keyframes, so that a folder without sweeps will do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from perception.data.nuscenes_constants import DETECTION_CLASS, REFERENCE_CHANNEL
from perception.data.nuscenes_json import RowType, Table
from perception.data.nuscenes_rows import (
    CalibratedSensor,
    EgoPose,
    Instance,
    Named,
    Sample,
    SampleAnnotation,
    SampleData,
    Sensor,
)
from perception.data.nuscenes_writer import RADAR_FIELDS
from perception.errors import PerceptionError
from perception.task import CLASSES

_RANGE_M = 50.0
_ALIGNED_DEG = 22.0


class Drives:
    """Statistics of the keyframes of one nuScenes folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        folders = sorted(path.parent for path in self.root.glob("*/sample_annotation.json"))
        if len(folders) != 1:
            raise PerceptionError(f"{root}: one folder with nuScenes tables expected, found {len(folders)}")
        self._folder = folders[0]
        self._samples = self._rows("sample", Sample)
        self.frames = len(self._samples)
        try:
            channels = {token: row.channel for token, row in self._rows("sensor", Sensor).items()}
            calibrations = self._rows("calibrated_sensor", CalibratedSensor)
            self._channel = {token: channels[row.sensor_token] for token, row in calibrations.items()}
            self._keyframes = [row for row in self._rows("sample_data", SampleData).values() if row.is_key_frame]
            self.boxes = self._boxes()
            self.points, self.clusters = self._sensors()
        except KeyError as error:
            raise PerceptionError(f"{folders[0]}: a row refers to {error}, which no table holds") from error
        if not (self.frames and self.points and self.clusters):
            raise PerceptionError(f"{folders[0]}: samples with LiDAR and radar keyframes expected, found none")

    def _rows(self, name: str, kind: type[RowType]) -> dict[str, RowType]:
        """token -> row"""
        return {row.token: row for row in Table(self._folder, name, kind).rows}

    def _boxes(self) -> dict[str, np.ndarray]:
        """Per class [N, 8]: length, width, height, speed m/s (NaN: unknown), distance m, LiDAR and radar points, angle
        to the vehicle's axis in degrees."""
        samples, instances, categories = self._samples, self._rows("instance", Instance), self._rows("category", Named)
        poses, annotations = self._rows("ego_pose", EgoPose), self._rows("sample_annotation", SampleAnnotation)
        ego = {
            row.sample_token: poses[row.ego_pose_token]
            for row in self._keyframes
            if self._channel[row.calibrated_sensor_token] == REFERENCE_CHANNEL
        }
        boxes = defaultdict(list)
        for row in annotations.values():
            name = DETECTION_CLASS.get(categories[instances[row.instance_token].category_token].name)
            place = np.array(row.translation[:2])
            pose = ego[row.sample_token]
            distance = np.linalg.norm(place - pose.translation[:2])
            if name is None or distance > _RANGE_M:
                continue
            first, last = annotations.get(row.prev, row), annotations.get(row.next, row)
            span = 1e-6 * (samples[last.sample_token].timestamp - samples[first.sample_token].timestamp)
            way = np.linalg.norm(np.array(last.translation[:2]) - first.translation[:2])
            width, length, height = row.size
            speed = way / span if span > 0 else np.nan
            angle = angle_to_axis(_yaw(row.rotation) - _yaw(pose.rotation))
            counts = row.num_lidar_pts, row.num_radar_pts
            boxes[name].append([length, width, height, speed, distance, *counts, angle])
        return {name: np.array(rows) for name, rows in boxes.items()}

    def _sensors(self) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
        """LiDAR sweeps [N, 5] and, per channel, radar sweeps of the keyframes."""
        points, clusters = [], defaultdict(list)
        for row in self._keyframes:
            channel, path = self._channel[row.calibrated_sensor_token], self.root / row.filename
            if channel.startswith("CAM"):
                continue
            if not path.exists():
                raise PerceptionError(f"{path}: a keyframe's sensor file expected, found none")
            content = path.read_bytes()
            try:
                if channel == REFERENCE_CHANNEL:
                    points.append(np.frombuffer(content, np.float32).reshape(-1, 5))
                else:
                    header, _, body = content.partition(b"DATA binary\n")
                    count = int(header.split(b"POINTS ")[1].split()[0])
                    clusters[channel].append(np.frombuffer(body, RADAR_FIELDS, count))
            except (ValueError, IndexError) as error:
                raise PerceptionError(f"{path}: a sweep of {channel} expected: {error}") from error
        return points, dict(clusters)


def angle_to_axis(yaw) -> np.ndarray:
    """Degrees, 0 along to 90 across, of headings in radians relative to the vehicle's; nose or tail is the same."""
    return np.degrees(np.abs(np.arcsin(np.clip(np.sin(yaw), -1, 1))))


def heading_shares(angle: np.ndarray) -> str:
    """How many of angles [N] (degrees, see :func:`angle_to_axis`) are along, aslant and across."""
    if not len(angle):
        return "–"
    along, across = np.mean(angle <= _ALIGNED_DEG), np.mean(angle >= 90 - _ALIGNED_DEG)
    return " / ".join(f"{100 * share:.0f} %" for share in (along, 1 - along - across, across))


def track_headings(path: str | Path) -> dict[str, np.ndarray]:
    """Angles to the ego vehicle's axis, degrees, by type: all within 50 m at every tenth instant of a file of tracks.

    A file holds ``tracks``: each with its ``type``, and for every instant whether it is ``valid``, ``position``
    [3] and ``heading``; the ego vehicle's ``id`` is "ego".

    Raises:
        PerceptionError: a file that cannot be read or holds something else.
    """
    try:
        tracks = json.loads(Path(path).read_bytes())["tracks"]
        ego = next(track for track in tracks if track["id"] == "ego")
        found = defaultdict(list)
        for track in tracks:
            for i in range(0, len(track["valid"]), 10) if track is not ego else ():
                offset = np.subtract(track["position"][i][:2], ego["position"][i][:2])
                if track["valid"][i] and ego["valid"][i] and np.hypot(*offset) <= _RANGE_M:
                    found[track["type"]].append(angle_to_axis(track["heading"][i] - ego["heading"][i]))
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise PerceptionError(f"{path}: tracks of an ego vehicle and others expected: {error!r}") from error
    return {name: np.array(angles) for name, angles in found.items()}


def _yaw(wxyz) -> float:
    w, x, y, z = wxyz
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def _quantiles(values: np.ndarray | list[int], levels=(10, 50, 90), digits: int = 1) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in np.nanpercentile(values, levels)) if len(values) else "–"


def _class_rows(real: Drives, sim: Drives) -> list[str]:
    rows = [
        f"Within {_RANGE_M:.0f} m of the vehicle; each cell real → simulated; quantiles are 10 / 50 / 90 %.",
        "",
        "| class | per keyframe | length, m | width, m | height, m | moving | speed when moving, m/s | distance, m "
        "| LiDAR points | radar points |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CLASSES:
        cells = []
        for drives in (real, sim):
            boxes = drives.boxes.get(name, np.zeros((0, 8)))
            speed = boxes[:, 3][~np.isnan(boxes[:, 3])]
            moving = speed[speed > 0.5]
            share = f"{100 * len(moving) / max(len(speed), 1):.0f} %" if len(speed) else "–"
            cells.append(
                [
                    f"{len(boxes) / drives.frames:.1f}",
                    *(f"{boxes[:, i].mean():.2f}" if len(boxes) else "–" for i in range(3)),
                    share,
                    _quantiles(moving),
                    _quantiles(boxes[:, 4], digits=0),
                    _quantiles(boxes[:, 5], digits=0),
                    f"{boxes[:, 6].mean():.1f}" if len(boxes) else "–",
                ]
            )
        rows.append(f"| {name} | " + " | ".join(f"{a} → {b}" for a, b in zip(*cells, strict=True)) + " |")
    return rows


def _sensor_rows(real: Drives, sim: Drives) -> list[str]:
    rows = ["| quantity | real | simulated |", "|---|---|---|"]

    def add(title: str, value) -> None:
        rows.append(f"| {title} | {value(real)} | {value(sim)} |")

    def ranges(drives: Drives) -> np.ndarray:
        return np.concatenate([np.linalg.norm(points[:, :3], axis=1) for points in drives.points])

    def returned(drives: Drives) -> np.ndarray:
        return np.concatenate([points[np.linalg.norm(points[:, :3], axis=1) > 1] for points in drives.points])

    add("keyframes", lambda drives: str(drives.frames))
    add("boxes within 50 m per keyframe", lambda d: f"{sum(map(len, d.boxes.values())) / d.frames:.1f}")
    add(
        "of these with LiDAR or radar points",
        lambda d: f"{sum(int(np.sum(b[:, 5] + b[:, 6] > 0)) for b in d.boxes.values()) / d.frames:.1f}",
    )
    add(
        "cars along / aslant / across the vehicle's axis (within 22 degrees)",
        lambda d: heading_shares(d.boxes.get("car", np.zeros((0, 8)))[:, 7]),
    )
    add("LiDAR points per sweep as written", lambda d: f"{np.mean([len(points) for points in d.points]):.0f}")
    add(
        "of these farther than 1 m",
        lambda d: f"{np.mean([np.sum(np.linalg.norm(p[:, :3], axis=1) > 1) for p in d.points]):.0f}",
    )
    add("range of those, 10 / 50 / 90 / 99 %, m", lambda d: _quantiles(ranges(d)[ranges(d) > 1], (10, 50, 90, 99)))
    add(
        "intensity of those, 10 / 25 / 50 / 75 / 90 / 99 %",
        lambda d: _quantiles(returned(d)[:, 3], (10, 25, 50, 75, 90, 99), 0),
    )
    for channel in sorted(real.clusters):
        add(
            f"clusters per sweep, {channel}, 0 / 50 / 100 %",
            lambda d, c=channel: _quantiles([len(s) for s in d.clusters.get(c, [])], (0, 50, 100), 0),
        )

    def clusters(drives: Drives) -> np.ndarray:
        return np.concatenate([sweep for sweeps in drives.clusters.values() for sweep in sweeps])

    def over_ground(drives: Drives) -> np.ndarray:
        return np.hypot(clusters(drives)["vx_comp"], clusters(drives)["vy_comp"])

    add("radar RCS, 5 / 25 / 50 / 75 / 95 %, dBsm", lambda d: _quantiles(clusters(d)["rcs"], (5, 25, 50, 75, 95)))
    add("radar range, 10 / 50 / 90 %, m", lambda d: _quantiles(np.hypot(clusters(d)["x"], clusters(d)["y"])))
    add("radar speed over ground above 0.5 m/s", lambda d: f"{100 * np.mean(over_ground(d) > 0.5):.0f} %")

    def valid(drives: Drives) -> np.ndarray:
        found = clusters(drives)
        return (found["invalid_state"] == 0) & (found["ambig_state"] == 3) & (found["dyn_prop"] < 7)

    add("clusters that pass the devkit's filters", lambda d: f"{100 * np.mean(valid(d)):.0f} %")
    return rows


def comparison(real: str | Path, sim: str | Path) -> str:
    """Two Markdown tables: objects by class, and sensors.

    Raises:
        PerceptionError: a folder without tables, with damaged ones, or without the files of its keyframes.
    """
    recorded, simulated = Drives(real), Drives(sim)
    return "\n".join([*_class_rows(recorded, simulated), "", *_sensor_rows(recorded, simulated)])
