"""What is wrong with a log, one line a finding: what, where, how much, and what to do about it.

Errors keep a log, a sensor or a part of the drive from being used as recorded. Warnings change results. Notes do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median_high, median_low
from typing import Literal

from perception.logs.default_rig import left_out
from perception.logs.frame_graph import FrameGraph
from perception.logs.inspect import LogInfo, counted, first_lines, seconds_in, why_unread
from perception.logs.order import WINDOW_NS
from perception.logs.propose import doubts, lacks
from perception.logs.rehearsal import Rehearsal
from perception.logs.timing import Times
from perception.logs.transforms import HOLD_NS, two_ways

_MOST_BACK_NS = 1_000_000_000  # what sorting a stream mends; further back, the clock was set
_OFFSET_NS = 1_000_000_000  # between measurement and recording
_CLOCKS_NS = 200_000_000  # between the offsets of two sensors; cameras and LiDARs differ by a tenth of a second
_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    severity: Literal["error", "warning", "note"]
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


def diagnose(info: LogInfo, rehearsal: Rehearsal) -> list[Finding]:
    """Findings, errors first; of one severity: file, clocks, sensors, frames, the replay, what was left out."""
    findings = [*_file(info), *_topics(info), *_clocks(info), *_sensors(info), *_frames(info)]
    findings += _replay(rehearsal, {*left_out(info), *(finding.text for finding in findings)})
    return sorted([*findings, *_notes(info)], key=lambda finding: _SEVERITIES.index(finding.severity))


def report(findings: list[Finding]) -> str:
    """A line each, then how many there are."""
    return "\n".join([*map(str, findings), counts(findings) or "nothing found that is wrong"])


def counts(findings: list[Finding]) -> str:
    """How many there are of each severity; "" for none."""
    numbers = {severity: sum(f.severity == severity for f in findings) for severity in _SEVERITIES}
    return ", ".join(counted(n, severity) for severity, n in numbers.items() if n)


def _file(info: LogInfo) -> Iterator[Finding]:
    if info.stopped:
        yield Finding("error", f"the recording ends early: {info.stopped}; what comes before is used")
    for line in first_lines(info.damage):
        yield Finding("error", f"damaged: {line}")


def _topics(info: LogInfo) -> Iterator[Finding]:
    for name, topic in info.topics.items():
        if topic.topic.kind is None:
            if topic.count and (why := why_unread(topic)):
                yield Finding("warning", f"{name}: {why}")
            continue
        if topic.topic.kind == "sample" and not topic.times.count:  # another log
            continue
        if topic.topic.kind in ("pose", "fix", "attitude"):  # see _frames
            continue
        if not topic.times.count:
            why = f" ({topic.failure})" if topic.failure else ""
            found = f"none of {topic.count:,} messages could be decoded{why}" if topic.count else "no message"
            yield Finding("warning", f"{name}: {found}; leave it out of the rig, or see why it is silent")
            continue
        if topic.topic.kind != "transform":  # several of one stamp are several frames: see _frames
            yield from _order(name, topic.times)
            yield from _regularity(name, topic.times, info)
        if len(topic.frame_ids) > 1:
            frames = ", ".join(topic.frame_ids)
            yield Finding("warning", f"{name}: messages of several frames ({frames}): give the rig a frame_id")
        if topic.empty:
            yield Finding("warning", f"{name}: {topic.empty} of {topic.times.count} clouds have no point")


def _order(name: str, times: Times) -> Iterator[Finding]:
    if times.zeros:
        yield Finding("error", f"{name}: {times.zeros} of {times.count} messages have no time of measurement (0)")
    if times.backwards:
        severe = times.worst_back_ns >= _MOST_BACK_NS
        what = "they are sorted when read"
        if times.worst_back_ns > WINDOW_NS:
            what = f"by more than {_s(WINDOW_NS)} they may come too late for their frame"
        what = "the clock was set; where most clocks were, frames go on as another scene" if severe else what
        yield Finding(
            "error" if severe else "warning",
            f"{name}: time goes backwards {_times(times.backwards)}, by up to {_s(times.worst_back_ns)}; {what}",
        )
    if times.duplicates:
        yield Finding("warning", f"{name}: a message has the time of the one before it {_times(times.duplicates)}")


def _regularity(name: str, times: Times, info: LogInfo) -> Iterator[Finding]:
    if times.gaps and times.interval_ns:
        where = f"{name}: {_times(times.gaps)} nothing for more than 5 x {_s(times.interval_ns)}, longest"
        longest = f"{_s(times.gap_ns)} from {seconds_in(info, times.gap_at_ns)}"
        if times.gap_ns > 2 * max(times.gap_log_ns, 0) + _OFFSET_NS:
            text = f"{longest}, recorded within {_s(times.gap_log_ns)}: the clock was set; cut the log there"
            yield Finding("error", f"{where} {text}")
        else:
            yield Finding("warning", f"{where} {longest}; frames there go without it")
    if times.lull is not None:
        start, end, rate = times.lull
        span = f"from {seconds_in(info, start)} to {seconds_in(info, end)}"
        yield Finding("warning", f"{name}: rate falls from {times.rate_hz:.1f} to {rate:.1f} Hz {span}")


def _clocks(info: LogInfo) -> Iterator[Finding]:
    """What is common to all sensors is the recorder's clock, or a log recorded anew; what is not is a sensor's."""
    corrected = info.rig.offsets_ns
    offsets = {
        name: times.offsets.median + corrected.get(name, 0)
        for name, times in _sensor_times(info)
        if times.offsets.median is not None
    }
    if not offsets:
        return
    usual = min(median_low(offsets.values()), median_high(offsets.values()), key=abs)
    if abs(usual) > _OFFSET_NS:
        yield Finding(
            "note",
            f"measurements are stamped {_s(abs(usual))} {_side(usual)} they were recorded; stamps are what is used",
        )
    for name, offset in offsets.items():
        off = offset - usual
        if abs(off) > _CLOCKS_NS:
            offset_s = 1e-9 * (corrected.get(name, 0) - off)
            yield Finding(
                "warning",
                f"{name}: stamped {_s(abs(off))} {_side(off)} what other sensors stamp when recorded with it: its clock"
                f" is off, which offset_s: {offset_s:.2f} in the rig corrects{', or it comes late' * (off < 0)}",
            )


def _sensors(info: LogInfo) -> Iterator[Finding]:
    needed = lacks(info.rig, info.topics, info.transforms.keys(), info.frame_ids)
    doubtful = doubts(info.rig, info.frame_ids)
    for line in info.missing:
        yield Finding("error" if line in needed else "warning" if line in doubtful else "note", line)
    if info.rig.sensors and info.rig.samples is None and info.rig.reference not in info.rig.sensors:
        yield Finding("error", "no reference: name the sensor whose measurements make frames")
    for name, source in info.rig.cameras.items():
        image, topic = info.topics.get(source.image), source.calibration or ""
        calibration = info.topics[topic].calibration if topic in info.topics else None
        if image is None or calibration is None or source.is_rectified or calibration.distortion.any():
            continue
        yield Finding(
            "warning",
            f"{name}: raw images, and {topic} has no distortion: taken as a pinhole camera's; set rectified: true in"
            " the rig if they are",
        )


def _frames(info: LogInfo) -> Iterator[Finding]:
    rig, edges, frames = info.rig, info.transforms, FrameGraph(info.transforms)
    sensors = {source.frame_id or info.frame_ids.get(source.topic, "") for source in rig.sensors.values()}
    pairs = [(rig.ego_frame, frame) for frame in sorted(sensors)]
    if rig.world_frame is not None and rig.ego_pose is None:
        pairs.insert(0, (rig.world_frame, rig.ego_frame))
    used = {edge for pair in pairs for edge in frames.way(*pair) or ()}
    for line in filter(None, (two_ways(frames, *pair) for pair in pairs)):
        yield Finding("warning", line)
    for edge in info.refused:
        (line,) = info.refused.lines([edge])
        if line not in info.missing:
            yield Finding("warning" if edge in used else "note", line)
    for child in frames.names:
        parents = frames.parents(child)
        if len(parents) > 1 and not used.issuperset((parent, child) for parent in parents):
            yield Finding("note", f"frame {child} has several parents, {', '.join(parents)}")
    chain = frames.way(*pairs[0]) if rig.world_frame is not None and rig.ego_pose is None else None
    if chain and all(edges[edge].constant for edge in chain):
        yield Finding("warning", f"{rig.ego_frame} never moves in {rig.world_frame}: right if the vehicle stood still")
    for name, times in info.pose_times.items():
        yield from _pose(name, times, info)


def _pose(name: str, times: Times, info: LogInfo) -> Iterator[Finding]:
    if not times.count:
        yield Finding("error", f"{name}: none of its messages says where {info.rig.ego_frame} is")
    yield from _order(name, times)
    wait_ns = 1e9 * info.pose_wait_s
    if times.gap_ns > wait_ns:
        longest = f"{_s(times.gap_ns)} from {seconds_in(info, times.gap_at_ns)}"
        effect = f"frames that would wait for one longer than {_s(wait_ns)} are left out"
        yield Finding("warning", f"{name}: no pose for {longest}; {effect}")
    if times.first_ns is None or times.last_ns is None or info.start_ns is None or info.end_ns is None:
        return
    if not info.rig.sensors:
        return
    late, early = times.first_ns - info.start_ns, info.end_ns - times.last_ns
    if late > HOLD_NS:
        yield Finding("warning", f"{name}: begins {_s(late)} after the sensors; frames before have no pose")
    if early > HOLD_NS:
        yield Finding("warning", f"{name}: ends {_s(early)} before the sensors; frames after have no pose")


def _replay(rehearsal: Rehearsal, said: set[str]) -> Iterator[Finding]:
    """What the replay itself says of the log."""
    severities: tuple[Literal["error", "warning"], ...] = ("error", "warning")
    for severity, lines in zip(severities, (rehearsal.refused, rehearsal.lost)):
        yield from (Finding(severity, f"the replay: {line}") for line in lines if line not in said)
    if rehearsal.lost:
        yield Finding("note", f"the replay was tried with {counted(rehearsal.frames, 'frame')} from all over the log")


def _notes(info: LogInfo) -> Iterator[Finding]:
    silent = [name for name, topic in info.topics.items() if topic.topic.kind is None and not why_unread(topic)]
    if silent:
        yield Finding("note", f"{counted(len(silent), 'topic')} of {len(info.topics)} not decoded: {', '.join(silent)}")


def _sensor_times(info: LogInfo) -> list[tuple[str, Times]]:
    return [(name, topic.times) for name, topic in info.topics.items() if topic.topic.kind in ("image", "cloud")]


def _side(offset_ns: float) -> str:
    return "before" if offset_ns < 0 else "after"


def _s(duration_ns: float) -> str:
    return f"{duration_ns * 1e-9:,.3g} s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
