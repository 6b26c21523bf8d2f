"""Where the computing is done, and on what terms: the choice of the accelerator, and memory that is kept."""

from __future__ import annotations

import ctypes
import re
import sys

from perception.errors import PerceptionError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def checked_device(name: str) -> str:
    """The device that ``--device`` asks for, as torch names it. Imports torch, but for ``cpu`` and for mistakes.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` (torch's current GPU) or ``cuda:N``.

    Returns:
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        PerceptionError: another name, or a GPU that torch does not find.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise PerceptionError(f"--device: auto, cpu or cuda was expected, found '{name}'; one GPU of several is cuda:0")
    if name == "cpu":
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    if not gpus:
        raise PerceptionError(f"--device: {name} was asked for, but torch finds no GPU; cpu and auto work without one")
    if ":" in name and int(name.partition(":")[2]) >= gpus:
        raise PerceptionError(f"--device: one of cuda:0 to cuda:{gpus - 1} was expected, found '{name}'")
    return name


def keep_memory() -> None:
    """Have glibc keep large blocks once they are freed, for the rest of the process.

    Mapped anew for every map of features, their page faults cost a fusion block a quarter of its time. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
