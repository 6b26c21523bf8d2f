"""By how much the registration moves sensors that are aligned, see tools/measure_registration.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from perception.data.opening import open_source
from perception.errors import PerceptionError
from perception.health import without_dead
from perception.model.checkpoint import load, weights_sha256

_QUANTILES = {"median": 0.5, "p95": 0.95, "max": 1.0}


def measure(checkpoint: str, root: str, selection: Mapping[str, Any]) -> dict:
    """Quantiles of how far each sensor's features are moved, over the frames that have it and another one.

    Args:
        selection: which frames, as :func:`perception.data.opening.open_source` takes it.

    Returns:
        weights_sha256, frames, and sensors: by name, shift_m and turn_deg, each with median, p95 and max.

    Raises:
        PerceptionError: a detector that registers nothing, or no frame with two of its sensors.
    """
    detector = load(checkpoint)
    dataset = open_source(root, detector.config, image_size=detector.inputs.covering, **selection)
    motions = []
    for index in tqdm(range(len(dataset)), desc="register", unit="frame"):
        frame = dataset[index]
        alive = None if frame is None else without_dead(frame.only(detector.sensors))
        if alive is not None and len(alive.sensors) > 1:
            with torch.inference_mode():
                prediction = detector(detector.prepare([alive]))
            if prediction.registered is None:
                raise PerceptionError(f"{checkpoint}: a detector with fusion.registration was expected")
            motions.append(
                prediction.registered.motion[0].where(prediction.sensor_valid[0, :, None], torch.nan).numpy()
            )
    if not motions:
        raise PerceptionError(f"{root}: a frame with two of {', '.join(detector.sensors)} was expected, found none")
    return {
        "weights_sha256": weights_sha256(checkpoint),
        "frames": len(motions),
        "sensors": {name: quantiles(np.stack(motions)[:, s]) for s, name in enumerate(detector.sensors)},
    }


def quantiles(motions: np.ndarray) -> dict[str, dict[str, float]]:
    """Of motions [N, 3] (yaw, x, y) in radians and metres, NaN where the sensor is absent: length and angle."""
    known = motions[np.isfinite(motions).all(axis=1)]
    sizes = {"shift_m": np.hypot(known[:, 1], known[:, 2]), "turn_deg": np.rad2deg(np.abs(known[:, 0]))}
    return {
        name: {key: float(np.quantile(own, q)) for key, q in _QUANTILES.items()} if len(own) else {}
        for name, own in sizes.items()
    }
