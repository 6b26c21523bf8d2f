"""Configuration: these dataclasses hold every default, a YAML file holds differences only.

``load_config("configs/sim.yaml", ["train.epochs=3"])`` merges, in this order, the defaults, the file and the dotted
overrides. An unknown key or a value of the wrong type is an error that names the closest valid key.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perception.errors import PerceptionError


class ConfigError(PerceptionError):
    """A key that does not exist or a value of the wrong type."""


@dataclass
class GridConfig:
    """Region and cell size of the BEV on which sensors are fused; the one place where they stand."""

    x_min_m: float = -51.2
    x_max_m: float = 51.2
    y_min_m: float = -51.2
    y_max_m: float = 51.2
    z_min_m: float = -5.0
    z_max_m: float = 3.0
    cell_size_m: float = 0.8


@dataclass
class CameraConfig:
    image_size: list[int] = field(default_factory=lambda: [128, 352])  # height, width the network sees
    backbone: Literal["efficientnet_lite0", "resnet50"] = "efficientnet_lite0"
    weights: str = "imagenet"  # "imagenet": what the backbone's package ships; "none"; or a local folder (resnet50)
    channels: int = 64
    depth_min_m: float = 1.0
    depth_max_m: float = 61.0
    depth_bins: int = 48


@dataclass
class LidarConfig:
    pillar_size_m: float = 0.4  # the grid's cell size divided by a power of two
    point_channels: int = 32


@dataclass
class RadarConfig:
    point_channels: int = 32


@dataclass
class FusionConfig:
    kind: Literal["attention", "concat", "average"] = "attention"
    channels: int = 64  # of every sensor's BEV features, and of the fused ones
    heads: int = 4
    neighbourhood: int = 3  # side of the window of cells each query looks at, odd
    registration: bool = True  # attention only: sensors are brought into line before they are attended to


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
    part: list[float] = field(default_factory=lambda: [0.0, 1.0])  # of each scene, from where to where
    lidar_sweeps: int = 10
    radar_sweeps: int = 6
    on_error: Literal["raise", "skip"] = "raise"  # what a damaged file does: end the training, or cost its frame
    workers: int = 1
    cache: bool = False  # keep frames in memory once read, their images as small as training allows


@dataclass
class AugmentConfig:
    flip: bool = True  # mirror the world left to right
    rotate_deg: float = 22.5
    scale: float = 0.05
    translate_m: float = 0.5
    image_scale: float = 0.1  # relative zoom in either direction
    image_color: float = 0.2  # brightness and contrast
    fault_rate: float = 0.0  # chance that a sensor of a frame is trained with a fault of ``data.faults``


@dataclass
class TrainConfig:
    epochs: int = 12
    batch_size: int = 4  # of each process
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4  # of the pretrained image backbone
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    ema_decay: float = 0.998
    amp: bool = True  # bfloat16 where the device has it in hardware
    init: str | None = None  # a checkpoint whose weights of the same name and shape training starts from
    freeze: list[str] = field(default_factory=list)  # parts of the detector that are not trained, such as camera
    sensor_dropout: float = 0.5  # chance that a batch is trained with fewer sensors than there are
    dropout_to: Literal["subset", "single"] = "subset"  # one of the six proper subsets, or one sensor alone
    depth_weight: float = 1.0
    registration_weight: float = 1.0
    checkpoint_minutes: float = 5.0
    seed: int = 0


@dataclass
class Config:
    grid: GridConfig = field(default_factory=GridConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    lidar: LidarConfig = field(default_factory=LidarConfig)
    radar: RadarConfig = field(default_factory=RadarConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


Schema = TypeVar("Schema")


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Defaults, then the YAML file, then ``key.sub=value`` overrides.

    Raises:
        ConfigError: a file that cannot be read, an unknown key (named with the closest valid one), a wrong type, or a
            value that nothing can be built of.
    """
    resolved = load_yaml(Config, path, overrides)
    _check(resolved, str(path) if path is not None else "config")
    return resolved


def load_yaml(
    schema: type[Schema], path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()
) -> Schema:
    """:func:`load_config` for any dataclass whose defaults a file may change.

    Raises:
        ConfigError: as there, but for values of the right type that make no sense.
    """
    config = OmegaConf.structured(schema)
    OmegaConf.set_struct(config, True)
    if path is not None:
        try:
            loaded = OmegaConf.load(Path(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot read the config: {error}") from None
        except Exception as error:  # the YAML parser has a dozen exception types of its own
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
    return OmegaConf.to_object(config)


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved config, every key included, so that a result tells how it was made."""
    Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def _merge(config, loaded, where: str):
    valid = _keys(OmegaConf.to_container(config))
    found = _keys(OmegaConf.to_container(loaded)) if OmegaConf.is_dict(loaded) else None
    if found is None:
        raise ConfigError(f"{where}: a mapping of keys was expected")
    for key in found:
        if key not in valid:
            closest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}: unknown key '{key}'; the closest valid key is '{closest}'")
    sections = OmegaConf.to_container(config)
    for section, value in OmegaConf.to_container(loaded).items():
        if isinstance(sections[section], dict) and not isinstance(value, dict):
            raise ConfigError(f"{where}: '{section}' wants keys of its own, found {value!r}")
    try:
        OmegaConf.to_container(loaded, resolve=True, throw_on_missing=True)
        return OmegaConf.merge(config, loaded)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]} (key '{error.full_key}')") from None


def _check(config: Config, where: str) -> None:
    """What types cannot say."""
    camera, lidar, head, data, train = config.camera, config.lidar, config.head, config.data, config.train
    widths = (camera.channels, lidar.point_channels, config.radar.point_channels, config.fusion.channels, head.channels)
    sides = camera.image_size
    for key, holds, wanted in (
        ("camera.image_size", len(sides) == 2 and all(s > 0 and s % 16 == 0 for s in sides), "two multiples of 16"),
        ("camera.depth_bins", camera.depth_bins >= 1, "at least 1"),
        ("camera.depth_max_m", camera.depth_max_m > camera.depth_min_m > 0, "more than camera.depth_min_m, above 0"),
        ("lidar.pillar_size_m", lidar.pillar_size_m > 0, "more than 0"),
        ("fusion.heads", config.fusion.heads >= 1, "at least 1"),
        ("channels", min(widths) >= 1, "at least 1 of every sensor, the fusion and the head"),
        ("head.trunk_channels", head.trunk_channels and min(head.trunk_channels) >= 1, "one width or more, at least 1"),
        ("head.max_detections", 1 <= head.max_detections <= 500, "1 to 500, the most that nuScenes takes"),
        ("data.lidar_sweeps, data.radar_sweeps", min(data.lidar_sweeps, data.radar_sweeps) >= 1, "at least 1"),
        ("data.part", len(data.part) == 2, "two shares"),
        ("data.workers", data.workers >= 0, "0 or more"),
        ("train.epochs, train.batch_size", min(train.epochs, train.batch_size) >= 1, "at least 1"),
        ("train.sensor_dropout", 0 <= train.sensor_dropout <= 1, "a probability"),
        ("train.ema_decay", 0 <= train.ema_decay < 1, "0 or more, below 1"),
        ("train.learning_rate", train.learning_rate > 0 and train.backbone_learning_rate >= 0, "more than 0"),
    ):
        if not holds:
            raise ConfigError(f"{where}: {key}: {wanted} was expected, found {_found(config, key)}")


def _found(config: Config, keys: str) -> str:
    found = []
    for key in keys.split(", "):
        section, _, name = key.partition(".")
        found.append(str(getattr(getattr(config, section), name)) if name else "less")
    return ", ".join(found)


def _keys(container, prefix: str = "") -> list[str]:
    keys = []
    for key, value in container.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys
