"""Pretraining without labels: what is masked, what is learned, and that a detector starts from it."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_model import small_config
from test_train import Frames, make_frame

import perception
from perception.batch import Batch, PointBatch
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.build import build
from perception.train.initialise import initialise
from perception.train.labels import LabelError
from perception.train.pretrain import SLICES, Guess, Guesses, PretrainLoss, masked, occupancy, pretraining
from perception.train.run import pretrain, train
from perception.train.trainer import TrainingError

GRID = BEVGrid(-4, 4, -2, 2, -1, 3, 1.0)  # eight columns, four rows, slices of half a metre
FIELDS = ("x", "y", "z", "intensity", "age_s")


def cloud(*xyz, batch_index=None, size=1) -> PointBatch:
    points = torch.tensor([[*p, 0.0, 0.0] for p in xyz]).view(-1, 5)
    index = torch.zeros(len(points), dtype=torch.int64) if batch_index is None else torch.tensor(batch_index)
    return PointBatch(points, index, size, FIELDS)


def batch_of(lidar: PointBatch | None) -> Batch:
    inputs = {} if lidar is None else {"lidar": lidar}
    return Batch([f"t{i}" for i in range(2)], ("lidar",), torch.ones(2, 1, dtype=torch.bool), inputs)


def test_occupancy_by_hand():
    """Two points in one cell, half a metre apart in height, and one of the second sample; nothing from outside."""
    seen = cloud(
        [0.5, 0.5, -0.9], [0.6, 0.4, -0.2], [-3.5, -1.5, 2.9], [9, 0, 0], [0, 0, 5], batch_index=[0, 0, 1, 1, 1], size=2
    )
    slices, density = occupancy(seen, GRID)
    assert slices.shape == (2, SLICES, 4, 8) and slices.nonzero().tolist() == [[0, 0, 2, 4], [0, 1, 2, 4], [1, 7, 0, 0]]
    assert density[0, 2, 4] == pytest.approx(math.log(3)) and density[1, 0, 0] == pytest.approx(math.log(2))
    assert density.count_nonzero() == 2


def test_cells_are_masked_as_wholes_and_points_outside_of_the_grid_are_kept():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    grid = BEVGrid(-20, 20, -20, 20, -1, 3, 1.0)
    points = np.repeat(rng.uniform(-20, 20, (2000, 3)), 2, axis=0)  # every place twice
    points[:, 2] = 0.0
    points = np.concatenate([points, np.full((5, 3), 30.0)])
    before = batch_of(cloud(*points.tolist()))
    after = masked(before, grid).inputs["lidar"]
    assert len(before.inputs["lidar"].points) == 4005  # the batch itself is left as it is: it has the targets
    assert (after.points[:, 0] == 30).sum() == 5
    places, counts = np.unique(after.points[after.points[:, 0] < 30, :2].numpy(), axis=0, return_counts=True)
    assert (counts == 2).all() and len(places) / 2000 == pytest.approx(0.3, abs=0.04)
    left, taken = (set(map(tuple, np.floor(p).tolist())) for p in (places, points[:4000, :2]))
    assert len(left) / len(taken) == pytest.approx(0.3, abs=0.04)


def test_the_loss_by_hand():
    """A slice that is told with certainty costs nothing; density off by 0.5 in the one cell with points: 0.2 x 0.5."""
    detector = build(small_config("camera=null", "radar=null"))
    loss, batch = PretrainLoss(detector, 1.0), batch_of(cloud([0.5, 0.5, -0.9], size=2))
    slices, density = occupancy(batch.inputs["lidar"], detector.grid)
    sure = Guess(40 * (2 * slices - 1), density + 0.5)
    terms = loss(Guesses({"lidar": sure}, {}), batch)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"lidar/occupied": 0.0, "lidar/density": 0.1, "total": 0.1}, abs=1e-6
    )
    wrong = Guess(-sure.occupied, density)
    assert float(loss(Guesses({"lidar": wrong}, {}), batch)["lidar/occupied"]) > 1000
    assert loss.learned(batch) == 1 and loss.learned(batch_of(None)) == 0


def test_samples_teach_nothing_without_lidar_and_sensors_that_they_lack_are_not_blamed():
    """The second sample has no points: what is said of it costs nothing, as if it were not there."""
    detector = build(small_config("camera=null", "radar=null"))
    loss, batch = PretrainLoss(detector, 1.0), batch_of(cloud([0.5, 0.5, -0.9], size=2))
    slices, density = occupancy(batch.inputs["lidar"], detector.grid)
    sure, wild = 40 * (2 * slices - 1), torch.full_like(slices, 40.0)
    guess = Guess(torch.cat([sure[:1], wild[1:]]).requires_grad_(), density)
    assert float(loss(Guesses({"lidar": guess}, {}), batch)["total"]) == pytest.approx(0, abs=1e-6)
    batch.sensor_valid[0] = False  # the first one's LiDAR only supervises
    wrong = Guess(-sure, density)
    assert float(loss(Guesses({"lidar": wrong}, {}), batch)["total"]) == 0
    none = loss(Guesses({"lidar": guess}, {}), batch_of(None))["total"]
    none.backward()
    assert float(none) == 0 and guess.occupied.grad.abs().sum() == 0


def frames(count=8) -> Frames:
    class Unlabelled(Frames):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            return replace(found, boxes=None)

    return Unlabelled(count)


def test_every_sensor_learns_and_a_detector_starts_from_it(tmp_path):
    config = small_config("train.epochs=6", "train.batch_size=2", "train.sensor_dropout=0", "data.workers=0")
    assert pretrain(config, tmp_path / "pre", device="cpu", source=frames())
    rows = [json.loads(line) for line in (tmp_path / "pre" / "log.jsonl").read_text().splitlines()]
    first, *_, last = [row for row in rows if row["kind"] == "epoch"]
    for sensor in ("camera", "radar", "lidar"):
        assert last[f"{sensor}/occupied"] < first[f"{sensor}/occupied"]
    assert "depth" in last
    loaded = perception.load(tmp_path / "pre")
    torch.manual_seed(1)
    fresh = build(config)
    initialise(fresh, str(tmp_path / "pre"))
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), loaded.state_dict().values()))
    with pytest.raises(TrainingError, match="holds a training run"):
        pretrain(config, tmp_path / "pre", device="cpu", source=frames())
    assert pretrain(config, tmp_path / "pre", resume=True, device="cpu", source=frames())  # which is complete
    with pytest.raises(PerceptionError):
        train(config, tmp_path / "labels", device="cpu", source=frames())  # which have no boxes


def test_what_is_for_boxes_is_left_out():
    config = pretraining(small_config("train.clip=2", "augment.corruption_rate=0.5"))
    assert config.train.clip == 1 and config.augment.corruption_rate == 0


def test_a_frozen_encoder_stays_as_it_is(tmp_path):
    config = small_config("train.epochs=1", "train.batch_size=2", "data.workers=0", "train.freeze=[encoders.radar]")
    torch.manual_seed(config.train.seed)
    before = build(config)
    assert pretrain(config, tmp_path, device="cpu", source=frames(4))
    after = perception.load(tmp_path)
    assert after.config.train.freeze == ["encoders.radar"]  # as training would have it
    weights, was = after.encoders.radar.state_dict(), before.encoders.radar.state_dict()
    assert all(torch.equal(weights[name], was[name]) for name in was)


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    config = small_config("train.epochs=2", "train.batch_size=2", "data.workers=0", "train.checkpoint_minutes=1e9")
    assert pretrain(config, tmp_path / "whole", device="cpu", source=frames(6))

    class Interrupting(Frames):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            if self.reads == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return replace(super().__getitem__(index), boxes=None)

    assert not pretrain(config, tmp_path / "parts", device="cpu", source=Interrupting(6))
    assert pretrain(config, tmp_path / "parts", resume=True, device="cpu", source=frames(6))
    whole, parts = (perception.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_without_lidar_there_is_nothing_to_learn_from(tmp_path):
    with pytest.raises(PerceptionError, match="encoders: lidar was expected, which the others learn from, found none"):
        pretrain(small_config("lidar=null"), tmp_path / "a", device="cpu", source=frames())

    class Without(Frames):
        def __init__(self, count, seeing=()):
            super().__init__(count)
            self.seeing = seeing

        def __getitem__(self, index):
            found = make_frame(index)
            return replace(found, lidar=found.lidar if index in self.seeing else None, boxes=None)

    config = small_config("train.epochs=1", "train.batch_size=1", "data.workers=0", "train.sensor_dropout=0")
    assert pretrain(config, tmp_path / "b", device="cpu", source=Without(4, {1, 3}))  # the others teach nothing
    with pytest.raises(LabelError, match="epoch 1: LiDAR points to learn from were expected, found none"):
        pretrain(config, tmp_path / "c", device="cpu", source=Without(4))
