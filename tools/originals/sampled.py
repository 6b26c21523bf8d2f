"""Of what ``tools/original_outputs.py`` wrote, what is small enough to be kept as a golden output."""

from __future__ import annotations

import numpy as np


def sampled(found: dict[str, np.ndarray]) -> dict:
    """Mean, root mean square and sixteen values of each stage; the best boxes."""
    boxes = {name: found.pop(name) for name in ("boxes", "scores", "labels")}
    best = np.argsort(-boxes["scores"], kind="stable")[:20]
    stages = {}
    for name, value in found.items():
        flat = value.reshape(-1).astype(np.float64)
        where = np.linspace(0, len(flat) - 1, 16).astype(int)
        numbers = [flat.mean(), np.sqrt(np.square(flat).mean()), *flat[where]]
        stages[name] = [float(f"{number:.7g}") for number in numbers]
    rows = np.column_stack([boxes["labels"][best], boxes["scores"][best], boxes["boxes"][best]])
    kept = [[float(f"{value:.7g}") for value in row] for row in rows]
    return {"stages": stages, "count": len(boxes["scores"]), "boxes": kept}
