"""Recordings damaged in every way that disks, radios and crashes know, and what the readers make of them.

Each input runs through everything that a replay does before the detector: opened, inspected, its messages put in order,
decoded and assembled into frames. What may come of it is frames, or a PerceptionError.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.mangle_content import damage_bag, damage_picture, damage_text
from benchmarks.timing import peak_resident_mb
from perception.data.nuscenes_constants import LIDAR_HZ, RADAR_HZ
from perception.errors import PerceptionError
from perception.logs.assemble import sweep_span_s
from perception.logs.doctor import diagnose, report
from perception.logs.frames import LogFrames
from perception.logs.inspect import inspect, table
from perception.logs.log import open_log
from perception.logs.measurements import Assembly
from perception.logs.rehearsal import rehearse
from perception.seeding import keyed_rng

_ASSEMBLY = Assembly(
    lidar_span_s=sweep_span_s(4, LIDAR_HZ),
    radar_span_s=sweep_span_s(6, RADAR_HZ),
    image_size=(128, 352),
    skip_damaged=True,
)
_ABSURD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mangled(logs: Sequence[Path], count: int, seed: int = 0, kind: str = "bytes") -> dict:
    """Damage files of ``logs`` (each a file, or a folder) in ``count`` ways, taking turns, and read the result.

    Args:
        kind: of KINDS. Logs without a file of that kind are left out.

    Returns:
        kind, inputs; frames: how many inputs still gave some; refused: PerceptionErrors; others: what else was raised,
        by type, which should be nothing; worst_s: of CPU time, the most that one took; peak_mb: of the process, from
        its start.
    """
    start_mb = peak_resident_mb()
    outcomes, others, worst_s = Counter(), Counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        copies = [_copy(log, Path(folder) / str(i)) for i, log in enumerate(logs)]
        copies = [log for log in copies if _victims(log, kind)]
        for log in copies:
            read(log)  # compiles the kernels where they are not kept, which takes seconds and is no input's fault
        for number in tqdm(range(count), desc="mangled", unit="log"):
            log = copies[number % len(copies)]
            rng = keyed_rng(seed, number)
            victim = _victim(_victims(log, kind), rng)
            whole = victim.read_bytes()
            victim.write_bytes(KINDS[kind][1](whole, rng))
            begin = time.process_time()  # not lengthened by what else the machine does
            try:
                outcomes["frames" if read(log) else "refused"] += 1
            except PerceptionError:
                outcomes["refused"] += 1
            except Exception as error:  # which is what is looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                others[f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"[:120]] += 1
            worst_s = max(worst_s, time.process_time() - begin)
            victim.write_bytes(whole)
    return {
        "kind": kind,
        "inputs": count,
        "frames": outcomes["frames"],
        "refused": outcomes["refused"],
        "others": dict(others),
        "worst_s": worst_s,
        "peak_mb": peak_resident_mb(),
        "start_mb": start_mb,
    }


def in_another_process(logs: Sequence[Path], count: int, seed: int = 0, kind: str = "bytes") -> dict:
    """:func:`mangled` where nothing else has taken memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(mangled, (logs, count, seed, kind))


def read(log: Path) -> int:
    """All that a replay does before the detector; the number of frames."""
    with open_log(log, strict=False) as opened:
        info = inspect(opened)
        table(info), report(diagnose(info, rehearse(opened, None, info.duration_s)))
        return sum(1 for _ in LogFrames(opened, info.rig, _ASSEMBLY))


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three of: cut short, bits flipped, a number made absurd, a piece zeroed, removed, doubled or scrambled."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if not out:
            break
        at = int(rng.integers(len(out)))
        if rng.random() < 0.3:  # headers and trailers are where lengths stand
            at = (
                int(rng.integers(min(256, len(out))))
                if rng.random() < 0.5
                else len(out) - 1 - int(rng.integers(min(256, len(out))))
            )
        length = int(min(len(out) - at, 1 << rng.integers(0, 14)))
        kind = rng.integers(7)
        if kind == 0:
            del out[at:]
        elif kind == 1:
            for place in rng.integers(len(out), size=int(rng.integers(1, 9))):
                out[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            value = int(rng.choice(len(_ABSURD)))
            width = int(rng.choice([1, 2, 4, 8]))
            out[at : at + width] = (_ABSURD[value] & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif kind == 3:
            out[at : at + length] = bytes(length)
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at:at] = out[at : at + length]
        else:
            out[at : at + length] = rng.bytes(length)
    return bytes(out)


# Which files, by suffix, none for all, and what is done to them.
KINDS: dict[str, tuple[tuple[str, ...], Callable[[bytes, np.random.Generator], bytes]]] = {
    "bytes": ((), damage),
    "text": ((".json", ".yaml"), damage_text),
    "bag": ((".db3",), damage_bag),
    "picture": ((".jpg", ".png"), damage_picture),
}


def _victims(log: Path, kind: str) -> list[Path]:
    suffixes = KINDS[kind][0]
    paths = [log] if log.is_file() else sorted(path for path in log.rglob("*") if path.is_file())
    inside = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    return [path for path in inside if not suffixes or path.suffix in suffixes]


def _victim(files: list[Path], rng: np.random.Generator) -> Path:
    """Seldom one of the many that hold a single measurement."""
    tables = [path for path in files if path.suffix in (".json", ".yaml", ".db3", ".mcap")]
    chosen = tables if tables and rng.random() < 0.6 else files
    return chosen[int(rng.integers(len(chosen)))]


def _copy(log: Path, folder: Path) -> Path:
    target = folder / log.name
    folder.mkdir()
    shutil.copytree(log, target) if log.is_dir() else shutil.copy(log, target)
    return target
