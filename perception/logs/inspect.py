"""What is in a log: its topics, how regular they are, its frames, and a rig for it; one pass in bounded memory."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from tqdm import tqdm

from perception.data.image_files import ImageError, decode_image
from perception.logs.beginning import Lasting, beginning
from perception.logs.decoding import CODECS
from perception.logs.frame_graph import Edge, FrameGraph
from perception.logs.messages import (
    Calibration,
    Cloud,
    Image,
    Located,
    LogError,
    Message,
    Reader,
    Topic,
    Transform,
)
from perception.logs.propose import lacks, propose, unplaced
from perception.logs.propose_ego import is_vehicle_frame
from perception.logs.rig import Rig, to_yaml
from perception.logs.ros_messages import is_static
from perception.logs.timing import Times
from perception.logs.transforms import Refused, checked_pose
from perception.logs.video import Decoder, why_not
from perception.text import aligned

_WIDTH = 120
_FRAMES_KEPT = 8
_LINES_OF_DAMAGE = 5
_FIELDS_SHOWN = 5
_SENSOR_TYPES = re.compile("image|video|ffmpeg|cloud|points|scan|packet|radar|lidar|livox", re.IGNORECASE)
_POSE_WAIT_S = 0.5
_LONGEST_POSE_WAIT_S = 3.0  # measurements are kept so long in memory
_NUMBERS = (2, 3, 5)  # columns of the table of topics


@dataclass
class TopicInfo:
    """times: of its decodable messages; for transforms see :class:`EdgeInfo`.  frame_ids: the first few, as they came.

    fields, points, empty: names of a cloud's fields, points of all clouds, clouds without any.  encoding, width,
    height: of images; width 0 where the first one cannot be decoded.  calibration: the first one.  video: decodes one
    up to its first picture.  failure: what was wrong with the first message that cannot be decoded.
    """

    topic: Topic
    times: Times = field(default_factory=Times)
    frame_ids: list[str] = field(default_factory=list)
    fields: tuple[str, ...] = ()
    points: int = 0
    empty: int = 0
    encoding: str = ""
    width: int = 0
    height: int = 0
    calibration: Calibration | None = None
    video: Decoder | None = None
    failure: str = ""

    @property
    def count(self) -> int | None:
        """Messages; None where neither the file says it nor the messages can be decoded."""
        return self.times.count if self.topic.count is None and self.topic.kind else self.topic.count


@dataclass
class EdgeInfo:
    """One transform. pose: the first.  constant: it had no other, whether or not it is declared static."""

    static: bool
    pose: np.ndarray
    constant: bool = True
    times: Times = field(default_factory=Times)


@dataclass
class LogInfo:
    """topics: by name.  transforms: (parent, child) -> EdgeInfo.  start_ns, end_ns: of the sensors' measurements.

    refused: transforms that are none.  rig: the given or the proposed one.  missing: what it lacks, a line each.
    stopped, damage: as of the reader.  known: what holds from the start (``beginning.py``), where no more than the
    beginning was read.
    """

    path: Path
    topics: dict[str, TopicInfo]
    transforms: dict[Edge, EdgeInfo]
    refused: Refused
    start_ns: int | None
    end_ns: int | None
    rig: Rig
    missing: list[str]
    stopped: str | None
    damage: list[str]
    known: Sequence[Message] = ()

    @property
    def duration_s(self) -> float:
        return 0.0 if self.start_ns is None or self.end_ns is None else (self.end_ns - self.start_ns) * 1e-9

    @property
    def pose_times(self) -> dict[str, Times]:
        """Of what moves of that which says where the vehicle is, by its name."""
        if self.rig.ego_pose is not None:
            return {topic: self.topics[topic].times for topic in self.rig.ego_pose.topics if topic in self.topics}
        way = FrameGraph(self.transforms).way(self.rig.world_frame or "", self.rig.ego_frame)
        edges = {" -> ".join(edge): self.transforms[edge] for edge in sorted(way or ())}
        return {name: edge.times for name, edge in edges.items() if not edge.constant}

    @property
    def pose_wait_s(self) -> float:
        """How long a frame has to wait for a pose: for the next one, and half an interval more."""
        intervals_ns = [times.interval_ns or 0 for times in self.pose_times.values()]
        return min(max([_POSE_WAIT_S, *(1.5e-9 * interval_ns for interval_ns in intervals_ns)]), _LONGEST_POSE_WAIT_S)

    @property
    def frame_ids(self) -> dict[str, str]:
        """Topic -> the frame that its messages name first."""
        return {name: info.frame_ids[0] for name, info in self.topics.items() if info.frame_ids}


def inspect(
    reader: Reader,
    rig: Rig | None = None,
    seconds: float | None = None,
    progress: bool = False,
    topics: Collection[str] | None = None,
) -> LogInfo:
    """Read a log once.

    Args:
        rig: compared with the log; None: the proposed one.
        seconds: how much of it since the first image or cloud, by the time of measurement; None: all. Where a
            sensor's mount is not known by then, static transforms are looked for in the rest.
        topics: only these; None: all.
    """
    seen: dict[str, TopicInfo] = {}
    edges, refused, lasting = dict[Edge, EdgeInfo](), Refused(), Lasting()
    total = sum(topic.count or 0 for topic in reader.topics.values() if topic.kind) or None
    messages = reader.messages(topics, strict=False)
    if seconds is not None:
        messages = beginning(messages, seconds)
    for message in tqdm(messages, total=total, desc="inspect", unit="msg", disable=not progress):
        topic = seen.get(message.topic)
        if topic is None:
            topic = seen[message.topic] = TopicInfo(reader.topics[message.topic])
        _add(topic, message)
        if _add_edge(edges, refused, message) and seconds is not None:
            lasting.add(message)
    for name, reason in reader.failed.items():
        seen.setdefault(name, TopicInfo(reader.topics[name])).failure = reason
    seen = {name: seen.get(name) or TopicInfo(reader.topics[name]) for name in sorted(reader.topics)}
    times = _time_range(seen)
    info = LogInfo(reader.path, seen, edges, refused, *times, Rig(), [], reader.stopped, list(reader.damage))
    info.rig, info.missing = _described(info, rig)
    if seconds is not None and _lacks_transforms(info, is_proposed=rig is None):
        late = [name for name in seen if is_static(name)]
        for message in reader.messages(late, strict=False) if late else ():
            is_new = isinstance(message.data, Transform) and (message.data.parent, message.data.child) not in edges
            if is_new and _add_edge(edges, refused, message):
                lasting.add(message)
        info.rig, info.missing = _described(info, rig)
    info.known = lasting.messages
    return info


def _described(info: LogInfo, rig: Rig | None) -> tuple[Rig, list[str]]:
    """The rig, or the proposed one, and what it lacks."""
    known = {n: replace(t.topic, count=t.times.count if t.topic.kind else t.count) for n, t in info.topics.items()}
    if rig is None:
        fields = {name: topic.fields for name, topic in info.topics.items()}
        static = [edge for edge, transform in info.transforms.items() if transform.static]
        rig, missing = propose(known, info.transforms.keys(), info.frame_ids, fields, static)
    else:
        missing = lacks(rig, known, info.transforms.keys(), info.frame_ids)
    if rig.world_frame is None or unplaced(rig, FrameGraph(info.transforms), info.frame_ids):
        missing = missing + info.refused.lines([edge for edge in info.refused if edge not in info.transforms])
    return rig, missing


def _lacks_transforms(info: LogInfo, is_proposed: bool) -> bool:
    is_lost = is_proposed and not is_vehicle_frame(info.rig.ego_frame)
    return is_lost or bool(unplaced(info.rig, FrameGraph(info.transforms), info.frame_ids))


def _add(info: TopicInfo, message: Message) -> None:
    data = message.data
    if isinstance(data, Located) and not data.is_valid:
        return
    info.times.add(message.timestamp_ns, message.log_time_ns)
    frame_id = getattr(data, "frame_id", None)
    if frame_id and frame_id not in info.frame_ids and len(info.frame_ids) < _FRAMES_KEPT:
        info.frame_ids.append(frame_id)
    if isinstance(data, Cloud):
        info.fields = info.fields or data.records.dtype.names or ()
        info.points += len(data.records)
        info.empty += not len(data.records)
    elif isinstance(data, Image) and (not info.encoding or info.video):
        info.encoding = data.encoding
        info.height, info.width = _size(data) if data.encoding not in CODECS else _video_size(info, data)
    elif isinstance(data, Calibration) and info.calibration is None:
        info.calibration = data


def _size(image: Image) -> tuple[int, int]:
    if image.width or image.encoding not in ("jpeg", "png"):
        return image.height, image.width
    try:
        height, width, _ = decode_image(image.data)[0].shape
        return height, width
    except ImageError:
        return 0, 0


def _video_size(info: TopicInfo, image: Image) -> tuple[int, int]:
    """Of the first picture, which its first packets may not have."""
    if not why_not():
        info.video = info.video or Decoder(image.encoding)
        for _, frame in info.video.decode(0, bytes(image.data)):
            info.video = None
            return frame.height, frame.width
    return image.height, image.width


def _add_edge(edges: dict[Edge, EdgeInfo], refused: Refused, message: Message) -> bool:
    """Takes note of a transform. Returns False for one that is none."""
    data = message.data
    if not isinstance(data, Transform):
        return True
    try:
        pose = checked_pose(data)
    except LogError as error:
        refused.add(data, error)
        return False
    edge = edges.setdefault((data.parent, data.child), EdgeInfo(data.static, pose))
    edge.constant = edge.constant and edge.pose.tobytes() == pose.tobytes()
    edge.times.add(message.timestamp_ns, message.log_time_ns)
    return True


def _time_range(topics: dict[str, TopicInfo]) -> tuple[int | None, int | None]:
    """Of what sensors measured; without any, of the recording, since what is latched may have an old stamp."""
    sensors = [info.times for info in topics.values() if info.topic.kind in ("image", "cloud")]
    ranges = [(t.first_ns, t.last_ns) for t in sensors if t.first_ns is not None and t.last_ns is not None]
    ranges = ranges or [info.times.logged_ns for info in topics.values() if info.times.logged_ns is not None]
    return min((first for first, _ in ranges), default=None), max((last for _, last in ranges), default=None)


def table(info: LogInfo) -> str:
    """For a terminal: the log in one line, its topics, its frames, the rig, and what is missing."""
    messages = sum(topic.count or 0 for topic in info.topics.values())
    parts = [f"{info.path}: {_span(info)}, {counted(messages, 'message')}, {counted(len(info.topics), 'topic')}"]
    if info.stopped:
        parts.append(f"stopped: {info.stopped}")
    parts += [f"damage: {line}" for line in first_lines(info.damage)]
    heard = [topic for topic in info.topics.values() if topic.topic.kind]
    if heard:
        head = ("topic", "type", "messages", "Hz", "longest gap", "stamp - log", "frame", "content")
        rows = [_row(topic, info) for topic in heard]
        shown = [i for i in range(len(head)) if any(row[i] for row in rows)]
        cells = [[row[i] for i in shown] for row in (head, *rows)]
        parts += ["", aligned(cells, left=[j for j, i in enumerate(shown) if i not in _NUMBERS])]
    silent = [(topic.topic.name, topic.topic.type, not_decodable(topic)) for topic in info.topics.values()]
    silent = [row for row in silent if row[2]]
    if silent:
        parts += ["", aligned(silent, left=range(3))]
    if info.transforms:
        parts += ["", "frames", *_frames(info)]
    if info.rig.sensors:
        parts += ["", "rig", *textwrap.indent(to_yaml(info.rig), "  ").splitlines()]
    if info.missing:
        parts += ["", "missing or left out", *(f"  {line}" for line in info.missing)]
    return "\n".join(parts)


def not_decodable(info: TopicInfo) -> str:
    """Why none of its messages can be used, in one line; "" where they can."""
    if info.topic.kind is not None:
        return ""
    count = "messages" if info.count is None else counted(info.count, "message")
    return f"{count}, not decoded{': ' * bool(info.topic.note)}{info.topic.note}"


def unread(info: LogInfo) -> list[str]:
    """Why topics that look like those of sensors have given nothing, one line each."""
    return [f"{name}: left out, {why}" for name, topic in info.topics.items() if (why := why_unread(topic))]


def why_unread(info: TopicInfo) -> str:
    """Why a topic that looks like that of a sensor has given nothing; "" for all others."""
    if info.topic.kind in ("image", "cloud") and not info.times.count:
        return info.failure or "no message in the first seconds"
    if info.topic.kind is None and (not info.topic.type or _SENSOR_TYPES.search(info.topic.type)):
        return f"{info.topic.type or 'its type'} cannot be decoded: {info.topic.note}"
    return ""


def first_lines(lines: list[str]) -> list[str]:
    """The first few, and the number of the others."""
    more = len(lines) - _LINES_OF_DAMAGE
    return lines if more <= 0 else [*lines[:_LINES_OF_DAMAGE], f"and {more:,} more"]


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _span(info: LogInfo) -> str:
    if info.start_ns is None or info.end_ns is None:
        return "nothing that can be decoded"
    start, end = (datetime.fromtimestamp(t // 10**9, timezone.utc) for t in (info.start_ns, info.end_ns))
    end_text = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"{info.duration_s:.1f} s, {start:%Y-%m-%d %H:%M:%S} to {end_text} UTC"


def _row(topic: TopicInfo, log: LogInfo) -> tuple[str, ...]:
    times = topic.times
    once = topic.topic.kind in ("transform", "sample") or times.interval_ns is None
    rate = "" if times.rate_hz is None or topic.topic.kind == "transform" else f"{times.rate_hz:.1f}"
    gap = "" if once else f"{times.gap_ns * 1e-9:.2f} s at {seconds_in(log, times.gap_at_ns)}"
    offset = f"{times.offsets.median * 1e-9:+.3f} s" if times.offsets.median else ""
    frame = ", ".join(topic.frame_ids[:2]) + ", ..." * (len(topic.frame_ids) > 2)
    count = "0" if topic.count is None else f"{topic.count:,}"
    return topic.topic.name, topic.topic.type, count, rate, gap, offset, frame, _content(topic, log)


def seconds_in(log: LogInfo, time_ns: int) -> str:
    """A time as seconds since the log began."""
    return f"{(time_ns - (log.start_ns or 0)) * 1e-9:+.1f} s"


def _content(topic: TopicInfo, log: LogInfo) -> str:
    kind, calibration = topic.topic.kind, topic.calibration
    if not topic.times.count:
        return "no sample marks" if kind == "sample" else topic.failure or "no message decoded"
    if kind == "cloud":
        more = f" +{len(topic.fields) - _FIELDS_SHOWN}" * (len(topic.fields) > _FIELDS_SHOWN)
        return f"{topic.points / topic.times.count:,.0f} points: {' '.join(topic.fields[:_FIELDS_SHOWN])}{more}"
    if kind == "image":
        return f"{topic.encoding} {topic.width} x {topic.height}"
    if calibration is not None:
        bent = f"distortion {calibration.model}" if calibration.distortion.any() else "no distortion"
        return f"{calibration.width} x {calibration.height}, {bent}"
    return f"{len(log.transforms)} transforms in the log" if kind == "transform" else ""


def _frames(log: LogInfo) -> list[str]:
    """A line for each parent and kind of motion of its children."""
    groups: dict[tuple[str, str], list[str]] = {}
    for (parent, child), edge in sorted(log.transforms.items()):
        moves = "static" if edge.static else "constant" if edge.constant else f"{edge.times.mean_hz:.0f} Hz"
        groups.setdefault((parent, moves), []).append(child)
    lines = [f"{parent} -> {', '.join(children)} ({moves})" for (parent, moves), children in groups.items()]
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="      ", break_long_words=False)
    ]
