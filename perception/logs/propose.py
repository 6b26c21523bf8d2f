"""A first rig for a log that nobody has described: by the kinds, names and contents of its topics, and its frames.

Every choice is made in sorted order, so that the same log gives the same rig. What cannot be known is not guessed: it
is said, one line each, and the rig's file is the place to add it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from perception.logs.frame_graph import FrameGraph
from perception.logs.messages import Topic
from perception.logs.propose_ego import EGO_FRAMES, ego_frame, ego_pose, is_vehicle_frame, words, world_frame
from perception.logs.rig import CameraSource, CloudSource, Rig, is_rectified

# Words of topic names that do not tell one sensor from another of its kind.
_IMAGE_WORDS = frozenset(
    "image images img raw rect rectified color colour mono gray grey compressed jpeg jpg png rgb bgr data info"
    " calibration calib ffmpeg video h264 h265 hevc".split()
)
_CLOUD_WORDS = frozenset(
    "points points2 point pointcloud pointcloud2 cloud pcl pc2 raw ex data scan scans rectified filtered outlier"
    " cropped self mirror before sync range measurement xyz xyzi tracks detections detected objects returns"
    " targets".split()
)
_PLACE_WORDS = frozenset("sensing sensor sensors perception driver drivers ros ros2 node topic topics".split())
_KIND_WORDS = {"CAM": ("camera", "cam"), "LIDAR": ("lidar",), "RADAR": ("radar",)}
# Of several clouds of one sensor, those without these words are closest to what was measured.
_PROCESSED_WORDS = frozenset(
    "rectified filtered outlier cropped self mirror before sync range tracks detected objects".split()
)
_WHOLE_WORDS = frozenset("concatenated concat merged combined".split())
# Computed, not measured.
_DERIVED_WORDS = frozenset(
    "depth disparity mask semantic segmentation costmap map localization planning obstacle obstacles cluster clusters"
    " ground noground nonground downsample downsampled debug registered aligned".split()
)
_RADAR_FIELDS = frozenset(
    "rcs rcs_dbsm doppler doppler_velocity vx_comp vy_comp radial_speed radial_velocity range_rate amplitude"
    " v_r".split()
)


def propose(
    topics: Mapping[str, Topic],
    transforms: Collection[tuple[str, str]],
    frame_ids: Mapping[str, str],
    fields: Mapping[str, tuple[str, ...]],
    static: Collection[tuple[str, str]] = (),
) -> tuple[Rig, list[str]]:
    """A rig, and what it lacks or leaves out, one line each.

    Args:
        topics: by name. One whose count is 0 is left out.
        transforms: (parent, child) of every transform of the log.
        frame_ids: topic -> the frame its messages name.
        fields: topic of a cloud -> the names of its fields.
        static: those of the transforms that are declared to be static.
    """
    rig, notes = Rig(world_frame=None), list[str]()
    heard = [topics[name] for name in sorted(topics) if topics[name].count != 0]
    measured = {kind: [t for t in heard if t.kind == kind and not _is_derived(t)] for kind in ("image", "cloud")}
    calibrations = [topic.name for topic in heard if topic.kind == "calibration"]
    radars = [topic for topic in measured["cloud"] if _is_radar(topic, fields.get(topic.name, ()))]
    lidars = [topic for topic in measured["cloud"] if topic not in radars]

    chosen = {
        "CAM": _one_a_sensor(measured["image"], _IMAGE_WORDS, _image_rank, notes),
        "LIDAR": _one_a_sensor(_whole(lidars, notes), _CLOUD_WORDS, _cloud_rank, notes),
        "RADAR": _one_a_sensor(_whole(radars, notes), _CLOUD_WORDS, _cloud_rank, notes),
    }
    names = _unique_names(chosen)
    for topic in chosen["CAM"]:
        calibration = _calibration_of(topic.name, calibrations, frame_ids)
        rig.cameras[names[topic.name]] = CameraSource(image=topic.name, calibration=calibration)
    for kind, sources in (("LIDAR", rig.lidars), ("RADAR", rig.radars)):
        sources |= {names[topic.name]: CloudSource(cloud=topic.name) for topic in chosen[kind]}
    rig.samples = next((topic.name for topic in heard if topic.kind == "sample"), None)
    rig.reference = _reference(rig, topics)

    frames = FrameGraph(transforms)
    rig.ego_frame = ego_frame(rig, heard, frames, frame_ids)
    rig.world_frame = world_frame(rig.ego_frame, frames)
    way = [] if rig.world_frame is None else frames.way(rig.world_frame, rig.ego_frame) or []
    if set(static).issuperset(way):  # nothing says how it moves
        rig.ego_pose = ego_pose(rig.ego_frame, heard, frames, frame_ids)
    if rig.ego_pose is not None:
        rig.world_frame = Rig.world_frame
        topics_of_pose = " and ".join(rig.ego_pose.topics)
        notes.append(f"no transform says how {rig.ego_frame} moves: where it is, is taken from {topics_of_pose}")
    fix = next((topic.name for topic in heard if topic.kind == "fix"), None)
    if rig.world_frame is None and fix is not None:
        notes.append(f"positions on {fix}, but no Imu with an orientation, which is needed beside them")
    derived = [topic.name for topic in heard if topic.kind in measured and _is_derived(topic)]
    if derived:
        notes.append(f"left out, for they are computed from others by their names: {', '.join(derived)}")
    return rig, lacks(rig, topics, transforms, frame_ids) + doubts(rig, frame_ids) + notes


def lacks(
    rig: Rig, topics: Collection[str], transforms: Collection[tuple[str, str]], frame_ids: Mapping[str, str]
) -> list[str]:
    """What a rig needs and a log lacks, one line each. Arguments as of :func:`propose`."""
    if not rig.sensors:
        return ["no sensor: of what can be decoded, nothing is an image or a cloud"]
    frames = FrameGraph(transforms)
    places = unplaced(rig, frames, frame_ids)
    lines = []
    for name, source in rig.sensors.items():
        if source.topic not in topics:
            lines.append(f"no topic {source.topic}, which {name} is mapped to")
            continue
        if isinstance(source, CameraSource) and source.intrinsics is None:
            if source.calibration is None:
                lines.append(f"no camera calibration for {source.image}: give {name} intrinsics, [fx, fy, cx, cy]")
            elif source.calibration not in topics:
                lines.append(f"no topic {source.calibration}, which {name} is calibrated by")
        if name not in places:
            continue
        if not (frame := places[name]):
            lines.append(f"no frame in the messages of {source.topic}: give {name} a frame_id or ego_SE3_sensor")
        else:
            lines.append(f"no transform from {rig.ego_frame} to {frame}: give {name} ego_SE3_sensor")
    if rig.ego_pose is not None:
        unknown = [topic for topic in rig.ego_pose.topics if topic not in topics]
        lines += [f"no topic {topic}, which ego_pose is mapped to" for topic in unknown]
    elif rig.world_frame is not None and not frames.connected(rig.world_frame, rig.ego_frame):
        lines.append(f"no transform from {rig.world_frame} to {rig.ego_frame}: world_frame null where it stands still")
    return lines


def unplaced(rig: Rig, frames: FrameGraph, frame_ids: Mapping[str, str]) -> dict[str, str]:
    """Sensor -> its frame, "" for none, of those whose place on the vehicle neither the rig nor a transform says."""
    found = {name: s.frame_id or frame_ids.get(s.topic, "") for name, s in rig.sensors.items() if not s.ego_SE3_sensor}
    return {name: frame for name, frame in found.items() if not frame or not frames.connected(rig.ego_frame, frame)}


def complete(
    rig: Rig, topics: Mapping[str, Topic], transforms: Collection[tuple[str, str]], frame_ids: Mapping[str, str]
) -> Rig:
    """A proposed rig without the sensors that lack something. Arguments as of :func:`propose`."""
    whole = replace(rig, cameras={}, lidars={}, radars={})
    for kind in ("cameras", "lidars", "radars"):
        for name, source in getattr(rig, kind).items():
            alone = Rig(world_frame=None, ego_frame=rig.ego_frame)
            setattr(alone, kind, {name: source})
            if not lacks(alone, topics, transforms, frame_ids):
                getattr(whole, kind)[name] = source
    whole.reference = _reference(whole, topics)
    return whole


def doubts(rig: Rig, frame_ids: Mapping[str, str]) -> list[str]:
    """The assumptions of a proposed rig, one line each."""
    if not rig.sensors:
        return []
    lines = []
    if rig.world_frame is None:
        lines.append(
            f"no odometry or map frame above {rig.ego_frame}, and no topic with its poses: world_frame null means that"
            " the vehicle stands still, clouds of several sweeps smear where it does not"
        )
    if not is_vehicle_frame(rig.ego_frame):
        owner = next((name for name, s in rig.sensors.items() if frame_ids.get(s.topic) == rig.ego_frame), None)
        whose = f"that of {owner}" if owner else "the lowest above all sensors"
        lines.append(
            f"no frame {', '.join(EGO_FRAMES)}: ego_frame {rig.ego_frame} is {whose}; give ego_SE3_sensor if it is not"
            " on the ground, x forward, z up"
        )
    return lines


def _parts(topic: str) -> list[str]:
    return [part for part in topic.split("/") if part]


def _namespace(topic: str, generic: frozenset[str]) -> tuple[str, ...]:
    """The parts of a topic's name without those at its end that only say what kind of data it is."""
    parts = _parts(topic)
    while parts and set(words(parts[-1])) <= generic:
        parts.pop()
    return tuple(parts)


def _is_derived(topic: Topic) -> bool:
    return not _DERIVED_WORDS.isdisjoint(words(topic.name))


def _is_radar(topic: Topic, fields: Iterable[str]) -> bool:
    text = f"{topic.name} {topic.type}".lower()
    if "radar" in text or "lidar" in text:
        return "radar" in text
    names = {field.lower() for field in fields}
    return not _RADAR_FIELDS.isdisjoint(names) or {"range", "azimuth"} <= names


def _image_rank(topic: Topic) -> tuple:
    compressed = "compressed" in f"{topic.name} {topic.type}".lower()
    video = re.search("video|ffmpeg", topic.type.lower()) is not None
    return not is_rectified(topic.name), video, not compressed, -(topic.count or 0), topic.name


def _cloud_rank(topic: Topic) -> tuple:
    processed = len(_PROCESSED_WORDS.intersection(words(topic.name)))
    return processed, -(topic.count or 0), len(topic.name), topic.name


def _one_a_sensor(topics: list[Topic], generic: frozenset[str], rank, notes: list[str]) -> list[Topic]:
    """The first by ``rank`` of the topics of every namespace."""
    groups: dict[tuple[str, ...], list[Topic]] = defaultdict(list)
    for topic in topics:
        groups[_namespace(topic.name, generic)].append(topic)
    chosen = []
    for group in groups.values():
        first, *others = sorted(group, key=rank)
        chosen.append(first)
        if others:
            notes.append(f"of one sensor, {first.name} is taken, left out: {', '.join(t.name for t in others)}")
    return sorted(chosen, key=lambda topic: topic.name)


def _whole(topics: list[Topic], notes: list[str]) -> list[Topic]:
    """The concatenated clouds of several sensors, where there are any; else all."""
    whole = [topic for topic in topics if not _WHOLE_WORDS.isdisjoint(words(topic.name))]
    if not whole or whole == topics:
        return topics
    others = ", ".join(topic.name for topic in topics if topic not in whole)
    notes.append(f"{', '.join(topic.name for topic in whole)} holds the clouds of several sensors, left out: {others}")
    return whole


def _sensor_name(kind: str, topic: str) -> str:
    """/cam_front/image_rect -> CAM_FRONT, /sensing/camera/camera0/image_raw -> CAM_0."""
    generic = (_IMAGE_WORDS if kind == "CAM" else _CLOUD_WORDS) | _PLACE_WORDS
    own = re.compile(rf"(?:{'|'.join(_KIND_WORDS[kind])})(\d*)")
    own_words = []
    for word in words(topic):
        match = own.fullmatch(word)
        word = match.group(1) if match else word
        if word and word not in generic and word not in own_words:
            own_words.append(word)
    return "_".join([kind, *own_words]).upper()


def _unique_names(chosen: dict[str, list[Topic]]) -> dict[str, str]:
    """Topic -> name of its sensor."""
    names: dict[str, str] = {}
    for kind, topics in chosen.items():
        for topic in topics:
            name = base = _sensor_name(kind, topic.name)
            number = 1
            while name in names.values():
                number += 1
                name = f"{base}_{number}"
            names[topic.name] = name
    return names


def _calibration_of(image: str, calibrations: list[str], frame_ids: Mapping[str, str]) -> str | None:
    """The calibration whose namespace is the image's or the longest above it, unless its frame is another."""
    parts, group, name = _parts(image), _namespace(image, _IMAGE_WORDS), _sensor_name("CAM", image)
    found = []
    for calibration in calibrations:
        namespace = _parts(calibration)[:-1]
        above = parts[: len(namespace)] == namespace
        frames = {frame_ids.get(image) or None, frame_ids.get(calibration) or None}
        same_place = above and len(namespace) >= len(group)
        same_frame = len(frames) == 1 and None not in frames
        same_name = _sensor_name("CAM", calibration) == name
        contradicts = len(frames) == 2 and None not in frames
        if same_place or same_frame or same_name or (above and namespace and not contradicts):
            found.append((not same_place, not same_frame, not same_name, -above * len(namespace), calibration))
    return min(found)[-1] if found else None


def _reference(rig: Rig, topics: Mapping[str, Topic]) -> str:
    """The LiDAR on top or with the most messages; else the camera, else the radar, that looks ahead."""
    if rig.lidars:
        return min(rig.lidars, key=lambda n: ("top" not in words(n), -(topics[rig.lidars[n].cloud].count or 0), n))
    return min(rig.cameras or rig.radars, key=lambda n: ("front" not in words(n), len(n), n), default="")
