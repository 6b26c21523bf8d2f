"""The parameters of the node: their names, defaults and checks. No ROS in it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from perception.plain_yaml import ConfigError

LIVE = ("score_threshold",)  # may be changed while the node is configured
RELIABILITIES = ("best_effort", "reliable")
AUTOWARE_LABELS = {  # autoware_perception_msgs/msg/ObjectClassification
    "UNKNOWN": 0, "CAR": 1, "TRUCK": 2, "BUS": 3, "TRAILER": 4, "MOTORCYCLE": 5, "BICYCLE": 6, "PEDESTRIAN": 7,
    "ANIMAL": 8, "HAZARD": 9, "OVER_DRIVABLE": 10, "UNDER_DRIVABLE": 11,
}  # fmt: skip
_OF_NUSCENES = {
    "car": "CAR", "truck": "TRUCK", "bus": "BUS", "trailer": "TRAILER", "construction_vehicle": "TRUCK",
    "pedestrian": "PEDESTRIAN", "motorcycle": "MOTORCYCLE", "bicycle": "BICYCLE", "traffic_cone": "UNKNOWN",
    "barrier": "UNKNOWN",
}  # fmt: skip
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "an integer"),
    "float": ((float, int), "a number"),
}


@dataclass(frozen=True)
class Parameters:
    """checkpoint, device: as of the commands.

    rig: a rig file; "": proposed by the topics that are heard in the first ``propose_s`` seconds of being configured.
    reliability: what is asked of the publishers of images and clouds, one of RELIABILITIES.
    rate_hz: frames at this rate; 0: at the measurements of the rig's reference.
    window_s ... hang_s: as of :class:`perception.Stream`.
    score_threshold: of what is published.
    autoware_labels: "van=CAR, cyclist=BICYCLE": the labels of classes that are not nuScenes', or other ones for those.
    """

    checkpoint: str = "sim"
    device: str = "auto"
    rig: str = ""
    propose_s: float = 5.0
    reliability: str = "best_effort"
    rate_hz: float = 0.0
    window_s: float = 0.05
    deadline_s: float = 0.25
    queue: int = 16
    every_frame: bool = False
    stale_s: float = 1.0
    hang_s: float = 0.7
    score_threshold: float = 0.3
    autoware_labels: str = ""


def parameters_of(values: Mapping[str, Any]) -> Parameters:
    """Parameters by name; those that are not given have their defaults.

    Raises:
        ConfigError: an unknown name (with the closest valid one), a wrong type, or a value that makes no sense.
    """
    known = {field.name: field.type for field in fields(Parameters)}
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            closest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown parameter '{name}'; the closest valid one is '{closest}'")
        types, wanted = _KINDS[str(known[name])]
        if type(value) not in types:  # a bool is no integer
            raise ConfigError(f"parameter {name}: {wanted} was expected, found {value!r:.80}")
        converted[name] = float(value) if known[name] == "float" else value
        if known[name] == "float" and not math.isfinite(value):
            raise ConfigError(f"parameter {name}: a finite number was expected, found {value}")
    found = Parameters(**converted)
    for name, wanted, holds in (
        ("propose_s", "more than 0", found.propose_s > 0),
        ("reliability", " or ".join(RELIABILITIES), found.reliability in RELIABILITIES),
        ("rate_hz", "0 or more", found.rate_hz >= 0),
        ("queue", "1 or more", found.queue >= 1),
        ("stale_s", "more than 0", found.stale_s > 0),
        ("hang_s", "more than 0", found.hang_s > 0),
        ("score_threshold", "0 to 1", 0 <= found.score_threshold <= 1),
    ):
        if not holds:
            raise ConfigError(f"parameter {name}: {wanted} was expected, found {getattr(found, name)!r}")
    return found


def autoware_labels(text: str, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Autoware's label of each class.

    Raises:
        ConfigError: a class without a label, an unknown class or label, or a text that is none.
    """
    labels = dict(_OF_NUSCENES)
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, label = (part.strip() for part in pair.partition("="))
        if name not in classes or label not in AUTOWARE_LABELS:
            wanted = f"CLASS=LABEL with one of {', '.join(classes)} and one of {', '.join(AUTOWARE_LABELS)}"
            raise ConfigError(f"parameter autoware_labels: {wanted} was expected, found '{pair}'")
        labels[name] = label
    missing = [name for name in classes if name not in labels]
    if missing:
        raise ConfigError(
            f"parameter autoware_labels: a label for {missing[0]}, such as {missing[0]}=CAR, was expected"
        )
    return tuple(AUTOWARE_LABELS[labels[name]] for name in classes)
