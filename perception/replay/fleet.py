"""A fleet of logs, replayed by worker processes. One failure stops no other; a stopped fleet can be resumed.

Whether a log is done stands in its own folder: a ``summary.json`` that is complete, made by the same job from the same
weights and from files that have not changed since. ``batch.json`` holds the status of every log; it is rewritten after
each.

A worker replays one log after the other and keeps its detector. It computes on one core, because the last digits of a
sum depend on the number of threads: detections are the same whatever the number of workers. Ctrl-C lets every worker
finish its frame; workers end with the parent process, even if that is killed. A log whose worker dies is tried once
more, at the end; any other failure when the same fleet is run again.

On Ray (docs.ray.io) a log is a task of one core, and of one GPU where the cluster has some and the job may use them.
``RAY_ADDRESS`` names the cluster; without it one is started on this machine. Every node must reach the logs, the
checkpoint and the folder of results under the same paths.
"""

from __future__ import annotations

import functools
import glob
import json
import logging
import multiprocessing
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from perception.device import is_out_of_memory, keep_memory
from perception.errors import PerceptionError, missing_extra
from perception.files import ResultsError, check_writable, write_json
from perception.lock import locked
from perception.logs.log import is_log, is_nuscenes
from perception.replay.playback import Playback
from perception.signals import Interrupts, blocked, ignore_signals

if TYPE_CHECKING:  # imports torch, which would delay a worker that has to stop
    from perception.replay.job import Job

logger = logging.getLogger(__name__)

_METRICS = ("frames", "detections", "detections_sha256")  # of a summary
_RAY_SHUTDOWN_S = 60  # for tasks to finish the frame that they are at


@dataclass(frozen=True)
class Status:
    """The status of a log, as in ``batch.json``.

    name: of its folder, relative to that of the fleet.
    status: "pending", "done", "done before" (in an earlier run, and still valid) or "failed".
    error: why it failed, in one line.
    """

    name: str
    log: str
    scene: str | None
    status: str = "pending"
    seconds: float | None = None
    frames: int | None = None
    detections: int | None = None
    detections_sha256: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.status == "failed":
            return f"{self.name}: failed: {self.error}"
        took = "" if self.seconds is None else f" in {self.seconds:.1f} s"
        digest = (self.detections_sha256 or "")[:12]
        return f"{self.name}: {self.frames} frames{took}, {self.detections} detections, sha256 {digest}"


def jobs_of(sources: Sequence[str], template: Job, scenes: Sequence[str] | None = None) -> list[Job]:
    """A job for every log, sorted by path and scene. A single one writes to ``template.out``, several to folders in it.

    A folder is named after its log, without suffix, or after the scene. Where names collide, the parent folder is put
    in front, and if need be the suffix and further parents.

    Args:
        sources: logs, or patterns such as ``drives/**/*.mcap``. Whatever else a pattern matches, and what is part of
            another log, is left out; a folder in the nuScenes layout stands for its scenes.
        template: everything but ``log``, ``scene`` and ``out``.
        scenes: only these scenes; None takes all.

    Raises:
        PerceptionError: a source that is or matches no log, an unknown scene, a version without a nuScenes folder.
    """
    logs = {os.path.abspath(path): path for source in sources for path in _matching(source)}
    drives: list[tuple[Path, str | None]] = []
    for log in sorted(logs.values()):
        drives += [(log, scene) for scene in _scenes(log, template.version)] if is_nuscenes(log) else [(log, None)]
    found = {scene for _, scene in drives if scene is not None}
    if template.version is not None and not found:
        raise PerceptionError(f"version {template.version}: a folder in the nuScenes layout was expected, found none")
    if scenes is not None:
        unknown = sorted(set(scenes) - found)
        if unknown:
            listed = ", ".join(sorted(found)[:10]) or "none"
            raise PerceptionError(f"scene {unknown[0]} was expected in {', '.join(sources)}, found {listed}")
        drives = [(log, scene) for log, scene in drives if scene is None or scene in scenes]
    names = _names(drives) if len(drives) > 1 else [""]
    return [
        replace(
            template,
            log=str(log),
            scene=scene,
            version=None if scene is None else template.version,
            out=str(Path(template.out, name)),
        )
        for (log, scene), name in zip(drives, names)
    ]


def merged_job(sources: Sequence[str], template: Job) -> Job:
    """One job for all recordings, or patterns of them: they are parts of one drive."""
    first, *others = dict.fromkeys(str(path) for source in sources for path in sorted(_matching(source)))
    return replace(template, log=first, parts=tuple(others))


def main(jobs: Sequence[Job], out: str | Path, *, workers: int = 1, engine: str = "local", again: bool = False) -> int:
    """:func:`run_fleet` for the command line. Returns the exit code: 0, or 1 if a log failed."""
    statuses = run_fleet(jobs, out, workers=workers, engine=engine, again=again)
    counts = Counter(status.status for status in statuses)
    print(f"{len(statuses)} logs: " + ", ".join(f"{number} {status}" for status, number in sorted(counts.items())))
    print(f"results: {out}")
    return int(counts["failed"] > 0)


def run_fleet(
    jobs: Sequence[Job],
    out: str | Path,
    *,
    workers: int = 1,
    engine: str = "local",
    again: bool = False,
    run: Callable[..., dict] | None = None,
) -> list[Status]:
    """Replay the logs of all jobs that are not done yet.

    Args:
        out: where ``batch.json`` is written.
        workers: processes on this machine, or cores of a Ray started on it; a cluster uses all that it has.
        engine: "local" or "ray".
        again: replay what is done, too.
        run: replaces :func:`perception.replay.job.run_job`; the workers import it by name.

    Returns:
        A status for every job, in their order: done, done before or failed.

    Raises:
        PerceptionError: no such engine, an extra that is missing, no checkpoint, a folder that cannot be written.
        KeyboardInterrupt: after Ctrl-C, once the workers have ended. Run again, the fleet is resumed.
    """
    if engine not in _ENGINES or workers < 1:
        raise PerceptionError(f"engine {' or '.join(_ENGINES)}, workers >= 1 were expected, found {engine}, {workers}")
    if run is None:
        from perception.replay.job import run_job

        run = run_job
    from perception.model.hub import pinned

    out = Path(out)
    check_writable(out / "batch.json")
    jobs = [replace(job, checkpoint=pinned(job.checkpoint)) for job in jobs]
    for job in jobs:
        if Path(job.out).is_symlink():  # an output folder of others may lead elsewhere
            raise ResultsError(f"{job.out}: a folder for the results of {job.log} was expected, found a link")
    with locked(out) if all(Path(job.out) != out for job in jobs) else nullcontext():  # a replay locks its own folder
        return _run_all(jobs, out, workers, engine, again, run)


def _run_all(
    jobs: Sequence[Job], out: Path, workers: int, engine: str, again: bool, run: Callable[..., dict]
) -> list[Status]:
    statuses = [Status(os.path.relpath(job.out, out), job.log, job.scene) for job in jobs]
    for i, summary in enumerate(_summaries(jobs)):
        if summary is not None and not again:
            statuses[i] = _finished(statuses[i], "done before", summary)
    _save(out, statuses)
    waiting = [i for i, status in enumerate(statuses) if status.status == "pending"]
    if not waiting:
        return statuses
    done = len(jobs) - len(waiting)
    outcomes = _ENGINES[engine](run, [jobs[i] for i in waiting], workers)
    with closing(outcomes), tqdm(desc="logs", unit="log", total=len(jobs), initial=done) as bar:
        for number, outcome in outcomes:
            i = waiting[number]
            statuses[i] = _finished(statuses[i], **outcome)
            _save(out, statuses)
            bar.write(str(statuses[i]))
            bar.update()
    return statuses


def _matching(source: str) -> list[Path]:
    if Path(source).exists():
        return [Path(source)]
    logs = {path for path in map(Path, glob.glob(source, recursive=True)) if is_log(path)}
    if not logs:
        raise PerceptionError(f"{source}: a log was expected, found nothing")
    return [path for path in logs if logs.isdisjoint(path.parents)]


def _scenes(root: Path, version: str | None) -> list[str]:
    from perception.data.nuscenes import NuScenes

    scenes = sorted(NuScenes(root, version, sensors=()).scenes)
    for name in scenes:  # folders will be called so
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise PerceptionError(f"{root}: a scene whose name can be a folder's was expected, found {name!r}")
    return scenes


def _names(drives: Sequence[tuple[Path, str | None]]) -> list[str]:
    """Relative paths, all different: drive, then monday/drive, monday/drive.mcap, june/monday/drive.mcap and so on."""
    levels = [0] * len(drives)
    deepest = max(len(log.absolute().parts) for log, _ in drives) + 2
    while True:
        names = [_name(log, scene, level) for (log, scene), level in zip(drives, levels)]
        counts = Counter(names)
        if len(counts) == len(names):
            return names
        levels = [level + (counts[name] > 1) for name, level in zip(names, levels)]
        if max(levels) > deepest:
            raise PerceptionError(f"{counts.most_common(1)[0][0]}: one log of this name was expected, found two")


def _name(log: Path, scene: str | None, level: int) -> str:
    _, *folders, name = Path(os.path.abspath(log)).parts
    if scene is not None:
        folders, name = [*folders, name], scene if level < 2 else f"{scene}.nuscenes"
    elif level < 2:
        name = log.stem
    above = level if level < 2 else level - 1
    return "/".join([*folders[max(len(folders) - above, 0) :], name])


def _summaries(jobs: Sequence[Job]) -> Iterator[dict | None]:
    """What each job left when it was done, None if it is not, or would give another result by now."""
    from perception.model.checkpoint import weights_sha256

    weights = functools.cache(weights_sha256)
    for job in jobs:
        expected = {"complete": True, "job_sha256": job.digest}
        expected |= {"weights_sha256": weights(job.checkpoint), "files_sha256": job.files_digest}
        try:
            summary = json.loads(Path(job.out, "summary.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            summary = None
        same = isinstance(summary, dict) and all(summary.get(key) == value for key, value in expected.items())
        yield summary if same else None


def _finished(status: Status, state: str, summary: dict | None = None, **more: Any) -> Status:
    found: dict[str, Any] = {key: (summary or {}).get(key) for key in _METRICS}
    return replace(status, status=state, **found, **more)


def _save(out: Path, statuses: Sequence[Status]) -> None:
    counts = Counter(status.status for status in statuses)
    totals = {"logs": len(statuses)} | {state: counts[state] for state in ("pending", "done", "done before", "failed")}
    for key in ("frames", "detections", "seconds"):
        totals[key] = sum(getattr(status, key) or 0 for status in statuses)
    write_json(out / "batch.json", {"logs": [asdict(status) for status in statuses], "totals": totals})


def _on_this_machine(run: Callable, jobs: Sequence[Job], workers: int) -> Generator[tuple[int, dict], None, None]:
    """Number and outcome of each job, as they finish.

    Every worker is a pool of its own: of a pool whose process died nobody can say which job it was at.
    """
    context = multiprocessing.get_context("spawn")  # torch and its threads do not survive a fork
    alive, stop = context.Pipe(duplex=False)  # workers see it close, whether we close it or die

    def new_worker() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, initializer=_start_worker, initargs=(alive,))

    waiting, tried_again = deque(enumerate(jobs)), set[int]()
    idle = [new_worker() for _ in range(min(workers, len(jobs)))]
    busy: dict[Future, tuple[int, ProcessPoolExecutor]] = {}
    resource_tracker.ensure_running()  # its start unblocks signals
    with Interrupts() as interrupts:
        try:
            while waiting or busy:
                while waiting and idle:
                    worker, (number, job) = idle.pop(), waiting[0]
                    try:
                        with blocked():  # the first job starts the process
                            busy[worker.submit(_work, run, job)] = number, worker
                    except BrokenProcessPool:  # while it had nothing to do
                        idle.append(new_worker())
                    else:
                        waiting.popleft()
                with interrupts.allowed():
                    done = wait(busy, return_when=FIRST_COMPLETED).done
                for future in done:
                    number, worker = busy.pop(future)
                    idle.append(worker)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        idle[-1] = new_worker()
                        if number not in tried_again:
                            tried_again.add(number)
                            waiting.append((number, jobs[number]))
                            continue
                        outcome = _failure("its worker process died: killed, perhaps for want of memory, or crashed")
                    yield number, outcome
        finally:
            stop.close()
            for worker in [*idle, *(worker for _, worker in busy.values())]:
                worker.shutdown(cancel_futures=True)
            alive.close()


def _on_ray(run: Callable, jobs: Sequence[Job], workers: int) -> Generator[tuple[int, dict], None, None]:
    """The same as tasks of Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the user says so
    if "RAY_ADDRESS" not in os.environ:
        # Listen on loopback only: what Ray does by default on Windows and macOS. Read when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise PerceptionError(missing_extra("ray", "engine ray needs an extra")) from None
    ours = not ray.is_initialized()
    if ours and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif ours:
        ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    gpu = min(1, ray.cluster_resources().get("GPU", 0))
    task = ray.remote(num_cpus=1, max_retries=1)(_work_on_node)
    busy: dict = {}
    with Interrupts() as interrupts:
        try:
            for number, job in enumerate(jobs):
                busy[task.options(num_gpus=0 if job.device == "cpu" else gpu).remote(os.getcwd(), run, job)] = number
            while busy:
                with interrupts.allowed():
                    (reference,), _ = ray.wait(list(busy))
                number = busy.pop(reference)
                try:
                    outcome = ray.get(reference)
                except ray.exceptions.RayError as error:
                    outcome = _failure(f"its Ray task died: {str(error).strip().splitlines()[0]}")
                yield number, outcome
        finally:
            for reference in busy:
                ray.cancel(reference)
            if busy:
                ray.wait(list(busy), num_returns=len(busy), timeout=_RAY_SHUTDOWN_S)
            if ours:
                ray.shutdown()


_ENGINES = {"local": _on_this_machine, "ray": _on_ray}

# The rest runs in the workers.

_playback = Playback()  # of this process; setting ``quit`` stops the current job


def _start_worker(alive: Connection) -> None:
    ignore_signals()  # while it works on a job, the replay handles them
    threading.Thread(target=_end_with, args=(alive,), name="end of the fleet", daemon=True).start()
    _compute_on_one_core()


def _end_with(alive: Connection) -> None:
    wait_for_end([alive])
    _playback.quit = True
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)  # the parent is dead, and nobody waits for this process


def _work_on_node(folder: str, run: Callable, job: Job) -> dict:
    os.chdir(folder)  # relative paths refer to where the fleet was started
    _compute_on_one_core()
    return _work(run, job)


@functools.cache
def _compute_on_one_core() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_memory()


def _work(run: Callable, job: Job) -> dict:
    """Replay one log. Returns arguments of :func:`_finished`: whatever goes wrong is an outcome, and no exception."""
    if _playback.quit:
        raise KeyboardInterrupt
    started = time.monotonic()
    try:
        summary = run(job, _playback, load=_load, progress=False)
    except PerceptionError as error:
        return _failure(str(error), started)
    except Exception as error:
        if is_out_of_memory(error):
            return _failure(f"out of memory: {error}", started)
        logger.exception("%s", job.log)
        return _failure(f"{type(error).__name__}: {error}", started)
    if _playback.quit:
        raise KeyboardInterrupt
    found = {key: summary[key] for key in _METRICS}
    return {"state": "done", "summary": found, "seconds": round(time.monotonic() - started, 3)}


def _failure(error: str, started: float | None = None) -> dict:
    seconds = None if started is None else round(time.monotonic() - started, 3)
    return {"state": "failed", "error": " ".join(error.split()), "seconds": seconds}


@functools.cache
def _load(checkpoint: str, device: str):
    from perception import load

    return load(checkpoint, device=device)
