"""What a config holds: these dataclasses define all keys, their types and defaults, and which values make sense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from perception.plain_yaml import ConfigError
from perception.task import Task

_MAX_WIDTH, _MAX_SIDE_PX = 4096, 8192  # of layers and images: more takes more memory than a machine has


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
    backbone: Literal["efficientnet_lite0", "resnet50", "swin_t"] = "efficientnet_lite0"
    weights: str = "imagenet"  # "imagenet": of efficientnet_lite0; "none"; or, for the others, a local folder
    channels: int = 64
    depth_min_m: float = 1.0
    depth_max_m: float = 61.0
    depth_bins: int = 48
    depth_from: str | None = "lidar"  # sensor whose points supervise depth
    depth_network: Literal["focal", "calibrated"] = "focal"  # knows the focal length, or intrinsics, tilt and height


@dataclass
class RadarConfig(EncoderConfig):
    kind: str = "radar"
    point_channels: int = 32
    moved: bool = False  # old returns by velocity times age
    direction: bool = False  # of the beam and the speed along it, as features of a point


@dataclass
class LidarConfig(EncoderConfig):
    kind: str = "lidar"
    pillar_size_m: float = 0.4  # the grid's cell size divided by a power of two
    point_channels: int = 32
    blocks: list[int] = field(default_factory=lambda: [1])  # residual, at the grid's cell size and each coarser level
    fine_blocks: int = 0  # residual, at each cell size between the pillars' and the grid's


@dataclass
class VoxelConfig(EncoderConfig):
    """The other encoder of LiDAR: sparse 3D convolutions, for small voxels."""

    kind: str = "lidar_voxels"
    voxel_size_m: float = 0.2  # x, y: the grid's cell size halved by every width but the first
    voxel_height_m: float = 0.25  # the grid's height divided by a whole number
    widths: list[int] = field(default_factory=lambda: [16, 32, 64])  # at strides 1, 2, 4, ... of the voxels
    blocks: int = 1  # residual, at each stride


@dataclass
class ImportedConfig(EncoderConfig):
    """The LiDAR of an imported CenterPoint, whose fusion, trunk and head are those of the published model; of the other
    sections count ``task``, ``grid`` (the head's cells, in the LiDAR frame), ``data``, and ``head`` without its widths
    and ``min_radius``.
    """

    kind: str = "imported_centerpoint"
    source: Literal["mmdet3d", "openpcdet"] = "mmdet3d"
    # Pose (x, y, z in metres, quaternion w, x, y, z) in the ego frame of the LiDAR that the weights were trained with:
    # LIDAR_TOP of nuScenes as it is mounted on the car of Boston, 1.84 m above the ground and not quite upright.
    ego_SE3_lidar: list[float] = field(
        default_factory=lambda: [0.985793, 0.0, 1.84019, 0.7067492, -0.0153010, 0.0173975, -0.7070847]
    )
    max_overlap: float | None = None  # of two boxes of a group, see model.imported_boxes; None: centres tell them apart


ENCODERS: dict[str, type[EncoderConfig]] = {
    "camera": CameraConfig,
    "radar": RadarConfig,
    "lidar": LidarConfig,
    "lidar_voxels": VoxelConfig,
    "imported_centerpoint": ImportedConfig,
    "own": EncoderConfig,
}


@dataclass
class FusionConfig:
    kind: Literal["attention", "concat", "average"] = "attention"
    channels: int = 64  # of each sensor's BEV features and of the fused features
    heads: int = 4
    neighbourhood: int = 3  # side of the attention window in cells, odd
    width: int | None = None  # attention only: channels of queries, keys and values; None: as many as ``channels``
    registration: bool = True  # attention only: align the sensors with each other before attention
    pooled_descriptors: bool = False  # registration only: descriptors of features at half the resolution, for a fourth


@dataclass
class HeadConfig:
    trunk_channels: list[int] = field(default_factory=lambda: [64, 128, 192])  # at strides 1, 2, 4 of the grid
    channels: int = 64
    max_detections: int = 300
    score_threshold: float = 0.02
    min_radius: int = 1  # cells; of the Gaussian around a centre that the heat map is trained on
    groups: list[list[str]] = field(default_factory=list)  # classes that share a branch; none: all share one


@dataclass
class DecoderConfig:
    """The object decoder behind the dense head. kind: "none" takes the head's own boxes; "pooling" is a baseline."""

    kind: Literal["none", "attention", "pooling"] = "none"
    layers: int = 2
    queries: int = 200  # objects of a frame, at most
    width: int = 64
    heads: int = 4
    memory: int = 0  # objects of a frame that the next one remembers; 0 for none
    sensor_tokens: bool = True  # whether objects look at the sensors, or at the fused features alone


@dataclass
class DataConfig:
    root: str = "data/sim"  # or where shards are, also a URL
    version: str | None = None  # None: the only version under root
    split: str | None = None  # None and no scenes: every scene under root
    scenes: list[str] = field(default_factory=list)
    part: list[float] = field(default_factory=lambda: [0.0, 1.0])  # fraction of each scene to use: start, end
    lidar_sweeps: int = 10
    radar_sweeps: int = 6
    radar_filter: bool = True  # without returns that the radar itself holds for invalid or ambiguous
    on_error: Literal["raise", "skip"] = "raise"  # on a damaged file: stop, or skip its frame
    workers: int = 1
    cache: bool = False  # keep frames, with images reduced to training size, in a temporary folder
    objects: str | None = None  # file of objects to paste, as ``perception objects`` writes it


@dataclass
class AugmentConfig:
    flip: bool = True  # mirror the world left to right
    rotate_deg: float = 22.5
    scale: float = 0.05
    translate_m: float = 0.5
    image_scale: float = 0.1  # relative zoom in either direction
    image_color: float = 0.2  # brightness and contrast
    flip_back: bool = False  # mirror the world front to back, too
    paste: dict[str, int] = field(
        default_factory=dict
    )  # class -> objects that a frame is made up to, from data.objects
    paste_points: int = 5  # LiDAR and radar points that a pasted object has at least
    corruption_rate: float = 0.0  # probability per sensor and frame of one of ``data.corruptions``
    image_rotate_deg: float = 0.0  # every image by itself, about its centre, in either direction
    image_flip: bool = False  # mirror images by themselves, besides those that ``flip`` mirrors with the world
    sweep_dropout: float = 0.0  # probability that a cloud has the newest of its sweeps only, however many
    intensity_scale: float = 0.0  # relative change of all intensities of a cloud, in either direction


@dataclass
class TrainConfig:
    epochs: int = 12
    finish_epochs: int = 0  # the last ones, as the vehicle will see it: nothing pasted, and no sensor left out
    balanced: bool = False  # frames are drawn so that every class has an equal share of them
    batch_size: int = 4  # frames that go through the network together
    batches_per_step: int | None = None  # batches whose gradients are averaged, over all processes; None: one of each
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4  # for pretrained image backbones
    reference_frames: int | None = None  # frames of a step that both rates are for: others scale them by a square root
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    ema_decay: float = 0.998
    amp: bool = True  # bfloat16, if the hardware supports it
    checkpointing: bool = False  # image backbones compute features twice rather than keep them: slower, less memory
    init: list[str] = field(default_factory=list)  # checkpoints whose fitting weights are taken over, in turn
    freeze: list[str] = field(default_factory=list)  # modules that are not trained, such as encoders.camera
    sensor_dropout: float = 0.5  # probability that a batch uses fewer sensors than available
    dropout_to: Literal["subset", "single"] = "subset"  # a random proper subset, or a single sensor
    clip: int = 1  # frames of a scene that are seen one after the other, for a decoder with a memory
    memory_dropout: float = 0.3  # probability that a batch has nothing to remember all the same
    depth_weight: float = 1.0
    image_weight: float = 0.0  # of a heat map of the objects in the images; 0: without the head that makes it
    registration_weight: float = 1.0
    checkpoint_minutes: float = 5.0
    keep_epochs: int = 0  # of so many last epochs the averaged weights are kept, each in a folder of its own
    seed: int = 0
    layer_decay: float = 1.0  # of backbone_learning_rate, from each block of an image backbone to the one before it
    shuffle_shards: int = 8  # so many shards at a time are read in an order of their frames that mixes them


@dataclass
class ValidationConfig:
    """What averaged weights are scored on during training. Without every_epochs there is no such scoring."""

    every_epochs: int = 0  # and at the end
    root: str | None = None  # None: data.root; the version is that of ``data``
    split: str | None = None
    scenes: list[str] = field(default_factory=list)
    part: list[float] = field(default_factory=lambda: [0.0, 1.0])


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
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    own_parts: list[str] = field(default_factory=list)

    @property
    def imported(self) -> bool:
        """Whether the weights were trained by another project, see ``model.import_weights``."""
        return any(isinstance(section, ImportedConfig) for section in self.encoders.values())


def check_config(config: Config, where: str = "config") -> None:
    """Check constraints that types cannot express.

    Raises:
        ConfigError: a value that is not finite or outside its valid range, named by its key.
    """
    for key, number in _floats(asdict(config)):
        if not math.isfinite(number):
            raise ConfigError(f"{where}: {key}: a finite number was expected, found {number}")
    try:
        checks = _checks(config)
    except TypeError as error:  # in a config that no file was checked for
        raise ConfigError(f"{where}: numbers were expected, found another type: {error}") from None
    for key, holds, wanted in checks:
        if not holds:
            raise ConfigError(f"{where}: {key}: {wanted} was expected, found {_found(config, key)}")


def _checks(config: Config) -> list[tuple]:
    """Key, whether it holds, and what is wanted."""
    head, decoder, data, train, augment = config.head, config.decoder, config.data, config.train, config.augment
    validation = config.validation
    wide = f"1 to {_MAX_WIDTH}"
    checks = [
        ("encoders", len(config.encoders) >= 1, "at least one sensor"),
        ("fusion.heads", config.fusion.heads >= 1, "at least 1"),
        ("fusion.channels", 1 <= config.fusion.channels <= _MAX_WIDTH, wide),
        ("fusion.width", config.fusion.width is None or 1 <= config.fusion.width <= _MAX_WIDTH, wide),
        ("fusion.neighbourhood", 1 <= config.fusion.neighbourhood <= 31, "1 to 31"),
        ("head.channels", 1 <= head.channels <= _MAX_WIDTH, wide),
        (
            "head.trunk_channels",
            head.trunk_channels and all(1 <= width <= _MAX_WIDTH for width in head.trunk_channels),
            f"one width or more, {wide}",
        ),
        ("head.min_radius", 1 <= head.min_radius <= 32, "1 to 32"),
        ("head.groups", _are_groups(head.groups, config.task.classes), "every class in one group, or no groups,"),
        ("head.max_detections", 1 <= head.max_detections <= 500, "1 to 500, the most that nuScenes takes"),
        ("decoder.layers, decoder.queries", min(decoder.layers, decoder.queries) >= 1, "at least 1"),
        ("decoder.memory", decoder.memory >= 0, "0 or more"),
        ("train.clip", train.clip >= 1, "1 or more"),
        ("train.shuffle_shards", train.shuffle_shards >= 1, "1 or more"),
        ("train.memory_dropout", 0 <= train.memory_dropout <= 1, "a probability"),
        ("decoder.width", 1 <= decoder.width <= _MAX_WIDTH, wide),
        ("decoder.heads", decoder.heads >= 1 and decoder.width % decoder.heads == 0, "a divisor of decoder.width"),
        ("data.lidar_sweeps, data.radar_sweeps", min(data.lidar_sweeps, data.radar_sweeps) >= 1, "at least 1"),
        ("data.part", len(data.part) == 2, "two shares"),
        ("validation.every_epochs", validation.every_epochs >= 0, "0 or more"),
        ("validation.part", len(validation.part) == 2, "two shares"),
        (
            "validation.root, validation.split, validation.scenes, validation.part",
            not validation.every_epochs
            or (validation.root or data.root, validation.split, validation.scenes, validation.part)
            != (data.root, data.split, data.scenes, data.part),
            "something else than what is trained on",
        ),
        ("data.workers", data.workers >= 0, "0 or more"),
        ("train.epochs, train.batch_size", min(train.epochs, train.batch_size) >= 1, "at least 1"),
        (
            "train.batches_per_step, train.reference_frames",
            all(number is None or number >= 1 for number in (train.batches_per_step, train.reference_frames)),
            "1 or more",
        ),
        ("train.finish_epochs, train.keep_epochs", min(train.finish_epochs, train.keep_epochs) >= 0, "0 or more"),
        (
            "augment.paste",
            all(name in config.task.classes and count >= 1 for name, count in augment.paste.items()),
            "classes, and 1 or more of each,",
        ),
        ("augment.paste_points", augment.paste_points >= 1, "1 or more"),
        ("data.objects", data.objects is not None or not augment.paste, "a file, for augment.paste,"),
        ("train.sensor_dropout", 0 <= train.sensor_dropout <= 1, "a probability"),
        ("train.ema_decay", 0 <= train.ema_decay < 1, "0 or more, below 1"),
        ("train.learning_rate", train.learning_rate > 0 and train.backbone_learning_rate >= 0, "more than 0"),
        ("train.layer_decay", 0 < train.layer_decay <= 1, "more than 0, up to 1"),
        ("train.clip_norm", train.clip_norm > 0, "more than 0"),
        ("train.weight_decay", train.weight_decay >= 0, "0 or more"),
        (
            "train.depth_weight, train.image_weight, train.registration_weight",
            min(train.depth_weight, train.image_weight, train.registration_weight) >= 0,
            "0 or more",
        ),
        (
            "augment.rotate_deg, augment.image_rotate_deg",
            0 <= augment.rotate_deg <= 180 and 0 <= augment.image_rotate_deg <= 180,
            "0 to 180",
        ),
        (
            "augment.corruption_rate, augment.sweep_dropout",
            0 <= augment.corruption_rate <= 1 and 0 <= augment.sweep_dropout <= 1,
            "a probability",
        ),
        ("augment.intensity_scale", 0 <= augment.intensity_scale < 1, "0 to below 1"),
        ("augment.scale, augment.image_scale", 0 <= augment.scale < 1 and 0 <= augment.image_scale < 1, "0 to below 1"),
    ]
    for name, encoder in config.encoders.items():
        checks += [(f"encoders.{name}.{key}", *rest) for key, *rest in _encoder_checks(encoder)]
    return checks


def _are_groups(groups: list[list[str]], classes: Sequence[str]) -> bool:
    named = [name for group in groups for name in group]
    return not groups or (all(groups) and sorted(named) == sorted(classes))


def _encoder_checks(encoder: EncoderConfig | None) -> list[tuple]:
    if isinstance(encoder, CameraConfig):
        sides = encoder.image_size
        return [
            (
                "image_size",
                len(sides) == 2 and all(0 < s <= _MAX_SIDE_PX and s % 16 == 0 for s in sides),
                f"two multiples of 16 up to {_MAX_SIDE_PX}",
            ),
            ("channels", 1 <= encoder.channels <= _MAX_WIDTH, f"1 to {_MAX_WIDTH}"),
            ("depth_bins", 1 <= encoder.depth_bins <= _MAX_WIDTH, f"1 to {_MAX_WIDTH}"),
            ("depth_max_m", encoder.depth_max_m > encoder.depth_min_m > 0, "more than depth_min_m, above 0"),
        ]
    if isinstance(encoder, LidarConfig):
        pillars = ("pillar_size_m", encoder.pillar_size_m > 0, "more than 0")
        blocks = 1 <= len(encoder.blocks) <= 6 and all(0 <= count <= 32 for count in encoder.blocks)
        return [
            pillars,
            _point_channels(encoder),
            ("blocks", blocks, "one to six counts, each 0 to 32,"),
            ("fine_blocks", 0 <= encoder.fine_blocks <= 32, "0 to 32"),
        ]
    if isinstance(encoder, VoxelConfig):
        return [
            ("voxel_size_m", encoder.voxel_size_m > 0, "more than 0"),
            ("voxel_height_m", encoder.voxel_height_m > 0, "more than 0"),
            (
                "widths",
                1 <= len(encoder.widths) <= 6 and all(1 <= width <= _MAX_WIDTH for width in encoder.widths),
                f"one to six widths, each 1 to {_MAX_WIDTH},",
            ),
            ("blocks", 0 <= encoder.blocks <= 32, "0 to 32"),
        ]
    if isinstance(encoder, ImportedConfig):
        norm = sum(value * value for value in encoder.ego_SE3_lidar[3:])
        pose = len(encoder.ego_SE3_lidar) == 7 and abs(norm - 1) < 1e-3
        overlap = encoder.max_overlap is None or 0 <= encoder.max_overlap <= 1
        return [
            ("ego_SE3_lidar", pose, "a position and a unit quaternion"),
            ("max_overlap", overlap, "0 to 1, or null,"),
        ]
    return [_point_channels(encoder)] if isinstance(encoder, RadarConfig) else []


def _point_channels(encoder: LidarConfig | RadarConfig) -> tuple:
    return "point_channels", 1 <= encoder.point_channels <= _MAX_WIDTH, f"1 to {_MAX_WIDTH}"


def _floats(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _floats(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _floats(item, key)
    elif isinstance(value, float):
        yield key, value


def _found(config: Config, keys: str) -> str:
    return ", ".join(str(_value(config, key)) for key in keys.split(", "))


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value
