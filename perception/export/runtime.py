"""Runs an exported model on frames: inputs and detections in numpy, graphs in whatever they were exported for.

With onnxruntime nothing here imports torch. :meth:`Exported.detect` is :meth:`perception.Detector.detect`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from scipy.special import expit, logit

from perception.errors import PerceptionError, require
from perception.export.backends import FORMATS, Run
from perception.export.card import CameraCard, Card, ModelError, PointsCard
from perception.export.memory import Memory
from perception.export.pooling import PoolIndex, pool, pool_index
from perception.health import without_dead
from perception.model.imported_boxes import detections_of_candidates
from perception.model.selection import detections_of
from perception.sample import Detections, Frame, PointCloud, SensorData, fitted, sensor_set

OBJECTS = "objects"  # the name of the graph behind the encoders'
FEWEST_CAMERAS, FEWEST_POINTS, FEWEST_RETURNS = 2, 2, 16  # that graphs take; the rest is invalid, or nowhere
_NOWHERE = 1e6  # metres, beyond any grid
_NO_MEMORY = object()  # where detect is not to remember


def load(folder: str | Path, form: str | None = None, threads: int = 0) -> Exported:
    """The model that ``perception export`` wrote to a folder.

    Args:
        form: "onnx", "onnx-int8", "torch-export" or "aoti"; by default the first of them that is there.
        threads: of onnxruntime; 0 for as many as there are cores. Formats of torch have those of torch.

    Raises:
        ModelError: no exported model, one that is damaged, or files of different models.
        PerceptionError: a package that the format needs is not installed.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ModelError(f"exported model: a folder was expected, found {type(folder).__name__}")
    require("form", form, f"one of {', '.join(FORMATS)}", lambda form: form is None or form in FORMATS)
    folder = Path(folder)
    forms = [
        name for name in (FORMATS if form is None else [form]) if (folder / f"{OBJECTS}{FORMATS[name][0]}").is_file()
    ]
    if not forms:
        wanted = ", ".join(OBJECTS + suffix for name, (suffix, _) in FORMATS.items() if form in (None, name))
        raise ModelError(f"{folder}: an exported model was expected, a folder with {wanted}")
    suffix, opened = FORMATS[forms[0]]
    path = folder / f"{OBJECTS}{suffix}"
    text, run = opened(path, threads)
    card = Card.from_json(text, str(path))
    graphs = {OBJECTS: run}
    for name in card.sensors:
        path = folder / f"{name}{suffix}"
        other, graphs[name] = opened(path, threads)
        if other != text:
            raise ModelError(f"{path}: a graph of the model of {OBJECTS}{suffix} was expected, found one of another")
    return Exported(card, graphs)


class Exported:
    """Frame -> Detections, as a :class:`perception.Detector`.

    Args:
        graphs: by sensor and "objects", see ``export.graphs``.

    Attributes:
        task, grid, sensors, remembers: as those of a Detector.
    """

    def __init__(self, card: Card, graphs: Mapping[str, Run]):
        self.card, self.graphs = card, dict(graphs)
        self.task, self.grid, self.sensors = card.task, card.grid, tuple(card.sensors)
        self._index: dict[str, tuple[bytes, PoolIndex]] = {}  # by sensor, with the calibration it is of

    @property
    def remembers(self) -> bool:
        return self.card.memory is not None

    @overload
    def detect(self, frame: Frame) -> Detections: ...

    @overload
    def detect(self, frame: Frame, memory: Memory | None) -> tuple[Detections, Memory | None]: ...

    def detect(self, frame, memory=_NO_MEMORY):
        """Detections for one frame, in its ego frame, highest score first; ``memory`` as in Detector.detect.

        Raises:
            PerceptionError: a frame without any of the model's sensors, or an output that is not finite.
        """
        if not isinstance(frame, Frame):
            raise PerceptionError(f"detect: a Frame was expected, found {type(frame).__name__}")
        frame = without_dead(frame.only(self.sensors))
        if not frame.sensors:
            raise PerceptionError(
                f"frame {frame.token}: at least one of {', '.join(self.sensors)} was expected, found none"
            )
        recalled = None if memory is _NO_MEMORY else memory
        objects = self.graphs[OBJECTS](self.object_inputs(frame, recalled))
        detections = self._decoded(objects, frame)
        if memory is _NO_MEMORY:
            return detections
        most = self.card.memory.objects if self.card.memory else 0
        return detections, Memory.of(objects, frame, most) if most else None

    def object_inputs(self, frame: Frame, memory: Memory | None) -> dict[str, np.ndarray]:
        """What the graph of objects takes of a frame: the encoders' output, masks and memory, by name."""
        data = frame.data
        inputs: dict[str, np.ndarray] = {}
        for name in self.sensors:
            if name in data:
                inputs |= {f"{name}.{part}": value for part, value in self._encoded(name, data[name]).items()}
            else:
                inputs |= self.card.absent(name)
        inputs["sensor_valid"] = np.array([[name in data for name in self.sensors]])
        if self.card.memory is not None:
            objects, elapsed_s = self.card.memory.empty(self.task), np.zeros(1, np.float32)
            if memory is not None:
                objects, elapsed_s = memory.at(frame)
            inputs |= {f"memory.{name}": value for name, value in objects.items()} | {"elapsed_s": elapsed_s}
        return {name: inputs[name] for name in self.card.inputs}

    def encoder_inputs(self, name: str, data: SensorData) -> dict[str, np.ndarray]:
        """What the graph of a sensor's encoder takes, by name."""
        sensor = self.card.sensors[name]
        if isinstance(sensor, PointsCard):
            return {"points": _points(name, data, sensor.fields)}
        return _images(name, data, sensor.image_size)

    def _encoded(self, name: str, data: Any) -> dict[str, np.ndarray]:
        """The inputs ``name.*`` of the graph of objects."""
        inputs, sensor = self.encoder_inputs(name, data), self.card.sensors[name]
        parts = self.graphs[name](inputs)
        if isinstance(sensor, PointsCard):
            returns = parts.pop("returns", inputs["points"][: len(data.points)])
            return parts | _padded(returns) if f"{name}.points" in self.card.inputs else parts
        poses = {key: inputs[key] for key in ("intrinsics", "ego_SE3_camera")}
        valid = np.arange(poses["intrinsics"].shape[1])[None] < len(data)
        index = self._pool_index(name, sensor, *(value[0] for value in (*poses.values(), valid)))
        pooled = pool(parts.pop("context"), parts.pop("depth"), index, self.grid)
        return {"pooled": pooled, **parts, **poses, "camera_valid": valid}

    def _pool_index(self, name: str, sensor: CameraCard, *calibration: np.ndarray) -> PoolIndex:
        """Kept while the cameras stay where they are."""
        key = b"".join(value.tobytes() for value in calibration)
        if name not in self._index or self._index[name][0] != key:
            self._index[name] = (key, pool_index(sensor, self.grid, *calibration))
        return self._index[name][1]

    def _decoded(self, objects: dict[str, np.ndarray], frame: Frame) -> Detections:
        """As the decode of :class:`perception.model.decoder.ObjectDecoder` or of an imported head has it; scores
        calibrated, as in Detector.decode."""
        if self.card.rules is not None:
            candidates = {name: value[0] for name, value in objects.items()}
            return self._calibrated(detections_of_candidates(candidates, self.task, self.card.rules), frame)
        most = self.card.max_detections
        best = np.argsort(-objects["scores"][0], kind="stable")[: 2 * most]  # some are suppressed
        found = {name: value[0, best] for name, value in objects.items()}
        found |= {"size": np.exp(found["log_size"]), "score": found["scores"]}
        found = {name: value if name == "label" else value.astype(np.float64) for name, value in found.items()}
        detections = detections_of(found, self.task, self.grid, most, self.card.score_threshold)
        return self._calibrated(detections, frame)

    def _calibrated(self, detections: Detections, frame: Frame) -> Detections:
        slope, offset = self.card.calibration.get(sensor_set(frame.sensors, self.sensors), (1.0, 0.0))
        return replace(detections, scores=expit(slope * logit(detections.scores) + offset))


def _points(name: str, data: SensorData, fields: tuple[str, ...]) -> np.ndarray:
    """[M, C]; a cloud of fewer points than graphs take is filled with some that lie in no cell."""
    if not isinstance(data, PointCloud):
        raise PerceptionError(f"{name}: points were expected, as its encoder takes, found images")
    if data.fields != fields:
        raise PerceptionError(f"{name}: points with {', '.join(fields)} were expected, found {', '.join(data.fields)}")
    missing = max(FEWEST_POINTS - len(data.points), 0)
    return np.pad(data.points, ((0, missing), (0, 0)), constant_values=_NOWHERE)


def _padded(points: np.ndarray) -> dict[str, np.ndarray]:
    """Points [M, C] as objects look at them: at least FEWEST_RETURNS, of which those that are none are not valid."""
    count = len(points)
    padded = np.pad(points, ((0, max(FEWEST_RETURNS - count, 0)), (0, 0)))[None]
    return {"points": padded, "point_valid": (np.arange(padded.shape[1]) < count)[None]}


def _images(name: str, data: SensorData, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """As :func:`perception.batch.collate` has them, of at least FEWEST_CAMERAS."""
    if isinstance(data, PointCloud):
        raise PerceptionError(f"{name}: images were expected, as its encoder takes, found points")
    count = max(len(data), FEWEST_CAMERAS)
    images = np.zeros((1, count, *image_size, 3), np.uint8)
    intrinsics = np.tile(np.eye(3, dtype=np.float32), (1, count, 1, 1))
    ego_SE3_camera = np.tile(np.eye(4, dtype=np.float32), (1, count, 1, 1))
    for n, camera in enumerate(data[camera_name] for camera_name in sorted(data)):
        images[0, n], affine = fitted(camera.image, image_size)
        intrinsics[0, n], ego_SE3_camera[0, n] = affine @ camera.intrinsics, camera.ego_SE3_camera.matrix
    images = np.ascontiguousarray(images.transpose(0, 1, 4, 2, 3))
    return {"images": images, "intrinsics": intrinsics, "ego_SE3_camera": ego_SE3_camera}
