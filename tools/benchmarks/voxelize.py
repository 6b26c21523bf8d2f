"""Voxelization of a ten-sweep LiDAR cloud with the mean of its points, beside what people use today.

The cloud is a simulated scanner of 32 beams among walls, so that points are dense near the vehicle and sparse far from
it, in the order in which a scanner measures them. Every side has one thread. Peers that this environment does not have
run in another interpreter (:mod:`benchmarks.voxel_peers`), taking turns with ours.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import Peers, one_thread
from benchmarks.timing import compare, row, timed
from perception.errors import PerceptionError, missing_extra
from perception.grid import BEVGrid
from perception.ops import reference
from perception.ops.voxelize import cell_axes, segment_mean, voxelize

POINTS = 268_561  # of a real cloud of ten sweeps
PILLARS = BEVGrid(-51.2, 51.2, -51.2, 51.2, -5.0, 3.0, 0.2), 1
VOXELS = BEVGrid(-54.0, 54.0, -54.0, 54.0, -5.0, 3.0, 0.075), 40
# The usual caps: PointPillars' for pillars, those of CenterPoint and BEVFusion for voxels.
CAPS = {1: {"max_points": 20, "max_voxels": 30_000}, 40: {"max_points": 10, "max_voxels": 120_000}}
_COLOURS = "#1b6ca8", "#a83232", "#f2a541", "#e07b39", "#3c8d40", "#8e5ea2", "#777777"
_BEAMS, _AZIMUTHS, _SWEEPS = 32, 1084, 10


def pillars(peers_python: str | Path | None = None) -> list[dict]:
    """Pillars of 0.2 m with the mean of their points."""
    return _compared("pillars", *PILLARS, peers_python)


def voxels(peers_python: str | Path | None = None) -> list[dict]:
    """Voxels of 0.075 x 0.075 x 0.2 m with the mean of their points."""
    return _compared("voxels", *VOXELS, peers_python)


def gpu_voxelize(points: int = 300_000, repeats: int = 50) -> list[dict]:
    """Pillars with the mean of their points on a GPU: the Triton kernels against plain torch there."""
    if not torch.cuda.is_available():
        raise PerceptionError("gpu_voxelize: a CUDA GPU was expected, found none")
    cloud = torch.from_numpy(lidar_cloud(points)).cuda()
    sample = torch.zeros(len(cloud), dtype=torch.int64, device=cloud.device)
    ours, plain = _ours(cloud, sample, *PILLARS), _plain_torch(cloud, sample, *PILLARS)
    if not all(torch.equal(ours(), ours()) for _ in range(3)):
        raise PerceptionError("gpu_voxelize: the same numbers every time were expected, found others")
    taken: dict[Callable, list[float]] = {ours: [], plain: []}
    for _ in range(repeats):
        for candidate, milliseconds in taken.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            candidate()
            end.record()
            end.synchronize()
            milliseconds.append(start.elapsed_time(end))
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ours()
    peak_mb = (torch.cuda.max_memory_allocated() - held) / 1e6
    ours_ms, plain_ms = (statistics.median(values) for values in taken.values())
    return [row("gpu_voxelize", ours_ms, "plain torch", plain_ms, peak_mb, torch.cuda.get_device_name())]


def sweep(
    peers_python: str | Path | None = None,
    points: Sequence[int] = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    cell_sizes_m: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.8),
    repeats: int = 5,
) -> list[dict]:
    """Time against the number of points, for pillars and voxels, and against the size of pillars.

    Rows are ``{"panel": "points" or "cell size", "work", "who", "points", "cell_size_m", "ms"}``, medians of
    interleaved runs.
    """
    rows = []
    with one_thread(), _Peers(peers_python) as peers:
        for panel, work, (grid, layers), n in (
            *(("points", *kind, n) for n in points for kind in (("pillars", PILLARS), ("voxels", VOXELS))),
            *(("cell size", "pillars", (PILLARS[0].with_cell_size(size), 1), POINTS) for size in cell_sizes_m),
        ):
            candidates = _candidates(lidar_cloud(n), grid, layers, peers)
            seconds = {who: [] for who in candidates}
            for _ in range(repeats + 1):
                for who, candidate in candidates.items():
                    seconds[who].append(timed(candidate))
            for who, taken in seconds.items():
                ms = 1000 * statistics.median(taken[1:])
                rows.append(
                    {"panel": panel, "work": work, "who": who, "points": n, "cell_size_m": grid.cell_size_m, "ms": ms}
                )
    return rows


def plot(rows: Sequence[dict], path: str | Path) -> None:
    """The rows of :func:`sweep` as a picture of two panels."""
    try:
        import matplotlib
    except ImportError:
        raise PerceptionError(missing_extra("viz", "plots need matplotlib")) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4))
    lines: dict[tuple, list[dict]] = {}
    for own in rows:
        lines.setdefault((own["panel"], own["who"], own["work"]), []).append(own)
    colours = dict(zip(dict.fromkeys(own["who"] for own in rows), itertools.cycle(_COLOURS)))
    for (panel, who, work), own in lines.items():
        axes, x = (panels[0], "points") if panel == "points" else (panels[1], "cell_size_m")
        label = who if (panel, work) == ("points", "pillars") else None
        style = {"color": colours[who], "ls": "-" if work == "pillars" else "--", "lw": 2.5 if who == "ours" else 1}
        axes.loglog([row[x] for row in own], [row["ms"] for row in own], marker=".", label=label, **style)
    sizes = sorted({own["cell_size_m"] for own in rows if own["panel"] == "cell size"})
    panels[1].set_xticks(sizes, map(str, sizes))
    panels[1].set_xticks([], minor=True)
    panels[0].set_xlabel("points; pillars of 0.2 m solid, voxels of 0.075 m dashed")
    panels[1].set_xlabel(f"size of pillars in m; {POINTS:,} points")
    panels[0].set_ylabel("ms")
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.legend(loc="upper center", ncols=4, fontsize=8, bbox_to_anchor=(0.5, 1.02))
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


@functools.lru_cache(maxsize=1)
def lidar_cloud(points: int) -> np.ndarray:
    """float32 [points, 5] x, y, z (ego frame), intensity, age_s; the same every time."""
    rng = np.random.default_rng(0)
    walls = rng.uniform((0, 0.02, 4), (2 * np.pi, 0.2, 70), (60, 3))  # direction, half the angle seen, distance
    sweeps = []
    while sum(map(len, sweeps)) < max(points, POINTS):
        sweeps.append(_sweep(rng, walls, len(sweeps) % _SWEEPS))
    cloud = np.concatenate(sweeps)[: max(points, POINTS)]
    return cloud[np.linspace(0, len(cloud) - 1, points).astype(np.int64)]


def _sweep(rng: np.random.Generator, walls: np.ndarray, sweep: int) -> np.ndarray:
    """One turn of the scanner, 1.84 m above ground; the vehicle drove 0.4 m since."""
    direction = np.linspace(0, 2 * np.pi, _AZIMUTHS, endpoint=False) + rng.uniform(0, 2 * np.pi / _AZIMUTHS)
    off = np.abs((direction[:, None] - walls[:, 0] + np.pi) % (2 * np.pi) - np.pi)
    wall = np.where(off < walls[:, 1], walls[:, 2], np.inf).min(axis=1)
    elevation = np.deg2rad(np.linspace(-30.67, 10.67, _BEAMS))
    ground = 1.84 / np.sin(-np.minimum(elevation, -1e-9))
    distance = np.minimum(wall[:, None] / np.cos(elevation), ground)  # [azimuths, beams], in order of measurement
    distance = distance + rng.normal(0, 0.03, distance.shape)
    seen = (distance < 100) & (rng.uniform(size=distance.shape) < 0.8)
    level = distance * np.cos(elevation)
    x, y = level * np.cos(direction)[:, None] - 0.4 * sweep, level * np.sin(direction)[:, None]
    z = distance * np.sin(elevation) + 1.84
    intensity, age_s = rng.uniform(0, 255, distance.shape), np.full(distance.shape, 0.05 * sweep)
    return np.stack([x, y, z, intensity, age_s], axis=2)[seen].astype(np.float32)


def _compared(name: str, grid: BEVGrid, layers: int, peers_python: str | Path | None) -> list[dict]:
    with one_thread(), _Peers(peers_python) as peers:
        candidates = _candidates(lidar_cloud(POINTS), grid, layers, peers)
        return compare(name, candidates.pop("ours"), candidates, repeats=15)


def _candidates(cloud: np.ndarray, grid: BEVGrid, layers: int, peers: _Peers) -> dict[str, Callable]:
    points, sample = torch.from_numpy(cloud), torch.zeros(len(cloud), dtype=torch.int64)
    return {
        "ours": _ours(points, sample, grid, layers),
        **peers.candidates(cloud, grid, layers),
        **_open3d(points, grid, layers),
        "torch.unique + index_add": _unique(points, sample, grid, layers),
        "plain torch": _plain_torch(points, sample, grid, layers),
    }


def _ours(points: torch.Tensor, sample: torch.Tensor, grid: BEVGrid, layers: int) -> Callable:
    def call() -> torch.Tensor:
        return segment_mean(points, voxelize(points, sample, grid, layers, batch_size=1), ordered=False)

    return call


def _plain_torch(points: torch.Tensor, sample: torch.Tensor, grid: BEVGrid, layers: int) -> Callable:
    """What runs where there is no kernel."""
    axes = cell_axes(grid, layers)

    def call() -> torch.Tensor:
        _, count, order, _, _ = reference.sort_by_cell(points, sample, axes, batch_size=1)
        return reference.segment_sum(points, count, order, mean=True)

    return call


def _unique(points: torch.Tensor, sample: torch.Tensor, grid: BEVGrid, layers: int) -> Callable:
    """The dynamic voxelization of OpenPCDet, its scatter_mean written as index_add."""
    size, bounds = _box(grid, layers)
    low, size = points.new_tensor(bounds[:3]), points.new_tensor(size)
    cells = torch.tensor([grid.columns, grid.rows, layers])

    def call() -> torch.Tensor:
        index = torch.floor((points[:, :3] - low) / size).int()
        inside = ((index >= 0) & (index < cells)).all(dim=1)
        kept, index = points[inside], index[inside].long()
        merged = ((sample[inside] * cells[0] + index[:, 0]) * cells[1] + index[:, 1]) * cells[2] + index[:, 2]
        _, voxel, count = torch.unique(merged, return_inverse=True, return_counts=True)
        return kept.new_zeros(len(count), kept.shape[1]).index_add_(0, voxel, kept) / count[:, None]

    return call


def _open3d(points: torch.Tensor, grid: BEVGrid, layers: int) -> dict[str, Callable]:
    """Hard voxelization of Open3D-ML, which gives indices; none where Open3D is missing or for another torch."""
    try:
        from open3d.ml.torch import ops
    except Exception:  # Open3D raises no more special one
        return {}
    xyz, splits = points[:, :3].contiguous(), torch.tensor([0, len(points)])
    cell, bounds = _box(grid, layers)
    cell, low, high = torch.tensor(cell), torch.tensor(bounds[:3]), torch.tensor(bounds[3:])
    return {"Open3D-ML, capped, no mean": lambda: ops.voxelize(xyz, splits, cell, low, high, *CAPS[layers].values())}


def _box(grid: BEVGrid, layers: int) -> tuple[list[float], list[float]]:
    """Size of a cell, and lower then upper bounds; x, y, z."""
    x, y, z = cell_axes(grid, layers)
    return [x.size, y.size, z.size], [x.low, y.low, z.low, x.high, y.high, z.high]


class _Peers(Peers):
    """The interpreter that runs voxel_peers.py; without one there are no such peers."""

    def __init__(self, python: str | Path | None):
        super().__init__(python, "voxel_peers.py")

    def candidates(self, cloud: np.ndarray, grid: BEVGrid, layers: int) -> dict[str, Callable]:
        if self.python is None:
            return {}
        path = self.folder / f"{len(cloud)}.npy"
        np.save(path, cloud)
        cell_size, bounds = _box(grid, layers)
        job = {"points": str(path), "cell_size": cell_size, "bounds": bounds, **CAPS[layers]}
        names = {
            "spconv, capped, mean": "spconv_mean",
            "numba index grid, capped, no mean": "numba_grid",
            "spconv, capped, no mean": "spconv",
        }
        return {name: functools.partial(self._ask, {"peer": peer, **job}) for name, peer in names.items()}

    def _ask(self, request: dict) -> float:
        return self.ask(request)["seconds"]
