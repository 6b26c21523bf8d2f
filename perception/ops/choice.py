"""Which compiler's kernels a tensor is for; each operation imports its own module of them, or takes its reference."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Literal

import torch


def compiler_for(tensor: torch.Tensor) -> Literal["numba", "triton"] | None:
    """numba for float32 on the CPU, Triton for float32 on a GPU if it is installed; None for plain torch."""
    if tensor.dtype != torch.float32:
        return None
    if tensor.device.type == "cpu":
        return "numba"
    return "triton" if tensor.device.type == "cuda" and _triton_is_installed() else None


@cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
