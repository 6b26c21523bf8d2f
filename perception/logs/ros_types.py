"""Types of ROS messages: their names, and their fields as a recording defines them or as they are known."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from perception.errors import PerceptionError, missing_extra

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

_MORE_DEFINITIONS = {  # of packages that do not belong to ROS itself, or not to the types of ROS 1 that rosbags has
    "tf2_msgs/msg/TFMessage": "geometry_msgs/TransformStamped[] transforms",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": """
        std_msgs/Header header
        int32 width
        int32 height
        string encoding
        uint64 pts
        uint8 flags
        bool is_bigendian
        uint8[] data""",
    "foxglove_msgs/msg/CompressedVideo": """
        builtin_interfaces/Time timestamp
        string frame_id
        uint8[] data
        string format""",
    "radar_msgs/msg/RadarReturn": """
        float32 range
        float32 azimuth
        float32 elevation
        float32 doppler_velocity
        float32 amplitude""",
    "radar_msgs/msg/RadarScan": """
        std_msgs/Header header
        radar_msgs/RadarReturn[] returns""",
    "radar_msgs/msg/RadarTrack": """
        unique_identifier_msgs/UUID uuid
        geometry_msgs/Point position
        geometry_msgs/Vector3 velocity
        geometry_msgs/Vector3 acceleration
        geometry_msgs/Vector3 size
        uint16 classification
        float32[6] position_covariance
        float32[6] velocity_covariance
        float32[6] acceleration_covariance
        float32[6] size_covariance""",
    "radar_msgs/msg/RadarTracks": """
        std_msgs/Header header
        radar_msgs/RadarTrack[] tracks""",
}
_LONGEST_DEFINITION = 1 << 16  # characters: four times those of CameraInfo, which are mostly comments
_MOST_VALUES = 1000  # of one element of a message, by its definition; CameraInfo has 20


def definition(type_name: str) -> str:
    """The fields of a type that does not belong to ROS itself, as its ``.msg`` file has them, without comments."""
    return _MORE_DEFINITIONS[type_name]


def ros2_name(type_name: str) -> str:
    """The name of a type as ROS 2 spells it, from those of ROS 1, DDS and C++."""
    parts = re.split("/|::", type_name)
    if len(parts) < 2 or set(parts[1:-1]) - {"msg", "dds_"}:
        return type_name
    name = f"{parts[0]}/msg/{parts[-1].removesuffix('_') if 'dds_' in parts else parts[-1]}"
    return "tf2_msgs/msg/TFMessage" if name == "tf/msg/tfMessage" else name


@lru_cache(maxsize=2)
def known_types(is_ros1: bool = False) -> Typestore:
    """The types of ROS 2 Humble, or of ROS 1 Noetic, radar_msgs and videos.

    Raises:
        PerceptionError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise PerceptionError(missing_extra("logs", "ROS 2 messages need an extra")) from None
    store = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_HUMBLE)
    for name, text in _MORE_DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


def recorded_types(type_name: str, definition: str, encoding: str) -> Typestore | None:
    """Types as the recording defines them; None where its definition cannot be used."""
    known = known_types(encoding == "ros1msg")  # first: it says what to install
    from rosbags.interfaces import Nodetype
    from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

    def values(name: str, above: tuple[str, ...] = ()) -> int:
        """How many values one element of a message has; rosbags unrolls the code for them."""
        if name in above:
            raise ValueError(f"{name} holds itself")
        total = 0
        for _, (node, inner) in types[name][1]:
            element, length = inner if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) else ((node, inner), 1)
            single = values(element[1], (*above, name)) if element[0] == Nodetype.NAME else 1
            is_unrolled = node == Nodetype.ARRAY and (element[0] == Nodetype.NAME or element[1][0] == "string")
            total += single * (length if is_unrolled else 1) + 1
            if total > _MOST_VALUES:
                raise ValueError(f"{name} has more than {_MOST_VALUES} values")
        return total

    try:
        if len(definition) > _LONGEST_DEFINITION:
            return None
        if encoding == "ros2idl":
            parsed = get_types_from_idl(definition)
        else:
            parsed = get_types_from_msg(definition, type_name)
        types: dict[str, tuple[list, Any]] = {
            name: ([], fields) for name, (_, fields) in parsed.items()
        }  # constants are not needed
        if type_name not in types or all(known.fielddefs.get(name, ([], None))[1] == types[name][1] for name in types):
            return None
        values(type_name)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        store.get_msgdef(type_name)
    except (
        TypesysError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
        SyntaxError,
    ):
        return None  # what the library makes of damaged text
    return store
