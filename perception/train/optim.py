"""Optimisation: parameter groups, learning-rate schedule, weight averaging."""

from __future__ import annotations

import math

import torch
from torch import nn

from perception.config import TrainConfig

WARMUP = 0.2  # fraction of the steps over which the learning rate rises


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """AdamW groups: pretrained backbones and the rest, each split by weight decay (none for norms and biases)."""
    parts = [getattr(encoder, "pretrained", None) for encoder in getattr(model, "encoders", nn.ModuleDict()).values()]
    backbone = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = config.backbone_learning_rate if id(parameter) in backbone else config.learning_rate
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "peak_lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


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
