"""Opening a dataset of the size of v1.0-trainval, beside nuscenes-devkit.

make_tables("out/trainval")             # 2.3 GB of JSON: the real schema and numbers of rows, invented contents
rows = tables_open("out/trainval")
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.timing import peak_mb, row
from perception.data.scene_tables import fixed_tables, link, token_of, write_json

VERSION = "v1.0-trainval"
SCENES, SAMPLES, SENSOR_ROWS, ANNOTATIONS, INSTANCES, LOGS = 850, 34_149, 2_631_083, 1_166_187, 64_386, 68
_CAMERAS = [f"CAM_{side}" for side in ("FRONT", "FRONT_RIGHT", "BACK_RIGHT", "BACK", "BACK_LEFT", "FRONT_LEFT")]
_RADARS = [f"RADAR_{side}" for side in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")]
_CHANNELS = {"LIDAR_TOP": "lidar"} | dict.fromkeys(_CAMERAS, "camera") | dict.fromkeys(_RADARS, "radar")
_FORMATS = {"lidar": "pcd", "camera": "jpg", "radar": "pcd"}
_ENDINGS = {"lidar": "pcd.bin", "camera": "jpg", "radar": "pcd"}
_PERIOD_US = 500_000

# As the real tables are written: one value a line, no indentation.
_EGO_POSE = (
    '{\n"token": "%s",\n"timestamp": %d,\n"rotation": [\n%r,\n%r,\n%r,\n%r\n],\n"translation": [\n%r,\n%r,\n0.0\n]\n}'
)
_SENSOR_ROW = (
    '{\n"token": "%s",\n"sample_token": "%s",\n"ego_pose_token": "%s",\n"calibrated_sensor_token": "%s",\n'
    '"timestamp": %d,\n"fileformat": "%s",\n"is_key_frame": %s,\n"height": %d,\n"width": %d,\n"filename": "%s",\n'
    '"prev": "%s",\n"next": "%s"\n}'
)
_ANNOTATION = (
    '{\n"token": "%s",\n"sample_token": "%s",\n"instance_token": "%s",\n"visibility_token": "%d",\n'
    '"attribute_tokens": [%s],\n"translation": [\n%r,\n%r,\n%r\n],\n"size": [\n1.9,\n4.6,\n1.7\n],\n'
    '"rotation": [\n%r,\n0.0,\n0.0,\n%r\n],\n"prev": "%s",\n"next": "%s",\n"num_lidar_pts": %d,\n"num_radar_pts": %d\n}'
)


def tables_open(folder: str | Path, repeats: int = 5) -> list[dict]:
    """The row ``tables_open``: opening all scenes once the index is there, against the devkit's constructor, run once.

    Every run has a process of its own, and imports are not counted. Memory is the rise of what is resident. More keys:
    build_s, build_peak_mb (the index), devkit_peak_mb, and after 1,000 frames at random ours_private_mb and
    ours_mapped_mb; what is mapped is the page cache's, shared by all workers and given back when memory runs short.
    """
    folder = make_tables(folder)
    built = _in_new_process("_build", folder)
    devkit = _in_new_process("_open_devkit", folder)
    opened = [_in_new_process("_open", folder) for _ in range(repeats)]
    median = {key: statistics.median(run[key] for run in opened) for key in opened[0]}
    found = row("tables_open", 1000 * median["s"], "devkit NuScenes(...)", 1000 * devkit["s"], median["peak_mb"])
    extra = {"build_s": built["s"], "build_peak_mb": built["peak_mb"], "devkit_peak_mb": devkit["peak_mb"]}
    return [{**found, **extra, "ours_private_mb": median["private_mb"], "ours_mapped_mb": median["mapped_mb"]}]


def _in_new_process(function: str, folder: Path) -> dict[str, float]:
    code = f"import json, sys; from benchmarks import tables; print(json.dumps(tables.{function}(sys.argv[1])))"
    command, tools = [sys.executable, "-c", code, str(folder)], Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tools), *sys.path])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _build(folder: str) -> dict[str, float]:
    from perception.data.nuscenes_index import FOLDER, open_index

    shutil.rmtree(Path(folder) / FOLDER, ignore_errors=True)
    return _cost(lambda: open_index(Path(folder), VERSION))[1]


def _open(folder: str) -> dict[str, float]:
    from perception.data.nuscenes import NuScenes

    logging.disable(logging.WARNING)  # no sensor file is there
    before = _resident_mb()
    dataset, cost = _cost(lambda: NuScenes(folder, VERSION))
    for i in np.random.default_rng(0).integers(len(dataset), size=1000).tolist():
        dataset[i]
    after = _resident_mb()
    private, mapped = after["RssAnon"] - before["RssAnon"], after["RssFile"] - before["RssFile"]
    return {**cost, "private_mb": private, "mapped_mb": mapped}


def _open_devkit(folder: str) -> dict[str, float]:
    from nuscenes import NuScenes

    return _cost(lambda: NuScenes(VERSION, folder, verbose=False))[1]


def _cost(candidate: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """What a call returns, its seconds, and how far it made this process grow."""
    found, seconds = [], []

    def call() -> None:
        start = time.perf_counter()
        found.append(candidate())
        seconds.append(time.perf_counter() - start)

    peak = peak_mb(call)
    return found[0], {"s": seconds[0], "peak_mb": peak}


def _resident_mb() -> dict[str, float]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1000 for words in lines if words[0].startswith("Rss")}


def make_tables(folder: str | Path) -> Path:
    """Write the tables below ``<folder>/v1.0-trainval``, unless they are there; the same bytes every time.

    There are no sensor files, only the maps that the devkit insists on, empty.
    """
    version = Path(folder) / VERSION
    if (version / "scene.json").exists():  # written last
        return Path(folder)
    version.mkdir(parents=True, exist_ok=True)
    fixed = fixed_tables(0, _CHANNELS)
    for name, rows in {**fixed, **_logs_and_maps(Path(folder))}.items():
        write_json(version / f"{name}.json", rows)
    scenes, samples = _scenes_and_samples()
    write_json(version / "sample.json", [sample for own in samples for sample in own])
    write_json(version / "calibrated_sensor.json", list(_calibrations(fixed["sensor"])))
    _write_sensor_rows(version, samples)
    _write_annotations(version, samples, fixed)
    write_json(version / "scene.json", scenes)
    return Path(folder)


def _logs_and_maps(root: Path) -> dict[str, list[dict]]:
    logs = [
        {
            "token": token_of(0, "log", i),
            "logfile": f"log-{i}",
            "vehicle": "n000",
            "date_captured": "2018-01-01",
            "location": "",
        }
        for i in range(LOGS)
    ]
    maps = [
        {
            "token": token_of(0, "map", i),
            "category": "semantic_prior",
            "filename": f"maps/{i}.png",
            "log_tokens": [log["token"] for log in logs[i::4]],
        }
        for i in range(4)
    ]
    (root / "maps").mkdir(exist_ok=True)
    for entry in maps:
        (root / entry["filename"]).touch()
    return {"log": logs, "map": maps}


def _scenes_and_samples() -> tuple[list[dict], list[list[dict]]]:
    """The rows of scene, and those of sample by scene; the first scenes have one more sample than the others."""
    per_scene, more = divmod(SAMPLES, SCENES)
    scenes, samples = [], []
    for s in range(SCENES):
        own = [
            {
                "token": token_of(0, "sample", s, i),
                "timestamp": 1_500_000_000_000_000 + (100 * s + i) * _PERIOD_US,
                "prev": "",
                "next": "",
                "scene_token": token_of(0, "scene", s),
            }
            for i in range(per_scene + (s < more))
        ]
        link(own)
        samples.append(own)
        scenes.append(
            {
                "token": token_of(0, "scene", s),
                "log_token": token_of(0, "log", s % LOGS),
                "nbr_samples": len(own),
                "first_sample_token": own[0]["token"],
                "last_sample_token": own[-1]["token"],
                "name": f"scene-{s + 1:04d}",
                "description": "",
            }
        )
    return scenes, samples


def _calibrations(sensors: list[dict]) -> Iterator[dict]:
    """One of every sensor in every scene, as in the real tables."""
    for s in range(SCENES):
        for sensor in sensors:
            camera = sensor["modality"] == "camera"
            yield {
                "token": token_of(0, "calibrated_sensor", s, sensor["channel"]),
                "sensor_token": sensor["token"],
                "translation": [1.0, 0.0, 1.5],
                "rotation": [0.5, -0.5, 0.5, -0.5] if camera else [1.0, 0.0, 0.0, 0.0],
                "camera_intrinsic": [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]] if camera else [],
            }


def _sweeps(channel: str, sample: int) -> int:
    """Sensor rows of a sample, its keyframe included: as many as make the real number of them."""
    if channel == "LIDAR_TOP":
        return 10
    missing = SENSOR_ROWS - SAMPLES * (10 + 6 * len(_CAMERAS) + 6 * len(_RADARS))
    more, rest = divmod(missing, SAMPLES)
    return 6 + (channel in _RADARS[:more]) + (channel == _RADARS[more] and sample < rest)


def _write_sensor_rows(version: Path, samples: list[list[dict]]) -> None:
    with _RowWriter(version / "sample_data.json") as write_row, _RowWriter(version / "ego_pose.json") as write_pose:
        first = 0
        for s, own in enumerate(samples):
            for channel, modality in _CHANNELS.items():
                _write_channel(write_row, write_pose, s, first, own, channel, modality)
            first += len(own)


def _write_channel(write_row, write_pose, s: int, first: int, samples: list[dict], channel: str, modality: str) -> None:
    """The rows of one sensor in one scene, in order of time."""
    calibration, form, ending = token_of(0, "calibrated_sensor", s, channel), _FORMATS[modality], _ENDINGS[modality]
    height, width = (900, 1600) if modality == "camera" else (0, 0)
    sample_tokens, stamps, keys = [], [], []
    for i, sample in enumerate(samples):
        n = _sweeps(channel, first + i)
        for k in range(n):
            sample_tokens.append(sample["token"])
            stamps.append(sample["timestamp"] - (n - 1 - k) * _PERIOD_US // n)
            keys.append(k == n - 1)
    tokens = [token_of(0, s, channel, stamp) for stamp in stamps]
    seconds = 1e-6 * (np.array(stamps) - samples[0]["timestamp"])
    x, y, half_turn, tilt = 500 + 9.87654321 * seconds, 1000 + s + np.sin(seconds), 0.05 * np.cos(seconds), 0.003
    rotation = np.cos(half_turn), tilt * np.cos(seconds), tilt * np.sin(seconds), np.sin(half_turn)
    poses = zip(tokens, stamps, *(number.tolist() for number in (*rotation, x, y)))
    for values in poses:
        write_pose(_EGO_POSE % values)
    around = zip(["", *tokens], tokens, [*tokens[1:], ""], sample_tokens, stamps, keys)
    for before, own, after, sample_token, stamp, key in around:
        folder = "samples" if key else "sweeps"
        filename = f"{folder}/{channel}/n000-2018-01-01-{s:08d}+0800__{channel}__{stamp}.{ending}"
        flag = "true" if key else "false"
        write_row(
            _SENSOR_ROW
            % (own, sample_token, own, calibration, stamp, form, flag, height, width, filename, before, after)
        )


def _write_annotations(version: Path, samples: list[list[dict]], fixed: dict[str, list[dict]]) -> None:
    """Instances go round the scenes and the categories; each is seen in consecutive samples."""
    per_instance, more = divmod(ANNOTATIONS, INSTANCES)
    attributes = {
        kind: f'\n"{entry["token"]}"\n'
        for kind in ("vehicle", "cycle", "pedestrian")
        for entry in fixed["attribute"]
        if entry["name"].startswith(kind)
    }
    instances = []
    with _RowWriter(version / "sample_annotation.json") as write:
        for i in range(INSTANCES):
            own, category = samples[i % SCENES], fixed["category"][i // SCENES % len(fixed["category"])]
            length = per_instance + (i < more)
            begin = i // SCENES % (len(own) - length + 1)
            kind = category["name"].split(".")[0]
            kind = "cycle" if category["name"].endswith("cycle") else "pedestrian" if kind == "human" else kind
            attribute = attributes.get(kind, "")
            instance = token_of(0, "instance", i)
            tokens = [token_of(0, "annotation", i, k) for k in range(length)]
            around = zip(["", *tokens], tokens, [*tokens[1:], ""], own[begin:])
            for k, (before, this, after, sample) in enumerate(around):
                place = 500 + i % 97 + 0.731 * k, 1000 + i % 89 - 0.213 * k, 0.9
                counts = (i + k) % 120, (i + k) % 5
                write(
                    _ANNOTATION
                    % (this, sample["token"], instance, 1 + i % 4, attribute, *place, 0.8, 0.6, before, after, *counts)
                )
            instances.append(
                {
                    "token": instance,
                    "category_token": category["token"],
                    "nbr_annotations": length,
                    "first_annotation_token": tokens[0],
                    "last_annotation_token": tokens[-1],
                }
            )
    write_json(version / "instance.json", instances)


class _RowWriter:
    """Writes the rows of a table one by one."""

    def __init__(self, path: Path):
        self._file, self._separator = path.open("w", buffering=1 << 20), "[\n"

    def __enter__(self):
        return self._write

    def _write(self, text: str) -> None:
        self._file.write(self._separator)
        self._file.write(text)
        self._separator = ",\n"

    def __exit__(self, *_) -> None:
        with self._file:
            self._file.write("\n]")
