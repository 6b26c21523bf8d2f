"""Training on a stub model and dataset: everything but the detector itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception.checkpoint import read_checkpoint
from perception.config import Config, load_config, save_config
from perception.data.batches import PROPER_SUBSETS, Draw, Schedule, TrainingData, without_unseen
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.optim import WARMUP, Ema, has_bfloat16, one_cycle, parameter_groups
from perception.sample import SENSORS, Batch, Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud, SampleError
from perception.train import MAX_BROKEN_STEPS, Trainer, TrainingError

ROOT = Path(__file__).parent.parent
IMAGE_SIZE = (8, 16)


def make_frame(index: int) -> Frame:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (10, 20, 3), dtype=np.uint8)
    camera = CameraImage(image, np.array([[10.0, 0, 9.5], [0, 10, 4.5], [0, 0, 1]]), SE3(), 0)
    return Frame(
        token=f"token-{index}",
        timestamp_ns=index,
        cameras={"CAM_FRONT": camera},
        radar=RadarCloud(rng.normal(size=(5, 7)).astype(np.float32)),
        lidar=LidarCloud(rng.normal(size=(9, 5)).astype(np.float32)),
        boxes=Boxes3D(rng.normal(size=(2, 3)), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)), np.zeros(2)),
    )


class Frames:
    """A dataset of ``count`` frames that calls ``on_read(index)`` at every access; those in ``unreadable`` are None."""

    def __init__(self, count: int, unreadable=(), on_read=None):
        self.count, self.unreadable, self.on_read = count, unreadable, on_read

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> Frame | None:
        if self.on_read:
            self.on_read(index)
        return None if index in self.unreadable else make_frame(index)


class StubCamera(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)


class StubModel(nn.Module):
    """Means of each valid sensor through a layer of its own, and dropout to have some randomness of the network."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.camera = StubCamera()
        self.radar, self.lidar, self.norm = nn.Linear(7, 4), nn.Linear(5, 4), nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: Batch) -> torch.Tensor:
        camera, radar, lidar = batch.sensor_valid.any(dim=0).tolist()
        features = torch.zeros(4)
        if camera:
            features = features + self.camera.backbone(batch.images.float().mean(dim=(0, 1, 3, 4)) / 255)
        if radar:
            features = features + self.radar(batch.radar.points.mean(dim=0))
        if lidar:
            features = features + self.lidar(batch.lidar.points.mean(dim=0))
        return self.dropout(self.norm(features.expand(2, 4)) + features)

    def save(self, folder, state):
        from safetensors.torch import save_file

        save_file(state, Path(folder) / "model.safetensors")
        (Path(folder) / "config.yaml").write_text("")


class StubLoss(nn.Module):
    def forward(self, prediction, batch):
        target = torch.tensor(np.concatenate([boxes.center for boxes in batch.boxes]).mean(), dtype=torch.float32)
        return {"total": ((prediction - target) ** 2).mean()}


def make_config(**train) -> Config:
    config = Config()
    config.camera.image_size = list(IMAGE_SIZE)
    config.data.workers = 0
    for key, value in {"epochs": 2, "batch_size": 2, "amp": False, **train}.items():
        setattr(config.train, key, value)
    return config


def trainer(out, frames=None, config=None, loss=None) -> Trainer:
    return Trainer(
        StubModel(), loss or StubLoss(), frames or Frames(9), config or make_config(), Path(out), torch.device("cpu")
    )


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_weights_log_and_checkpoint(tmp_path):
    run = trainer(tmp_path)
    assert run.run()
    assert run.step == 2 * 4  # nine frames in batches of two, the ninth left out
    epochs = [line for line in lines(tmp_path) if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2] and [line["step"] for line in epochs] == [4, 8]
    assert epochs[0]["total"] > 0 and epochs[0]["samples_per_s"] > 0 and epochs[0]["dropped_frames"] == 0
    assert (tmp_path / "config.yaml").exists()
    assert read_checkpoint(tmp_path / "checkpoint.safetensors")[1]["step"] == 8


@pytest.mark.parametrize("stop_at", [4, 7, 11])  # reads: in the first epoch, at its end, in the second
def test_resuming_ends_in_the_same_bytes(tmp_path, stop_at):
    trainer(tmp_path / "whole").run()

    reads = []

    def interrupt(index):
        reads.append(index)
        if len(reads) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = trainer(tmp_path / "parts", Frames(9, on_read=interrupt))
    assert not stopped.run()
    assert 0 < stopped.step < 8
    resumed = trainer(tmp_path / "parts")
    resumed.resume()
    assert resumed.step == stopped.step
    assert resumed.run()

    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()
    tensors = [read_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts")]
    for group in ("model", "ema", "optimizer"):
        assert tensors[0][group].keys() == tensors[1][group].keys()
        assert all(torch.equal(value, tensors[1][group][name]) for name, value in tensors[0][group].items())
    steps = [line["step"] for line in lines(tmp_path / "parts") if line["kind"] == "epoch"]
    assert steps == [4, 8]
