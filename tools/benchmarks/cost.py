"""What a fusion block costs: parameters, arithmetic, time and memory, each alone on features of the grid's size."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from perception.config import FusionConfig
from perception.grid import BEVGrid
from perception.model.fusion import build_fusion


def fusion_costs(config: FusionConfig, grid: BEVGrid, sensors: Sequence[str], repeats: int = 9) -> list[dict]:
    """A row a block: parameters; GFLOP of one forward pass of one sample; milliseconds of that, median of interleaved
    runs; MB that a training step keeps for the backward pass.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.channels, *grid.shape)
    features = {
        name: torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last) for name in sensors
    }
    valid = torch.ones(1, len(sensors), dtype=torch.bool)
    variants = {
        "attention": dataclasses.replace(config, kind="attention", registration=True),
        "attention, half as wide, pooled": dataclasses.replace(
            config, kind="attention", registration=True, width=config.channels // 2, pooled_descriptors=True
        ),
        "attention, not registered": dataclasses.replace(config, kind="attention", registration=False),
        "average": dataclasses.replace(config, kind="average"),
        "concat": dataclasses.replace(config, kind="concat"),
    }
    blocks = {name: build_fusion(variant, grid, sensors, {}).eval() for name, variant in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in blocks}
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            for name, block in blocks.items():
                start = time.perf_counter()
                block(features, valid)
                if repeat:  # the first run warms up
                    times[name].append(time.perf_counter() - start)
    return [
        {
            "fusion": name,
            "parameters": sum(parameter.numel() for parameter in block.parameters()),
            "gflop": _flops(block, features, valid) / 1e9,
            "ms": 1000 * statistics.median(times[name]),
            "saved_mb": _saved_bytes(block, features, valid) / 1e6,
        }
        for name, block in blocks.items()
    ]


def _flops(block: nn.Module, features, valid) -> int:
    """Of convolutions and matrix products; FFTs and interpolation are not counted."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(features, valid)
    return counter.get_total_flops()


def _saved_bytes(block: nn.Module, features, valid) -> int:
    storages: dict[int, int] = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block({name: feature.clone().requires_grad_() for name, feature in features.items()}, valid)
        del out
    return sum(storages.values())
