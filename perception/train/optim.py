"""Optimisation: parameter groups, learning-rate schedule, weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from perception.config import TrainConfig

WARMUP = 0.2  # fraction of the steps over which the learning rate rises


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """AdamW groups: pretrained backbones and the rest, each split by weight decay (none for norms and biases).

    ``train.layer_decay`` splits a backbone further, by its blocks (layer-wise decay: BEiT, Bao et al. 2022).
    """
    parts = [getattr(encoder, "pretrained", None) for encoder in getattr(model, "encoders", nn.ModuleDict()).values()]
    backbone = {
        id(parameter): config.backbone_learning_rate * config.layer_decay**above
        for part in parts
        if part is not None
        for parameter, above in blocks_above(part)
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = backbone.get(id(parameter), config.learning_rate)
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "peak_lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def blocks_above(backbone: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Each parameter with the number of blocks that come after its own: 0 in the last one, and all of them in the stem.

    What is in no block, such as downsampling, counts to the block before it in the order in which modules are defined.
    """
    blocks = list(getattr(backbone, "blocks", []))
    block_of = {id(parameter): number for number, block in enumerate(blocks, 1) for parameter in block.parameters()}
    reached = 0
    for parameter in backbone.parameters():
        reached = block_of.get(id(parameter), reached)
        yield parameter, len(blocks) - reached


def one_cycle(progress: float) -> float:
    """Learning rate as a fraction of its peak at ``progress`` in 0..1: cosine from 0.1 up to 1, then down to 0.

    One-cycle schedule (Smith & Topin, 2018). It depends on the step alone, so there is no scheduler state to save.
    """
    if progress < WARMUP:
        return 1.0 - 0.45 * (1 + math.cos(math.pi * progress / WARMUP))
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


class Ema:
    """Exponential moving average of a model's parameters; buffers are copied.

    The decay grows as (1 + step) / (10 + step) up to ``decay``, so that the initial weights fade quickly.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        averages = [self.state[name] for name in parameters]
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in parameters.values()], 1 - decay)
        for name, tensor in model.state_dict().items():
            if name not in parameters:
                self.state[name].copy_(tensor)
