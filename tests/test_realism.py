"""Telling simulated from recorded patches: chance where there is nothing to tell, certainty where there is."""

import numpy as np
import pytest

pytest.importorskip("benchmarks.realism", reason="tools are no part of the package")
from benchmarks.realism import SIDE, area_under_roc, patches, told_apart
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sample import CameraImage, Frame, LidarCloud, RadarCloud


class Drive:
    """Points strewn over the ground, and images of one brightness."""

    def __init__(self, seed: int, height_m: float = 0.0, brightness: int = 90, frames: int = 8):
        self.seed, self.height_m, self.brightness = seed, height_m, brightness
        self.tokens = [f"{seed}-{i}" for i in range(frames)]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        xy = rng.uniform(-50, 50, (30_000, 2))
        z = self.height_m + rng.normal(0, 0.1, len(xy))
        lidar = LidarCloud(np.column_stack([xy, z, rng.uniform(0, 50, len(xy)), np.zeros(len(xy))]))
        old = np.repeat([0.0, 0.3], 1500)
        radar = RadarCloud(np.column_stack([xy[:3000], z[:3000], np.zeros((3000, 3)), old]))
        pixels = rng.integers(self.brightness - 20, self.brightness + 20, (128, 352, 3)).astype(np.uint8)
        cameras = {"CAM_FRONT": CameraImage(pixels, np.diag([300.0, 300.0, 1.0]), SE3(), 0)}
        return Frame(self.tokens[index], 0, SE3(), cameras, radar, lidar)


@pytest.mark.parametrize("sensor", ["lidar", "camera"])
def test_what_is_alike_is_told_apart_by_chance_only(sensor):
    found = told_apart(Drive(1), Drive(2), sensor, steps=60)
    assert found["accuracy"] == pytest.approx(0.5, abs=0.15) and found["recorded_patches"] > 10


@pytest.mark.parametrize(("sensor", "other"), [("lidar", {"height_m": 2.0}), ("camera", {"brightness": 150})])
def test_what_differs_is_told_apart(sensor, other):
    found = told_apart(Drive(1), Drive(2, **other), sensor, steps=60)
    assert found["accuracy"] > 0.95 and found["auc"] > 0.98


def test_patches_show_one_sweep_in_cells():
    """1,500 points of the last sweep on 100 m x 100 m: 98 in a patch; none of the sweep before."""
    blocks = patches(Drive(1), "radar")
    assert len(blocks) == 4 and all(block.shape[1:] == (3, SIDE, SIDE) for block in blocks)
    counts = np.expm1(np.concatenate(blocks)[:, 0]).sum(axis=(1, 2))
    assert counts.mean() == pytest.approx(1500 * 25.6**2 / 100**2, rel=0.1)
    lidar = np.concatenate(patches(Drive(1, height_m=1.5), "lidar"))
    occupied = lidar[:, 0] > 0
    assert lidar[:, 1][occupied].mean() == pytest.approx(0.5, abs=0.1)  # greatest height, in units of 3 m
    assert (lidar[:, 1] >= lidar[:, 2])[occupied].all() and (lidar[:, 1:][:, :, ~occupied[0]][0] == 0).all()


def test_a_sensor_that_is_not_there_is_named():
    class Blind(Drive):
        def __getitem__(self, index):
            return super().__getitem__(index).only(["lidar"])

    with pytest.raises(PerceptionError, match="radar: patches of frames 0 to 2 were expected, found none"):
        patches(Blind(1), "radar")


def test_area_under_the_curve_by_hand():
    assert area_under_roc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert area_under_roc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert area_under_roc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert area_under_roc(np.array([0.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx((1 + 2 - 0.5) / 4)
