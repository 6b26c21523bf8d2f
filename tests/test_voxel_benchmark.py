"""The benchmark of voxelization: its cloud, its rows, its peers in another interpreter."""

import sys

import numpy as np
import pytest
import torch

from benchmarks import voxelize as benchmark
from perception.errors import PerceptionError


def test_cloud_is_the_same_every_time_and_dense_near_the_vehicle():
    cloud = benchmark.lidar_cloud(5000)
    benchmark.lidar_cloud.cache_clear()
    assert cloud.shape == (5000, 5) and cloud.dtype == np.float32 and np.isfinite(cloud).all()
    assert np.array_equal(cloud, benchmark.lidar_cloud(5000))
    distance = np.hypot(cloud[:, 0], cloud[:, 1])
    assert ((distance < 20).mean() > 0.5) and distance.max() > 50


@pytest.mark.parametrize(("grid", "layers"), [benchmark.PILLARS, benchmark.VOXELS])
def test_every_side_does_the_same_work(grid, layers):
    cloud, sample = torch.from_numpy(benchmark.lidar_cloud(5000)), torch.zeros(5000, dtype=torch.int64)
    ours = benchmark._ours(cloud, sample, grid, layers)()
    torch.testing.assert_close(benchmark._plain_torch(cloud, sample, grid, layers)(), ours)
    torch.testing.assert_close(benchmark._unique(cloud, sample, grid, layers)().sort(0).values, ours.sort(0).values)


def test_sweep_and_plot(tmp_path):
    pytest.importorskip("matplotlib")
    rows = benchmark.sweep(points=(100, 1000), cell_sizes_m=(0.8,), repeats=1)
    ours = [(row["panel"], row["work"], row["points"]) for row in rows if row["who"] == "ours"]
    assert ours[:2] == [("points", "pillars", 100), ("points", "voxels", 100)]
    assert len(ours) == 5 and all(row["ms"] > 0 for row in rows)
    benchmark.plot(rows, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000


def test_peers_in_another_interpreter():
    """This one, which has no spconv."""
    with benchmark._Peers(sys.executable) as peers:
        candidates = peers.candidates(benchmark.lidar_cloud(100), *benchmark.PILLARS)
        assert 0 < candidates["numba index grid, capped, no mean"]() < 60
        with pytest.raises(PerceptionError, match="spconv_mean: ModuleNotFoundError"):
            candidates["spconv, capped, mean"]()


def test_without_a_gpu_there_is_a_clear_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(PerceptionError, match="a CUDA GPU was expected"):
        benchmark.gpu_voxelize()
