"""What must not change when a run is resumed: its config, but for a few keys, its number of steps, and their order."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from perception.config import Config
from perception.train.initialise import TrainingError

MAY_CHANGE = (
    "data.root", "data.objects", "data.workers", "validation.root", "train.checkpoint_minutes", "train.epochs",
)  # fmt: skip

log = logging.getLogger(__name__)


def check_same_run(path: Path, state: dict, config: Config, steps_per_epoch: int, known: bool) -> None:
    """Whether the run of ``config`` can go on from the state of a checkpoint; keys that it lacks get their defaults.

    Args:
        path: of the checkpoint, for messages.
        config: with ``train.batches_per_step`` as it is used.
        known: whether the checkpoint says its ``train.batches_per_step``, as those of earlier versions do not.

    Raises:
        TrainingError: another config, other data, or fewer epochs than are done.
    """
    then, now = state["config"], json.loads(json.dumps(asdict(config)))
    _fill(then, asdict(Config()))
    if not known:
        then["train"]["batches_per_step"] = now["train"]["batches_per_step"]
    changed = _differences(then, now)
    if changed:
        raise TrainingError(
            f"{path}: was written under another config: {', '.join(changed)}; "
            f"to train further, start another run with train.init={path.parent}"
        )
    epochs = then["train"]["epochs"]
    if state["total_steps"] != (expected := epochs * steps_per_epoch):
        raise TrainingError(
            f"{path}: a run of {state['total_steps']} steps was expected, found {expected}: "
            f"the number of frames{'' if known else ' or processes'} has changed"
        )
    if state["step"] > config.train.epochs * steps_per_epoch:
        done = f"{state['step'] / steps_per_epoch:g}"
        raise TrainingError(
            f"{path}: train.epochs of at least {done}, which are done, was expected, found {config.train.epochs}"
        )
    if epochs != config.train.epochs:
        log.info("train.epochs is %d, was %d: so is the learning rate's", config.train.epochs, epochs)


def order_rests_on(origin: Mapping[str, Any], shards: np.ndarray | None) -> dict[str, str | None]:
    """Short digests of what, beside the config, says which frames are in which step: their tokens and their shards.

    Args:
        origin: of ``manifest.origin``.
        shards: int [frames], the shard that every frame is in, as a Schedule numbers them; None for loose files.
    """
    found = None if shards is None else hashlib.sha256(shards.astype("<i8").tobytes()).hexdigest()
    return {"tokens": origin["data"]["tokens_sha256"][:16], "shards": found and found[:16]}


def check_same_order(path: Path, state: dict, now: dict[str, str | None]) -> None:
    """Whether the order of the frames rests on what it did; checkpoints of earlier versions do not say.

    Raises:
        TrainingError: other frames, or others of them in a shard.
    """
    then = state.get("order", now)
    if then["tokens"] != now["tokens"]:
        raise TrainingError(f"{path}: the frames of this run, in their order, were expected, found others")
    if then["shards"] != now["shards"]:
        was, found = (f"shards {order['shards']}" if order["shards"] else "loose files" for order in (then, now))
        raise TrainingError(f"{path}: frames from {was} were expected, found {found}, whose order is another")


def _fill(old: dict, defaults: dict) -> None:
    """Add the keys of ``defaults`` that ``old`` lacks; not sensors, which a config may have removed."""
    for key, value in defaults.items():
        if key not in old:
            old[key] = value
        elif isinstance(value, dict) and isinstance(old[key], dict) and key not in ("encoders", "paste"):
            _fill(old[key], value)


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """``key (old, now new)`` for every key that differs but must not change."""
    changed = []
    for key in old.keys() | new.keys():
        before, after, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            changed += _differences(before, after, f"{name}.")
        elif before != after and name not in MAY_CHANGE:
            changed.append(f"{name} ({before}, now {after})")
    return sorted(changed)
