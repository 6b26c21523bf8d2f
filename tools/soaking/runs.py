"""The runs of ``tools/soak.py``: each returns lines to print, and what is not as it must be."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np

import perception
import soaking.vehicle as vehicle
from perception.logs.assemble import Assembler
from perception.replay.perceiver import Perceiver
from perception.seeding import keyed_rng
from perception.stream import Result, Stream
from soaking.vehicle import FRAME_NS, START_NS, Clock, Stub, describe, drive, faulty, fed, push, rig, without

Report = tuple[list[str], list[str]]

_SMALL = [
    "grid.x_min_m=-12.8", "grid.x_max_m=12.8", "grid.y_min_m=-12.8", "grid.y_max_m=12.8",
    "encoders.camera.image_size=[32,64]", "encoders.camera.weights=none", "encoders.camera.channels=16",
    "encoders.camera.depth_bins=8", "encoders.lidar.point_channels=8", "encoders.radar.point_channels=8",
    "fusion.channels=16", "fusion.heads=2",
    "head.trunk_channels=[16,16]", "head.channels=16", "head.score_threshold=0.0", "head.max_detections=20",
]  # fmt: skip
_WARM_FRAMES = 1000  # until memory has settled
_MOST_RISE_MB = 20.0
_SEQUENCE_FRAMES = 14  # the first ten of which wait for the first second to end
_DETECTOR_S = 0.2  # twice the interval of frames


def detector(small: bool):
    return perception.build(perception.load_config(None, _SMALL)).eval() if small else Stub()


def opened(small: bool, clock: Clock, **options) -> Stream:
    stream = Stream(detector(small), rig(), clock=clock, **options)
    describe(stream)
    return stream


def faults(frames: int, seed: int, small: bool) -> Report:
    clock, model = Clock(), detector(small)
    stream = opened(small, clock)
    states: Counter[str] = Counter()
    resources, degraded, count, problems = [], 0, 0, []
    events = faulty(drive(frames, seed), keyed_rng(seed, "soak"))
    began, last = time.perf_counter(), None
    for result in fed(stream, clock, events):
        count += 1
        degraded += result.is_degraded
        states.update(presence.state for presence in result.sensors.values())
        problems += problems_of(last, result)
        last = result
        if count % _WARM_FRAMES == 0:
            resources.append(_resources())
            stream.detector = model if count % (2 * _WARM_FRAMES) else detector(small)
    counts = stream.health().counts
    rise_mb = max(mb for mb, *_ in resources) - resources[0][0]
    problems += [f"memory rose by {rise_mb:.1f} MB"] * (rise_mb > _MOST_RISE_MB)
    problems += ["files or threads differ"] * (len({(files, threads) for _, files, threads in resources}) > 1)
    problems += ["inference failed"] * ("frames whose inference failed" in counts)
    lines = [
        f"{frames} frames, {count} results, {degraded} of them degraded, {time.perf_counter() - began:.0f} s",
        f"sensors in results: {dict(states)}",
        f"memory {resources[0][0]:.1f} MB after {_WARM_FRAMES} results, then up to {rise_mb:+.1f} MB;"
        f" files {sorted({files for _, files, _ in resources})}, threads {sorted({t for *_, t in resources})}",
        *(f"  {what}: {number}" for what, number in counts.items()),
    ]
    return lines, problems


def sequences(number: int, seed: int, small: bool) -> Report:
    results, problems, model = 0, [], detector(small)
    began = time.perf_counter()
    sound = list(drive(_SEQUENCE_FRAMES, seed))
    usual = [content(result) for result in _driven(model, sound)]
    for i in range(number):
        if i % 2:
            found = _driven(model, _permuted(sound, keyed_rng(seed, "permuted", str(i))))
            if [content(result) for result in found] != usual:
                problems.append(f"sequence {i}: another order of arrival gives other results")
        else:
            found = _driven(model, faulty(sound, keyed_rng(seed, "faulty", str(i))))
        for before, result in zip([None, *found], found):
            problems += [f"sequence {i}: {problem}" for problem in problems_of(before, result)]
        results += len(found)
    took_s = time.perf_counter() - began
    half = f"{(number + 1) // 2} with faults, {number // 2} in another order of arrival"
    return [f"{number} sequences ({half}), {results} results, {took_s:.0f} s"], problems


def deaths(frames: Iterable[int] = range(11, 21)) -> Report:
    """Each sensor, and each two, dead from boot and from each of these frames on, until they are back."""
    began, worst_s = time.perf_counter(), dict.fromkeys((None, 10.0), 0.0)
    problems, count = [], 0
    both = [dead for number in (1, 2) for dead in combinations(vehicle.SENSORS, number)]
    for dead, since, rate_hz in product(both, (0, *frames), worst_s):
        found, age_s = death(dead, since, rate_hz)
        where = f"{'+'.join(dead)} dead from frame {since} on, rate {rate_hz}"
        problems += [f"{where}: {problem}" for problem in found]
        worst_s[rate_hz], count = max(worst_s[rate_hz], age_s), count + 1
    ages = ", ".join(f"{s:.2f} s {'by the reference' if rate is None else 'at a rate'}" for rate, s in worst_s.items())
    return [f"{count} drives, {time.perf_counter() - began:.0f} s; oldest result: {ages}"], problems


def death(dead: Sequence[str], since: int, rate_hz: float | None) -> tuple[list[str], float]:
    """Sensors that are silent from a frame on, and back after eight or, from boot, twenty.

    Every result says ``active`` of a sensor if, and only if, it has measured near enough to it, and there is a result
    for every tenth of a second. Returns what is not so, and how old a result was at most, after the first second.
    """
    until = since + 8 if since else 20
    events = list(without(drive(until + 4), dead, since, until))
    clock = Clock()
    stream = Stream(Stub(), rig(), clock=clock, every_frame=True, rate_hz=rate_hz)
    describe(stream)
    results = list(fed(stream, clock, events))
    oldest_s = max(result.age_s for result in results if result.timestamp_ns > START_NS + 1_000_000_000)
    results += stream.finish()
    problems = []
    for result in results:
        for name, presence in result.sensors.items():
            ages_ns = [result.timestamp_ns - event.timestamp_ns for event in events if event.what == name]
            near = any(abs(age_ns) <= 1e9 * vehicle.MOST_AGE_S for age_ns in ages_ns)
            came = any(age_ns >= 0 for age_ns in ages_ns)
            if presence.state not in (("active",) if near else ("stale",) if came else ("waiting", "stale")):
                problems.append(f"{name} is {presence.state} at {result.timestamp_ns - START_NS} ns")
    stamps = [result.timestamp_ns for result in results]
    gaps = [later - earlier for earlier, later in zip([START_NS - FRAME_NS // 2, *stamps], stamps)]
    problems += [f"{gap} ns without a result" for gap in gaps if not 0 < gap <= 1.5 * FRAME_NS]
    back = [result for result in results if result.timestamp_ns >= START_NS + until * FRAME_NS]
    problems += ["degraded in the second frame after its return"] * any(result.is_degraded for result in back[1:])
    return problems + ["no result after its return"] * (len(back) < 3), oldest_s


def overload(seconds: float) -> Report:
    """In real time, with its thread; the detector takes twice as long as there is."""

    class Slow(Stub):
        def __call__(self, frames):
            time.sleep(_DETECTOR_S)
            return super().__call__(frames)

    results: list[Result] = []
    deepest, frames = 0, round(seconds * 1e9 / FRAME_NS)
    stream = Stream(Slow(), rig(), on_result=results.append)
    describe(stream)
    events = list(drive(frames))
    with stream:
        began_ns = time.monotonic_ns()
        for event in events:
            time.sleep(max(0, event.arrives_ns - START_NS - time.monotonic_ns() + began_ns) * 1e-9)
            push(stream, event)
            deepest = max(deepest, len(stream._inbox))
    ages = np.array([result.age_s for result in results[10:]])
    p50, p99 = np.quantile(ages, (0.5, 0.99))
    counts = stream.health().counts
    problems = [f"p99/p50 of the age is {p99 / p50:.2f}"] * bool(p99 > 1.5 * p50)
    problems += ["frames were not counted"] * (len(results) + counts["frames dropped for newer ones"] < frames - 10)
    lines = [
        f"{frames} frames at 10 Hz, a detector of {_DETECTOR_S * 1e3:.0f} ms: {len(results)} results",
        f"age of results p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, ratio {p99 / p50:.2f}",
        f"at most {deepest} messages waited; {counts}",
    ]
    return lines, problems


def cost(frames: int = 60) -> Report:
    """With pictures of 1600 x 900 and clouds of 30,000 points, and the shipped detector."""
    spent: Counter[str] = Counter()

    def timed(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        setattr(owner, name, call)

    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 900, 1600, 3), np.uint8)
    points = rng.uniform(1, 40, (30000, 4)).astype(np.float32)
    events = [
        event._replace(data=images[i % 4] if event.what in ("FRONT", "BACK") else points + np.float32(i % 7))
        if event.what in ("FRONT", "BACK", "ROOF")
        else event
        for i, event in enumerate(drive(frames))
    ]
    clock = Clock()
    stream = Stream(perception.load("sim"), rig(), clock=clock, every_frame=True)
    describe(stream)
    stream.warmup()
    head = len(events) // 2
    list(fed(stream, clock, events[:head]))
    timed(Perceiver, "step")
    timed(Assembler, "_frame")
    start = time.perf_counter()
    count = len(list(fed(stream, clock, events[head:])))
    total = time.perf_counter() - start
    own = total - spent["step"] - spent["_frame"]
    per_frame = {"detector": spent["step"], "assembly": spent["_frame"], "stream": own}
    share = own / total
    lines = [
        "; ".join(f"{name} {1e3 * seconds / count:.1f} ms a frame" for name, seconds in per_frame.items()),
        f"the stream's own share: {100 * share:.2f} %",
    ]
    return lines, [f"its share is {100 * share:.1f} %"] * (share > 0.03)


def problems_of(before: Result | None, result: Result) -> list[str]:
    boxes, tracks = result.detections.boxes, result.tracks.boxes
    arrays = (
        boxes.center,
        boxes.size,
        boxes.yaw,
        result.detections.scores,
        tracks.center,
        tracks.size,
        tracks.velocity,
    )
    problems = ["a number is not finite"] * (not all(np.isfinite(array).all() for array in arrays))
    if before is not None and before.scene == result.scene and before.timestamp_ns >= result.timestamp_ns:
        problems.append(f"{result.timestamp_ns} ns after {before.timestamp_ns} ns")
    if set(result.sensors) != set(vehicle.SENSORS):
        problems.append(f"sensors {sorted(result.sensors)}")
    return problems


def content(result: Result) -> tuple:
    """All that tells two results apart."""
    from perception.replay.pipeline import canonical_bytes

    seen = canonical_bytes(result.timestamp_ns, result.detections)
    return seen, result.token, result.scene, result.track_ids.tobytes(), tuple(sorted(result.sensors.items()))


def _driven(model, events) -> list[Result]:
    clock = Clock()
    stream = Stream(model, rig(), clock=clock, every_frame=True)
    describe(stream)
    return [*fed(stream, clock, events), *stream.finish()]


def _permuted(events, rng: np.random.Generator) -> list:
    """Each comes later by less than half of the window."""
    late = [event._replace(arrives_ns=event.arrives_ns + int(rng.integers(0, 25)) * 1_000_000) for event in events]
    return sorted(late, key=lambda event: event.arrives_ns)


def _resources() -> tuple[float, int, int]:
    """Resident MB, open files, threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count()
