"""One submanifold 3 x 3 x 3 layer on the voxels of a ten-sweep LiDAR cloud, beside spconv's on the CPU.

Cells of 0.075 x 0.075 x 0.2 m. Every side has one thread; the first rows include finding which cells are neighbours,
the ones named ``..._kept`` take it from a layer before. What both sides compute is compared first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import Peers, one_thread
from benchmarks.timing import compare
from benchmarks.voxelize import POINTS, VOXELS, lidar_cloud
from perception.errors import PerceptionError
from perception.ops import sparse_conv_reference as reference
from perception.ops.sparse_conv import Sites, SparseFeatures, submanifold_conv3d
from perception.ops.voxelize import voxelize

CHANNELS = (16, 32, 64)
TOLERANCE = 1e-4  # of sums of about one
_KERNEL, _ONE = (3, 3, 3), (1, 1, 1)


def submanifold(
    peers_python: str | Path | None = None, points: int = POINTS, channels: tuple[int, ...] = CHANNELS, repeats: int = 9
) -> list[dict]:
    """Rows ``subm_<channels>`` and ``subm_<channels>_kept``; spconv's have ``peer_peak_mb`` and ``difference``."""
    sites = _sites(points)
    rows = []
    with one_thread(), torch.inference_mode(), Peers(peers_python, "sparse_peers.py") as peers:
        for width in channels:
            rng = torch.Generator().manual_seed(width)
            x = SparseFeatures(torch.randn(len(sites.cell), width, generator=rng), sites)
            weight = torch.randn(27, width, width, generator=rng) / (27 * width) ** 0.5
            for kept in (False, True):
                candidates = {"plain torch": _plain_torch(x, weight, kept)}
                found = {}
                if peers_python is not None:
                    ask = _spconv(peers, x, weight, kept)
                    found["spconv"] = _agreement(peers, ask, _ours(x, weight, kept)())
                    candidates = {"spconv": lambda ask=ask: ask()["seconds"], **candidates}
                name = f"subm_{width}" + ("_kept" if kept else "")
                compared = compare(name, _ours(x, weight, kept), candidates, repeats=repeats)
                rows += [row | found.get(row["peer"], {}) for row in compared]
    return rows


@functools.lru_cache(maxsize=1)
def _sites(points: int) -> Sites:
    cloud = torch.from_numpy(lidar_cloud(points))
    voxels = voxelize(cloud, torch.zeros(len(cloud), dtype=torch.int64), *VOXELS, batch_size=1)
    return Sites(voxels.cell, 1, voxels.shape)


def _ours(x: SparseFeatures, weight: torch.Tensor, kept: bool) -> Callable:
    def call() -> torch.Tensor:
        sites = x.sites if kept else Sites(x.sites.cell, 1, x.sites.shape)
        return submanifold_conv3d(SparseFeatures(x.features, sites), weight).features

    return call


def _plain_torch(x: SparseFeatures, weight: torch.Tensor, kept: bool) -> Callable:
    """What runs where there is no kernel."""
    pairs = reference.find_pairs(x.sites, x.sites, _KERNEL, _ONE, _ONE) if kept else None

    def call() -> torch.Tensor:
        met = pairs or reference.find_pairs(x.sites, x.sites, _KERNEL, _ONE, _ONE)
        return reference.convolve(x.features, weight, met, len(x.features))

    return call


def _spconv(peers: Peers, x: SparseFeatures, weight: torch.Tensor, kept: bool) -> Callable[..., dict]:
    width = x.features.shape[1]
    files = {"coordinates": x.sites.coordinates().int(), "features": x.features, "weight": weight}
    paths = {name: str(peers.folder / f"{name}_{width}.npy") for name in files}
    for name, tensor in files.items():
        np.save(paths[name], tensor.numpy())
    return lambda out=None: peers.ask({"peer": "spconv", **paths, "shape": x.sites.shape, "kept": kept, "out": out})


def _agreement(peers: Peers, ask: Callable[..., dict], ours: torch.Tensor) -> dict:
    out = str(peers.folder / "out.npy")
    ask(out)  # its first call allocates what later ones use again
    peak_mb = ask(out)["peak_mb"]
    difference = float((torch.from_numpy(np.load(out)) - ours).abs().max())
    if not difference < TOLERANCE:
        raise PerceptionError(f"sparse_conv: a difference below {TOLERANCE} was expected, found {difference}")
    return {"peer_peak_mb": peak_mb, "difference": difference}
