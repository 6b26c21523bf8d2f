"""The frames that a config names to train on."""

from __future__ import annotations

import numpy as np

from perception.config import CameraConfig, Config
from perception.data.astyx import Astyx
from perception.data.nuscenes import NuScenes
from perception.data.opening import open_source
from perception.data.shards import Shards
from perception.data.sources import FrameSource
from perception.grid import BEVGrid
from perception.sample import Frame
from perception.train.batches import training_image_size
from perception.train.labels import check_labels


def training_frames(
    config: Config, covering: tuple[int, int] | None, annotated: bool = True
) -> NuScenes | Astyx | Shards:
    """The frames that ``config.data`` names, with images of the size that augmentation wants.

    covering: height and width that suit all image encoders (``InputSpec.covering``), None without any.
    annotated: whether there have to be boxes to learn from.
    """
    data = config.data
    frames = open_source(
        data.root,
        config,
        data.version,
        split=data.split,
        scenes=list(data.scenes) or None,
        part=data.part,
        image_size=None if covering is None else training_image_size(covering, config.augment),
        on_error=data.on_error,
    )
    if annotated and isinstance(frames, NuScenes):  # boxes of others are counted as they are trained on
        check_labels(frames, BEVGrid(**vars(config.grid)))
    return frames


def validation_frames(config: Config, covering: tuple[int, int] | None) -> NuScenes | Astyx | Shards | None:
    """The annotated frames that ``config.validation`` names; None where it wants none."""
    data, validation = config.data, config.validation
    if not validation.every_epochs:
        return None
    return open_source(
        validation.root or data.root,
        config,
        data.version,
        split=validation.split,
        scenes=list(validation.scenes) or None,
        part=validation.part,
        image_size=covering,
        on_error=data.on_error,
    )


def image_sizes(config: Config) -> dict[str, tuple[int, int]]:
    """Height and width of the input of each image encoder in the config."""
    cameras = {name: encoder for name, encoder in config.encoders.items() if isinstance(encoder, CameraConfig)}
    return {name: (encoder.image_size[0], encoder.image_size[1]) for name, encoder in cameras.items()}


def frames_by_class(frames: FrameSource, classes: int) -> list[np.ndarray]:
    """For every class, the indices of the frames with a box of it that LiDAR or radar have seen.

    Those of a data set in the nuScenes layout come from its tables, those of shards from their index; other frames are
    read.
    """
    if isinstance(frames, NuScenes) and frames.annotations is not None:
        boxes = frames.annotations
        frame = np.repeat(np.arange(len(frames)), np.diff(boxes.box_offsets))
        measured = boxes.num_lidar_points + boxes.num_radar_points != 0
        frame, label = frame[measured], boxes.label[measured]
    else:
        if isinstance(frames, Shards):
            labels = [np.array(own, np.int64) for own in frames.labels]
        else:
            labels = [_labels(frames[index]) for index in range(len(frames))]
        frame = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
        label = np.concatenate([np.zeros(0, np.int64), *labels])
    return [np.unique(frame[label == number]) for number in range(classes)]


def _labels(frame: Frame | None) -> np.ndarray:
    boxes = None if frame is None else frame.boxes
    return np.zeros(0, np.int64) if boxes is None else boxes.label[boxes.measured]
