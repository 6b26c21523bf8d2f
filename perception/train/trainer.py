"""Training: one loop for one or many processes, on CPU or GPU, that can be stopped and resumed at any step.

All randomness is keyed by the seed and the step (see ``train.batches``), and the learning rate is a function of the
step. On a CPU, an interrupted and resumed run is therefore bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from perception.batch import Batch
from perception.commit import current
from perception.config import Config
from perception.data.loader import Loader
from perception.data.shards import Shards
from perception.data.sources import FrameSource
from perception.device import has_bfloat16, peak_memory_mb
from perception.files import ResultsError
from perception.grid import BEVGrid
from perception.model.detector import Detector
from perception.processes import any_process, of_all_processes, of_first_process, place, stop_signals
from perception.seeding import keyed_rng
from perception.train.batches import Schedule, TrainingData
from perception.train.checkpoint import flat, read_checkpoint, restore_flat, write_checkpoint
from perception.train.initialise import TrainingError, freeze
from perception.train.journal import Journal, Step, Window
from perception.train.labels import LabelError, count_labels
from perception.train.manifest import MANIFEST, as_file, origin
from perception.train.optim import Ema, one_cycle, parameter_groups
from perception.train.pretrain import Pretrainer
from perception.train.same_run import check_same_order, check_same_run, order_rests_on
from perception.train.source import frames_by_class
from perception.train.validation import Validator

LOG_EVERY_STEPS = 20
MAX_BROKEN_STEPS = 10  # consecutive steps with a non-finite loss or gradient before training fails
SAY_EVERY_S = 60.0  # how training goes, where no progress bar shows it

log = logging.getLogger(__name__)


class Trainer:
    """Trains ``model`` on ``frames``; all output goes to the folder ``out``.

    model: Batch -> prediction, with ``inputs`` and ``files(state)`` like a Detector.
    loss: (prediction, batch) -> dict with "total". May have ``targets``, which the loader then makes (TrainingData),
        and ``learned(batch)``, how many ``teachers`` are in a batch; by default the boxes in the grid.
    frames: yields None for an unreadable frame, which is skipped and counted.
    validation: frames that the averaged weights are scored on; None for no scoring.
    """

    def __init__(
        self,
        model: Detector | Pretrainer,
        loss: nn.Module,
        frames: FrameSource,
        config: Config,
        out: Path,
        device: torch.device,
        validation: FrameSource | None = None,
    ):
        for name in ("epochs", "batch_size"):
            if getattr(config.train, name) < 1:
                raise TrainingError(f"train.{name}: at least 1 was expected, found {getattr(config.train, name)}")
        self.config, self.out, self.device = config, out, device
        self.rank, self.processes = place()
        self.model: Any = model.to(device).train()
        self.loss = loss.to(device)
        for name in config.train.freeze:
            freeze(model.detector if isinstance(model, Pretrainer) else model, name)
        self.forward: nn.Module = self.model
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config.train))
        self.ema = Ema(self.model, config.train.ema_decay)
        self.amp = config.train.amp and has_bfloat16(device)

        self.by_class = frames_by_class(frames, len(config.task.classes)) if config.train.balanced else None
        self.shards = frames.shard if isinstance(frames, Shards) else None
        data = TrainingData(frames, config, model.inputs, getattr(loss, "targets", {}))
        self.loader = Loader(data, config.data.workers, pin_memory=device.type == "cuda")
        self._plan(config.train.batches_per_step or self.processes)
        self.step, self.elapsed_before_s, self.start_s = 0, 0.0, time.monotonic()
        self.saved_step, self.saved_s, self.said_s = 0, self.start_s, self.start_s
        self.whole = True  # whether the weights are those of a step, not of half of one
        self.broken: list[list[str]] = []  # tokens of the broken steps since the last good one
        self.recent, self.epoch = Window(), Window()
        self.counts: Counter[str] = Counter()  # of the epoch
        grid = BEVGrid(**vars(config.grid))
        self.learned = getattr(loss, "learned", lambda batch: count_labels(batch, grid))
        self.validator = Validator(validation, config, out)
        self.origin = origin(config, frames)

    def _plan(self, batches: int) -> None:
        """Steps of so many batches."""
        train, sensors = self.config.train, self.model.inputs.sensors
        frames = len(self.loader.data.frames)
        self.schedule = Schedule(frames, sensors, train, self.rank, self.processes, self.by_class, batches, self.shards)
        self.total_steps = train.epochs * self.schedule.steps_per_epoch
        reference = train.reference_frames or batches * train.batch_size
        self.rate_factor = math.sqrt(batches * train.batch_size / reference)  # for Adam, Malladi et al. 2022

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.safetensors"

    @property
    def elapsed_s(self) -> float:
        return self.elapsed_before_s + time.monotonic() - self.start_s

    def run(self) -> bool:
        """Train to the end or until Ctrl-C, and save the state in either case. Returns whether training is complete.

        Raises:
            TrainingError: an epoch has no usable batch, or loss or gradient is not finite for many steps in a row.
            LabelError: an epoch has no box to learn from.
        """
        totals = of_all_processes(self.total_steps)
        if len(set(totals)) > 1:
            raise TrainingError(f"data: the same frames were expected in every process, found those of {totals} steps")
        self.out.mkdir(parents=True, exist_ok=True)
        hidden = self.rank > 0 or "TQDM_DISABLE" in os.environ or not sys.stderr.isatty()
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", mininterval=0.5, disable=hidden)
        unscored = self._ended_epoch() > self.validator.epoch
        opened = Journal(self.out, self.step, self.rank, without=("validation",) if unscored else ())
        with contextlib.closing(opened) as journal, bar, stop_signals() as stop:
            if self.processes > 1:  # parameters of a sensor that is not in the batch are unused
                self.forward = DistributedDataParallel(self.model, find_unused_parameters=True)
            try:
                ended = self._end_epoch(journal, stop)  # which a signal may have interrupted
                while ended and self.step < self.total_steps:
                    ended = self._run_epoch(journal, bar, stop)
                    self.save()
                    ended = ended and self._end_epoch(journal, stop)
            except (TrainingError, LabelError, ResultsError):
                raise
            except Exception:  # of the data or of the machine
                self._save_what_there_is()
                raise
            finally:
                self.loader.close()
                self.forward = self.model  # gloo threads that outlive the process group may abort the exit
        return ended

    def _save_what_there_is(self) -> None:
        if self.whole and self.step > self.saved_step:
            try:
                self.save()
                log.warning("%s: the state of step %d is saved; continue with --resume", self.out, self.step)
            except ResultsError as error:
                log.warning("%s", error)

    def _run_epoch(self, journal: Journal, bar: tqdm, stop: list[int]) -> bool:
        """Run the rest of the current epoch; returns whether its end was reached."""
        epoch, start = divmod(self.step, self.schedule.steps_per_epoch)
        self.schedule.epoch, self.schedule.start = epoch, start
        waited_s = time.monotonic()
        for batches in _groups(self.loader.items(self.schedule, stopped=lambda: bool(stop)), self.schedule.share):
            data_s = time.monotonic() - waited_s
            stopped, empty = any_process([bool(stop), any(batch is None for batch in batches)], self.device)
            if stopped:
                return False
            found = [batch for batch in batches if batch is not None]
            losses = {} if empty else self._train_step(found, journal)
            own = Step(losses, sum(map(len, found)), data_s, sum(map(self.learned, found)))
            step = Step.joined(of_all_processes(own))
            self.recent.add(step)
            self.epoch.add(step)
            self.counts["dropped_frames"] += self.config.train.batch_size * self.schedule.batches - step.samples
            self.counts["empty_steps"] += empty
            self.counts["broken_steps"] += not (empty or losses)
            self.counts["labels"] += step.labels
            self.step += 1
            self.whole = True
            bar.update()
            if self.step % LOG_EVERY_STEPS == 0 or self.step == 1:
                self._log(journal, bar)
            # The end of an epoch is saved when its row has been written: a resumed run would not write it.
            is_last = self.step % self.schedule.steps_per_epoch == 0
            if not is_last and time.monotonic() - self.saved_s > 60 * self.config.train.checkpoint_minutes:
                self.save()
            waited_s = time.monotonic()
        names = ("dropped_frames", "empty_steps", "broken_steps", "labels")
        dropped, unused, broken, labels = (self.counts.pop(name, 0) for name in names)
        if unused == self.schedule.steps_per_epoch:
            raise TrainingError(
                f"epoch {epoch + 1}: not one batch could be used, {dropped} frames are unreadable or empty"
            )
        if not labels:
            what = getattr(self.loss, "teachers", "boxes")
            raise LabelError(f"epoch {epoch + 1}: {what} to learn from were expected, found none that is in the grid")
        counts = {"dropped_frames": dropped, "broken_steps": broken}
        journal.write("epoch", self.step, self.epoch.pop(), epoch=epoch + 1, **counts, elapsed_s=self.elapsed_s)
        if dropped or broken:
            log.warning("epoch %d: %d frames dropped, %d steps skipped", epoch + 1, dropped, broken)
        return True

    def _ended_epoch(self) -> int:
        """The epoch, counted from 1, whose end was just reached; 0 within one, and at the beginning."""
        epoch, rest = divmod(self.step, self.schedule.steps_per_epoch)
        return 0 if rest else epoch

    def _end_epoch(self, journal: Journal, stop: list[int]) -> bool:
        """Score and keep averaged weights, if an epoch has ended and that is due; False if a signal interrupted it.

        It is then made up for when the run is resumed.
        """
        epoch, begun_s, is_best = self._ended_epoch(), time.monotonic(), False
        if epoch <= self.validator.epoch:
            return True
        due = self.validator.is_due(epoch)
        if due:
            if any_process([bool(stop)], self.device)[0]:
                return False
            self.loader.close()  # scoring has workers of its own
            try:
                is_best = self.validator.score(self.model, self.ema.state, epoch, self.step, journal)
            except KeyboardInterrupt:
                return False
        self.validator.epoch = epoch
        if self.rank == 0:
            self.validator.keep(self._files, epoch, is_best)
        if due:
            self.save()
        for window in (self.recent, self.epoch):
            window.start_s += time.monotonic() - begun_s
        return True

    def _files(self) -> dict[str, bytes]:
        """Of the averaged weights."""
        manifest = as_file(self.origin, self.step, self.total_steps, self.validator.scores)
        return {**self.model.files(self.ema.state), MANIFEST: manifest}

    def _log(self, journal: Journal, bar: tqdm) -> None:
        means = self.recent.means() if self.step == 1 else self.recent.pop()
        means["memory_mb"] = max(of_all_processes(peak_memory_mb(self.device)))
        if "total" not in means:
            return
        bar.set_postfix_str(f"loss {means['total']:.3f}")
        if bar.disable and self.rank == 0 and (self.step == 1 or time.monotonic() - self.said_s > SAY_EVERY_S):
            self.said_s = time.monotonic()
            samples = (self.total_steps - self.step) * self.schedule.batches * self.config.train.batch_size
            log.info(
                "step %d of %d, loss %.3f, gradient %.2g, learning rate %.2g, %.3g frames/s, %.0f %% of the time "
                "waiting for data, %.1f GB, %.0f minutes left",
                self.step, self.total_steps, means["total"], means["gradient_norm"], self.learning_rate,
                means["samples_per_s"], 100 * means["data_share"], means["memory_mb"] / 1000,
                samples / means["samples_per_s"] / 60,
            )  # fmt: skip
        journal.write("steps", self.step, means, learning_rate=self.learning_rate, elapsed_s=self.elapsed_s)

    @property
    def learning_rate(self) -> float:
        return self.config.train.learning_rate * self.rate_factor * one_cycle(self.step / self.total_steps)

    def _train_step(self, batches: list[Batch], journal: Journal) -> dict[str, float]:
        """One optimiser step; if loss or gradient is not finite, weights are not changed and the result is empty."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.rate_factor * one_cycle(self.step / self.total_steps)
        self.optimizer.zero_grad()
        losses: dict[str, list[torch.Tensor]] = {}
        for number, batch in enumerate(batches):
            place = (
                number * self.processes + self.rank
            )  # among the batches of the step, however many processes there are
            torch.manual_seed(int(keyed_rng(self.config.train.seed, self.step, place, "network").integers(2**63)))
            with self._shared_gradients(number == len(batches) - 1):
                batch = batch.to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                    prediction = self.forward(batch)
                found = self.loss(prediction, batch)
                (found["total"] / len(batches)).backward()
            for name, value in found.items():
                losses.setdefault(name, []).append(value.detach())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        means = {name: torch.stack(values).mean() for name, values in losses.items()}  # over the batches that have it
        finite = bool(means["total"].isfinite() & norm.isfinite())
        if any_process([not finite], self.device)[0]:
            self._skip_broken([token for batch in batches for token in batch.tokens], journal)
            return {}
        self.broken.clear()
        self.whole = False
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        return {name: float(value) for name, value in {**means, "gradient_norm": norm}.items()}

    def _shared_gradients(self, last: bool) -> contextlib.AbstractContextManager:
        """Processes exchange gradients once a step, with its last batch."""
        if last or not isinstance(self.forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward.no_sync()

    def _skip_broken(self, tokens: list[str], journal: Journal) -> None:
        self.broken.append(tokens)
        journal.write("broken", self.step, {}, tokens=tokens)
        if len(self.broken) == MAX_BROKEN_STEPS:
            names = dict.fromkeys(token for tokens in self.broken for token in tokens)
            raise TrainingError(
                f"step {self.step}: loss or gradient not finite for {MAX_BROKEN_STEPS} steps in a row, "
                f"on frames {', '.join(names)}"
            )

    def save(self) -> None:
        """Write averaged weights and config, for ``perception.load``, manifest and the state to go on from, as one."""
        self.saved_step, self.saved_s = self.step, time.monotonic()
        if self.rank > 0:
            return
        tensors = {"model": self.model.state_dict(), "ema": self.ema.state, "optimizer": flat(self.optimizer)}
        progress = {"step": self.step, "total_steps": self.total_steps, "elapsed_s": self.elapsed_s}
        logged = {"recent": self.recent.state(), "epoch": self.epoch.state(), "counts": self.counts}
        logged["validator"] = self.validator.state()
        order = order_rests_on(self.origin, self.schedule.shards)
        state = {**progress, **logged, "config": asdict(self._planned()), "order": order}
        write_checkpoint(self.checkpoint, tensors, state, beside=self._files())

    def resume(self) -> None:
        """Continue from the checkpoint in ``out``, or start from the beginning if there is none.

        All processes continue from what the first one reads, whose disk may be another.

        Raises:
            TrainingError: the checkpoint cannot be read, or was written with a different config.
        """
        found = of_first_process(self._read_checkpoint, self.device)
        if found is None:
            log.info("%s: nothing to resume, starting from the beginning", self.out)
            return
        tensors, state = found
        try:
            self._restore(tensors, state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"{self.checkpoint}: does not fit this version of the model: {reason}") from None

    def _read_checkpoint(self) -> tuple[dict, dict] | None:
        return read_checkpoint(self.checkpoint) if current(self.checkpoint).exists() else None

    def _planned(self) -> Config:
        """The config, with the number of batches that a step has."""
        return replace(self.config, train=replace(self.config.train, batches_per_step=self.schedule.batches))

    def _restore(self, tensors: dict, state: dict) -> None:
        batches = state["config"]["train"].get("batches_per_step")
        if self.config.train.batches_per_step is None and batches:
            self._plan(batches)  # as many as then, whatever the number of processes now
        check_same_run(self.checkpoint, state, self._planned(), self.schedule.steps_per_epoch, bool(batches))
        check_same_order(self.checkpoint, state, order_rests_on(self.origin, self.schedule.shards))
        self.model.load_state_dict(tensors["model"])
        for name, tensor in self.ema.state.items():
            tensor.copy_(tensors["ema"][name])
        restore_flat(self.optimizer, tensors.get("optimizer", {}))
        self.step, self.elapsed_before_s = state["step"], state["elapsed_s"]
        self.saved_step = self.step
        if "epoch" in state:  # not in checkpoints of earlier versions
            self.recent.restore(state["recent"])
            self.epoch.restore(state["epoch"])
            self.counts.update(state["counts"])
        if "validator" in state:
            self.validator.restore(state["validator"])


def _groups(batches: Iterator[Batch | None], size: int) -> Iterator[list[Batch | None]]:
    while group := list(itertools.islice(batches, size)):
        yield group
