"""Which weights a training starts from, and which it leaves as they are."""

from __future__ import annotations

import logging

from torch import nn

from perception.errors import PerceptionError
from perception.model.checkpoint import find_checkpoint, read_weights
from perception.model.detector import Detector

log = logging.getLogger(__name__)


class TrainingError(PerceptionError):
    """A run that cannot be started, resumed or continued."""


def freeze(model: nn.Module, name: str) -> None:
    """Freeze a module of ``model``: its parameters and, until ``model.train()``, its batch-norm statistics.

    Args:
        name: of the module, such as ``encoders.camera``.

    Raises:
        TrainingError: the model has no such module.
    """
    parts = dict(model.named_modules())
    if not name or name not in parts:
        depth = name.count(".")
        known = ", ".join(part for part in parts if part and part.count(".") <= depth)
        raise TrainingError(f"train.freeze: some of {known} were expected, found '{name}'")
    parts[name].requires_grad_(False)
    for module in parts[name].modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def initialise(model: Detector, checkpoint: str) -> None:
    """Initialise from a checkpoint every weight whose name and shape match, and log how many do.

    Raises:
        PerceptionError: no such checkpoint, or none of its weights match.
    """
    try:
        folder, own = find_checkpoint(checkpoint), model.state_dict()
    except PerceptionError as error:
        raise TrainingError(f"train.init: {error}; train.init=null trains from scratch") from None
    weights = read_weights(folder)
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise TrainingError(f"train.init: {folder}: weights of this model were expected, none of them fits")
    log.info("%s: %d of %d tensors taken over", folder, len(fitting), len(own))
    sets = {k: v for k, v in weights.items() if k.startswith("calibration.")}  # score calibration
    fits = {k: v for k, v in sets.items() if set(k.partition(".")[2].split("+")) <= set(model.sensors)}
    model.load_state_dict({**own, **fits, **fitting})
