"""The replay pipeline: frames in, in order; detections, tracks, pictures, metrics and latency out.

A source is any iterable of Frames: a log, a dataset, a socket. It is pulled, one frame when the last one is done, so
nothing is queued and nothing dropped. A frame that could not be read is None; it is skipped and counted. So is, apart,
one in which none of the sensors delivered.
:meth:`Replay.step` is the whole pipeline. Files that it writes:

    results.json   every detection, as a nuScenes submission (the score threshold is for drawing only)
    tracks.json    the detections that belong to tracks, as a nuScenes tracking submission
    result.jsonl   every frame: detections, tracks, pose, faults, latency (``result.py``)
    replay.*       for people to look at: .mp4, .rrd (Rerun), .mcap (Foxglove), as requested
    replay.png     the frame with the most boxes drawn
    summary.json   metrics, latency, versions, config, digests

Each file gets its name when it is complete. Ctrl-C, SIGTERM and SIGHUP end a run after the current frame, like the end
of the drive, and ``summary.json`` says that it is not complete. An error leaves the results of an earlier run untouched
and, of this one, readable ``*.part.*`` files. No two runs write into one folder at a time.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.eval.submission import ResultsWriter, to_submission, to_world
from perception.eval.tracks import to_tracking_submission
from perception.eval.truth import EvaluationError
from perception.files import check_writable, write_file, write_json
from perception.lock import locked
from perception.replay.foxglove_out import FoxgloveSink, LiveSink
from perception.replay.latency import DETECTOR_STAGES, Clock
from perception.replay.perceiver import Perceiver
from perception.replay.rerun_log import RerunSink
from perception.replay.result import LinesSink
from perception.replay.stability import Stability
from perception.replay.step import Sink, Step
from perception.replay.truth import FrameTruth, GroundTruth
from perception.replay.video import VideoSink
from perception.sample import Detections, Frame
from perception.signals import Interrupts
from perception.viz import Layout, draw_frame

log = logging.getLogger(__name__)

FILES: dict[str, Callable[..., Sink]] = {"mp4": VideoSink, "rrd": RerunSink, "mcap": FoxgloveSink}
RECORDS = ("results.json", "tracks.json", "result.jsonl", "replay.png", "summary.json")
OUTPUTS = (*FILES, "live")


class ReplayError(PerceptionError):
    """A source without frames, or an unknown output."""


def replay(
    detector,
    frames: FrameSource | Iterable[Frame | None],
    out: str | Path,
    *,
    sensors: Sequence[str] | None = None,
    score_threshold: float = 0.3,
    outputs: Sequence[str] = ("mp4",),
    truth: GroundTruth | None = None,
    deadline_ms: float | None = None,
    total: int | None = None,
    pace: Callable[[Iterable[Frame]], Generator[Frame, None, None]] | None = None,
    progress: bool = True,
    about: dict | None = None,
    ending: Callable[[], dict] = dict,
) -> dict:
    """Run ``detector`` over ``frames`` and write what the module docstring lists into the folder ``out``.

    Args:
        detector: anything with ``prepare([frame]) -> batch``, ``__call__(batch) -> prediction`` and
            ``decode(prediction) -> [Detections]``, such as a :class:`perception.model.detector.Detector`. One without
            ``task``, ``grid`` and ``sensors`` has the defaults of :class:`perception.viz.Layout`.
        frames: a source, or any iterable in order of time; None for one that could not be read. Frames may differ in
            the sensors they have.
        sensors: those that the detector may use; None for all of its own.
        score_threshold: of the boxes that are drawn.
        outputs: some of OUTPUTS; "live" serves a Foxglove app on this machine while it runs.
        truth: ground truth, which detections are scored against and drawn with; None is the frames' own boxes.
        deadline_ms: longest acceptable latency of a detection; those that take longer are counted.
        pace: yields the frames when they are due, such as :meth:`Playback.play`; waiting counts for no stage.
        total: number of frames, for the progress bar; progress: whether to show one.
        about: more entries of the summary, such as :func:`about_detector`; ending: a function that gives those which
            are known only when all frames have been replayed.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ReplayError: see the class.
        ResultsError: a file cannot be written. And whatever the source and the detector raise.
        KeyboardInterrupt: after a signal, once all is written.  InUseError: another run is writing to ``out``.
    """
    out, layout = Path(out), Layout.of(detector) if hasattr(detector, "task") else Layout()
    sensors = layout.sensors if sensors is None else sensors
    for option, known, given in (("outputs", OUTPUTS, outputs), ("sensors", layout.sensors, sensors)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ReplayError(f"{option}: some of {', '.join(known)} were expected, found {unknown[0]!r}")
    if not sensors:
        raise ReplayError(f"sensors: at least one of {', '.join(layout.sensors)} was expected, found none")
    for name in (*RECORDS, *(f"replay.{kind}" for kind in FILES)):
        check_writable(out / name)
    if isinstance(frames, FrameSource):
        source, total = frames, len(frames)
        frames = (source[index] for index in range(len(source)))
    interrupted: KeyboardInterrupt | None = None
    with locked(out), Interrupts() as interrupts:
        with ExitStack() as stack:
            results, tracks = (
                stack.enter_context(ResultsWriter(out / name, sensors)) for name in ("results.json", "tracks.json")
            )
            record = LinesSink(out / "result.jsonl", layout.task, layout.sensors)
            sinks: dict[str, Sink] = {"record": stack.enter_context(record)}
            for kind in outputs:
                sinks[kind] = stack.enter_context(_sink(kind, out, score_threshold, layout))
            run = Replay(detector, results, tracks, sinks, score_threshold, truth, layout)
            try:
                paced = run.timed(frames) if pace is None else pace(run.timed(frames))
                stack.enter_context(closing(paced))
                bar = tqdm(paced, desc="replay", unit="frame", total=total, disable=not progress)
                for frame in interrupts.between(bar):
                    frame = frame.only(sensors)
                    if frame.sensors:
                        run.step(frame)
                    else:
                        run.empty += 1
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
            if run.best is None:
                if interrupted:
                    raise interrupted
                found = f"{run.empty} without any of {', '.join(sensors)}" if run.empty else "none"
                raise ReplayError(f"replay: at least one frame was expected, the source has {found}")
        for kind in sorted(set(FILES) - set(outputs)):
            if (out / f"replay.{kind}").exists():
                log.warning("%s: left as it is, of an earlier replay", out / f"replay.{kind}")
        write_picture(out / "replay.png", draw_frame(*run.best, score_threshold, layout=layout))
        summary = {**(about or {}), "complete": not interrupted, **run.summary(deadline_ms), **ending()}
        summary["versions"] = versions()
        write_json(out / "summary.json", summary)
        if interrupted:
            raise interrupted
    return summary


class Replay:
    """The pipeline and its state."""

    def __init__(
        self,
        detector,
        results: ResultsWriter,
        tracks: ResultsWriter,
        sinks: dict[str, Sink],
        score_threshold: float,
        truth: GroundTruth | None,
        layout: Layout,
    ):
        self.results, self.tracks, self.sinks = results, tracks, sinks
        self.score_threshold, self.task = score_threshold, layout.task
        self.truth = truth or FrameTruth(layout.task)
        self.frames, self.skipped, self.empty, self.boxes, self.boxes_drawn = 0, 0, 0, 0, 0
        self.scenes: Counter[str] = Counter()
        self.frames_with = dict.fromkeys(layout.sensors, 0)
        self.faults: Counter[str] = Counter()
        self.stability = Stability(self.task)
        self.best: tuple[Frame, Detections] | None = None
        self._most = -1
        self._digest = hashlib.sha256()
        self.clock = Clock()
        self.perceiver = Perceiver(detector, self.clock.stage)

    def step(self, frame: Frame) -> Detections:
        """One frame, from the sensors to every output."""
        clock = self.clock
        perceived = self.perceiver.step(frame)
        detections, tracks = perceived.detections, perceived.tracks
        frame = self.truth.attach(perceived.frame)
        latency_ms = {name: clock.last_ms(name) for name in (*DETECTOR_STAGES, "track")}
        step = Step(self.frames, frame, detections, tracks, perceived.faults, latency_ms)
        with clock.stage("results"):
            world = to_world(frame, detections, self.task)
            self.results.add(frame.token, to_submission(world))
            self.tracks.add(frame.token, to_tracking_submission(world, tracks))
            self.truth.add(frame, world)
            self.stability.add(frame, detections, tracks)
            self._count(step)
        for name, sink in self.sinks.items():
            with clock.stage(name):
                sink.add(step)
        return detections

    def timed(self, frames: Iterable[Frame | None]) -> Generator[Frame, None, None]:
        """The frames that could be read; the time that each takes to arrive is the stage "load"."""
        source: Iterator[Frame | None] = iter(frames)
        while True:
            try:
                with self.clock.stage("load"):
                    frame = next(source)
            except StopIteration:
                return
            if frame is None:
                self.skipped += 1
                self.clock.forget_last("load")
            else:
                yield frame

    def summary(self, deadline_ms: float | None = None) -> dict:
        return {
            "frames": self.frames,
            "skipped": self.skipped,
            "empty": self.empty,
            "scenes": dict(self.scenes),
            "frames_with": self.frames_with,
            "faults": dict(sorted(self.faults.items())),
            "score_threshold": self.score_threshold,
            "detections": self.boxes,
            "detections_drawn": self.boxes_drawn,
            "detections_sha256": self._digest.hexdigest(),
            **self._metrics(),
            "stability": self.stability.summary(),
            "latency": self.clock.summary(deadline_ms),
        }

    def _metrics(self) -> dict:
        try:
            return {"metrics": self.truth.metrics(), "no_metrics": ""}
        except EvaluationError as error:
            return {"metrics": None, "no_metrics": str(error)}

    def _count(self, step: Step) -> None:
        frame, detections = step.frame, step.detections
        drawn = int((detections.scores >= self.score_threshold).sum())
        self.frames += 1
        self.boxes += len(detections.scores)
        self.boxes_drawn += drawn
        self.scenes[frame.scene] += 1
        for name in frame.sensors:
            self.frames_with[name] += 1
        self.faults.update(f"{name} {fault}" for name, fault in step.faults.items())
        self._digest.update(canonical_bytes(frame.timestamp_ns, detections))
        if drawn > self._most:
            self._most, self.best = drawn, (frame, detections)


def canonical_bytes(timestamp_ns: int, detections: Detections) -> bytes:
    """Time, number of boxes and all their numbers, little-endian: equal detections have equal bytes on any machine.

    Of the frame only the time is in it: the same drive has the same digest in whatever format it was recorded.
    """
    boxes = detections.boxes
    floats = (boxes.center, boxes.size, boxes.yaw, boxes.velocity, detections.scores)
    integers = (np.array([timestamp_ns, len(boxes)]), boxes.label, boxes.attribute)
    parts = [np.asarray(array, "<i8") for array in integers] + [np.asarray(array, "<f8") for array in floats]
    return b"".join(part.tobytes() for part in parts)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """uint8 [H, W, 3] RGB as PNG."""
    _, data = cv2.imencode(".png", picture[..., ::-1])
    write_file(path, data.tobytes())


def about_detector(detector, checkpoint: str | Path) -> dict:
    """Which detector made a result: name, SHA-256 of the weights, device, resolved config."""
    from perception.model.checkpoint import weights_sha256

    return {
        "checkpoint": str(checkpoint),
        "weights_sha256": weights_sha256(checkpoint),
        "device": str(next(detector.parameters()).device),
        "config": asdict(detector.config),
    }


def versions() -> dict[str, str | int]:
    """Of everything that the numbers in a result depend on."""
    from perception import __version__

    return {
        "perception": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),  # sums over a map are split among them
    }


def _sink(kind: str, out: Path, score_threshold: float, layout: Layout) -> Sink:
    if kind == "live":
        return LiveSink(score_threshold=score_threshold, layout=layout)
    return FILES[kind](out / f"replay.{kind}", score_threshold=score_threshold, layout=layout)
