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
    (4.123555, 2.80338, 0.4786072, 2.669029, 1.841629, 11.9162),
    (4.271573, 2.619118, 0.4490176, 2.673657, 1.807281, 11.82065),
    (3.777158, 2.511509, 0.35483, 2.737805, 1.767985, 11.14929),
)
# By step, relative: another CPU's kernels differ by 1e-6, of which Adam can make 3e-4 in one step and 2e-3 in two.
TOLERANCE = (1e-5, 2e-3, 1e-2)


class Recorded(nn.Module):
    """A loss, and what it gave in every step."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss, self.steps = loss, []

    def forward(self, prediction, batch):
        terms = self.loss(prediction, batch)
        self.steps.append([float(terms[name].detach()) if name in terms else 0.0 for name in TERMS])
        return terms


class Named(list):
    @property
    def tokens(self) -> list[str]:
        return [frame.token for frame in self]


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
        frames = Named([make_frame("a", 0), make_frame("b", 1)])
        assert Trainer(detector, loss, frames, config, Path(out), torch.device("cpu")).run()
    finally:
        torch.set_num_threads(threads)
    return loss.steps


def test_the_first_three_steps(tmp_path):
    for have, want, tolerance in zip(curve(tmp_path), CURVE, TOLERANCE, strict=True):
        assert have == pytest.approx(want, rel=tolerance)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for step in curve(folder):
            print(tuple(float(f"{value:.7g}") for value in step))
