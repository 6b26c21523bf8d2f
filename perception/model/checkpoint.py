"""Trained detectors in folders: found by path, by shipped name or on a hub, checked and loaded. Detector.save writes
them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from perception.commit import current, read_file
from perception.config import CameraConfig, Config, load_config
from perception.device import is_out_of_memory
from perception.errors import PerceptionError
from perception.model.build import build
from perception.model.detector import Detector
from perception.model.hub import download, is_on_hub
from perception.model.upgrade import upgraded

log = logging.getLogger(__name__)

_SHIPPED = Path(__file__).parent.parent / "checkpoints"


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint, given as a path, as the name of a shipped checkpoint, or as ``hf://owner/name``.

    Raises:
        PerceptionError: no such checkpoint; the message lists the shipped names.  HubError: see ``model.hub``.
    """
    if not isinstance(name, str | os.PathLike):
        raise PerceptionError(f"checkpoint: a path or a name was expected, found {type(name).__name__}")
    if is_on_hub(name):
        return download(str(name))
    for folder in (Path(name), _SHIPPED / name):
        if all(current(folder / name).is_file() for name in ("model.safetensors", "config.yaml")):
            return folder
    shipped = ", ".join(sorted(path.name for path in _SHIPPED.glob("*") if path.is_dir())) or "none"
    raise PerceptionError(
        f"checkpoint '{name}': a folder with model.safetensors and config.yaml, or a shipped name ({shipped}), "
        "was expected"
    )


def is_shipped(folder: Path) -> bool:
    """Whether a folder is that of a shipped checkpoint."""
    return folder.resolve().parent == _SHIPPED.resolve()


def warn_of_simulation(name: str | Path, source: str) -> None:
    """Warn that a shipped checkpoint, trained on simulated drives only, is being run on recorded data."""
    if is_shipped(find_checkpoint(name)):
        log.warning(
            "%s: checkpoint '%s' was trained on simulated drives only; it finds few objects on recorded ones "
            "(docs/model-card.md)", source, name,
        )  # fmt: skip


def load(name: str | Path, device: str | torch.device = "cpu", build: Callable[[Config], Detector] = build) -> Detector:
    """Load a trained detector in evaluation mode.

    Args:
        name: a folder written by training, the name of a shipped checkpoint: ``perception.load("sim")``, or a
            repository of a Hugging Face hub: ``perception.load("hf://owner/name@revision")``, the revision optional.
        build: builds the detector from the checkpoint's config; pass your own for a detector with custom parts.

    Raises:
        PerceptionError: no such checkpoint, or weights that do not fit their config.
    """
    folder = find_checkpoint(name)
    config = _saved_config(folder)
    # The checkpoint includes the backbone weights, so pretrained ones are not needed.
    cameras = {n: replace(e, weights="none") for n, e in config.encoders.items() if isinstance(e, CameraConfig)}
    detector = build(replace(config, encoders=config.encoders | cameras))
    if not isinstance(detector, Detector):
        raise PerceptionError(f"build: a Detector was expected, found {type(detector).__name__}")
    detector.config = replace(detector.config, encoders=detector.config.encoders | config.encoders)
    try:
        detector.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise PerceptionError(
            f"{folder / 'model.safetensors'}: does not fit its config.yaml: {' '.join(str(error).split())[:300]}"
        ) from None
    try:
        return detector.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch's, for what is no device, or one that is not there
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise PerceptionError(f"device: one of torch's devices was expected, found {device!r}: {reason}") from None


def _saved_config(folder: Path) -> Config:
    path = folder / "config.yaml"
    if not _read(path).strip():
        raise PerceptionError(f"{path}: the config of the weights was expected, found an empty file")
    return load_config(current(path))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint folder, with weight names of older versions mapped to the current ones.

    Raises:
        PerceptionError: the file cannot be read, or has a weight that is not finite.
    """
    path = folder / "model.safetensors"
    try:
        weights = upgraded(load_tensors(_read(path)))
    except SafetensorError as error:
        raise PerceptionError(f"{path}: weights were expected: {' '.join(str(error).split())[:300]}") from None
    for name, values in weights.items():
        broken = int((~values.isfinite()).sum())
        if broken:
            raise PerceptionError(f"{path}: {name}: finite weights were expected, found {broken} NaN or infinite")
    return weights


def weights_sha256(name: str | Path) -> str:
    """Digest of a checkpoint's weights file, stored with results to identify the weights that produced them."""
    return hashlib.sha256(_read(find_checkpoint(name) / "model.safetensors")).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise PerceptionError(f"{path}: cannot be read: {error.strerror}") from None
