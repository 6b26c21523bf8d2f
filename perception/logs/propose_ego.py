"""The vehicle's frame, the world's, and what says where the one is in the other: proposals, as in ``propose.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from perception.logs.frame_graph import FrameGraph
from perception.logs.messages import Topic
from perception.logs.rig import PoseSource, Rig

EGO_FRAMES = ("base_link", "base_footprint", "ego_vehicle", "vehicle", "hero", "base")
_WORLD_FRAMES = ("map", "world", "odom")
# Of topics with poses of something else, or that somebody wishes for.
_OTHER_POSES = frozenset(
    "goal goals initial initialpose target targets setpoint desired reference command cmd plan path marker markers"
    " tag tags aruco apriltag object objects obstacle obstacles detection detections person people gripper tool"
    " dock".split()
)


def is_vehicle_frame(frame: str) -> bool:
    """Whether the name of a frame is one of a vehicle's, not of a sensor's."""
    return _last(frame) in EGO_FRAMES


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def ego_frame(rig: Rig, topics: Sequence[Topic], frames: FrameGraph, frame_ids: Mapping[str, str]) -> str:
    """By name; else the lowest frame above all sensors that is above the reference."""
    own = [frame for source in rig.sensors.values() if (frame := frame_ids.get(source.topic))]
    located = [frame for topic in topics if topic.kind == "pose" and (frame := frame_ids.get(topic.name))]
    named = [
        (-sum(frames.connected(frame, other) for other in own), EGO_FRAMES.index(_last(frame)), len(frame), frame)
        for frame in {*frames.names, *own, *located}
        if is_vehicle_frame(frame)
    ]
    if named:
        return min(named)[-1]
    reference = frame_ids.get(rig.sensors[rig.reference].topic) if rig.reference else None
    if not reference:
        return Rig.ego_frame
    chains = [frames.up(frame) for frame in own if frames.connected(frame, reference)]
    above = [frame for frame in frames.up(reference) if all(frame in chain for chain in chains)]
    carriers = [frame for frame in above if frame not in own and _last(frame) not in (*_WORLD_FRAMES, "earth")]
    return next(iter([*carriers, *above, reference]))


def world_frame(ego: str, frames: FrameGraph) -> str | None:
    """map, else world, else odom, above the ego frame if any is; else the root above it, else None."""
    above = frames.up(ego)
    connected = [frame for frame in frames.names if frames.connected(frame, ego)]
    for candidates in (above, connected):
        named = [
            (_WORLD_FRAMES.index(_last(frame)), len(frame), frame)
            for frame in candidates
            if _last(frame) in _WORLD_FRAMES and frame != ego
        ]
        if named:
            return min(named)[-1]
    return None if _last(above[-1]) in (_last(ego), *EGO_FRAMES) else above[-1]


def ego_pose(ego: str, topics: Sequence[Topic], frames: FrameGraph, frame_ids: Mapping[str, str]) -> PoseSource | None:
    """Of the topics with poses the one of the ego frame, or of one that is mounted on it; else fixes with an IMU."""

    def is_of_another(topic: Topic) -> int:
        frame = frame_ids.get(topic.name)
        return 1 if not frame else 0 if frames.connected(ego, frame) else 2

    several = [topic for topic in topics if topic.count is None or topic.count > 1]
    poses = [t for t in several if t.kind == "pose" and _OTHER_POSES.isdisjoint(words(t.name))]
    if poses:
        return PoseSource(odometry=min(poses, key=lambda t: (is_of_another(t), -(t.count or 0), t.name)).name)
    fix, imu = (
        min((t for t in several if t.kind == kind), key=lambda t: (-(t.count or 0), t.name), default=None)
        for kind in ("fix", "attitude")
    )
    return None if fix is None or imu is None else PoseSource(fix=fix.name, imu=imu.name)


def _last(frame: str) -> str:
    return frame.rsplit("/", 1)[-1]
