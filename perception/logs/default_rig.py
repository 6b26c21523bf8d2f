"""The rig of a log that nobody has described: proposed from its beginning, without incomplete sensors; and to keep."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import numpy as np

from perception.geometry import SE3
from perception.logs.beginning import BEGINNING_S
from perception.logs.frame_graph import FrameGraph
from perception.logs.inspect import LogInfo, inspect, unread
from perception.logs.log import Log
from perception.logs.messages import LogError, Transform
from perception.logs.propose import complete
from perception.logs.propose_ego import is_vehicle_frame
from perception.logs.rig import Rig, load_rig
from perception.logs.transforms import Transforms

logger = logging.getLogger(__name__)


def rig_of(log: Log, path: str | Path | None) -> Rig:
    """The rig of a file, or else the default one.

    Raises:
        LogError: no sensor of the log can make frames, or its vehicle frame is unknown.
        ConfigError: the file is not a rig.
    """
    return proposed_rig(log, inspect(log, seconds=BEGINNING_S)) if path is None else load_rig(path)


def proposed_rig(log: Log, info: LogInfo) -> Rig:
    """:func:`usable_rig`; what it leaves out is logged as warnings."""
    rig = usable_rig(log, info)
    for line in left_out(info):
        logger.warning("%s: %s", log.path, line)
    return rig


def usable_rig(log: Log, info: LogInfo) -> Rig:
    """The default rig of a log whose beginning has been inspected.

    Raises:
        LogError: no sensor of the log can make frames, or its vehicle frame is unknown.
    """
    rig = complete(info.rig, log.topics, info.transforms, info.frame_ids)
    if not rig.sensors or not is_vehicle_frame(rig.ego_frame):
        lacks = "; ".join(left_out(info))
        raise LogError(f"{log.path}: a rig file was expected (--rig), for the log lacks: {lacks}")
    return rig


def left_out(info: LogInfo) -> list[str]:
    """What the default rig lacks or leaves out, one line each."""
    return [*info.missing, *unread(info)]


def with_mounts(info: LogInfo) -> Rig:
    """The rig with the places of its sensors, as far as the log's transforms say that they do not move."""
    transforms, graph = Transforms(), FrameGraph(info.transforms)
    for (parent, child), edge in info.transforms.items():
        transforms.add(0, Transform(parent, child, edge.pose, static=True))
    placed = copy.deepcopy(info.rig)
    for source in placed.sensors.values():
        frame = source.frame_id or info.frame_ids.get(source.topic, "")
        way = graph.way(placed.ego_frame, frame)
        if source.ego_SE3_sensor is None and way and all(info.transforms[edge].constant for edge in way):
            pose = SE3.from_matrix(transforms.lookup(placed.ego_frame, frame, 0)).pose
            recorded = info.transforms[way[0]].pose
            if way == [(placed.ego_frame, frame)] and np.allclose(recorded, pose):  # then to the last bit
                pose = recorded
            source.ego_SE3_sensor = pose.tolist()
    return placed
