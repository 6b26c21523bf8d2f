"""One log from file to result: what the command does for a single log, and each worker of a fleet for its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import perception
from perception.data.nuscenes_scenes import is_simulated
from perception.device import checked_device
from perception.logs.beginning import BEGINNING_S
from perception.logs.corruptions import parse_corruptions
from perception.logs.default_rig import proposed_rig, rig_of
from perception.logs.frames import LogFrames, assembly_for
from perception.logs.inspect import inspect, unread
from perception.logs.log import Log, is_nuscenes, open_log
from perception.logs.nuscenes_log import NuScenesReader
from perception.logs.rig import to_yaml
from perception.model.checkpoint import find_checkpoint, warn_of_simulation
from perception.replay.pipeline import about_detector, replay
from perception.replay.playback import Playback, keyboard, looped
from perception.replay.truth import GroundTruth
from perception.task import Task


@dataclass(frozen=True)
class Job:
    """Which log to replay and how, in plain values that can be sent to another process or machine.

    log, version, scene, topics, exclude_topics, exclude_transforms, remap, start_offset_s, duration_s, limits: as
        :func:`open_log` takes them.
    parts: more recordings of the same drive, merged with ``log``.
    out: folder of the results.  rig: path of a rig file; None proposes one from the log.
    sensors, score_threshold, outputs, deadline_ms: as :func:`perception.replay.pipeline.replay` takes them.
    frame_rate_hz: the most frames a second.
    faults: as in ``perception/logs/corruptions.py``.
    truth: nuScenes tables with the ground truth; None is the log itself where it is a nuScenes folder.
    skip_damaged: go on without what cannot be decoded.
    """

    log: str
    out: str
    checkpoint: str
    device: str = "auto"
    version: str | None = None
    scene: str | None = None
    rig: str | None = None
    topics: tuple[str, ...] | None = None
    exclude_topics: tuple[str, ...] = ()
    remap: dict[str, str] = field(default_factory=dict)
    start_offset_s: float = 0.0
    duration_s: float | None = None
    sensors: tuple[str, ...] | None = None
    frame_rate_hz: float | None = None
    faults: tuple[str, ...] = ()
    truth: str | None = None
    score_threshold: float = 0.3
    outputs: tuple[str, ...] = ("mp4",)
    deadline_ms: float | None = None
    skip_damaged: bool = False
    limits: float = 1.0
    exclude_transforms: tuple[tuple[str, str], ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all options that determine the result, the contents of files apart."""
        values = {name: value for name, value in asdict(self).items() if name not in ("out", "limits")}
        return _sha256(values)

    @property
    def files_digest(self) -> str:
        """SHA-256 of sizes and times of the files it reads, weights apart: a change is seen without reading them.

        Of a nuScenes folder these are its tables, and the folders of sensor files, whose times change with new files.
        """
        paths = [file for log in (self.log, *self.parts) for file in _files(Path(log))]
        paths += [find_checkpoint(self.checkpoint) / "config.yaml"]
        paths += [] if self.rig is None else [Path(self.rig)]
        paths += [] if self.truth is None else _files(Path(self.truth))
        return _sha256([_state(path) for path in paths])


def run_job(
    job: Job,
    playback: Playback | None = None,
    loop: bool = False,
    load: Callable = perception.load,
    progress: bool = True,
) -> dict:
    """Replay the log of a job. Returns what ``summary.json`` holds.

    Args:
        playback: the pace; None for as fast as possible.
        loop: start again at the end, until the user quits.
        load: loads the detector of a checkpoint onto a device.
        progress: show a bar.

    Raises:
        PerceptionError: whatever is wrong with the input, in one line.
        KeyboardInterrupt: after Ctrl-C or q, once all is written.
    """
    playback = playback or Playback()
    files = job.files_digest
    with opened(job) as log:
        detector = load(job.checkpoint, device=checked_device(job.device))
        if not any(is_simulated(folder.parent) for folder in Path(job.log).glob("*/log.json")):
            warn_of_simulation(job.checkpoint, job.log)
        sensors = detector.sensors if job.sensors is None else job.sensors
        info = None if job.rig else inspect(log, seconds=BEGINNING_S)
        rig = proposed_rig(log, info) if info else rig_of(log, job.rig)
        left_out = unread(info) if info else []
        options = {
            "image_size": detector.inputs.covering,
            "sensors": sensors,
            "rate_hz": job.frame_rate_hz,
            "skip_damaged": job.skip_damaged,
        }
        corruptions = parse_corruptions(job.faults, rig)
        frames = LogFrames(log, rig, assembly_for(detector.config.data, **options), corruptions, info)
        about = about_detector(detector, job.checkpoint)
        about |= {"source": job.log, "scene": log.name, "job_sha256": job.digest, "files_sha256": files}
        about |= {"rig": to_yaml(rig), "injected_faults": list(job.faults)}
        with keyboard(playback.press):
            return replay(
                detector,
                looped(frames) if loop else frames,
                job.out,
                pace=playback.play,
                sensors=sensors,
                score_threshold=job.score_threshold,
                outputs=job.outputs,
                truth=_truth(job, log, detector.task),
                deadline_ms=job.deadline_ms,
                about=about,
                progress=progress,
                total=log.topics[rig.samples].count if rig.samples in log.topics and not loop else None,
                ending=lambda: {"problems": left_out + frames.problems, "dropped": playback.dropped},
            )


def opened(job: Job) -> Log:
    """The log of a job."""
    return open_log(
        [job.log, *job.parts],
        version=job.version,
        scene=job.scene,
        topics=job.topics,
        exclude_topics=job.exclude_topics,
        remap=job.remap,
        start_offset_s=job.start_offset_s,
        duration_s=job.duration_s,
        strict=not job.skip_damaged,
        limits=job.limits,
        exclude_transforms=job.exclude_transforms,
    )


def _files(log: Path) -> list[Path]:
    if is_nuscenes(log):
        return sorted(path for pattern in ("*/*.json", "samples/*", "sweeps/*") for path in log.glob(pattern))
    return sorted(log.rglob("*")) if log.is_dir() else [log]


def _state(path: Path) -> tuple[str, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return path.name, state.st_size, state.st_mtime_ns


def _sha256(values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _truth(job: Job, log: Log, task: Task) -> GroundTruth | None:
    if job.truth is not None:
        return GroundTruth(job.truth, task=task)
    if isinstance(log.reader, NuScenesReader):
        return GroundTruth(log.reader.tables, log.name, task)
    return None
