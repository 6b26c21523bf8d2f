"""Recorded drives: ``open_log(path)`` gives their sensor messages in one stable order, whatever the format.

    with open_log("drive.mcap") as log:
        for message in log:                       # by measurement time, then topic, then place in the file
            message.topic, message.timestamp_ns, message.data

Formats: folders in the nuScenes layout (one scene), MCAP files (messages of Foxglove or ROS), ROS 2 bags (a folder, or
one ``.db3``), ROS 1 bags (``.bag``). What a message holds is said in ``perception/logs/messages.py``.

Recordings hold messages in order of arrival. They are sorted by time of measurement, as ``order.py`` says; what arrives
too late for that is passed on at once, and counted as ``late``. Left out are messages of a sensor whose clock is ahead
of most others, and one whose stamp jumps ahead of the clock it was recorded with, which is damaged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from perception.errors import PerceptionError
from perception.logs.clock import corrected
from perception.logs.limits import DEFAULT, Limits
from perception.logs.merged import MergedReader, Part
from perception.logs.messages import (
    Calibration,
    LogError,
    Message,
    Motion,
    Reader,
    RecordingTime,
    Topic,
    Transform,
    is_timeless,
)
from perception.logs.order import Order
from perception.logs.video import Videos

_JUMP_NS = 60_000_000_000
_ALWAYS = -(1 << 62), 1 << 62  # ns
_FILES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".mcap.zst", ".db3.zst")


class Log:
    """A recorded drive, opened by :func:`open_log`. Iterating reads it from the start, every time; it is a Reader too.

    Attributes:
        change: what is made of every message before it is sorted in, such as a corruption; None leaves the
            message out. Set before iterating.
        offsets_ns: topic -> what is added to its stamps, for its clock is off. Set before iterating.
        name: of the drive: the scene, or the file's name without its suffix.
        topics: name -> Topic, after remapping, of those that were chosen.
        stopped: where and why the recording ends early, once it has been read to its end; None if it does not.
        damage: what was left out, in lines, once it has been read.
        order: the sorting of the last iteration, which knows what was late or left out.
        failed: topic -> what was wrong with the first of its messages that could not be decoded.
        unstamped: topic -> how many had no stamp of their own.
        excluded: (parent, child) -> how many transforms were excluded.
        part_ns: from when to when the chosen part lasts, known when the first message has come.
    """

    part_ns = _ALWAYS

    def __init__(
        self,
        reader: Reader,
        name: str,
        topics: Collection[str] | None,
        exclude_topics: Collection[str],
        remap: Mapping[str, str],
        start_offset_s: float,
        duration_s: float | None,
        strict: bool,
        exclude_transforms: Collection[tuple[str, str]] = (),
    ):
        self.reader, self.name, self.path = reader, name, reader.path
        self._remap, self._strict = dict(remap), strict
        self._start_ns = round(1e9 * start_offset_s)
        self._length_ns = None if duration_s is None else round(1e9 * duration_s)
        unknown = [topic for topic in (*(topics or ()), *exclude_topics, *remap) if topic not in reader.topics]
        if unknown:
            raise LogError(f"{self.path}: topic {unknown[0]} was expected, found {', '.join(reader.topics) or 'none'}")
        self._excluded = set(exclude_topics)
        self._chosen = set(reader.topics if topics is None else topics) - self._excluded
        self._all = topics is None and not exclude_topics  # a truncated file may add topics while it is read
        self.change: Callable[[Message], Message | None] | None = None
        self.offsets_ns: Mapping[str, int] = {}
        self.order = Order()
        self.unstamped: Counter[str] = Counter()
        self.excluded = dict.fromkeys(exclude_transforms, 0)
        self._jumps: Counter = Counter()

    @property
    def topics(self) -> dict[str, Topic]:
        chosen = [topic for name, topic in self.reader.topics.items() if self._all or name in self._chosen]
        named = (replace(topic, name=self._remap.get(topic.name, topic.name)) for topic in chosen)
        return {topic.name: topic for topic in named}

    @property
    def stopped(self) -> str | None:
        return self.reader.stopped

    @property
    def late(self) -> Counter[str]:
        """Topic -> how many messages came too late to be sorted in."""
        return self.order.late

    @property
    def damage(self) -> list[str]:
        jumps = [
            f"{self.path}: {topic}: {number} messages left out, stamped more than a minute ahead of their recording"
            for topic, number in sorted(self._jumps.items())
        ]
        return [*self.reader.damage, *jumps]

    @property
    def failed(self) -> dict[str, str]:
        return {self._remap.get(topic, topic): reason for topic, reason in self.reader.failed.items()}

    def __iter__(self) -> Iterator[Message]:
        """The chosen part, in order of (timestamp_ns, topic, sequence), with transforms and calibrations before it."""
        for message in self.whole():
            if not is_timeless(message):
                since_ns, until_ns = self.part_ns
                if message.timestamp_ns > until_ns:
                    return
                if message.timestamp_ns < since_ns and not isinstance(message.data, Calibration | Motion):
                    continue
            yield message

    def whole(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """All messages, in the same order, also those outside of the chosen part, which ``part_ns`` gives.

        Only ``topics`` are read, if given, so that damage in others does not matter. Static transforms come as soon as
        they are read.
        """
        self.order = Order()
        self.unstamped.clear()
        self.excluded = dict.fromkeys(self.excluded, 0)
        self._jumps.clear()
        first_ns = None
        for message in self._in_order(topics):
            # What is latched may have been stamped long before the drive.
            if first_ns is None and not isinstance(message.data, Calibration | Motion):
                first_ns = message.timestamp_ns
                self.part_ns = self._part_of(first_ns)
            yield message

    def messages(self, topics: Collection[str] | None = None, strict: bool | None = None) -> Iterator[Message]:
        """In the order of the file, unchanged, as a :class:`Reader` gives them. topics: as they are called here."""
        strict = self._strict if strict is None else strict
        wanted = None if self._all else self._chosen
        if topics is not None:
            recorded = {*topics, *(name for name, new in self._remap.items() if new in topics)}
            wanted = recorded if wanted is None else recorded & wanted
        for message in self.reader.messages(wanted, strict):
            message = self._named(message)
            if isinstance(message.data, Transform) and self.excluded:
                edge = message.data.parent, message.data.child
                if edge in self.excluded:
                    self.excluded[edge] += 1
                    continue
            if topics is None or message.topic in topics:
                yield message

    def close(self) -> None:
        self.reader.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _part_of(self, first_ns: int) -> tuple[int, int]:
        since_ns = first_ns + self._start_ns
        until_ns = _ALWAYS[1] if self._length_ns is None else since_ns + self._length_ns
        return since_ns if self._start_ns else _ALWAYS[0], until_ns

    def _named(self, message: Message) -> Message:
        return replace(message, topic=self._remap[message.topic]) if message.topic in self._remap else message

    def _read(self, topics: Collection[str] | None) -> Iterator[Message]:
        """In the order of the file, without jumps in time."""
        usual_ns: int | None = None
        for message in map(Videos().joined, self.messages(topics)):
            if not is_timeless(message):
                self.unstamped[message.topic] += isinstance(message.timestamp_ns, RecordingTime)
                message = corrected(message, self.offsets_ns)
                ahead_ns = message.timestamp_ns - message.log_time_ns
                if usual_ns is None or abs(ahead_ns - usual_ns) <= _JUMP_NS or 2 * abs(ahead_ns) < abs(usual_ns):
                    usual_ns = ahead_ns  # the last: what came before was off, since the recording's clock is far closer
                elif ahead_ns > usual_ns:
                    self._jumps[message.topic] += 1
                    continue
            yield message

    def _in_order(self, topics: Collection[str] | None) -> Iterator[Message]:
        for message in self._read(topics):
            yield from self.order.push(message, message if self.change is None else self.change(message))
        yield from self.order.flush()


def open_log(
    path: str | Path | Sequence[str | Path],
    *,
    version: str | None = None,
    scene: str | None = None,
    topics: Collection[str] | None = None,
    exclude_topics: Collection[str] = (),
    remap: Mapping[str, str] | None = None,
    start_offset_s: float = 0.0,
    duration_s: float | None = None,
    strict: bool = True,
    limits: float = 1.0,
    exclude_transforms: Collection[tuple[str, str]] = (),
) -> Log:
    """Open a recorded drive of any format.

    Args:
        path: a folder in the nuScenes layout, an ``.mcap`` file, a ROS 2 bag (folder or ``.db3`` file, which may be
            compressed: ``.zstd``), a ROS 1 bag (``.bag``); or several of these recordings, which are merged by time.
        version, scene: of a nuScenes folder; may be left out where there is one only.
        topics: to read only these; exclude_topics: to read all but these. As they are named in the log.
        remap: topic in the log -> what it is called from here on.
        start_offset_s: how far into the drive to begin, and duration_s: how much of it. Transforms and calibrations
            from before the beginning still come.
        strict: a message that cannot be decoded is an error, else it is left out and listed in ``damage``.
        limits: how many times what :class:`perception.logs.limits.Limits` allows the recording may ask for.
        exclude_transforms: (parent, child) of transforms that are left out.

    Raises:
        LogError: no such log, one that goes beyond its limits, no log at all, or a topic that is not in it.
        DataError: nuScenes tables that are missing or damaged.
    """
    if not 0 <= start_offset_s < math.inf or not (duration_s is None or 0 < duration_s < math.inf):
        raise LogError(f"start offset >= 0 and duration > 0 were expected, found {start_offset_s} s, {duration_s} s")
    if not 0 < limits < math.inf:
        raise LogError(f"limits > 0 were expected, found {limits}")
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    if len(paths) == 1:
        reader, name = _open(paths[0], version, scene, strict, DEFAULT.times(limits))
    elif version is None and scene is None:
        reader, name = _merged(paths, DEFAULT.times(limits))
    else:
        raise LogError(f"{paths[0]}: one nuScenes folder was expected, since a version or scene is named")
    try:
        part = start_offset_s, duration_s
        return Log(reader, name, topics, exclude_topics, remap or {}, *part, strict, exclude_transforms)
    except LogError:
        reader.close()
        raise


def is_nuscenes(path: Path) -> bool:
    """Whether a folder holds a version of nuScenes tables."""
    return path.is_dir() and any(path.glob("*/scene.json"))


def is_log(path: Path) -> bool:
    """Whether a path looks like a log. A folder of MCAP files does only where they are named as parts of a bag."""
    if path.is_dir():
        parts = (part.name for part in path.iterdir() if part.name.endswith(_FILES))
        is_bag = (path / "metadata.yaml").is_file() or any(part.startswith(path.name) for part in parts)
        return is_bag or is_nuscenes(path)
    return path.name.endswith((*_FILES, ".bag"))


def _merged(paths: Sequence[Path], limits: Limits) -> tuple[Reader, str]:
    """One drive of several recordings, under the name of the first."""
    if not paths:
        raise LogError("at least one log was expected, found none")
    opened: list[tuple[str, Part]] = []
    name = ""
    try:
        for path in paths:
            if is_nuscenes(path):
                raise LogError(f"{path}: a recording that can be merged was expected, found a nuScenes folder")
            reader, stem = _open(path, None, None, True, limits)
            opened.append((path.name, cast(Part, reader)))
            name = name or stem
    except PerceptionError:
        for _, part in opened:
            part.close()
        raise
    return MergedReader(paths[0], opened), name


def _open(path: Path, version: str | None, scene: str | None, strict: bool, limits: Limits) -> tuple[Reader, str]:
    if not path.exists():
        raise LogError(f"{path}: a log was expected, found nothing")
    if path.name == "metadata.yaml":  # of a bag, which is the folder
        path = path.absolute().parent
    if is_nuscenes(path):
        from perception.logs.nuscenes_log import NuScenesReader

        reader = NuScenesReader(path, version, scene, strict)
        return reader, reader.scene
    if version is not None or scene is not None:
        raise LogError(f"{path}: a folder in the nuScenes layout was expected, since a version or scene is named")
    if path.suffix == ".mcap":
        from perception.logs.mcap_log import McapReader

        return McapReader(path, limits), path.stem
    if path.is_dir() or path.name.endswith(_FILES):
        from perception.logs.rosbag_log import RosbagReader

        return RosbagReader(path, limits), path.stem
    if path.suffix == ".bag":
        from perception.logs.ros1_log import Ros1Reader

        return Ros1Reader(path, limits), path.stem
    raise LogError(
        f"{path}: a nuScenes folder, an .mcap file or a ROS bag was expected, found {path.suffix or 'a file'}"
    )
