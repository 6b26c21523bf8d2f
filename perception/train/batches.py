"""What a training run reads: which frames and sensors make up each batch, prepared and augmented.

Every random choice is drawn from a generator keyed by the seed and by what it is for, never from a running one. Hence
nothing depends on the number of loader workers, and there is no generator state to save.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from perception.batch import Batch, collate
from perception.config import Config, TrainConfig
from perception.data.corruptions import Corrupted as Faulty
from perception.data.corruptions import draw_corruptions as draw_faults
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sample import SENSORS, Boxes3D, CameraImage, Frame, SampleError, fit_image
from perception.seeding import keyed_rng
from perception.train.augment import augment, draw_world

SINGLE_SENSORS = tuple((name,) for name in SENSORS)
PROPER_SUBSETS = tuple(subset for n in range(1, len(SENSORS)) for subset in combinations(SENSORS, n))


@dataclass(frozen=True)
class Draw:
    """What one batch is made of: positions in the dataset, and the sensors that are trained with."""

    epoch: int
    indices: tuple[int, ...]
    sensors: tuple[str, ...]


class Schedule(Sampler[Draw]):
    """The batches of one epoch for one process, in an order keyed by (seed, epoch), without an incomplete last one.

    With ``train.sensor_dropout`` as probability a batch sees fewer sensors, see ``train.dropout_to``; else all.
    """

    def __init__(self, samples: int, config: TrainConfig, rank: int = 0, processes: int = 1):
        self.samples, self.config, self.rank, self.processes = samples, config, rank, processes
        self.steps_per_epoch = samples // (config.batch_size * processes)
        self.epoch, self.start = 0, 0
        if self.steps_per_epoch == 0:
            raise SampleError(
                f"train.batch_size: {samples} frames do not fill one batch of {config.batch_size} in each of "
                f"{processes} process(es)"
            )

    def __len__(self) -> int:
        return self.steps_per_epoch - self.start

    def __iter__(self) -> Iterator[Draw]:
        order = keyed_rng(self.config.seed, self.epoch, "order").permutation(self.samples).tolist()
        for step in range(self.start, self.steps_per_epoch):
            first = (step * self.processes + self.rank) * self.config.batch_size
            yield Draw(self.epoch, tuple(order[first : first + self.config.batch_size]), self._sensors(first))

    def _sensors(self, first: int) -> tuple[str, ...]:
        rng = keyed_rng(self.config.seed, self.epoch, first, "sensors")
        if rng.random() >= self.config.sensor_dropout:
            return SENSORS
        subsets = PROPER_SUBSETS if self.config.dropout_to == "subset" else SINGLE_SENSORS
        return subsets[rng.integers(len(subsets))]


def training_image_size(config: Config) -> tuple[int, int]:
    """Height and width that an image must cover for the augmentation to zoom in on it without enlarging it."""
    height, width = (math.ceil(side * (1 + config.augment.image_scale)) for side in config.camera.image_size)
    return height, width


class FrameCache(Sequence):
    """The frames of a dataset, each read once. Images are kept no larger than to cover ``image_size``.

    Decoding the same files every epoch takes as long as a small detector's forward pass. A frame takes some 4 MB.
    """

    def __init__(self, frames: Sequence[Frame | None], image_size: tuple[int, int]):
        self.frames, self.image_size, self.kept = frames, image_size, {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame | None:
        if index not in self.kept:
            frame = self.frames[index]
            if frame is not None and frame.cameras:
                frame = replace(frame, cameras={name: self._reduced(c) for name, c in frame.cameras.items()})
            self.kept[index] = frame
        return self.kept[index]

    def _reduced(self, camera: CameraImage) -> CameraImage:
        height, width = camera.image.shape[:2]
        zoom = min(1.0, max(self.image_size[0] / height, self.image_size[1] / width))
        return fit_image(camera, (round(height * zoom), round(width * zoom)))


class TrainingData(Dataset):
    """Draw -> Batch, augmented; None where none of its frames can be read.

    A PerceptionError is returned: raised in a loader worker, it would arrive with a page of traceback around it.
    """

    def __init__(self, frames: Sequence[Frame | None], config: Config):
        self.image_size = tuple(config.camera.image_size)
        self.frames = FrameCache(frames, training_image_size(config)) if config.data.cache else frames
        self.config = config

    def __getitem__(self, draw: Draw) -> Batch | PerceptionError | None:
        try:
            samples = [self._prepare(index, draw) for index in draw.indices]
            samples = [sample for sample in samples if sample is not None]
            return make_batch(samples, draw.sensors, self.image_size) if samples else None
        except PerceptionError as error:
            return error

    def _prepare(self, index: int, draw: Draw) -> Faulty | None:
        """The frame as it is trained on; None where it cannot be read or holds no sensor."""
        frame, config = self.frames[index], self.config
        if frame is None or not frame.sensors:
            return None
        rng = keyed_rng(config.train.seed, draw.epoch, frame.token)
        world = draw_world(config.augment, rng)
        kept = frame.only(sensors_kept(frame.sensors, draw.sensors))
        faulty = Faulty(kept, {name: SE3() for name in SENSORS})
        if config.augment.fault_rate > 0:
            faulty = draw_faults(kept, lambda: self._previous(index, frame), config.augment.fault_rate, rng)
        if kept.lidar is None and kept.cameras is not None:  # the LiDAR supervises depth wherever there are images
            faulty = replace(faulty, frame=replace(faulty.frame, lidar=frame.lidar))
        frame = replace(faulty.frame, boxes=without_unseen(frame.boxes))
        errors = {name: world.seen_from(error) for name, error in faulty.errors.items()}
        return Faulty(augment(frame, world, config.augment, self.image_size, rng), errors)

    def _previous(self, index: int, frame: Frame) -> Frame | None:
        """The keyframe before, if it is of the same scene."""
        previous = self.frames[index - 1] if index > 0 else None
        return previous if previous is not None and previous.scene == frame.scene else None


def sensors_kept(present: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted sensors that are present; all that are present rather than none."""
    return tuple(name for name in present if name in wanted) or present


def make_batch(samples: list[Faulty], sensors: tuple[str, ...], image_size: tuple[int, int]) -> Batch:
    """Collate, and mark a LiDAR that is loaded only to supervise depth as not valid: the detector does not see it."""
    frames = [sample.frame for sample in samples]
    batch = collate(frames, image_size)
    batch.displacement = torch.tensor([[_planar(sample.errors.get(name)) for name in SENSORS] for sample in samples])
    kept = [sensors_kept(frame.sensors, sensors) for frame in frames]
    batch.sensor_valid &= torch.tensor([[name in names for name in SENSORS] for names in kept])
    return batch


def _planar(error: SE3 | None) -> tuple[float, float, float]:
    """(yaw, x, y) of an error in BEV, NaN where there is none to name."""
    return (np.nan,) * 3 if error is None else (error.yaw, *error.translation[:2].tolist())


def without_unseen(boxes: Boxes3D | None) -> Boxes3D | None:
    """Boxes without a single LiDAR or radar point are left out, as the metric does; an unknown number (-1) is kept."""
    return boxes if boxes is None else boxes[(boxes.num_lidar_points != 0) | (boxes.num_radar_points != 0)]
