"""Reading samples from loose files and from shards, and what a detector makes of either."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.loading import one_thread
from benchmarks.timing import timed
from perception.data.opening import open_source, shard_contents
from perception.data.packed_lidar import pack, unpack
from perception.data.shard_writer import write_shards
from perception.data.shards import Shards
from perception.data.sources import FrameSource
from perception.model.detector import Detector
from perception.sample import Frame, LidarCloud
from perception.train.batches import Schedule

STEP_M = 5e-4  # the command's default
_SHARD_BYTES = 8_000_000  # so that a few short drives are several shards
_SAME = 1e-3  # in scores


def reading(root: Path, detector: Detector, repeats: int = 5) -> list[dict]:
    """A row for each form: all samples, one thread, in the order in which training reads shards.

    The forms take turns, sample by sample; times are medians of a sample. With a cold page cache the files' pages are
    dropped before every pass over them; what a disk or its host keeps in a cache of its own is not. CPU time says more
    than the clock where other work is going on.
    """
    config, size = detector.config, detector.inputs.covering
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch, one_thread():
        whole = open_source(root, config)
        folders = {"loose files": root}
        for form, step_m in {"shards, LiDAR as float32": 0.0, "shards": STEP_M}.items():
            folders[form] = Path(scratch) / form
            write_shards(whole, str(folders[form]), shard_contents(whole, config, step_m), _SHARD_BYTES)
        sources = {form: open_source(folder, config, image_size=size) for form, folder in folders.items()}
        order = _order(sources["shards"], detector)
        os.sync()  # pages that are still to be written are not dropped
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        cpu_s: dict[str, list[float]] = defaultdict(list)
        for repeat in range(1 + repeats):
            for cache in ("cold", "warm"):
                if cache == "cold":
                    for folder in folders.values():
                        _drop_pages(folder)
                for index, (form, source) in itertools.product(order, sources.items()):
                    begin_s = time.process_time()
                    taken = timed(lambda source=source, index=index: source[index])
                    if repeat:  # the first one compiles
                        seconds[form, cache].append(taken)
                        cpu_s[form].append(time.process_time() - begin_s)
        rows = []
        for form, source in sources.items():
            opened, read = _opened_and_read(source, order, folders[form])
            rates = {f"{cache}_per_s": 1 / statistics.median(seconds[form, cache]) for cache in ("cold", "warm")}
            counts = {"opens": opened / len(order), "megabytes": read / len(order) / 1e6}
            cpu_ms = 1000 * statistics.median(cpu_s[form])
            rows.append({"form": form, "samples": len(order), **counts, **rates, "cpu_ms": cpu_ms})
        return rows


def differences(root: Path, detector: Detector) -> list[dict]:
    """A row for each way to move a cloud's points: what changes in all detections of every frame."""

    def kept(points: np.ndarray) -> np.ndarray:
        return unpack(*pack(points, STEP_M))

    def rounded(points: np.ndarray) -> np.ndarray:
        return np.column_stack([np.rint(points[:, :3] / STEP_M) * STEP_M, points[:, 3:]])

    def shaken(points: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).uniform(-1e-5, 1e-5, (len(points), 3))
        return np.column_stack([points[:, :3] + noise, points[:, 3:]])

    ways = {"as shards keep them": kept, "rounded to 0.5 mm": rounded, "moved by up to 10 µm": shaken}
    frames = list(open_source(root, detector.config, image_size=detector.inputs.covering).frames())
    expected = [detector.detect(frame) for frame in frames]
    rows = []
    for way, move in ways.items():
        scores, centres = [], []
        for frame, before in zip(frames, expected):
            after = detector.detect(_with_points(frame, move(frame.lidar.points)))
            number = min(len(before), len(after))
            scores.append(np.abs(before.scores[:number] - after.scores[:number]).max(initial=0))
            apart = np.linalg.norm(before.boxes.center[:, None] - after.boxes.center, axis=2).min(axis=1)
            centres.append(apart[before.scores > 0.1].max(initial=0))
        same = sum(score <= _SAME and apart <= _SAME for score, apart in zip(scores, centres))
        rows.append(
            {
                "points": way,
                "frames": len(frames),
                "same": int(same),
                "median_score": float(np.median(scores)),
                "most_score": float(max(scores)),
                "most_centre_m": float(max(centres)),
            }
        )
    return rows


def _with_points(frame: Frame, points: np.ndarray) -> Frame:
    return frame.with_data({**frame.data, "lidar": LidarCloud(points)})


def _order(source: Shards, detector: Detector) -> list[int]:
    config = detector.config.train
    config.batch_size, config.shuffle_shards = 1, 2
    schedule = Schedule(len(source), detector.sensors, config, shards=source.shard)
    return [index for draw in schedule for index in draw.indices]


def _drop_pages(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _opened_and_read(source: FrameSource, order: Sequence[int], folder: Path) -> tuple[int, int]:
    """How many files below the folder are opened, each once a sample, and the bytes that this process reads (Linux)."""
    opened, before = 0, _bytes_read()
    for index in order:
        with _opens() as paths:
            source[index]
        opened += sum(path.startswith(f"{folder}{os.sep}") for path in paths)
    return opened, _bytes_read() - before


_listening: list[set[str]] = []


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and _listening and isinstance(arguments[0], str | os.PathLike):
        _listening[-1].add(os.fspath(arguments[0]))


@contextmanager
def _opens() -> Iterator[set[str]]:
    """The paths that are opened in the block."""
    _start_listening()
    _listening.append(set())
    try:
        yield _listening[-1]
    finally:
        _listening.pop()


@functools.cache  # once: there is no way to remove a hook
def _start_listening() -> None:
    sys.addaudithook(_listen)


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])
