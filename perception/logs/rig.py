"""The rig: which topics of a log are which sensors, and the frames that they are mounted in.

A YAML file, keys as the dataclasses below:

    world_frame: map            # null: the vehicle stands still, no pose is looked up
    ego_frame: base_link
    reference: LIDAR_TOP        # the sensor whose measurements make frames where the log has no sample marks
    samples: /sample            # topic of the marks; may be left out
    cameras:
      CAM_FRONT: {image: /cam_front/image_rect_compressed, calibration: /cam_front/camera_info}
    lidars:
      LIDAR_TOP: {cloud: /lidar_top}
    radars:
      RADAR_FRONT: {cloud: /radar_front}

Where the log has no transforms from the ego frame to the world frame, ``ego_pose: {odometry: /odom}`` or
``ego_pose: {fix: /gps/fix, imu: /imu/data}`` names topics that say where it is.

The ego frame must be what the detector was trained with: x forward, y left, z up, origin on the ground below the rear
axle. A log whose base_link lies elsewhere wants a frame that does not, or mounts that say so.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from perception.plain_yaml import ConfigError, literal, read_yaml, reference_escaped

_LARGEST_OFFSET_S = 1e10  # a clock that counts from its start is off by the time since 1970
_LARGEST_AGE_S = 10.0  # measurements are kept for so long


@dataclass
class Mount:
    """Where a sensor is, for logs without its transform. ego_SE3_sensor: x, y, z in metres, then w, x, y, z."""

    frame_id: str | None = None  # instead of the one that the messages name
    ego_SE3_sensor: list[float] | None = None  # instead of the log's transforms
    offset_s: float = 0.0  # added to the time stamps of a sensor whose clock is off
    max_age_s: float | None = None  # how old a measurement in a frame may be; None: what the assembly says

    @property
    def offset_ns(self) -> int:
        return round(1e9 * self.offset_s)


@dataclass
class CameraSource(Mount):
    image: str = "???"
    calibration: str | None = None  # a CameraInfo topic; None: ``intrinsics`` says it
    intrinsics: list[float] | None = None  # fx, fy, cx, cy in pixels, of an image without distortion
    rectified: bool | None = None  # None: by the topic's name, image_rect...

    @property
    def topic(self) -> str:
        return self.image

    @property
    def is_rectified(self) -> bool:
        """Whether the image has no distortion: as given, else by the topic's name."""
        return is_rectified(self.image) if self.rectified is None else self.rectified


@dataclass
class CloudSource(Mount):
    cloud: str = "???"
    intensity_max: float | None = None  # LiDAR: what counts as 255; None: told by the first sweeps

    @property
    def topic(self) -> str:
        return self.cloud


@dataclass
class PoseSource:
    """Topics that say where the vehicle is, instead of the log's transforms: see ``ego_pose.py``."""

    odometry: str | None = None  # of Odometry, PoseStamped, PoseInFrame, ...
    fix: str | None = None  # of NavSatFix, LocationFix; with an imu
    imu: str | None = None  # of Imu with an orientation

    @property
    def topics(self) -> list[str]:
        return [topic for topic in (self.odometry, self.fix, self.imu) if topic is not None]


@dataclass
class Rig:
    world_frame: str | None = "map"
    ego_frame: str = "base_link"
    reference: str = ""
    samples: str | None = None
    cameras: dict[str, CameraSource] = field(default_factory=dict)
    lidars: dict[str, CloudSource] = field(default_factory=dict)
    radars: dict[str, CloudSource] = field(default_factory=dict)
    ego_pose: PoseSource | None = None  # None: the log's transforms from ego_frame to world_frame

    @property
    def sensors(self) -> dict[str, CameraSource | CloudSource]:
        """Name -> source: cameras, LiDARs, radars."""
        return {**self.cameras, **self.lidars, **self.radars}

    @property
    def offsets_ns(self) -> dict[str, int]:
        """Topic -> what is to be added to its stamps: of sensors whose clocks are off, and of their calibrations."""
        off = [source for source in self.sensors.values() if source.offset_ns]
        calibrations = {source.calibration: source.offset_ns for source in off if isinstance(source, CameraSource)}
        return {topic: ns for topic, ns in calibrations.items() if topic} | {s.topic: s.offset_ns for s in off}


def load_rig(path: str | Path) -> Rig:
    """A rig from its file.

    Raises:
        ConfigError: a file that cannot be read, an unknown key (named with the closest valid one), a wrong type, or a
            value that makes no sense, such as a reference that is no sensor.
    """
    loaded = read_yaml(Path(path), "rig")
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a mapping of keys was expected")
    for key in ("cameras", "lidars", "radars"):
        if isinstance(loaded.get(key), list):
            raise ConfigError(f"{path}: {key}: sensors by name were expected, found a list")
    try:
        rig = cast(Rig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Rig), literal(loaded))))
    except ConfigKeyError as error:
        owner = error.object_type
        valid = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        closest = difflib.get_close_matches(str(error.key), valid, n=1, cutoff=0.0)
        hint = f"; the closest valid key is '{closest[0]}'" if closest else ": names of sensors were expected"
        raise ConfigError(f"{path}: unknown key '{error.full_key}'{hint}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]} (key '{error.full_key}')") from None
    check_rig(rig, str(path))
    return rig


def check_rig(rig: Rig, where: str) -> None:
    """Check what the types do not.

    Raises:
        ConfigError: ``where``, then the key, what was expected and what was found.
    """
    sensors = [(kind, name) for kind in ("cameras", "lidars", "radars") for name in getattr(rig, kind)]
    names = [name for _, name in sensors]
    if not names:
        raise ConfigError(f"{where}: a sensor in cameras, lidars or radars was expected, found none")
    for i, (kind, name) in enumerate(sensors):
        key = f"{kind}.{name}"
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ConfigError(f"{where}: {key}: a name of letters, digits, '_', '.', '-' was expected, found {name!r}")
        if name in names[:i]:
            raise ConfigError(f"{where}: {key}: a name of its own was expected, found a second {name}")
        _check_source(getattr(rig, kind)[name], f"{where}: {key}")
    topics = [source.topic for source in rig.sensors.values()]
    for name, topic in zip(names, topics):
        if topics.count(topic) > 1:
            raise ConfigError(f"{where}: {name}: a topic of its own was expected, found {topic} of two sensors")
    if rig.ego_pose is not None:
        given = [f.name for f in dataclasses.fields(PoseSource) if getattr(rig.ego_pose, f.name) is not None]
        if given not in (["odometry"], ["fix", "imu"]):
            found = ", ".join(given) or "nothing"
            raise ConfigError(f"{where}: ego_pose: odometry, or fix and imu, were expected, found {found}")
        if rig.world_frame is None:
            raise ConfigError(f"{where}: world_frame: a name was expected beside ego_pose, found null: it stands still")
    if rig.reference not in names and (rig.reference or rig.samples is None):
        closest = difflib.get_close_matches(rig.reference, names, n=1, cutoff=0.0)
        hint = f"; the closest is '{closest[0]}'" if closest else ""
        raise ConfigError(f"{where}: reference: the name of a sensor was expected, found '{rig.reference}'{hint}")


def _check_source(source: CameraSource | CloudSource, where: str) -> None:
    if source.ego_SE3_sensor is not None:
        pose = _numbers(source.ego_SE3_sensor, 7, "x, y, z, then a quaternion w, x, y, z", f"{where}.ego_SE3_sensor")
        if abs(math.hypot(*pose[3:]) - 1) > 1e-2:
            raise ConfigError(f"{where}.ego_SE3_sensor: a unit quaternion w, x, y, z was expected, found {pose[3:]}")
    if not abs(source.offset_s) < _LARGEST_OFFSET_S:
        raise ConfigError(f"{where}.offset_s: seconds that its clock is off were expected, found {source.offset_s}")
    age_s = source.max_age_s
    if age_s is not None and not 0 <= age_s < _LARGEST_AGE_S:
        raise ConfigError(f"{where}.max_age_s: 0 to {_LARGEST_AGE_S:g} s were expected, found {age_s}")
    if isinstance(source, CloudSource):
        most = source.intensity_max
        if most is not None and not 0 < most < math.inf:
            raise ConfigError(f"{where}.intensity_max: more than 0 was expected, found {most}")
        return
    if (source.calibration is None) == (source.intrinsics is None):
        found = "neither" if source.intrinsics is None else "both"
        raise ConfigError(f"{where}: a calibration topic or intrinsics were expected, found {found}")
    if source.intrinsics is not None:
        pinhole = _numbers(source.intrinsics, 4, "fx, fy, cx, cy", f"{where}.intrinsics")
        if min(pinhole[:2]) <= 0:
            raise ConfigError(f"{where}.intrinsics: fx, fy above 0 were expected, found {pinhole[:2]}")


def _numbers(values: list[float], count: int, meaning: str, where: str) -> list[float]:
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise ConfigError(f"{where}: {count} finite numbers, {meaning}, were expected, found {list(values)}")
    return values


def to_yaml(rig: Rig) -> str:
    """What :func:`load_rig` reads the same rig from; values that are defaults are left out."""
    return yaml.dump(_differences(rig), Dumper=_Dumper, default_flow_style=None, sort_keys=False, width=120)


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are free of distortion: image_rect, rectified, ..."""
    return any(word.startswith("rect") for word in re.findall(r"[a-z0-9]+", topic.lower()))


def _differences(value):
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, f.default, getattr(value, f.name)) for f in _topics_first(value))
        return {name: _differences(new) for name, default, new in pairs if new not in (default, {})}
    return {name: _differences(new) for name, new in value.items()} if isinstance(value, dict) else value


def _topics_first(value) -> list[dataclasses.Field]:
    """The fields, topics before what a sensor shares with all others."""
    mount = {f.name for f in dataclasses.fields(Mount)}
    return sorted(dataclasses.fields(value), key=lambda f: f.name in mount)


class _Dumper(yaml.SafeDumper):
    """Texts that YAML would take for numbers or for references to other keys stay texts."""

    def represent_text(self, text: str):
        return self.represent_scalar(
            "tag:yaml.org,2002:str", reference_escaped(text), style="'" if re.match(r"[-+.\d]", text) else None
        )


_Dumper.add_representer(str, _Dumper.represent_text)
