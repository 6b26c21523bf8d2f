"""Training runs: the folder of a run, its data and its model, in one or several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from perception.commit import current
from perception.config import Config
from perception.data.sources import FrameSource
from perception.device import is_out_of_memory
from perception.lock import locked
from perception.model.build import build
from perception.model.detector import Detector
from perception.processes import of_first_process, process_group
from perception.train.initialise import TrainingError, initialise
from perception.train.losses import DetectionLoss
from perception.train.pretrain import Pretrainer, PretrainLoss, pretraining
from perception.train.source import training_frames, validation_frames
from perception.train.trainer import Trainer


def train(
    config: Config,
    out: str | Path,
    resume: bool = False,
    device: str = "auto",
    source: FrameSource | None = None,
    build: Callable[[Config], Detector] = build,
    validation: FrameSource | None = None,
) -> bool:
    """Train the detector that ``config`` describes; returns whether training is complete (False if interrupted).

    Writes to the folder ``out``: model.safetensors and config.yaml for ``perception.load``, log.jsonl, TensorBoard
    logs, and checkpoint.safetensors, from which ``resume`` continues; with validation, best/, the weights of the best
    NDS. Under torchrun, all processes train together.

    Args:
        source: the frames; None reads the dataset that ``config.data`` names.
        build: builds the detector from a config; pass your own for a detector with custom parts.
        validation: frames to score on every ``validation.every_epochs``; None reads those that the config names.

    Raises:
        PerceptionError: data cannot be read or has nothing to learn from; ``out`` already holds a run and ``resume`` is
            false, or is no folder and ``resume`` is true.
    """

    def trainer(own_device: torch.device) -> Trainer:
        model = build(config)
        frames = source if source is not None else training_frames(model.config, model.inputs.covering)
        scored = validation if validation is not None else validation_frames(model.config, model.inputs.covering)
        for name, given in (("source", frames), ("validation", scored)):
            if given is not None and not isinstance(given, FrameSource):
                raise TrainingError(f"{name}: frames, with tokens, were expected, found {type(given).__name__}")
        for checkpoint in config.train.init:
            initialise(model, checkpoint)
        return Trainer(model, DetectionLoss(model, config.train), frames, model.config, Path(out), own_device, scored)

    return _run(Path(out), resume, device, config.train.seed, trainer)


def pretrain(
    config: Config,
    out: str | Path,
    resume: bool = False,
    device: str = "auto",
    source: FrameSource | None = None,
    build: Callable[[Config], Detector] = build,
) -> bool:
    """:func:`train` the encoders alone, on frames without boxes; the folder is for ``train.init``.

    Raises:
        PerceptionError: as there; no LiDAR to learn from.
    """

    def trainer(own_device: torch.device) -> Trainer:
        detector = build(pretraining(config))
        for checkpoint in config.train.init:
            initialise(detector, checkpoint)
        frames = source
        if frames is None:
            frames = training_frames(detector.config, detector.inputs.covering, annotated=False)
        loss = PretrainLoss(detector, config.train.depth_weight)
        return Trainer(Pretrainer(detector), loss, frames, detector.config, Path(out), own_device)

    return _run(Path(out), resume, device, config.train.seed, trainer)


def _run(out: Path, resume: bool, device: str, seed: int, make: Callable[[torch.device], Trainer]) -> bool:
    """Run what ``make`` builds, in the folder ``out``; returns whether it is complete."""

    def check_folder() -> None:
        if resume and not out.is_dir():
            raise TrainingError(f"{out}: a training run to resume was expected, found no such folder")

    def check() -> None:
        if current(out / "checkpoint.safetensors").exists() and not resume:
            raise TrainingError(f"{out}: holds a training run; continue it with --resume, or choose another --out")

    with process_group(device) as own_device, _memory_errors(), contextlib.ExitStack() as stack:
        of_first_process(check_folder, own_device)  # before the lock makes it
        of_first_process(lambda: stack.enter_context(locked(out)), own_device)
        of_first_process(check, own_device)
        torch.manual_seed(seed)
        trainer = make(own_device)
        if resume:
            trainer.resume()
        ended = trainer.run()
        if trainer.rank == 0:
            steps, minutes = f"{trainer.step} of {trainer.total_steps} steps", trainer.elapsed_s / 60
            after = "" if ended else "; interrupted, continue with --resume"
            print(f"{steps} in {minutes:.1f} minutes; weights, config and log.jsonl are in {out}{after}")
    return ended


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"out of memory: {reason}; larger cells (grid.cell_size_m, lidar.pillar_size_m), a smaller "
            "train.batch_size and fewer data.workers take less"
        ) from None
