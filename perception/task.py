"""The detection task: the classes of a detector and all class-specific settings.

A :class:`Task` is part of every config, hence of every checkpoint, and is passed to the head, metric, submission,
tracker and drawing. The default, :data:`NUSCENES`, is the nuScenes detection task: ten classes, eight attributes and
the class-specific settings of its benchmark (detection_cvpr_2019). Other classes take a few lines of a config:

    task:
      attributes: []
      objects:
        - {name: vehicle, sources: [car, truck, bus, trailer, construction_vehicle]}
        - {name: pedestrian, range_m: 40, suppression_radius_m: 0.3, color: [102, 230, 140]}
        - {name: cycle, sources: [motorcycle, bicycle], range_m: 40, suppression_radius_m: 0.5}

``boxes.label`` indexes ``task.classes`` and ``boxes.attribute`` indexes ``task.attributes``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perception.errors import PerceptionError

MAX_CLASSES, MAX_ATTRIBUTES = 1000, 64  # of a task: indices beyond them are no labels
HEADINGS = ("direction", "axis", "none")
_POSITIVE = (
    "range_m", "match_radius_m", "position_sigma_m", "velocity_sigma_mps", "prior_speed_mps", "acceleration_density",
)  # fmt: skip


class TaskError(PerceptionError):
    """An inconsistent task, or labels and attributes that a task does not have."""


@dataclass
class ObjectClass:
    """One class and its settings.

    name: used in results.  sources: dataset classes that are mapped to this class; [] for the one of the same name.
    range_m: objects are evaluated up to this distance from the vehicle.
    match_radius_m: maximum centre distance of a true positive; true-positive errors are means over these matches.
    suppression_radius_m: detections closer than this are duplicates; about half the width of the class.
    color: RGB.
    attributes: the subset of ``Task.attributes`` that the class allows, [] for none.
    usual_attributes: the most common attribute of a moving and of a stationary object, [] for none.
    heading: "direction"; "axis" if front and rear cannot be told apart; "none" if heading is meaningless.
    moves: whether velocity error is evaluated.
    tracked: whether the tracking benchmark includes the class.
    ignored_in_racks: whether the metric ignores objects inside bicycle racks.
    position_sigma_m, velocity_sigma_mps: standard deviation of detector measurements.
    prior_speed_mps: prior RMS speed, used before a velocity is measured.
    acceleration_density: m^2/s^3, power spectral density of the white acceleration noise: the velocity variance added
        per second.
    """

    name: str
    sources: list[str] = field(default_factory=list)
    range_m: float = 50.0
    match_radius_m: float = 2.0
    suppression_radius_m: float = 1.0
    color: list[int] = field(default_factory=lambda: [66, 190, 255])
    attributes: list[str] = field(default_factory=list)
    usual_attributes: list[str] = field(default_factory=list)
    heading: str = "direction"
    moves: bool = True
    tracked: bool = True
    ignored_in_racks: bool = False
    position_sigma_m: float = 0.4
    velocity_sigma_mps: float = 2.0
    prior_speed_mps: float = 10.0
    acceleration_density: float = 0.6

    def __post_init__(self) -> None:
        for name in ("sources", "color", "attributes", "usual_attributes"):  # copies, not shared lists
            setattr(self, name, list(getattr(self, name)))


_VEHICLE = ["vehicle.moving", "vehicle.stopped", "vehicle.parked"]
_CYCLE = ["cycle.with_rider", "cycle.without_rider"]
_PEDESTRIAN = ["pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down"]


def _vehicle(name: str, color: list[int], resting: str = "vehicle.parked", **facts: Any) -> ObjectClass:
    facts = {"suppression_radius_m": 1.2, "position_sigma_m": 0.5, **facts}
    return ObjectClass(name, color=color, attributes=_VEHICLE, usual_attributes=["vehicle.moving", resting], **facts)


def _nuscenes_classes() -> list[ObjectClass]:
    """Measurement errors are those of the shipped detector, outliers included; accelerations are from real traffic."""
    cycle: dict[str, Any] = {
        "attributes": _CYCLE,
        "usual_attributes": _CYCLE,
        "ignored_in_racks": True,
        "range_m": 40.0,
    }
    cycle |= {"suppression_radius_m": 0.5, "position_sigma_m": 0.3}
    fixed: dict[str, Any] = {"moves": False, "tracked": False, "range_m": 30.0}
    fixed |= {"velocity_sigma_mps": 0.3, "prior_speed_mps": 0.1, "acceleration_density": 0.005}
    return [
        _vehicle("car", [66, 190, 255], suppression_radius_m=1.0, position_sigma_m=0.4),
        _vehicle("truck", [255, 145, 60]),
        _vehicle("bus", [255, 92, 122], resting="vehicle.stopped"),
        _vehicle("trailer", [198, 146, 104]),
        _vehicle(
            "construction_vehicle", [240, 190, 60], tracked=False, velocity_sigma_mps=1.0,
            prior_speed_mps=2.0, acceleration_density=0.2,
        ),
        ObjectClass(
            "pedestrian", range_m=40.0, suppression_radius_m=0.3, color=[102, 230, 140],
            attributes=_PEDESTRIAN, usual_attributes=_PEDESTRIAN[:2],
            position_sigma_m=0.2, velocity_sigma_mps=1.0, prior_speed_mps=1.5, acceleration_density=0.1,
        ),
        ObjectClass("motorcycle", color=[190, 120, 255], **cycle),
        ObjectClass("bicycle", color=[250, 130, 220], prior_speed_mps=4.0, acceleration_density=0.3, **cycle),
        ObjectClass(
            "traffic_cone", heading="none", suppression_radius_m=0.25, color=[255, 180, 150], position_sigma_m=0.3,
            **fixed,
        ),
        ObjectClass("barrier", heading="axis", suppression_radius_m=0.4, color=[150, 170, 200], **fixed),
    ]  # fmt: skip


@dataclass
class Task:
    """The classes of a detector, in the order of its labels, and the attributes of their objects.

    Raises:
        TaskError: no class, duplicate names or sources, or invalid settings.
    """

    objects: list[ObjectClass] = field(default_factory=_nuscenes_classes)
    attributes: list[str] = field(default_factory=lambda: [*_VEHICLE, *_CYCLE, *_PEDESTRIAN])

    def __post_init__(self) -> None:
        self.objects, self.attributes = list(self.objects), list(self.attributes)
        for facts in self.objects:
            if not isinstance(facts, ObjectClass):
                raise TaskError(f"task.objects: an ObjectClass was expected, found {type(facts).__name__}")
        if not self.objects:
            raise TaskError("task.objects: at least one class was expected, found none")
        for what, found, most in (
            ("objects", self.objects, MAX_CLASSES),
            ("attributes", self.attributes, MAX_ATTRIBUTES),
        ):
            if len(found) > most:
                raise TaskError(f"task.{what}: at most {most} were expected, found {len(found)}")
        sources = [name for facts in self.objects for name in facts.sources or [facts.name]]
        for what, names in (("names", self.classes), ("sources", sources), ("attributes", self.attributes)):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise TaskError(f"task: different {what} were expected, found {', '.join(twice)} more than once")
        for facts in self.objects:
            self._check(facts)

    def _check(self, facts: ObjectClass) -> None:
        checks = [
            ("name", isinstance(facts.name, str) and facts.name != "", "a name"),
            ("attributes", set(facts.attributes) <= set(self.attributes), "some of task.attributes"),
            (
                "usual_attributes",
                len(facts.usual_attributes) in (0, 2) and set(facts.usual_attributes) <= set(facts.attributes),
                "two of its attributes, or none",
            ),
            ("heading", facts.heading in HEADINGS, "one of " + ", ".join(HEADINGS)),
            (
                "color",
                len(facts.color) == 3 and all(_is_number(c) and 0 <= c <= 255 for c in facts.color),
                "three numbers of 0 to 255",
            ),
            (
                "suppression_radius_m",
                _is_number(facts.suppression_radius_m) and 0 <= facts.suppression_radius_m < math.inf,
                "0 or more",
            ),
        ]
        for name in _POSITIVE:
            value = getattr(facts, name)
            checks.append((name, _is_number(value) and 0 < value < math.inf, "more than 0"))
        for name, holds, wanted in checks:
            if not holds:
                found = getattr(facts, name)
                raise TaskError(f"task.objects: {facts.name}: {name}: {wanted} was expected, found {found!r}")

    def labels_alike(self, other: Task) -> bool:
        """Whether labels and attributes mean the same in both; other settings of the classes may differ."""

        def meaning(task: Task) -> tuple:
            return [(facts.name, set(facts.sources or [facts.name])) for facts in task.objects], task.attributes

        return meaning(self) == meaning(other)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, indexed by label."""
        return tuple(facts.name for facts in self.objects)

    @property
    def colors(self) -> np.ndarray:
        """uint8 [K, 3] RGB."""
        return np.array([facts.color for facts in self.objects], np.uint8)

    @property
    def headings(self) -> tuple[str, ...]:
        """One of HEADINGS for each class."""
        return tuple(facts.heading for facts in self.objects)

    def column(self, fact: str) -> np.ndarray:
        """[K] one setting of every class, such as ``range_m``."""
        return np.array([getattr(facts, fact) for facts in self.objects])

    def labels_of(self, names: Sequence[str]) -> np.ndarray:
        """int64 [N]: the label that each dataset class is mapped to, -1 for none."""
        labels = {source: k for k, facts in enumerate(self.objects) for source in facts.sources or [facts.name]}
        return np.array([labels.get(name, -1) for name in names], np.int64)

    def attributes_of(self, names: Sequence[str]) -> np.ndarray:
        """int64 [N]: the index of each dataset attribute, -1 if the task does not have it."""
        index = {name: i for i, name in enumerate(self.attributes)}
        return np.array([index.get(name, -1) for name in names], np.int64)

    def check(self, label: np.ndarray, attribute: np.ndarray, where: str) -> None:
        """Check that boxes belong to this task.

        Args:
            label, attribute: as in Boxes3D.  where: origin of the boxes, for the error message.

        Raises:
            TaskError: an index is out of range.
        """
        for what, index, names in (("labels", label, self.classes), ("attributes", attribute, self.attributes)):
            if index.max(initial=-1) >= len(names):
                raise TaskError(f"{where}: {what} below {len(names)} were expected, found {index.max()}")

    def attribute_name(self, label: int, attribute: int, moving: bool) -> str:
        """The attribute, if the class allows it; otherwise the usual one of the class, "" for none."""
        facts = self.objects[label]
        if attribute >= 0 and self.attributes[attribute] in facts.attributes:
            return self.attributes[attribute]
        return facts.usual_attributes[0 if moving else 1] if facts.usual_attributes else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


NUSCENES = Task()
CLASSES, ATTRIBUTES = NUSCENES.classes, tuple(NUSCENES.attributes)
