"""Configuration: these dataclasses define all defaults; a YAML file lists only the differences.

``load_config("configs/sim.yaml", ["train.epochs=3"])`` merges the defaults, the file and the dotted overrides, in this
order. Unknown keys (the message names the closest valid one) and values of the wrong type are errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from perception.errors import PerceptionError
from perception.files import write_file
from perception.task import Task, TaskError


class ConfigError(PerceptionError):
    """An unknown key, or a value of the wrong type or outside its valid range."""


@dataclass
class GridConfig:
    """Region and cell size of the BEV grid on which sensors are fused, in the ego frame."""

    x_min_m: float = -51.2
    x_max_m: float = 51.2
    y_min_m: float = -51.2
    y_max_m: float = 51.2
    z_min_m: float = -5.0
    z_max_m: float = 3.0
    cell_size_m: float = 0.8


@dataclass
class EncoderConfig:
    """Common to all encoder sections. kind: a key of ENCODERS; by default that of the sensor's name."""

    kind: str = "own"  # a custom encoder, passed to ``build``


@dataclass
class CameraConfig(EncoderConfig):
    kind: str = "camera"
    image_size: list[int] = field(default_factory=lambda: [128, 352])  # height, width of the network input
    backbone: Literal["efficientnet_lite0", "resnet50"] = "efficientnet_lite0"
    weights: str = "imagenet"  # "imagenet": those shipped with the backbone; "none"; or a local folder (resnet50)
    channels: int = 64
    depth_min_m: float = 1.0
    depth_max_m: float = 61.0
    depth_bins: int = 48
    depth_from: str | None = "lidar"  # sensor whose points supervise depth


@dataclass
class RadarConfig(EncoderConfig):
    kind: str = "radar"
    point_channels: int = 32


@dataclass
class LidarConfig(EncoderConfig):
    kind: str = "lidar"
    pillar_size_m: float = 0.4  # the grid's cell size divided by a power of two
    point_channels: int = 32


ENCODERS: dict[str, type[EncoderConfig]] = {
    "camera": CameraConfig,
    "radar": RadarConfig,
    "lidar": LidarConfig,
    "own": EncoderConfig,
}


@dataclass
class FusionConfig:
    kind: Literal["attention", "concat", "average"] = "attention"
    channels: int = 64  # of each sensor's BEV features and of the fused features
    heads: int = 4
    neighbourhood: int = 3  # side of the attention window in cells, odd
    registration: bool = True  # attention only: align the sensors with each other before attention


@dataclass
class HeadConfig:
    trunk_channels: list[int] = field(default_factory=lambda: [64, 128, 192])  # at strides 1, 2, 4 of the grid
    channels: int = 64
    max_detections: int = 300
    score_threshold: float = 0.02


@dataclass
class DataConfig:
    root: str = "data/sim"
    version: str | None = None  # None: the only version under root
    split: str | None = None  # None and no scenes: every scene under root
    scenes: list[str] = field(default_factory=list)
    part: list[float] = field(default_factory=lambda: [0.0, 1.0])  # fraction of each scene to use: start, end
    lidar_sweeps: int = 10
    radar_sweeps: int = 6
    on_error: Literal["raise", "skip"] = "raise"  # on a damaged file: stop, or skip its frame
    workers: int = 1
    cache: bool = False  # keep frames in memory, with images reduced to training size


@dataclass
class AugmentConfig:
    flip: bool = True  # mirror the world left to right
    rotate_deg: float = 22.5
    scale: float = 0.05
    translate_m: float = 0.5
    image_scale: float = 0.1  # relative zoom in either direction
    image_color: float = 0.2  # brightness and contrast
    corruption_rate: float = 0.0  # probability per sensor and frame of one of ``data.corruptions``


@dataclass
class TrainConfig:
    epochs: int = 12
    batch_size: int = 4  # per process
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4  # for pretrained image backbones
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    ema_decay: float = 0.998
    amp: bool = True  # bfloat16, if the hardware supports it
    init: str | None = None  # checkpoint to initialise weights of the same name and shape from
    freeze: list[str] = field(default_factory=list)  # modules that are not trained, such as encoders.camera
    sensor_dropout: float = 0.5  # probability that a batch uses fewer sensors than available
    dropout_to: Literal["subset", "single"] = "subset"  # a random proper subset, or a single sensor
    depth_weight: float = 1.0
    registration_weight: float = 1.0
    checkpoint_minutes: float = 5.0
    seed: int = 0


@dataclass
class Config:
    """encoders: sensor -> encoder, in the order of every axis of sensors; a file removes one with ``radar: null``.

    own_parts: custom parts that ``build`` was given; set by ``build``.
    """

    task: Task = field(default_factory=Task)
    grid: GridConfig = field(default_factory=GridConfig)
    encoders: dict[str, EncoderConfig | None] = field(
        default_factory=lambda: {"camera": CameraConfig(), "radar": RadarConfig(), "lidar": LidarConfig()}
    )
    fusion: FusionConfig = field(default_factory=FusionConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    own_parts: list[str] = field(default_factory=list)


Schema = TypeVar("Schema")
Part = TypeVar("Part")
_FIRST = tuple(Config().encoders)


def ordered(by_sensor: Mapping[str, Part]) -> dict[str, Part]:
    """Sorted in the order of every axis of sensors: camera, radar, lidar, then the others by name.

    Checkpoints store weights in this order, so it must not depend on the order of keys in a config.
    """
    names = sorted(by_sensor, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return {name: by_sensor[name] for name in names}


def find_config(name: str | Path) -> Path:
    """The file of a config, given a path or a shipped name: ``sim``, ``sim.yaml`` or ``configs/sim.yaml``.

    Raises:
        ConfigError: no such config; the message lists the shipped names.
    """
    if Path(name).is_file():
        return Path(name)
    package = Path(__file__).parent  # the configs are inside the package in a wheel, next to it in a checkout
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    try:
        return shipped[str(name).removeprefix("configs/").removesuffix(".yaml")]
    except KeyError:
        message = f"config '{name}': a YAML file, or a shipped name ({', '.join(shipped)}), was expected"
        raise ConfigError(message) from None


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Defaults, then the YAML file or shipped config (``"sim"``), then ``key.sub=value`` overrides.

    Raises:
        ConfigError: a file that cannot be read, an unknown key (the message names the closest valid one), a value of
            the wrong type, or an invalid value.
    """
    path = None if path is None else find_config(path)
    resolved = load_yaml(Config, path, overrides)
    resolved.encoders = ordered({name: section for name, section in resolved.encoders.items() if section is not None})
    _check(resolved, str(path) if path is not None else "config")
    return resolved


def load_yaml(
    schema: type[Schema], path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()
) -> Schema:
    """:func:`load_config` for any dataclass with defaults.

    Raises:
        ConfigError: as in :func:`load_config`, except that values of the right type are not validated.
    """
    config = OmegaConf.structured(schema)
    OmegaConf.set_struct(config, True)
    if path is not None:
        try:
            loaded = OmegaConf.load(Path(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot read the config: {error}") from None
        except Exception as error:  # the YAML parser raises many exception types
            raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        config = _merge(config, loaded, str(path))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override '{override}': key=value was expected, such as train.epochs=3")
        try:
            parsed = OmegaConf.from_dotlist([override])
        except Exception as error:
            raise ConfigError(f"override '{override}': cannot be parsed: {' '.join(str(error).split())}") from None
        config = _merge(config, parsed, f"override '{override}'")
    try:
        resolved: Any = OmegaConf.to_object(config)
        return resolved
    except TaskError as error:
        raise ConfigError(f"{path or 'config'}: {error}") from None
    except OmegaConfBaseException as error:  # a class of the task without a name
        raise ConfigError(f"{path or 'config'}: {str(error).splitlines()[0]}") from None


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved config with all keys, to document how a result was produced."""
    write_file(Path(path), to_yaml(config).encode())


def to_yaml(config: Config) -> str:
    """The text that :func:`save_config` writes. Default sensors that ``config`` does not have are null."""
    encoders = {**dict.fromkeys(_FIRST), **config.encoders}
    return OmegaConf.to_yaml(OmegaConf.structured(replace(config, encoders=encoders)))


def _merge(config: Any, loaded: Any, where: str) -> Any:
    if "encoders" in config and OmegaConf.is_dict(loaded):
        loaded = _upgraded(loaded)
        _add_encoders(config, loaded, where)
    valid = _keys(OmegaConf.to_container(config))
    found = _keys(OmegaConf.to_container(loaded)) if OmegaConf.is_dict(loaded) else None
    if found is None:
        raise ConfigError(f"{where}: a mapping of keys was expected")
    for key in found:
        if key not in valid:
            closest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}: unknown key '{key}'; the closest valid key is '{closest}'")
    sections: Any = OmegaConf.to_container(config)
    values: Any = OmegaConf.to_container(loaded)
    for section, value in values.items():
        if isinstance(sections[section], dict) and not isinstance(value, dict):
            raise ConfigError(f"{where}: '{section}' wants keys of its own, found {value!r}")
    try:
        OmegaConf.to_container(loaded, resolve=True, throw_on_missing=True)
        return OmegaConf.merge(config, loaded)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]} (key '{error.full_key}')") from None


def _add_encoders(config: Any, loaded: Any, where: str) -> None:
    """Add to ``config`` a section of the right kind for each encoder that ``loaded`` adds, or whose kind it changes."""
    encoders = loaded.get("encoders")
    for name, section in encoders.items() if OmegaConf.is_dict(encoders) else ():
        present = config.encoders.get(name)
        kind = section.get("kind") if OmegaConf.is_dict(section) else None
        kind = kind or (present.kind if present is not None else name if name in ENCODERS else None)
        if kind not in ENCODERS:
            raise ConfigError(
                f"{where}: encoders.{name}: a kind of {', '.join(ENCODERS)} was expected, found {kind or 'none'}"
            )
        if section is not None and (present is None or present.kind != kind):
            with open_dict(config):
                config.encoders[name] = OmegaConf.structured(ENCODERS[kind])


def _upgraded(loaded: Any) -> Any:
    """Convert configs of version 0.1: top-level sections for the three sensors, and old names of a few keys."""
    old = [name for name in ("camera", "radar", "lidar") if name in loaded]
    container: Any = OmegaConf.to_container(loaded)
    for name in old:
        container["encoders"] = {**(container.get("encoders") or {}), name: container.pop(name)}
    augment = container.get("augment")
    if isinstance(augment, dict) and "fault_rate" in augment:
        augment["corruption_rate"] = augment.pop("fault_rate")
    train = container.get("train")
    if isinstance(train, dict) and isinstance(train.get("freeze"), list):
        names = {"camera": "encoders.camera.image", "view_transform": "encoders.camera.view_transform"}
        names |= {"radar": "encoders.radar", "lidar": "encoders.lidar", "head": "heads.boxes"}
        train["freeze"] = [names.get(name, name) for name in train["freeze"]]
    return OmegaConf.create(container)


def _check(config: Config, where: str) -> None:
    """Validate constraints that types cannot express."""
    head, data, train = config.head, config.data, config.train
    checks = [
        ("encoders", len(config.encoders) >= 1, "at least one sensor"),
        ("fusion.heads", config.fusion.heads >= 1, "at least 1"),
        ("fusion.channels", config.fusion.channels >= 1, "at least 1"),
        ("head.channels", head.channels >= 1, "at least 1"),
        ("head.trunk_channels", head.trunk_channels and min(head.trunk_channels) >= 1, "one width or more, at least 1"),
        ("head.max_detections", 1 <= head.max_detections <= 500, "1 to 500, the most that nuScenes takes"),
        ("data.lidar_sweeps, data.radar_sweeps", min(data.lidar_sweeps, data.radar_sweeps) >= 1, "at least 1"),
        ("data.part", len(data.part) == 2, "two shares"),
        ("data.workers", data.workers >= 0, "0 or more"),
        ("train.epochs, train.batch_size", min(train.epochs, train.batch_size) >= 1, "at least 1"),
        ("train.sensor_dropout", 0 <= train.sensor_dropout <= 1, "a probability"),
        ("train.ema_decay", 0 <= train.ema_decay < 1, "0 or more, below 1"),
        ("train.learning_rate", train.learning_rate > 0 and train.backbone_learning_rate >= 0, "more than 0"),
    ]
    for name, encoder in config.encoders.items():
        checks += [(f"encoders.{name}.{key}", *rest) for key, *rest in _encoder_checks(encoder)]
    for key, holds, wanted in checks:
        if not holds:
            raise ConfigError(f"{where}: {key}: {wanted} was expected, found {_found(config, key)}")


def _encoder_checks(encoder: EncoderConfig | None) -> list[tuple]:
    if isinstance(encoder, CameraConfig):
        sides = encoder.image_size
        return [
            ("image_size", len(sides) == 2 and all(s > 0 and s % 16 == 0 for s in sides), "two multiples of 16"),
            ("channels", encoder.channels >= 1, "at least 1"),
            ("depth_bins", encoder.depth_bins >= 1, "at least 1"),
            ("depth_max_m", encoder.depth_max_m > encoder.depth_min_m > 0, "more than depth_min_m, above 0"),
        ]
    if isinstance(encoder, LidarConfig):
        pillars = ("pillar_size_m", encoder.pillar_size_m > 0, "more than 0")
        return [pillars, ("point_channels", encoder.point_channels >= 1, "at least 1")]
    return [("point_channels", encoder.point_channels >= 1, "at least 1")] if isinstance(encoder, RadarConfig) else []


def _found(config: Config, keys: str) -> str:
    return ", ".join(str(_value(config, key)) for key in keys.split(", "))


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def _keys(container: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in container.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys
