"""The state of a training run in one file: tensors as safetensors, the rest as JSON in the header. No pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from perception.errors import PerceptionError
from perception.files import write_file


def write_checkpoint(path: Path, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> None:
    """Write groups of named tensors and a JSON-serialisable ``state`` atomically: a crash keeps the old file intact."""
    flat = {
        f"{group}/{name}": value.cpu().contiguous()
        for group, values in tensors.items()
        for name, value in values.items()
    }
    write_file(path, save(flat, metadata={"state": json.dumps(state)}))


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """Tensors (on the CPU) and state as given to :func:`write_checkpoint`.

    Raises:
        PerceptionError: the file is missing or is not a checkpoint.
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            for key in file.keys():
                group, _, name = key.partition("/")
                tensors.setdefault(group, {})[name] = file.get_tensor(key)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PerceptionError(f"{path}: a training checkpoint was expected: {error}") from None
    return tensors, state
