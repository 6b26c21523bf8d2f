"""The first losses of a small detector, whole, against numbers that were written down.

A change of any part of the model, the losses or the training shows here. One that is meant renews the numbers, which
``python tests/test_loss_curve.py`` prints.
"""

import tempfile
from pathlib import Path

import pytest
import torch
from test_model import make_frame, small_config
from torch import nn

from perception.model.build import build
from perception.train.losses import DetectionLoss
from perception.train.trainer import Trainer

TERMS = ("heat", "box", "attribute", "depth", "registration", "total")
CURVE = (
    (4.388123, 2.657103, 0.479847, 2.664069, 2.105383, 12.29452),
    (4.142451, 2.691636, 0.4509521, 2.502063, 1.643082, 11.43018),
    (3.742415, 2.555213, 0.3873548, 1.763369, 3.110788, 11.55914),
)


class Recorded(nn.Module):
    """A loss, and what it gave in every step."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss, self.steps = loss, []

    def forward(self, prediction, batch):
        terms = self.loss(prediction, batch)
        self.steps.append([float(terms[name].detach()) if name in terms else 0.0 for name in TERMS])
        return terms


def curve(out) -> list[list[float]]:
    """The terms of three steps on two frames each, augmented, of which one step lacks a sensor."""
    config = small_config("train.epochs=3", "train.batch_size=2", "train.amp=false", "data.workers=0",
                          "augment.corruption_rate=0.3", "train.seed=8", "train.learning_rate=0.01")  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        detector = build(config)
        loss = Recorded(DetectionLoss(detector, config.train))
        frames = [make_frame("a", 0), make_frame("b", 1)]
        assert Trainer(detector, loss, frames, config, Path(out), torch.device("cpu")).run()
    finally:
        torch.set_num_threads(threads)
    return loss.steps


def test_the_first_three_steps(tmp_path):
    for have, want in zip(curve(tmp_path), CURVE, strict=True):
        assert have == pytest.approx(want, rel=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for step in curve(folder):
            print(tuple(float(f"{value:.7g}") for value in step))
