"""``result.jsonl``: the detections of every frame, a JSON object a line, and how it is read back.

    {"index": 0, "token": "3e8750f3", "timestamp_ns": 1532402927647951000, "scene": "scene-0103",
     "sensors": ["camera", "radar"], "world_SE3_ego": [x, y, z, w, x, y, z], "faults": {"lidar": "dead"},
     "latency_ms": {"load": 3.1, "model": 81.0},
     "boxes": {"label": ["car"], "score": [0.83], "center": [[x, y, z]], "size": [[l, w, h]], "yaw": [0.1],
               "velocity": [[vx, vy]], "attribute": ["vehicle.moving"], "track": [4]}}

Boxes are in the ego frame, in the units of :class:`perception.sample.Boxes3D`, all of them with all their digits. A
pose is a translation and a quaternion (w, x, y, z). An unknown velocity is [null, null], no attribute is "", no track
is -1, and where nothing is tracked there is no "track". Unless the task is nuScenes with camera, radar and lidar, the
first line is ``{"task": {...}, "sensors": [...]}`` with the :class:`perception.task.Task` and the detector's
sensors. A line is complete before the next begins, so that a crash costs one frame at most. Neither writing nor
reading holds more than a line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np

from perception.errors import PerceptionError
from perception.files import begin_part, finish_part, part_path, writing
from perception.geometry import SE3
from perception.replay.step import Step
from perception.sample import Boxes3D, Detections
from perception.task import NUSCENES, Task

log = logging.getLogger(__name__)

_SENSORS = ("camera", "radar", "lidar")  # of a result that names no others
_MAX_LINE_BYTES = 1 << 26  # a frame of 500 boxes takes 150 kB


class ReplayResultError(PerceptionError):
    """A result that cannot be read; names the file and the line."""


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    task: Task
    sensors: tuple[str, ...]


class _Boxes(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    label: list[str]
    score: list[float]
    center: list[tuple[float, float, float]]
    size: list[tuple[float, float, float]]
    yaw: list[float]
    velocity: list[tuple[float | None, float | None]]
    attribute: list[str]
    track: list[int] | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    index: int
    token: str
    timestamp_ns: int
    scene: str
    sensors: list[str]
    world_SE3_ego: tuple[float, float, float, float, float, float, float]
    faults: dict[str, str]
    latency_ms: dict[str, float]
    boxes: _Boxes


class _KeyOfLine(msgspec.Struct):
    timestamp_ns: int
    scene: str


class LinesSink:
    """Writes ``path``; a :class:`perception.replay.step.Sink`. task, sensors: those of the detector."""

    def __init__(self, path: str | Path, task: Task = NUSCENES, sensors: Sequence[str] = _SENSORS):
        self.path, self.task, self.sensors = Path(path), task, tuple(sensors)
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> LinesSink:
        with writing(self.path):
            self._file = begin_part(self.path).open("wb")
        if (self.task, self.sensors) != (NUSCENES, _SENSORS):
            self._write(_Header(self.task, self.sensors))
        return self

    def add(self, step: Step) -> None:
        self._write(_line(step, self.task))

    def _write(self, line: _Header | _Line) -> None:
        data = self._encode(line) + b"\n"
        with writing(self.path):
            self._file.write(data)
            self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path):
            self._file.close()
            if kind is None:
                finish_part(self.path)


def _line(step: Step, task: Task) -> _Line:
    frame, boxes, scores = step.frame, step.detections.boxes, step.detections.scores
    classes, attributes = task.classes, (*task.attributes, "")  # -1 is the last one
    return _Line(
        index=step.index,
        token=frame.token,
        timestamp_ns=frame.timestamp_ns,
        scene=frame.scene,
        sensors=list(frame.sensors),
        world_SE3_ego=tuple(frame.world_SE3_ego.pose.tolist()),
        faults=step.faults,
        latency_ms=step.latency_ms,
        boxes=_Boxes(
            label=[classes[i] for i in boxes.label],
            score=scores.tolist(),
            center=boxes.center.tolist(),
            size=boxes.size.tolist(),
            yaw=boxes.yaw.tolist(),
            velocity=boxes.velocity.tolist(),  # msgspec writes NaN as null
            attribute=[attributes[i] for i in np.asarray(boxes.attribute)],
            track=None if step.tracks is None else step.tracks.tolist(),
        ),
    )


@dataclass(frozen=True, eq=False)
class ReplayedFrame:
    """A line of the file. tracks: int64 [N], as in :class:`perception.replay.step.Step`."""

    index: int
    token: str
    timestamp_ns: int
    scene: str
    sensors: tuple[str, ...]
    world_SE3_ego: SE3
    faults: dict[str, str]
    latency_ms: dict[str, float]
    detections: Detections
    tracks: np.ndarray | None


class Key(NamedTuple):
    """What two results know the same frame by. repeat: how often it came before, in a replay that loops."""

    scene: str
    timestamp_ns: int
    repeat: int


class Place(NamedTuple):
    """line: counted from 1.  offset: of its first byte."""

    line: int
    offset: int


class ResultFile:
    """The result in a folder, or what an interrupted run left of it.

    Iterating gives every :class:`ReplayedFrame` in order; :meth:`places` and :meth:`read` give any of them.

    task, sensors: those of the detector that made it.

    Raises:
        ReplayResultError: there is none; or, when it is read, a line is not as the module docstring says. The last line
            that an interrupted run left may be incomplete, which is logged as a warning.
    """

    def __init__(self, folder: str | Path):
        whole = Path(folder) / "result.jsonl"
        self.interrupted = not whole.exists() and part_path(whole).exists()
        self.path = part_path(whole) if self.interrupted else whole
        self._decode = msgspec.json.Decoder(_Line).decode
        if not self.path.is_file():
            raise ReplayResultError(f"{whole}: the result of a replay was expected, found none")
        self._first = Place(1, 0)  # of the frames
        self.task = NUSCENES
        self.sensors: tuple[str, ...] = _SENSORS
        self._read_header()
        self._labels = {name: i for i, name in enumerate(self.task.classes)}
        self._attributes = {"": -1} | {name: i for i, name in enumerate(self.task.attributes)}

    def __iter__(self) -> Iterator[ReplayedFrame]:
        for place, line in self._lines():
            yield self._parsed(place, line)

    def places(self) -> dict[Key, Place]:
        """Where each frame is in the file, in order; parses no more of a line than that takes."""
        decode = msgspec.json.Decoder(_KeyOfLine).decode
        places: dict[Key, Place] = {}
        seen: dict[tuple[str, int], int] = {}
        for place, line in self._lines():
            try:
                found = decode(line)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise self._error(place, str(error)) from None
            repeat = seen[found.scene, found.timestamp_ns] = seen.get((found.scene, found.timestamp_ns), -1) + 1
            places[Key(found.scene, found.timestamp_ns, repeat)] = place
        return places

    def read(self, place: Place) -> ReplayedFrame:
        with self._opened() as file:
            file.seek(place.offset)
            return self._parsed(place, file.readline(_MAX_LINE_BYTES))

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ReplayResultError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _read_header(self) -> None:
        with self._opened() as file:
            line = file.readline(_MAX_LINE_BYTES)
        if not line.startswith(b'{"task":'):
            return
        try:
            header = msgspec.json.decode(line, type=_Header)
        except (msgspec.MsgspecError, ValueError, RecursionError, PerceptionError) as error:
            raise self._error(self._first, str(error)) from None
        self.task, self.sensors, self._first = header.task, header.sensors, Place(2, len(line))

    def _lines(self) -> Iterator[tuple[Place, bytes]]:
        with self._opened() as file:
            place = self._first
            file.seek(place.offset)
            while line := file.readline(_MAX_LINE_BYTES):
                if not line.endswith(b"\n"):
                    if not self.interrupted:
                        raise self._error(place, "a whole line was expected, found one that does not end")
                    log.warning("%s: line %d is incomplete and left out: the run was cut off", self.path, place.line)
                    return
                yield place, line
                place = Place(place.line + 1, place.offset + len(line))

    def _parsed(self, place: Place, line: bytes) -> ReplayedFrame:
        try:
            return self._frame(self._decode(line))
        except (msgspec.MsgspecError, ValueError, RecursionError, PerceptionError) as error:
            raise self._error(place, str(error)) from None

    def _frame(self, line: _Line) -> ReplayedFrame:
        boxes, n = line.boxes, len(line.boxes.label)
        for what, known, names in (
            ("sensors", self.sensors, line.sensors),
            ("class names", self._labels, boxes.label),
            ("attribute names", self._attributes, boxes.attribute),
        ):
            for name in sorted(set(names) - set(known)):
                raise ReplayResultError(f"known {what} were expected, found {name!r}")
        if boxes.track is not None and len(boxes.track) != n:
            raise ReplayResultError(f"{n} tracks were expected, one a box, found {len(boxes.track)}")
        if line.index < 0:
            raise ReplayResultError(f"an index from 0 was expected, found {line.index}")
        found = Boxes3D(
            center=np.array(boxes.center, np.float64).reshape(-1, 3),
            size=np.array(boxes.size, np.float64).reshape(-1, 3),
            yaw=np.array(boxes.yaw, np.float64),
            velocity=np.array(boxes.velocity, np.float64).reshape(-1, 2),  # None becomes NaN
            label=np.array([self._labels[name] for name in boxes.label], np.int64),
            attribute=np.array([self._attributes[name] for name in boxes.attribute], np.int64),
        )
        return ReplayedFrame(
            index=line.index,
            token=line.token,
            timestamp_ns=line.timestamp_ns,
            scene=line.scene,
            sensors=tuple(line.sensors),
            world_SE3_ego=SE3.from_quaternion(line.world_SE3_ego[3:], line.world_SE3_ego[:3]),
            faults=line.faults,
            latency_ms=line.latency_ms,
            detections=Detections(found, np.array(boxes.score, np.float64)),
            tracks=None if boxes.track is None else np.array(boxes.track, np.int64),
        )

    def _error(self, place: Place, problem: str) -> ReplayResultError:
        return ReplayResultError(f"{self.path}: line {place.line}: {problem}")


def read_result(folder: str | Path) -> Iterator[ReplayedFrame]:
    """Every frame of a replay, in order, one at a time; see :class:`ResultFile` for what is raised."""
    return iter(ResultFile(folder))


def read_summary(folder: str | Path) -> dict:
    """``summary.json`` of a folder; empty where there is none, as after an interrupted run.

    Raises:
        ReplayResultError: it cannot be read, or is no JSON object.
    """
    path = Path(folder) / "summary.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ReplayResultError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReplayResultError(f"{path}: {error}") from None
