"""The rig of a log that nobody has described: the one proposed from its beginning, without incomplete sensors."""

from __future__ import annotations

import logging
from pathlib import Path

from perception.logs.beginning import BEGINNING_S
from perception.logs.inspect import LogInfo, inspect, unread
from perception.logs.log import Log
from perception.logs.messages import LogError
from perception.logs.propose import complete
from perception.logs.propose_ego import is_vehicle_frame
from perception.logs.rig import Rig, load_rig

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
