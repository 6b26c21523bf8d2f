"""The nuScenes tables that all simulated drives share, and the tokens of the others.

Tokens are hashes of the seed and a name, so the same seed gives the same tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from perception.data.nuscenes_constants import DETECTION_CLASS, VISIBILITY_LEVEL
from perception.task import ATTRIBUTES

# In the order of the official table.
_ATTRIBUTES = (*ATTRIBUTES[:5], *reversed(ATTRIBUTES[5:]))


def token(seed: int, *name) -> str:
    """32 hexadecimal digits that depend on the seed and the name only."""
    return hashlib.md5("/".join(map(str, (seed, *name))).encode(), usedforsecurity=False).hexdigest()


def scene_name(index: int) -> str:
    return f"sim-{index:04d}"


def fixed_tables(seed: int, channels: dict[str, str]) -> dict[str, list[dict]]:
    """The tables that every dataset shares; ``channels`` maps channel to modality."""

    def named(table: str, names: Iterable[str]) -> list[dict]:
        return [{"token": token(seed, table, name), "name": name, "description": ""} for name in names]

    return {
        "category": named("category", DETECTION_CLASS),
        "attribute": named("attribute", _ATTRIBUTES),
        "visibility": [
            {"token": str(i + 1), "level": level, "description": f"visibility of whole object, per cent: {level[1:]}"}
            for i, level in enumerate(VISIBILITY_LEVEL)
        ],
        "sensor": [
            {"token": token(seed, "sensor", channel), "channel": channel, "modality": modality}
            for channel, modality in channels.items()
        ],
    }
