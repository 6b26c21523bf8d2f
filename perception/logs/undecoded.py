"""Why messages of a type are not decoded, and what to do about it, in a few words."""

from __future__ import annotations

import re
from collections.abc import Collection

NOT_USED = "not used, only images, clouds, calibrations and poses are"
# The first that is found in the name of a type; drivers differ in packages and spelling.
_NOTES = {
    r"event_?(camera|array|packet)|dvs_": "events of an event camera, no images",
    r"laser_?scan|laser_?echo": "a scan in one plane: laser_geometry makes a cloud of it, which is to be recorded",
    r"compresseddepth|depthimage": f"depths, no picture: {NOT_USED}",
    r"costmap|occupancygrid": f"computed, not measured: {NOT_USED}",
}
_PACKETS = {
    r"nebula": "Nebula (autoware_nebula)",
    r"velodyne": "velodyne_pointcloud",
    r"pandar|hesai": "HesaiLidar_ROS_2.0 or Nebula",
    r"ouster": "ouster_ros",
    r"rslidar|robosense": "rslidar_sdk",
    r"seyond|innovusion": "seyond_ros_driver",
}
_IS_PACKETS = re.compile(r"packets?(msg)?$|/(velodyne|hesai|pandar|rslidar|robosense)scan$|udpframe$", re.IGNORECASE)


def why_not(type_name: str, known: Collection[str]) -> str:
    """known: names of the types whose fields are known."""
    note = _found(_NOTES, type_name)
    if note:
        return note
    if _IS_PACKETS.search(type_name):
        maker = _found(_PACKETS, type_name) or "its driver"
        return f"raw packets of a driver: {maker} makes point clouds of them, which are to be recorded"
    return NOT_USED if type_name in known else "type not known"


def _found(notes: dict[str, str], type_name: str) -> str:
    return next((note for name, note in notes.items() if re.search(name, type_name, re.IGNORECASE)), "")
