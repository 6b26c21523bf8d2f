"""What a training run reads: which frames and sensors make up each batch, prepared and augmented.

Every random choice is drawn from a generator keyed by the seed and by what it is for, never from a running one. Hence
nothing depends on the number of loader workers, and there is no generator state to save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from perception.batch import Batch, collate
from perception.config import Config, TrainConfig
from perception.data.augment import augment
from perception.errors import PerceptionError
from perception.sample import SENSORS, Boxes3D, Frame, SampleError

PROPER_SUBSETS = tuple(subset for n in range(1, len(SENSORS)) for subset in combinations(SENSORS, n))


def keyed_rng(*key) -> np.random.Generator:
    """A generator that depends on ``key`` (numbers and strings) and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


@dataclass(frozen=True)
class Draw:
    """What one batch is made of: positions in the dataset, and the sensors that are trained with."""

    epoch: int
    indices: tuple[int, ...]
    sensors: tuple[str, ...]


class Schedule(Sampler[Draw]):
    """The batches of one epoch for one process, in an order keyed by (seed, epoch), without an incomplete last one.

    With ``train.sensor_dropout`` as probability a batch sees one of the six proper subsets of the sensors, else all.
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
        return PROPER_SUBSETS[rng.integers(len(PROPER_SUBSETS))]


class TrainingData(Dataset):
    """Draw -> Batch, augmented; None where none of its frames can be read.

    A PerceptionError is returned: raised in a loader worker, it would arrive with a page of traceback around it.
    """

    def __init__(self, frames: Sequence[Frame | None], config: Config):
        self.frames, self.config = frames, config

    def __getitem__(self, draw: Draw) -> Batch | PerceptionError | None:
        try:
            frames = [self.frames[index] for index in draw.indices]
            frames = [self._prepare(frame, draw) for frame in frames if frame is not None and frame.sensors]
            return make_batch(frames, draw.sensors, tuple(self.config.camera.image_size)) if frames else None
        except PerceptionError as error:
            return error

    def _prepare(self, frame: Frame, draw: Draw) -> Frame:
        frame = replace(frame.only(sensors_to_load(frame, draw.sensors)), boxes=without_unseen(frame.boxes))
        rng = keyed_rng(self.config.train.seed, draw.epoch, frame.token)
        return augment(frame, self.config.augment, tuple(self.config.camera.image_size), rng)


def sensors_kept(present: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted sensors that are present; all that are present rather than none."""
    return tuple(name for name in present if name in wanted) or present


def sensors_to_load(frame: Frame, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The sensors a frame is trained with, and the LiDAR wherever there are images, whose depth it supervises."""
    kept = sensors_kept(frame.sensors, wanted)
    return (*kept, "lidar") if "camera" in kept else kept


def make_batch(frames: list[Frame], sensors: tuple[str, ...], image_size: tuple[int, int]) -> Batch:
    """Collate, and mark a LiDAR that is loaded only to supervise depth as not valid: the detector does not see it."""
    batch = collate(frames, image_size)
    kept = [sensors_kept(frame.sensors, sensors) for frame in frames]
    batch.sensor_valid &= torch.tensor([[name in names for name in SENSORS] for names in kept])
    return batch


def without_unseen(boxes: Boxes3D | None) -> Boxes3D | None:
    """Boxes without a single LiDAR or radar point are left out, as the metric does; an unknown number (-1) is kept."""
    return boxes if boxes is None else boxes[(boxes.num_lidar_points != 0) | (boxes.num_radar_points != 0)]
