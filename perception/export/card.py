"""The card of an exported model: what a runtime has to know beside the graphs. Every file of the model has it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.imported_boxes import BoxRules
from perception.task import ObjectClass, Task

KEY = "perception"  # under which a file has the card, as JSON
CLOUDS = ("lidar_sweeps", "radar_sweeps", "radar_filter")  # of a config's data
_VERSION = 1  # of the card and of what graphs take and return


class ModelError(PerceptionError):
    """A file that is no exported model, or a damaged one."""


@dataclass(frozen=True)
class CameraCard:
    """image_size: height and width of the images that the graph takes.  stride: pixels per feature cell.

    depth_min_m, depth_max_m, bins: of the uniform depth bins.
    """

    image_size: tuple[int, int]
    stride: int
    depth_min_m: float
    depth_max_m: float
    bins: int


@dataclass(frozen=True)
class PointsCard:
    """fields: of the columns of the points that the graph takes."""

    fields: tuple[str, ...]


@dataclass(frozen=True)
class MemoryCard:
    """objects: of a frame that the next one remembers.  width: of their features."""

    objects: int
    width: int

    def empty(self, task: Task) -> dict[str, np.ndarray]:
        """A memory of nothing, by field of :class:`perception.model.objects.Objects`."""
        shapes: dict[str, tuple[int, ...]] = {
            "center": (3,), "log_size": (3,), "yaw": (), "velocity": (2,), "sense_logit": (), "label": (), "prior": (),
            "class_logits": (len(task.classes),), "attribute_logits": (len(task.attributes),), "quality_logit": (),
            "features": (self.width,), "valid": (),
        }  # fmt: skip
        kinds: dict[str, type] = {"label": np.int64, "valid": np.bool_}
        return {name: np.zeros((1, self.objects, *end), kinds.get(name, np.float32)) for name, end in shapes.items()}


@dataclass(frozen=True)
class Card:
    """sensors: by name, in the order of the axis of ``sensor_valid``.

    inputs: what the graph of objects takes, in its order: name -> shape, with the fewest cameras and points that it can
        have.
    calibration: slope and offset of the score logits by set of sensors, see ``model.score_calibration``.
    max_detections, score_threshold: as in the config's head.  memory: None for a model that remembers nothing.
    clouds: ``lidar_sweeps``, ``radar_sweeps`` and ``radar_filter`` of the frames that the model is made for, as
        :class:`perception.NuScenes` takes them.
    weights_sha256: digest of the weights, by which graphs of different models are told apart.
    rules: of an imported CenterPoint, whose graph returns candidates; None: it returns objects.
    """

    task: Task
    grid: BEVGrid
    sensors: dict[str, CameraCard | PointsCard]
    inputs: dict[str, tuple[int, ...]]
    calibration: dict[str, tuple[float, float]]
    max_detections: int
    score_threshold: float
    memory: MemoryCard | None
    clouds: dict[str, Any]
    weights_sha256: str
    rules: BoxRules | None = None

    def absent(self, sensor: str) -> dict[str, np.ndarray]:
        """What the graph of objects takes of a sensor that is absent: zeros, which are not looked at."""
        own = {name: shape for name, shape in self.inputs.items() if name.startswith(f"{sensor}.")}
        return {name: np.zeros(shape, bool if name.endswith("_valid") else np.float32) for name, shape in own.items()}

    def to_json(self) -> str:
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Card:
        """
        Raises:
            ModelError: not a card, or one of another version of this package; the message begins with ``where``.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            version = values.pop("version")
            if version != _VERSION:
                raise ModelError(f"{where}: a model of version {_VERSION} was expected, found {version!r:.80}")
            task, memory = values["task"], values["memory"]
            return cls(
                Task([ObjectClass(**facts) for facts in task["objects"]], task["attributes"]),
                BEVGrid(**values["grid"]),
                {name: _sensor(facts) for name, facts in values["sensors"].items()},
                {str(name): tuple(map(_whole, shape)) for name, shape in values["inputs"].items()},
                {name: (float(slope), float(offset)) for name, (slope, offset) in values["calibration"].items()},
                _whole(values["max_detections"]),
                float(values["score_threshold"]),
                memory and MemoryCard(_whole(memory["objects"]), _whole(memory["width"])),
                {name: values["clouds"][name] for name in CLOUDS},
                str(values["weights_sha256"]),
                values.get("rules") and _rules(values["rules"], {facts["name"] for facts in task["objects"]}),
            )
        except ModelError:
            raise
        except (PerceptionError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ModelError(f"{where}: the card of an exported model was expected: {reason}") from None


def _sensor(facts: dict[str, Any]) -> CameraCard | PointsCard:
    if "fields" in facts:
        (fields,) = facts.values()
        return PointsCard(tuple(str(name) for name in fields))
    height, width = map(_whole, facts["image_size"])
    depth = float(facts["depth_min_m"]), float(facts["depth_max_m"])
    if not 0 < depth[0] < depth[1] < math.inf:
        raise ValueError(f"depth_min_m below depth_max_m was expected, found {depth}")
    return CameraCard((height, width), _whole(facts["stride"]), *depth, _whole(facts["bins"]))


def _rules(facts: dict[str, Any], classes: set[str]) -> BoxRules:
    named = [name for names in facts["groups"] for name in names]
    if not all(facts["groups"]) or len(named) != len(classes) or set(named) != classes:
        raise ValueError(f"every class in one group was expected, found {facts['groups']!r:.80}")
    overlap, pose = facts["max_overlap"], tuple(float(value) for value in facts["ego_SE3_lidar"])
    SE3.from_pose(pose)  # raises if it is none
    return BoxRules(
        tuple(tuple(str(name) for name in names) for names in facts["groups"]),
        pose,
        None if overlap is None else float(overlap),
        float(facts["score_threshold"]),
        _whole(facts["max_detections"]),
    )


def _whole(value: Any) -> int:
    """A number of things, within what fits into memory."""
    if not isinstance(value, int) or not 1 <= value <= 100_000:
        raise ValueError(f"a whole number from 1 to 100000 was expected, found {value!r:.80}")
    return value
