"""Training batches: selection of frames and sensors, preparation and augmentation.

Every random choice uses a generator keyed by the seed and its purpose, never one with running state. Results therefore
do not depend on the number of loader workers, and there is no generator state to save.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from perception.batch import Batch, InputSpec, Tensors, collate
from perception.config import AugmentConfig, Config, TrainConfig
from perception.data.corruptions import Corrupted, draw_corruptions
from perception.data.sources import FrameSource
from perception.geometry import SE3
from perception.sample import Boxes3D, Frame, SampleError
from perception.seeding import keyed_rng
from perception.train.augment import WorldTransform, augment, draw_world
from perception.train.cache import FrameCache
from perception.train.objects import CutObject, ObjectBank
from perception.train.paste import draw_objects, earlier, paste


def proper_subsets(sensors: Sequence[str]) -> list[tuple[str, ...]]:
    """Every proper non-empty subset of the sensors, smallest first."""
    return [subset for n in range(1, len(sensors)) for subset in combinations(sensors, n)]


def finishing(config: TrainConfig, epoch: int) -> bool:
    """Whether an epoch is one of the last, which are without what no vehicle sees (fade strategy, Wang et al. 2021)."""
    return epoch >= config.epochs - config.finish_epochs


@dataclass(frozen=True)
class Draw:
    """Specification of one batch: indices into the dataset, and the sensors to train with.

    repeats: how often each index has been drawn before in this epoch, so that it is augmented otherwise; none: never.
    """

    epoch: int
    indices: tuple[int, ...]
    sensors: tuple[str, ...]
    repeats: tuple[int, ...] = ()


class Schedule(Sampler[Draw]):
    """The batches of one epoch for one process, in an order keyed by (seed, epoch), without an incomplete last step.

    A step is of ``batches`` batches, of which each process takes its share. Which frames are in which step does not
    depend on the number of processes. With probability ``train.sensor_dropout`` a batch uses fewer sensors, see
    ``train.dropout_to``.

    Args:
        batches: of a step, over all processes; by default one of each.
        shards: int [samples], the shard that every frame is in. Given, an epoch takes the shards in an order of its
            own, ``train.shuffle_shards`` at a time, and only the frames of those are mixed: what is read lies together.
        by_class: indices of the frames that have each class. Given, an epoch has as many frames as ever, but an equal
            share of them from every class that there is (class-balanced sampling, CBGS, Zhu et al. 2019).
    """

    def __init__(
        self,
        samples: int,
        sensors: Sequence[str],
        config: TrainConfig,
        rank: int = 0,
        processes: int = 1,
        by_class: Sequence[np.ndarray] | None = None,
        batches: int | None = None,
        shards: np.ndarray | None = None,
    ):
        self.samples, self.config, self.rank, self.processes = samples, config, rank, processes
        self.by_class = None if by_class is None else [frames for frames in by_class if len(frames)]
        if self.by_class == []:
            raise SampleError("train.balanced: boxes with LiDAR or radar points were expected, found none")
        self.shards = None if shards is None else np.unique(shards, return_inverse=True)[1]  # without gaps
        self.sensors = tuple(sensors)
        self.batches = processes if batches is None else batches
        if self.batches % processes:
            raise SampleError(
                f"train.batches_per_step: a multiple of the {processes} processes was expected, found {self.batches}"
            )
        self.share = self.batches // processes  # of this process
        self.steps_per_epoch = samples // (config.batch_size * self.batches)
        self.epoch, self.start = 0, 0
        if self.steps_per_epoch == 0:
            raise SampleError(
                f"train.batch_size: {samples} frames do not fill a step of {self.batches} batches of "
                f"{config.batch_size}"
            )

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.start) * self.share

    def __iter__(self) -> Iterator[Draw]:
        order, repeats = self._order()
        for step in range(self.start, self.steps_per_epoch):
            for place in range(self.rank, self.batches, self.processes):
                first = (step * self.batches + place) * self.config.batch_size
                batch = slice(first, first + self.config.batch_size)
                yield Draw(self.epoch, tuple(order[batch]), self._sensors(first), tuple(repeats[batch]))

    def _order(self) -> tuple[list[int], list[int]]:
        """The frames of the epoch, and how often each came before."""
        rng = keyed_rng(self.config.seed, self.epoch, "order")
        if self.by_class is None:
            return self._shuffled(rng, np.arange(self.samples)), []
        ends = np.linspace(0, self.samples, len(self.by_class) + 1).astype(int)
        shares = [_repeated(rng, frames, size) for frames, size in zip(self.by_class, np.diff(ends))]
        order, seen, repeats = self._shuffled(rng, np.concatenate(shares)), Counter[int](), []
        for index in order:
            repeats.append(seen[index])
            seen[index] += 1
        return order, repeats

    def _shuffled(self, rng: np.random.Generator, frames: np.ndarray) -> list[int]:
        order = rng.permutation(frames)
        if self.shards is not None:
            turn = rng.permutation(1 + self.shards.max()) // self.config.shuffle_shards  # of every shard
            order = order[np.argsort(turn[self.shards[order]], kind="stable")]
        return order.tolist()

    def _sensors(self, first: int) -> tuple[str, ...]:
        rng = keyed_rng(self.config.seed, self.epoch, first, "sensors")
        whole = rng.random() >= self.config.sensor_dropout or finishing(self.config, self.epoch)
        if whole or len(self.sensors) == 1:
            return self.sensors
        single = self.config.dropout_to == "single"
        subsets = [(name,) for name in self.sensors] if single else proper_subsets(self.sensors)
        return subsets[rng.integers(len(subsets))]


def _repeated(rng: np.random.Generator, frames: np.ndarray, size: int) -> np.ndarray:
    """``size`` of the frames, each as often as any other, or once more."""
    return np.concatenate([rng.permutation(frames) for _ in range(-(-size // len(frames)))])[:size]


def training_image_size(size: tuple[int, int], config: AugmentConfig) -> tuple[int, int]:
    """Height and width that an image must cover so that augmentation can zoom in without upsampling.

    size: height and width of the network input.
    """
    height, width = (math.ceil(side * (1 + config.image_scale)) for side in size)
    return height, width


@dataclass(frozen=True)
class Sample:
    """An augmented training frame.

    errors: sensor -> displacement of its content, see :class:`perception.data.corruptions.Corrupted`.
    sensors: sensors that the detector sees; other sensors of the frame only supervise depth.
    previous: the frame before it, augmented alike; None where there is none, or none is wanted.
    """

    frame: Frame
    errors: dict[str, SE3]
    sensors: tuple[str, ...]
    previous: Sample | None = None


@dataclass(frozen=True)
class Filled:
    """The frame at an index, with the objects that were pasted into it."""

    index: int
    frame: Frame
    pasted: list[CutObject]


class TrainingData(Dataset):
    """Draw -> augmented Batch; None if none of its frames is usable.

    targets: what makes the targets of a head from boxes, by its name.
    """

    def __init__(
        self,
        frames: FrameSource,
        config: Config,
        inputs: InputSpec,
        targets: Mapping[str, Callable[[list[Boxes3D]], Tensors]] = MappingProxyType({}),
    ):
        sizes = {name: training_image_size(size, config.augment) for name, size in inputs.image_size.items()}
        self.frames: FrameSource = FrameCache(frames, sizes) if config.data.cache else frames
        self.config, self.inputs, self.targets = config, inputs, dict(targets)
        pastes = config.augment.paste and config.data.objects is not None
        self.bank = ObjectBank(str(config.data.objects), config.task.classes) if pastes else None

    def __getitem__(self, draw: Draw) -> Batch | None:
        rng = keyed_rng(self.config.train.seed, draw.epoch, *draw.indices, "memory")
        clip = 1 if rng.random() < self.config.train.memory_dropout else self.config.train.clip
        repeats = draw.repeats or (0,) * len(draw.indices)
        prepared = [self._prepare(index, draw, repeat, clip) for index, repeat in zip(draw.indices, repeats)]
        samples = [sample for sample in prepared if sample is not None]
        if not samples:
            return None
        batch = make_batch(samples, self.inputs)
        if batch.boxes is not None:
            batch.targets = {name: encode(batch.boxes) for name, encode in self.targets.items()}
        return batch

    def _prepare(self, index: int, draw: Draw, repeat: int, clip: int) -> Sample | None:
        """The augmented frame and those before it; None if it cannot be read or has none of the detector's sensors."""
        frame, augmentation = self.frames[index], self.config.augment
        if frame is None:
            return None
        pasted: list[CutObject] = []
        if self.bank is not None and not finishing(self.config.train, draw.epoch):
            rng = self._rng(draw, frame, repeat, "paste")
            pasted = draw_objects(frame, self.bank, augmentation.paste, augmentation.paste_points, rng)
        world = draw_world(augmentation, self._rng(draw, frame, repeat, "world"))
        return self._clip(Filled(index, paste(frame, pasted), pasted), draw, repeat, world, clip)

    def _clip(self, filled: Filled, draw: Draw, repeat: int, world: WorldTransform, length: int) -> Sample | None:
        """The sample of a frame with those before it, ``length`` of them at most."""
        sample = self._sample(filled, draw, repeat, world)
        before = self._previous(filled) if length > 1 else None
        if sample is None or before is None:
            return sample
        return replace(sample, previous=self._clip(before, draw, repeat, world, length - 1))

    def _rng(self, draw: Draw, frame: Frame, repeat: int, *purpose: str) -> np.random.Generator:
        again = (repeat,) if repeat else ()
        return keyed_rng(self.config.train.seed, draw.epoch, frame.token, *purpose, *again)

    def _sample(self, filled: Filled, draw: Draw, repeat: int, world: WorldTransform) -> Sample | None:
        config, frame = self.config, filled.frame
        present = tuple(name for name in frame.sensors if name in self.inputs.sensors)
        if not present:
            return None
        rng = self._rng(draw, frame, repeat)
        kept = frame.only(sensors_kept(present, draw.sensors))
        corrupted = Corrupted(kept, {name: SE3() for name in self.inputs.sensors})
        rate = config.augment.corruption_rate
        if rate > 0:
            corrupted = draw_corruptions(corrupted, lambda: self._previous_frame(filled), rate, rng)
        teachers = {self.inputs.depth_from.get(name) for name in kept.sensors}
        unseen = {name: data for name, data in frame.data.items() if name in teachers - set(kept.sensors)}
        seen = replace(corrupted.frame.with_data(corrupted.frame.data | unseen), boxes=_trained_on(frame.boxes))
        errors = {name: world.seen_from(error) for name, error in corrupted.errors.items()}
        augmented = augment(seen, world, config.augment, self.inputs.image_size, rng)
        return Sample(augmented, errors, corrupted.frame.sensors)

    def _previous(self, filled: Filled) -> Filled | None:
        """The previous keyframe, if it belongs to the same scene, with the pasted objects where they were."""
        previous = self.frames[filled.index - 1] if filled.index > 0 else None
        if previous is None or previous.scene != filled.frame.scene:
            return None
        pasted = earlier(filled.pasted, filled.frame, previous) if filled.pasted else []
        return Filled(filled.index - 1, paste(previous, pasted), pasted)

    def _previous_frame(self, filled: Filled) -> Frame | None:
        previous = self._previous(filled)
        return None if previous is None else previous.frame


def sensors_kept(present: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted sensors that are present; if there are none, all sensors present."""
    return tuple(name for name in present if name in wanted) or present


def make_batch(samples: list[Sample], inputs: InputSpec) -> Batch:
    """Collate the samples; sensors that only supervise depth are marked invalid, so that the detector ignores them."""
    batch = collate([sample.frame for sample in samples], inputs)
    batch.displacement = torch.tensor([[_planar(s.errors.get(name)) for name in inputs.sensors] for s in samples])
    batch.sensor_valid &= torch.tensor([[name in s.sensors for name in inputs.sensors] for s in samples])
    if any(sample.previous is not None for sample in samples):
        # In place of one that is not there stands the sample itself: of the same time, nothing is remembered.
        batch.previous = make_batch([sample.previous or sample for sample in samples], inputs)
    return batch


def _planar(error: SE3 | None) -> tuple[float, float, float]:
    """(yaw, x, y) of a displacement in BEV, NaN where it is unknown."""
    return (np.nan,) * 3 if error is None else (error.yaw, *error.translation[:2].tolist())


def _trained_on(boxes: Boxes3D | None) -> Boxes3D | None:
    """Boxes without any LiDAR or radar point are dropped, as in the metric."""
    return None if boxes is None else boxes[boxes.measured]
