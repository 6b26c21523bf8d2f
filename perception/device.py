"""Where the computing is done, and on what terms: the choice of the accelerator, and memory that is kept."""

from __future__ import annotations

import ctypes
import sys

from perception.errors import PerceptionError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def checked_device(name: str) -> str:
    """``cpu`` or ``cuda`` for what ``--device`` says. Imports torch, but for ``cpu`` and for mistakes.

    Raises:
        PerceptionError: another name, or cuda where torch finds no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise PerceptionError(f"--device: auto, cpu or cuda was expected, found {name!r}")
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise PerceptionError("--device: cuda was asked for, but torch finds no GPU; cpu and auto work without one")
    return "cpu"


def keep_memory() -> None:
    """Have glibc keep large blocks once they are freed, for the rest of the process.

    Mapped anew for every map of features, their page faults cost a fusion block a quarter of its time. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
