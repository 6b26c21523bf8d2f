"""Random numbers that do not depend on the order of draws."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_rng(*key: object) -> np.random.Generator:
    """A generator seeded only by ``key`` (numbers and strings)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
