"""Fair timing on one machine: candidates take turns, their medians are compared, memory is the peak above that held.

A row of results is ``{"name", "ours_ms", "peer", "peer_ms", "ratio", "ours_peak_mb", "device"}``, ratio being
``peer_ms / ours_ms``. Milliseconds travel badly between machines, ratios from one run travel well.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

Candidate = Callable[[], object]  # one that returns a float has timed itself, in seconds, in another process


def compare(
    name: str, ours: Candidate, peers: dict[str, Candidate], repeats: int = 9, warm_ups: int = 1, device: str = "cpu"
) -> list[dict]:
    """A row for each peer, from interleaved runs: ours, first peer, second peer, ours, ..."""
    candidates = {"ours": ours, **peers}
    seconds: dict[str, list[float]] = {key: [] for key in candidates}
    for repeat in range(warm_ups + repeats):
        for key, candidate in candidates.items():
            taken = timed(candidate)
            if repeat >= warm_ups:
                seconds[key].append(taken)
    median_ms = {key: 1000 * statistics.median(values) for key, values in seconds.items()}
    return [row(name, median_ms["ours"], peer, median_ms[peer], peak_mb(ours), device) for peer in peers]


def row(name: str, ours_ms: float, peer: str, peer_ms: float, ours_peak_mb: float, device: str = "cpu") -> dict:
    return {
        "name": name,
        "ours_ms": ours_ms,
        "peer": peer,
        "peer_ms": peer_ms,
        "ratio": peer_ms / ours_ms,
        "ours_peak_mb": ours_peak_mb,
        "device": device,
    }


def timed(candidate: Candidate) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    result = candidate()
    taken = time.perf_counter() - start
    return result if isinstance(result, float) else taken


def peak_mb(candidate: Candidate) -> float:
    """How far the resident memory of this process rises during one call (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that an allocator kept would hide what the call takes from it
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (man proc)
    before = _status_kb("VmRSS")
    result = candidate()
    peak = _status_kb("VmHWM")
    del result
    return max(0, peak - before) / 1000


def resident_mb() -> float:
    """What this process holds in memory (Linux)."""
    return _status_kb("VmRSS") / 1000


def peak_resident_mb() -> float:
    """The most that this process has held so far (Linux)."""
    return _status_kb("VmHWM") / 1000


def _status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
