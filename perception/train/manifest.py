"""What weights come from, for a file beside them: versions, data, commit, progress and scores."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perception
from perception.config import Config
from perception.data.sources import FrameSource

MANIFEST = "manifest.json"


def origin(config: Config, frames: FrameSource) -> dict[str, Any]:
    """Versions, commit and data of a run; the config lies beside the weights in a file of its own."""
    tokens = hashlib.sha256("\n".join(frames.tokens).encode()).hexdigest()
    data = {"root": config.data.root, "version": getattr(frames, "version", None)}
    return {
        "package": perception.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "data": {**data, "frames": len(frames), "tokens_sha256": tokens},
    }


def as_file(facts: Mapping[str, Any], step: int, total_steps: int, scores: Mapping[str, Any] | None) -> bytes:
    """scores: of the last validation, None without one."""
    progress = {"step": step, "total_steps": total_steps, "scores": scores}
    return (json.dumps({**facts, **progress}, indent=1) + "\n").encode()


def _commit() -> str | None:
    """Of the checkout that the package is in; None for an installed one."""
    checkout = Path(perception.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
