"""What happens at the end of an epoch: averaged weights are scored on other frames, the best and the last ones kept."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from perception.commit import write_files
from perception.config import Config
from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.eval.evaluate import evaluate
from perception.eval.metric import ERRORS
from perception.model.detector import Detector
from perception.processes import place
from perception.train.journal import Journal
from perception.train.pictures import log_pictures

log = logging.getLogger(__name__)


class Validator:
    """Scores weights on ``frames`` every ``validation.every_epochs`` and at the end; None: never.

    best: NDS of the best weights so far, which are in the folder ``best`` of ``out``; those of the last
        ``train.keep_epochs`` epochs are in ``epoch-1``, ``epoch-2``, ...
    """

    def __init__(self, frames: FrameSource | None, config: Config, out: Path):
        self.frames, self.config, self.out, self.best = frames, config, out, -math.inf
        self.scores: dict | None = None  # the last ones
        self.epoch = 0  # the last one whose end has been dealt with

    def is_due(self, epoch: int) -> bool:
        """Whether weights are to be scored after an epoch, counted from 1."""
        every = self.config.validation.every_epochs or 1
        return self.frames is not None and (epoch % every == 0 or epoch == self.config.train.epochs)

    def score(
        self, model: Detector, state: Mapping[str, torch.Tensor], epoch: int, step: int, journal: Journal
    ) -> bool:
        """Score ``state``, averaged weights of ``model``, after an epoch at which that is due.

        Returns:
            Whether they are the best so far.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        if self.frames is None:
            raise PerceptionError("validation: frames to score on were expected, found none")
        detector = copy.deepcopy(model).eval()
        detector.load_state_dict(state)
        metrics = evaluate(detector, self.frames, workers=self.config.data.workers)
        numbers = {name: metrics[name] for name in ("mAP", "NDS", *(f"m{error}" for error in ERRORS))}
        known = {name: value for name, value in numbers.items() if value is not None}
        self.scores = {"epoch": epoch, **known}
        journal.write("validation", step, known, epoch=epoch, AP=metrics["AP"])
        log_pictures(detector, self.frames, step, journal)
        is_best, before = metrics["NDS"] > self.best, self.best
        self.best = max(metrics["NDS"], before)
        if place()[0] == 0:
            told = "the best so far" if is_best else f"the best had {before:.4f}"
            log.info("epoch %d: mAP %.4f, NDS %.4f, %s", epoch, metrics["mAP"], metrics["NDS"], told)
        return is_best

    def keep(self, files: Callable[[], Mapping[str, bytes]], epoch: int, is_best: bool) -> None:
        """Write the weights' ``files`` where they are to be kept. For the first process alone."""
        if is_best:
            write_files(self.out / "best", files())
        kept = self.config.train.keep_epochs
        if kept:
            write_files(self.out / f"epoch-{epoch}", files())
            if epoch > kept:
                shutil.rmtree(self.out / f"epoch-{epoch - kept}", ignore_errors=True)

    def state(self) -> dict:
        """All that scoring goes on from, JSON-serialisable, for :meth:`restore`."""
        best = self.best if math.isfinite(self.best) else None
        return {"epoch": self.epoch, "best": best, "scores": self.scores}

    def restore(self, state: dict) -> None:
        self.epoch, self.scores = state["epoch"], state["scores"]
        self.best = -math.inf if state["best"] is None else state["best"]
