"""Replay: frames in, in order; detections, a video, a still and the latency of every stage out.

A source is any iterable of Frames: a recorded scene, a bag, a socket. It is pulled, one frame when the last one is
done, so nothing is queued and nothing dropped. :meth:`Replay.step` is the whole of the work and reads like the
pipeline. What a run leaves in its folder:

    results.json   every detection, as a nuScenes submission (the score threshold is for drawing only)
    replay.mp4     every frame drawn, at the pace it was recorded
    replay.png     the frame with the most boxes drawn
    summary.json   latency, versions, config, digests

Each file takes its name when it is whole. An interrupted run leaves none of them, but what was filmed so far as
``replay.part.mp4``, playable; a run without video removes that of an earlier one, which showed other results.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from perception.data.nuscenes_results import (
    ResultsWriter,
    check_writable,
    to_submission,
    write_file,
    write_json,
    writing,
)
from perception.errors import PerceptionError
from perception.health import HealthMonitor
from perception.sample import SENSORS, Detections, Frame
from perception.viz import draw_frame


class ReplayError(PerceptionError):
    """A source without frames, or a video that cannot be written."""


def replay(
    detector,
    frames: Iterable[Frame],
    out: str | Path,
    *,
    sensors: Sequence[str] = SENSORS,
    score_threshold: float = 0.3,
    video: bool = True,
    total: int | None = None,
    about: dict | None = None,
) -> dict:
    """Run ``detector`` over ``frames`` and write what the module docstring lists into the folder ``out``.

    Args:
        detector: anything with ``prepare([frame]) -> batch``, ``__call__(batch) -> prediction`` and
            ``decode(prediction) -> [Detections]``; a :class:`perception.model.detector.Detector` is.
        frames: in order of time. Frames may differ in the sensors they have.
        sensors: what the detector is shown of each frame.
        score_threshold: of the boxes that are drawn.
        total: how many frames there will be, for the progress bar.
        video: False leaves ``replay.mp4`` out, and the time it takes to draw it.
        about: what else the summary should say, such as :func:`about_detector`.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ReplayError: see the class.
        ResultsError: a file cannot be written. And whatever the source and the detector raise.
    """
    out = Path(out)
    for name in ("results.json", "replay.mp4", "replay.png", "summary.json"):
        check_writable(out / name)
    with ExitStack() as stack:
        results = stack.enter_context(ResultsWriter(out / "results.json", sensors))
        film = stack.enter_context(Film(out / "replay.mp4")) if video else NoFilm()
        run = Replay(detector, results, film, score_threshold)
        for frame in tqdm(run.timed(frames), desc="replay", unit="frame", total=total):
            run.step(frame.only(sensors))
        if not run.frames:
            raise ReplayError("replay: at least one frame was expected, the source has none")
    if not video:
        Film(out / "replay.mp4").remove()
    write_picture(out / "replay.png", draw_frame(*run.best, score_threshold=score_threshold))
    summary = {**(about or {}), **run.summary(), "versions": versions()}
    write_json(out / "summary.json", summary)
    return summary


class Replay:
    """The pipeline and what it has seen so far."""

    def __init__(self, detector, results: ResultsWriter, film: Film | NoFilm, score_threshold: float):
        self.detector, self.results, self.film, self.score_threshold = detector, results, film, score_threshold
        self.frames, self.boxes, self.boxes_drawn = 0, 0, 0
        self.scenes: dict[str, int] = {}
        self.sensors: Counter = Counter()
        self.monitor, self.faults = HealthMonitor(), Counter()
        self.best: tuple[Frame, Detections] | None = None
        self._most = -1
        self._digest = hashlib.sha256()
        self.clock = Clock()

    @torch.inference_mode()
    def step(self, frame: Frame) -> Detections:
        """One frame, from the sensors to every output."""
        clock = self.clock
        with clock.stage("check"):
            healthy, faults = self.monitor.check(frame)
            frame = healthy if healthy.sensors else frame
        with clock.stage("prepare"):
            batch = self.detector.prepare([frame])
        with clock.stage("model"):
            prediction = self.detector(batch)
        with clock.stage("decode"):
            detections = self.detector.decode(prediction)[0]
        with clock.stage("record"):
            self.results.add(frame.token, to_submission(frame, detections))
            self._note(frame, detections)
            self.faults.update(f"{name} {fault}" for name, fault in faults.items())
        with clock.stage("draw"):
            latency_ms = clock.last_ms("check", "prepare", "model", "decode")
            picture = self.film.draw(frame, detections, self.score_threshold, latency_ms)
        with clock.stage("encode"):
            self.film.add(picture, frame.timestamp_ns)
        return detections

    def timed(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames; the time that each takes to arrive is the stage "load"."""
        frames = iter(frames)
        while True:
            with self.clock.stage("load"):
                frame = next(frames, None)
            if frame is None:
                self.clock.forget_last("load")
                return
            yield frame

    def summary(self) -> dict:
        return {
            "frames": self.frames,
            "scenes": self.scenes,
            "frames_with": {name: self.sensors[name] for name in SENSORS},
            "faults": dict(sorted(self.faults.items())),
            "score_threshold": self.score_threshold,
            "detections": self.boxes,
            "detections_drawn": self.boxes_drawn,
            "detections_sha256": self._digest.hexdigest(),
            "latency": self.clock.summary(),
        }

    def _note(self, frame: Frame, detections: Detections) -> None:
        drawn = int((detections.scores >= self.score_threshold).sum())
        self.frames += 1
        self.boxes += len(detections.scores)
        self.boxes_drawn += drawn
        self.scenes[frame.scene] = self.scenes.get(frame.scene, 0) + 1
        self.sensors.update(frame.sensors)
        self._digest.update(canonical_bytes(frame.token, detections))
        if drawn > self._most:
            self._most, self.best = drawn, (frame, detections)


def canonical_bytes(token: str, detections: Detections) -> bytes:
    """Token, number of boxes and all their numbers, little-endian: equal detections have equal bytes on any machine."""
    boxes = detections.boxes
    floats = (boxes.center, boxes.size, boxes.yaw, boxes.velocity, detections.scores)
    integers = (np.array(len(boxes)), boxes.label, boxes.attribute)
    parts = [array.astype("<i8") for array in integers] + [array.astype("<f8") for array in floats]
    return token.encode() + b"\0" + b"".join(part.tobytes() for part in parts)


class Clock:
    """Seconds that each stage took, frame by frame. Waits for a GPU where there is one, else work counts as later."""

    def __init__(self):
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str):
        start = time.perf_counter()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._seconds.setdefault(name, []).append(time.perf_counter() - start)

    def forget_last(self, name: str) -> None:
        self._seconds[name].pop()

    def last_ms(self, *names: str) -> float:
        return 1000 * sum(self._seconds[name][-1] for name in names)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Milliseconds by stage and in total: the first frame, cold, and median, p90 and max of the others."""
        stages = {name: 1000 * np.array(seconds) for name, seconds in self._seconds.items()}
        stages["total"] = np.sum(list(stages.values()), axis=0)
        return {name: {"cold_ms": float(ms[0]), **_spread(ms[1:])} for name, ms in stages.items()}


def _spread(ms: np.ndarray) -> dict[str, float | None]:
    if not len(ms):
        return {"median_ms": None, "p90_ms": None, "max_ms": None}
    return {"median_ms": float(np.median(ms)), "p90_ms": float(np.quantile(ms, 0.9)), "max_ms": float(ms.max())}


def latency_table(summary: dict) -> str:
    """The latency in a summary, for reading: a line a stage."""
    columns = ("median_ms", "p90_ms", "max_ms", "cold_ms")
    lines = [f"{'stage':<10}" + "".join(f"{column:>11}" for column in columns)]
    for name, row in summary["latency"].items():
        values = ("-" if row[column] is None else f"{row[column]:.1f}" for column in columns)
        lines.append(f"{name:<10}" + "".join(f"{value:>11}" for value in values))
    return "\n".join(lines)


class Film:
    """A video that is written frame by frame, opened when it is known how fast frames come."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(f"{path.stem}.part{path.suffix}")
        self._first: tuple[np.ndarray, int] | None = None
        self._frames = 0
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Film:
        return self

    def draw(self, frame: Frame, detections: Detections, score_threshold: float, latency_ms: float) -> np.ndarray:
        return draw_frame(frame, detections, score_threshold, latency_ms)

    def add(self, picture: np.ndarray, timestamp_ns: int) -> None:
        """Append a picture, uint8 [H, W, 3] RGB."""
        if self._writer is None and self._first is None:
            self._first = picture, timestamp_ns
            return
        if self._writer is None:
            self._open((timestamp_ns - self._first[1]) / 1e9)
        self._write(picture)

    def __exit__(self, kind, error, trace) -> None:
        if self._writer is None and self._first is not None:
            self._open(interval_s=1.0)
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                self._check()
                with writing(self._path):
                    self._partial.replace(self._path)

    def remove(self) -> None:
        """Remove what an earlier run filmed."""
        for path in (self._path, self._partial):
            with writing(path):
                path.unlink(missing_ok=True)

    def _open(self, interval_s: float) -> None:
        picture = self._first[0]
        rate = float(np.clip(1 / max(interval_s, 1e-3), 1, 60))
        size = picture.shape[1::-1]
        self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*"mp4v"), round(rate, 2), size)
        if not self._writer.isOpened():
            raise ReplayError(f"{self._path}: OpenCV cannot write this video")
        self._write(picture)

    def _write(self, picture: np.ndarray) -> None:
        self._writer.write(picture[..., ::-1])
        self._frames += 1

    def _check(self) -> None:
        """OpenCV says nothing when the disk is full."""
        capture = cv2.VideoCapture(str(self._partial))
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.grab() else 0
        capture.release()
        if found != self._frames:
            raise ReplayError(f"{self._partial}: {self._frames} frames were expected, found {found}; is the disk full?")


class NoFilm:
    """Stands in where no video is wanted."""

    def draw(self, frame: Frame, detections: Detections, score_threshold: float, latency_ms: float) -> None:
        pass

    def add(self, picture: None, timestamp_ns: int) -> None:
        pass


def write_picture(path: Path, picture: np.ndarray) -> None:
    """uint8 [H, W, 3] RGB as PNG."""
    _, data = cv2.imencode(".png", picture[..., ::-1])
    write_file(path, data.tobytes())


def about_detector(detector, checkpoint: str | Path) -> dict:
    """Which detector made a result: name, digest of the weights, device, resolved config."""
    from perception.model.detector import weights_sha256

    return {
        "checkpoint": str(checkpoint),
        "weights_sha256": weights_sha256(checkpoint),
        "device": str(next(detector.parameters()).device),
        "config": asdict(detector.config),
    }


def versions() -> dict[str, str]:
    """Of what the numbers in a result depend on."""
    from perception import __version__

    return {
        "perception": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
