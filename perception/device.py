"""Device selection, what devices compute in, and memory allocation settings for inference on the CPU."""

from __future__ import annotations

import ctypes
import errno
import re
import sys
from typing import TYPE_CHECKING

from perception.errors import PerceptionError

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def checked_device(name: str) -> str:
    """The torch device name for a value of ``--device``. Imports torch, except for ``cpu`` and invalid names.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` (torch's current GPU) or ``cuda:N``.

    Returns:
        ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        PerceptionError: an invalid name, or a GPU that torch does not find.
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


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device supports bfloat16 natively; emulation is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.11
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def peak_memory_mb(device: torch.device) -> float:
    """The most memory so far: of tensors on a GPU, elsewhere of this process; 0 where the system does not say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # on Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def keep_memory() -> None:
    """Make glibc keep large freed blocks for reuse, for the rest of the process.

    Mapping new memory for every feature map costs a fusion block a quarter of its time in page faults. No effect
    without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, OpenCV, torch or the system found no memory; torch and OpenCV say so in words only."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "insufficient memory")
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (not isinstance(error, PerceptionError) and any(word in str(error).lower() for word in words))
    )
