"""The state of a training run in one file: tensors as safetensors, the rest as JSON in the header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from perception.commit import read_file, write_files
from perception.errors import PerceptionError


def write_checkpoint(
    path: Path,
    tensors: dict[str, dict[str, torch.Tensor]],
    state: dict,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write groups of named tensors and a JSON-serialisable ``state``; a crash keeps the old file intact.

    beside: further files of the folder, by name, that are of the same state and replaced together with it.
    """
    flat = {
        f"{group}/{name}": value.cpu().contiguous()
        for group, values in tensors.items()
        for name, value in values.items()
    }
    write_files(path.parent, {path.name: save(flat, metadata={"state": json.dumps(state)}), **beside})


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """Tensors (on the CPU) and state as given to :func:`write_checkpoint`.

    Raises:
        PerceptionError: the file is missing, damaged, or not a checkpoint.
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    try:
        data = read_file(path)
        for key, tensor in load(data).items():
            group, _, name = key.partition("/")
            tensors.setdefault(group, {})[name] = tensor
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, json.loads(header["__metadata__"]["state"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise PerceptionError(f"{path}: a training checkpoint was expected: {error}") from None


def flat(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of an optimiser as named tensors, for :func:`restore_flat`."""
    by_parameter = optimizer.state_dict()["state"].items()
    return {f"{index}.{name}": value for index, values in by_parameter for name, value in values.items()}


def restore_flat(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
