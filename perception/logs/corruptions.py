"""Corruptions of a log while it is replayed: what a detector does when sensors misbehave as they do on the road.

A corruption (``--fault``) is written ``KIND:SENSOR[:AMOUNT][@FROM-TO]``. SENSOR is a name of the rig, or ``camera``,
``radar`` or ``lidar`` for all of that kind; FROM and TO are seconds since the log began, and without them it holds
throughout:

    drop:CAM_FRONT:0.3          a share of the messages never arrives (default 1: all)
    delay:lidar:0.15            stamped that many seconds later than measured, as by a sensor without a clock
    jitter:radar:0.02           stamps off by a normal deviate of that many seconds
    freeze:CAM_FRONT@5-8        what was measured last before comes again and again under new stamps
    blank:camera                black images, empty clouds
    bias:LIDAR_TOP:yaw=2,x=0.1  taken to be mounted otherwise than the log says: rotated by roll, pitch, yaw in degrees
                                and moved by x, y, z in metres, in the sensor's own axes (z of a camera is its view)

Chance depends on corruption, topic and time stamp and on nothing else, so a run is repeatable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from perception.data.image_files import ImageError, image_size
from perception.errors import PerceptionError
from perception.logs.messages import Calibration, Cloud, Image, LogError, Message, Motion, Payload, Sample
from perception.logs.rig import CameraSource, CloudSource, Rig
from perception.logs.video import VideoImage
from perception.seeding import keyed_rng

KINDS = ("drop", "delay", "jitter", "freeze", "blank", "bias")
_FORM = re.compile(r"(?P<kind>\w+):(?P<sensor>[^:@]+)(:(?P<amount>[^@]+))?(@(?P<start>[\d.]+)-(?P<end>[\d.]+))?")
_NEEDS_AMOUNT, _TAKES_NO_AMOUNT = ("delay", "jitter", "bias"), ("freeze", "blank")


class CorruptionError(PerceptionError):
    """A malformed corruption, or one of a sensor that is not in the rig."""


@dataclass(frozen=True, eq=False)
class Corruption:
    """topics: of the sensors that have it.  start_ns, end_ns: since the log's first message.

    amount: a share or seconds.  bias: sensor_SE3_found, float64 [4, 4].
    """

    text: str
    kind: str
    topics: frozenset[str]
    start_ns: float = 0.0
    end_ns: float = math.inf
    amount: float = 1.0
    bias: np.ndarray | None = None


class Corruptions:
    """The corruptions of a run, in the order given. Called with every message; one log each."""

    def __init__(self, corruptions: Sequence[Corruption]):
        self._corruptions = corruptions
        self._first_ns: int | None = None
        self._before: dict[tuple[int, str], Payload] = {}  # corruption, topic -> what was measured before it froze

    def __call__(self, message: Message) -> Message | None:
        if isinstance(message.data, Motion | Calibration | Sample):
            return message
        self._first_ns = message.timestamp_ns if self._first_ns is None else self._first_ns
        at_ns = message.timestamp_ns - self._first_ns
        for number, corruption in enumerate(self._corruptions):
            if message.topic not in corruption.topics:
                continue
            if corruption.start_ns <= at_ns <= corruption.end_ns:
                changed = self._with(corruption, number, message)
                if changed is None:
                    return None
                message = changed
            elif corruption.kind == "freeze":
                self._before[number, message.topic] = message.data
        return message

    def _with(self, corruption: Corruption, number: int, message: Message) -> Message | None:
        if corruption.kind == "drop":
            return None if _rng(corruption, message).random() < corruption.amount else message
        if corruption.kind == "delay":
            return _shifted(message, corruption.amount)
        if corruption.kind == "jitter":
            return _shifted(message, _rng(corruption, message).normal(0, corruption.amount))
        if corruption.kind == "freeze":
            return replace(message, data=self._before.setdefault((number, message.topic), message.data))
        if corruption.kind == "blank":
            return replace(message, data=_blank(message.data))
        return message  # a bias changes the mounting of a sensor, not its messages


def parse_corruptions(texts: Sequence[str], rig: Rig) -> list[Corruption]:
    """Parse corruptions written as in the module docstring. Raises CorruptionError."""
    return [_parse(text, rig) for text in texts]


def biases(corruptions: Sequence[Corruption]) -> dict[str, np.ndarray]:
    """topic -> sensor_T_found, float64 [4, 4], of the sensors whose mounting differs from what the log says."""
    found: dict[str, np.ndarray] = {}
    for corruption in corruptions:
        if corruption.kind == "bias":
            found |= {topic: found.get(topic, np.eye(4)) @ corruption.bias for topic in corruption.topics}
    return found


def _parse(text: str, rig: Rig) -> Corruption:
    match = _FORM.fullmatch(text)
    if match is None or match["kind"] not in KINDS:
        raise CorruptionError(
            f"fault {text!r}: KIND:SENSOR[:AMOUNT][@FROM-TO] was expected, KIND out of {', '.join(KINDS)}"
        )
    kind, amount = match["kind"], match["amount"]
    if amount is None and kind in _NEEDS_AMOUNT:
        raise CorruptionError(
            f"fault {text!r}: an amount was expected, such as {kind}:SENSOR:{'yaw=2' if kind == 'bias' else 0.1}"
        )
    if kind == "bias" and match["start"] is not None:
        raise CorruptionError(f"fault {text!r}: a bias holds throughout, found an interval")
    if kind in _TAKES_NO_AMOUNT and amount is not None:
        raise CorruptionError(
            f"fault {text!r}: no amount was expected, found {amount!r}; an interval is written @FROM-TO"
        )
    start_ns, end_ns = 0.0, math.inf
    if match["start"] is not None:
        start_ns, end_ns = (1e9 * _number(text, match[end]) for end in ("start", "end"))
    if start_ns > end_ns:
        raise CorruptionError(f"fault {text!r}: an interval that begins before it ends was expected")
    topics = _topics(text, match["sensor"], rig)
    if kind == "bias":
        return Corruption(text, kind, topics, bias=_bias(text, amount))
    return Corruption(text, kind, topics, start_ns, end_ns, _amount(text, kind, amount))


def _amount(text: str, kind: str, amount: str | None) -> float:
    value = 1.0 if amount is None else _number(text, amount)
    if kind == "drop" and not 0 <= value <= 1:
        raise CorruptionError(f"fault {text!r}: a share from 0 to 1 was expected, found {amount}")
    if kind == "jitter" and value < 0:
        raise CorruptionError(f"fault {text!r}: a deviation of 0 or more was expected, found {amount}")
    return value


def _topics(text: str, sensor: str, rig: Rig) -> frozenset[str]:
    kinds: dict[str, Mapping[str, CameraSource | CloudSource]]
    kinds = {"camera": rig.cameras, "radar": rig.radars, "lidar": rig.lidars}
    named = {name: source for sources in kinds.values() for name, source in sources.items()}
    chosen = list(kinds[sensor].values()) if sensor in kinds else [named[sensor]] if sensor in named else []
    if not chosen:
        raise CorruptionError(
            f"fault {text!r}: a sensor of {', '.join((*kinds, *named))} was expected, found {sensor!r}"
        )
    return frozenset(source.topic for source in chosen)


def _bias(text: str, amount: str) -> np.ndarray:
    values = dict.fromkeys(("roll", "pitch", "yaw", "x", "y", "z"), 0.0)
    for part in amount.split(","):
        name, _, value = part.partition("=")
        if name not in values:
            raise CorruptionError(f"fault {text!r}: some of {', '.join(values)} were expected, found {name!r}")
        values[name] = _number(text, value)
    transform = np.eye(4)
    angles = [values["yaw"], values["pitch"], values["roll"]]
    transform[:3, :3] = Rotation.from_euler("ZYX", angles, degrees=True).as_matrix()
    transform[:3, 3] = values["x"], values["y"], values["z"]
    return transform


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CorruptionError(f"fault {text!r}: a number was expected, found {value!r}")
    return number


def _rng(corruption: Corruption, message: Message) -> np.random.Generator:
    return keyed_rng(corruption.text, message.topic, message.timestamp_ns)


def _shifted(message: Message, seconds: float) -> Message:
    return replace(message, timestamp_ns=message.timestamp_ns + round(1e9 * seconds))


def _blank(data: Image | Cloud) -> Image | Cloud:
    if isinstance(data, Cloud):
        return Cloud(data.frame_id, data.records[:0])
    try:
        if isinstance(data, VideoImage) and data.video is not None:
            height, width = data.video.size()
        else:
            height, width = (data.height, data.width) if data.step else image_size(data.data)
    except (ImageError, LogError):
        return data  # it is worse than blank
    if data.step and height * width > len(data.data):
        return data
    return Image(data.frame_id, "mono8", bytes(height * width), width, height, width)
