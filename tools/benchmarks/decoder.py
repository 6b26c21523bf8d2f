"""Variants of the object decoder on top of one frozen dense detector; see tools/ablate_decoder.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from perception.batch import Batch, Moment
from perception.config import CameraConfig, DecoderConfig
from perception.data.opening import open_source
from perception.errors import PerceptionError
from perception.eval.evaluate import Submission, score_submissions
from perception.model.build import build
from perception.model.checkpoint import load
from perception.model.detector import Detector
from perception.model.encoder import Encoded
from perception.model.head import CenterMaps
from perception.model.memory import Memory
from perception.sample import Detections, Frame, sensor_set, sensor_sets
from perception.seeding import keyed_rng
from perception.text import aligned
from perception.train.batches import Schedule, TrainingData, training_image_size
from perception.train.object_losses import ObjectLoss
from perception.train.optim import one_cycle

VARIANTS: dict[str, DecoderConfig] = {
    "dense head": DecoderConfig(),
    "fused features": DecoderConfig("attention", sensor_tokens=False),
    "pooled tokens": DecoderConfig("pooling"),
    "tokens": DecoderConfig("attention"),
    "tokens and memory": DecoderConfig("attention", memory=48),
}
_LEARNING_RATE, _CLIP_NORM, _PROCESSES = 1e-3, 10.0, 2
_COLUMNS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


@dataclass
class Frozen:
    """What a decoder sees of a batch, and its truth; numbers as halves."""

    maps: tuple[torch.Tensor, ...]
    features: torch.Tensor
    encoded: dict[str, Encoded]
    sensor_valid: torch.Tensor
    motion: torch.Tensor | None
    moment: Moment
    boxes: list
    previous: Frozen | None = None


@torch.inference_mode()
def freeze(detector: Detector, batch: Batch, encoded: dict[str, Encoded] | None = None) -> Frozen:
    """encoded: of the batch, or of some of its sensors."""
    encoded = detector.encode(batch) if encoded is None else encoded
    valid = batch.sensor_valid & torch.tensor([name in encoded for name in detector.sensors])
    fused = detector.fusion({name: value.bev for name, value in encoded.items()}, valid)
    features = detector.trunk(fused.features)
    maps = detector.heads["boxes"](features)
    if batch.moment is None:
        raise PerceptionError("a batch with its moment was expected")
    return Frozen(
        tuple(_half(part) for part in (maps.heat_logits, maps.box, maps.attribute_logits)),
        _half(features),
        {name: _seen(value) for name, value in encoded.items()},
        valid,
        None if fused.registered is None else fused.registered.motion,
        batch.moment,
        batch.boxes or [],
        None if batch.previous is None else freeze(detector, batch.previous),
    )


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-6e4, 6e4).half().contiguous()


def _seen(encoded: Encoded) -> Encoded:
    """Without what only the fusion and the losses want."""
    views = encoded.views
    return Encoded(
        encoded.bev.new_zeros(1),
        fine=None if encoded.fine is None else _half(encoded.fine),
        views=None if views is None else replace(views, features=tuple(_half(level) for level in views.features)),
        returns=encoded.returns,
    )


def _remembered(detector: Detector, frozen: Frozen) -> Memory | None:
    """What the detector remembers after a batch."""
    decoder = detector.decoder
    if decoder is None or not decoder.memory:
        return None
    with torch.no_grad():
        refined = refine(detector, frozen, None if frozen.previous is None else _remembered(detector, frozen.previous))
    batch = Batch([], detector.sensors, frozen.sensor_valid, moment=frozen.moment)
    return Memory.of(refined[-1].objects, batch, decoder.memory)


def refine(detector: Detector, frozen: Frozen, memory: Memory | None) -> list:
    if detector.decoder is None:
        raise PerceptionError("a detector with a decoder was expected")
    encoded = {}
    for name, value in frozen.encoded.items():
        views = value.views
        encoded[name] = replace(
            value,
            fine=None if value.fine is None else value.fine.float(),
            views=None if views is None else replace(views, features=tuple(level.float() for level in views.features)),
        )
    maps = CenterMaps(*(part.float() for part in frozen.maps))
    known = None if memory is None else memory.at(frozen.moment)
    return detector.decoder(maps, frozen.features.float(), encoded, frozen.sensor_valid, frozen.motion, known)


def training_batches(detector: Detector, root: Path, epochs: int) -> list[Frozen]:
    """Every batch of ``epochs`` epochs, with the frames before it, augmented and with faults as in training."""
    config = detector.config
    train = replace(config.train, clip=2, memory_dropout=0.0, batch_size=2, sensor_dropout=0.5, seed=77)
    config = replace(config, train=train, augment=replace(config.augment, corruption_rate=0.3))
    size = detector.inputs.covering
    covering = None if size is None else training_image_size(size, config.augment)
    source = open_source(root, config, image_size=covering)
    data, schedule = TrainingData(source, config, detector.inputs), Schedule(len(source), detector.sensors, train)
    found = []
    for epoch in range(epochs):
        schedule.epoch = epoch
        for draw in tqdm(schedule, desc=f"frozen, epoch {epoch + 1} of {epochs}", unit="batch"):
            batch = data[draw]
            if batch is not None:
                found.append(freeze(detector, batch))
    return found


def with_decoder(dense: Detector, decoder: DecoderConfig, seed: int) -> Detector:
    """The dense detector with a new decoder on top, in place of the one that it may have."""
    config = replace(dense.config, decoder=decoder)
    cameras = {n: replace(e, weights="none") for n, e in config.encoders.items() if isinstance(e, CameraConfig)}
    torch.manual_seed(seed)
    detector = build(replace(config, encoders=config.encoders | cameras))
    detector.config = config
    state = {name: value for name, value in dense.state_dict().items() if not name.startswith("decoder.")}
    detector.load_state_dict(state, strict=False)
    detector.calibration.by_set = {}  # of the dense head's scores
    return detector.eval()


def train(detector: Detector, batches: Sequence[Frozen], passes: int, seed: int) -> float:
    """Train the decoder; returns the mean loss of the last tenth."""
    decoder: Any = detector.decoder
    loss, losses = ObjectLoss(detector.grid), []
    optimizer = torch.optim.AdamW(decoder.parameters(), weight_decay=0.01)
    steps = passes * len(batches)
    order = [i for p in range(passes) for i in keyed_rng(seed, p, "order").permutation(len(batches))]
    for step, index in enumerate(tqdm(order, desc=f"seed {seed}", unit="step")):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * one_cycle(step / steps)
        batch = batches[index]
        forgets = batch.previous is None or keyed_rng(seed, step, "memory").random() < 0.3
        memory = None if forgets or batch.previous is None else _remembered(detector, batch.previous)
        truth = Batch([], detector.sensors, batch.sensor_valid, boxes=batch.boxes)
        total = torch.stack([*loss(refine(detector, batch, memory), truth).values()]).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), _CLIP_NORM)
        optimizer.step()
        losses.append(total.item())
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


_batches: list[Frozen] = []  # inherited by the processes


def _train_one(dense: Detector, variant: str, seed: int, passes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    detector = with_decoder(dense, VARIANTS[variant], seed)
    print(f"{folder.name}: loss {train(detector, _batches, passes, seed):.3f}", flush=True)
    detector.save(folder)


def ablate(
    checkpoint: str,
    root: Path,
    drives: Path,
    out: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    passes: int,
) -> list[dict]:
    """A row for each variant, seed and set of sensors."""
    dense = load(checkpoint)
    folders = {
        (v, s): out / f"{v.replace(' ', '-')}-{s}" for v in variants for s in seeds if VARIANTS[v].kind != "none"
    }
    wanted = {key: folder for key, folder in folders.items() if not (folder / "model.safetensors").exists()}
    if wanted:
        _batches[:] = training_batches(dense, root, epochs)
        with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("fork")) as pool:
            jobs = [pool.submit(_train_one, dense, *key, passes, folder) for key, folder in wanted.items()]
            for job in jobs:
                job.result()
        _batches.clear()
    detectors = {key: load(folder) for key, folder in folders.items()}
    return [row for row in _scored(dense, "dense head" in variants, detectors, drives)]


def _scored(dense: Detector, baseline: bool, detectors: dict, drives: Path) -> Iterator[dict]:
    dense.calibration.by_set = {}
    size = dense.inputs.covering
    source = open_source(drives, dense.config, image_size=size)
    subsets = {sensor_set(subset, dense.sensors): subset for subset in sensor_sets(dense.sensors)}
    keys = ([("dense head", 0)] if baseline else []) + list(detectors)
    names = {f"{variant}/{seed}/{name}": subset for variant, seed in keys for name, subset in subsets.items()}

    @torch.inference_mode()
    def detect(submissions: dict[str, Submission]) -> None:
        memories: dict[str, Memory | None] = {}
        for index in tqdm(range(len(source)), desc="score", unit="frame"):
            frame = source[index]
            if not isinstance(frame, Frame):
                continue
            batch = dense.prepare([frame])
            encoded = dense.encode(batch)
            for name, subset in subsets.items():
                seen = frame.only(subset)
                frozen = freeze(dense, batch, {sensor: encoded[sensor] for sensor in subset if sensor in encoded})
                for variant, seed in keys:
                    run = f"{variant}/{seed}/{name}"
                    submissions[run].add(
                        seen, _detections(dense, detectors.get((variant, seed)), frozen, memories, run)
                    )

    for run, metrics in score_submissions(source, dense.task, names, detect).items():
        variant, seed, name = run.split("/")
        yield {"decoder": variant, "seed": int(seed), "sensors": name, **{k: metrics[k] for k in (*_COLUMNS, "AP")}}


def _detections(
    dense: Detector, detector: Detector | None, frozen: Frozen, memories: dict[str, Memory | None], run: str
) -> Detections:
    head: Any = dense.heads["boxes"]
    if detector is None or detector.decoder is None:
        return head.decode(CenterMaps(*(part.float() for part in frozen.maps)))[0]
    memory = memories.get(run)
    refined = refine(detector, frozen, memory)
    batch = Batch([], detector.sensors, frozen.sensor_valid, moment=frozen.moment)
    memories[run] = Memory.of(refined[-1].objects, batch, detector.decoder.memory) if detector.remembers else None
    return detector.decoder.decode(refined, head.max_detections, head.score_threshold)[0]


def table(rows: Sequence[dict]) -> str:
    """Mean and standard deviation over the seeds, with all sensors; and mAP and NDS for every set."""
    lines = [("sensors", "decoder", *_COLUMNS)]
    for sensors in dict.fromkeys(row["sensors"] for row in rows):
        for variant in dict.fromkeys(row["decoder"] for row in rows):
            found = [row for row in rows if row["sensors"] == sensors and row["decoder"] == variant]
            lines.append((sensors, variant, *(_spread([row[c] for row in found]) for c in _COLUMNS)))
    return aligned(lines)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
