"""Weights and clouds from a seed, the same wherever they are made; needs numpy alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

POINT_SPREAD = 100.0  # of what the first layer makes of points: metres by tens, intensities by hundreds


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """A state dict, by name and shape, with which values stay of order one from layer to layer."""
    return {name: _seeded(name, shape, seed) for name, shape in shapes.items()}


def _seeded(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    end = name.rpartition(".")[2]
    heat = ".heatmap." in name or ".hm." in name
    if end in ("num_batches_tracked", "global_step"):
        return np.full(shape, 1, np.int64)
    if end == "running_var":
        spread = POINT_SPREAD if "pfn_layers.0" in name else 1.0
        return (spread**2 * rng.uniform(0.8, 1.25, shape)).astype(np.float32)
    if len(shape) > 1:
        transposed = "deblocks.2" in name or ("deblocks.1" in name and name.startswith("backbone_2d"))
        entering = shape[0] if transposed else np.prod(shape[1:])
        spread = 1.0
        if name.endswith(".1.weight") and "head" in name:  # of a branch: sizes that make sense, scores of every kind
            spread = 2.0 if heat else 0.3
        return (spread * rng.standard_normal(shape) * np.sqrt(2 / entering)).astype(np.float32)
    if end == "weight":  # of a normalisation
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    low = 2.19 if name.endswith((".heatmap.1.bias", ".hm.1.bias")) else 0.0
    return (0.1 * rng.standard_normal(shape) - low).astype(np.float32)


def seeded_cloud(count: int, reach_m: float, seed: int) -> np.ndarray:
    """float32 [count, 5]: x, y, z in the LiDAR frame, intensity, age_s. A ground with clusters on it, some crowded,
    and points out of every bound."""
    rng = np.random.default_rng(seed)
    at = rng.uniform(-1.1 * reach_m, 1.1 * reach_m, (count, 2))
    centres = rng.uniform(-reach_m, reach_m, (20, 2))
    gathered = rng.random(count) < 0.5
    at[gathered] = (centres[rng.integers(0, 20, count)] + 0.3 * rng.standard_normal((count, 2)))[gathered]
    z = np.where(gathered, rng.uniform(-1.8, 0.5, count), -1.8 + 0.05 * rng.standard_normal(count))
    z[:20] = rng.uniform(-8, 8, 20)
    age_s = 0.05 * rng.integers(0, 10, count)
    return np.column_stack([at, z, rng.integers(0, 256, count), age_s]).astype(np.float32)
