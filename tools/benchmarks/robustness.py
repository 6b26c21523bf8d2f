"""One checkpoint under every condition of ``benchmarks.conditions``, scored by the official metric: a row a condition.

A row is {"run", "fusion", "condition", "severity", "seed", "drives", "mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE",
"mAAE", "AP", "frames", "weights_sha256"}; "seed" is that of the training for an ablation and that of the drives for a
shipped checkpoint, "drives" is always that of the drives.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.conditions import SENSORS, Condition, Moment, all_conditions
from benchmarks.report import COLUMNS, key_of, mean_resistance
from perception.config import load_yaml
from perception.data.nuscenes import NuScenes
from perception.data.opening import open_source
from perception.errors import PerceptionError
from perception.eval.evaluate import Submission, score_submissions
from perception.files import write_json
from perception.health import HealthMonitor, without_dead
from perception.model.checkpoint import load, weights_sha256
from perception.model.detector import Detector
from perception.model.encoder import Encoded
from perception.sample import Detections, Frame, SensorData
from perception.text import aligned


@dataclass
class Drives:
    """The simulated drives that are reported on, and those that choices and calibration are made on."""

    scenes: int = 8
    seconds: float = 5.0
    weather: list[str] = field(default_factory=lambda: ["day", "night", "rain", "fog"])
    seed: int = 1000
    calibration_seed: int = 500
    world: str = "street"


def load_drives(path: str | Path) -> Drives:
    """What configs/benchmark.yaml says.

    Raises:
        ConfigError: see ``perception.config``.
    """
    return load_yaml(Drives, path)


def chosen_conditions(patterns: Sequence[str], conditions: Sequence[Condition] | None = None) -> list[Condition]:
    """Those of ``conditions``, by default all, whose key (``mc:spatial/3``) or name matches one of the shell patterns.

    Raises:
        PerceptionError: a pattern matches none; the message lists the names.
    """
    conditions = all_conditions() if conditions is None else conditions
    for pattern in patterns:
        if not any(_matches(condition, pattern) for condition in conditions):
            names = ", ".join(dict.fromkeys(condition.name for condition in conditions))
            raise PerceptionError(f"--conditions: '{pattern}' matches none of {names}")
    return [condition for condition in conditions if any(_matches(condition, pattern) for pattern in patterns)]


def _matches(condition: Condition, pattern: str) -> bool:
    return fnmatch.fnmatchcase(condition.key, pattern) or fnmatch.fnmatchcase(condition.name, pattern)


class EncodeOnce:
    """Detects what its detector detects, but encodes the same data of a sensor only once until told to forget it.

    Conditions mostly change one sensor; the features of the others are then at hand.
    """

    def __init__(self, detector: Detector):
        self.detector = detector
        self.kept: dict[int, tuple[SensorData, Encoded]] = {}

    def forget(self) -> None:
        self.kept.clear()

    @torch.inference_mode()
    def detect(self, frame: Frame) -> Detections:
        frame = without_dead(frame)
        sensors = self.detector.sensors
        encoded = {name: self._encoded(frame, name, data) for name, data in frame.data.items() if name in sensors}
        valid = torch.tensor([[name in encoded for name in sensors]])
        return self.detector.decode(self.detector.predict(encoded, valid))[0]

    def _encoded(self, frame: Frame, name: str, data: SensorData) -> Encoded:
        # The kept reference to the data keeps its id from being used again.
        if id(data) not in self.kept:
            self.kept[id(data)] = data, self.detector.encode(self.detector.prepare([frame.only([name])]))[name]
        return self.kept[id(data)][1]


def moments(dataset: NuScenes) -> Iterator[tuple[int, Moment]]:
    """Every frame with the one before it and the first one of its scene."""
    for scene in dataset.scenes:
        previous = first = None
        for index in dataset.indices(scene):
            frame = dataset[index]
            first = first or frame
            yield index, Moment(frame, previous, first)
            previous = frame


def benchmark(
    checkpoint: str,
    root: str | Path,
    conditions: Sequence[Condition],
    run: str,
    drives: int,
    monitor: bool,
    workers: int | None = None,
) -> list[dict]:
    """Rows, in the order of ``conditions``.

    Args:
        root: simulated drives of the seed ``drives``.
        run: "shipped" or "ablation", see the module docstring.
        monitor: whether a HealthMonitor stands before the detector, as in a replay.
        workers: processes, with one thread each, to which conditions are dealt out; None is one a core.
    """
    workers = workers or os.cpu_count() or 1
    by_source: dict[str, list[int]] = {}
    for i, condition in enumerate(conditions):
        by_source.setdefault(repr(condition.source), []).append(i)
    order = [i for indices in by_source.values() for i in indices]
    shares = [order[len(order) * w // workers : len(order) * (w + 1) // workers] for w in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [(checkpoint, str(root), [conditions[i].key for i in share], monitor) for share in shares if share]
        parts = pool.map(_rows, *zip(*jobs))
        metrics = {key: row for part in parts for key, row in part.items()}
    config = load(checkpoint).config
    return [
        {
            "run": run,
            "fusion": config.fusion.kind,
            "condition": condition.name,
            "severity": condition.severity,
            "seed": config.train.seed if run == "ablation" else drives,
            "drives": drives,
            **{column: metrics[condition.key][column] for column in (*COLUMNS, "AP", "frames")},
            "monitor": monitor,
            "weights_sha256": weights_sha256(checkpoint),
        }
        for condition in conditions
    ]


def _rows(checkpoint: str, root: str, keys: list[str], monitor: bool) -> dict[str, dict]:
    """Metrics by condition key; one process's share."""
    torch.set_num_threads(1)
    detector = EncodeOnce(load(checkpoint))
    conditions = [condition for condition in all_conditions() if condition.key in keys]
    metrics: dict[str, dict] = {}
    sources = list({repr(condition.source): condition.source for condition in conditions}.values())
    for source in sources:
        dataset = open_source(root, detector.detector.config, **source)
        same = [condition for condition in conditions if condition.source == source]
        metrics |= score_submissions(
            dataset,
            detector.detector.task,
            {c.key: SENSORS for c in same},
            lambda made, d=dataset, s=same: _detect(detector, d, s, monitor, made),
        )
    return metrics


def _detect(detector: EncodeOnce, dataset: NuScenes, conditions, monitor: bool, made: dict[str, Submission]):
    monitors = {condition.key: HealthMonitor() for condition in conditions}
    for _, moment in tqdm(moments(dataset), total=len(dataset), desc=f"{len(conditions)} conditions", unit="frame"):
        detector.forget()
        for condition in conditions:
            frame = condition.apply(moment)
            if monitor:
                frame, _ = monitors[condition.key].check(frame)
            made[condition.key].add(frame, detector.detect(frame) if frame.sensors else None)


def read_rows(path: Path) -> list[dict]:
    """The rows of a file; none where there is no such file.

    Raises:
        PerceptionError: it cannot be read, or holds something else.
    """
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
        for row in rows:
            _identity(row)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PerceptionError(f"{path}: rows of this benchmark were expected: {error!r}") from None
    return rows


def merge_rows(path: Path, rows: list[dict]) -> None:
    """Add rows to a file of rows; a row of the same run, fusion, condition, severity, seed and drives is replaced.

    Raises:
        PerceptionError: see :func:`read_rows`.
    """
    write_json(path, list({_identity(row): row for row in [*read_rows(path), *rows]}.values()))


def _identity(row: dict) -> tuple:
    return tuple(row[key] for key in ("run", "fusion", "condition", "severity", "seed", "drives"))


def table(rows: Sequence[dict]) -> str:
    """Rows for reading, and mRA where all it takes is there."""
    body = [(key_of(row), *(f"{row[column]:.4f}" for column in COLUMNS)) for row in rows]
    lines = [aligned([("condition", *COLUMNS), *body])]
    mean, cells = mean_resistance(rows)
    if cells:
        worst = min(min(values) for values in cells.values())
        lines.append(f"mRA over {len(cells)} corruptions {mean:.4f}, worst cell {worst:.4f}")
    return "\n".join(lines)
