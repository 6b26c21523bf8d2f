"""What replay promises, measured: equal detections from every form, salvage, damage, memory, what reading costs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from rosbags.convert import convert as to_bag
from rosbags.typesys import Stores, get_typestore

from benchmarks import mangle
from benchmarks.timing import resident_mb
from perception.data.nuscenes_files import LIDAR_BIN_COLUMNS
from perception.logs.convert import convert
from perception.logs.frames import LogFrames, assembly_for
from perception.logs.log import open_log
from perception.logs.mcap_file import McapFile
from perception.logs.mcap_log import McapReader
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.rosbag_writer import RosbagWriter
from perception.model.checkpoint import load
from perception.replay.job import Job, rig_of, run_job
from perception.replay.latency import DETECTOR_STAGES
from perception.replay.pipeline import replay
from perception.sim import simulate

_WARM_UP = 0.1  # of an hour: caches fill, the allocator finds its size
_MANGLED_SEED = 4000
_MANGLED_IMAGE = (64, 36)
_MANGLED_POINTS = 100  # every hundredth


def replay_checks(scene: Path, checkpoint: str) -> list[dict]:
    """Rows of a scene in every form, replayed twice each, and of its MCAP file cut short."""
    with tempfile.TemporaryDirectory() as folder:
        logs = converted(scene, Path(folder))
        return [*_identical(logs, checkpoint, Path(folder)), *_salvaged(logs["MCAP"])]


def damaged_logs(inputs: int) -> list[dict]:
    """A row for each kind of damage: the key frames of a simulated second in every form, damaged in ``inputs`` ways.

    Images are small and clouds thin, so that more of the damage hits what holds them together.
    """
    with tempfile.TemporaryDirectory() as folder:
        drive = Path(folder) / "drive"
        simulate(drive, 1, 1.0, _MANGLED_SEED, image_size=_MANGLED_IMAGE, weather=("day",))
        shutil.rmtree(drive / "sweeps")
        for path in drive.rglob("*.pcd.bin"):
            np.fromfile(path, "<f4").reshape(-1, LIDAR_BIN_COLUMNS)[::_MANGLED_POINTS].tofile(path)
        logs = converted(drive, Path(folder) / "logs")
        logs["ROS 1 bag"] = _ros1(logs["ROS 2 bag, sqlite3"], Path(folder) / "scene.bag")
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process of its own
            read = partial(mangle.in_another_process, [*logs.values()], inputs)
            return [{"check": "damaged logs", **row} for row in pool.map(lambda kind: read(kind=kind), mangle.KINDS)]


def converted(root: Path, folder: Path) -> dict[str, Path]:
    """A nuScenes scene in all forms."""
    folder.mkdir(exist_ok=True)
    writers = {
        "MCAP": McapLogWriter(folder / "scene.mcap"),
        "ROS 2 bag, sqlite3": RosbagWriter(folder / "sqlite3" / "scene", "sqlite3"),
        "ROS 2 bag, MCAP": RosbagWriter(folder / "mcap" / "scene", "mcap"),
    }
    for writer in writers.values():
        with open_log(root) as log, writer:
            convert(log, writer)
    return {"folder": root, **{name: writer.path for name, writer in writers.items()}}


def _ros1(bag: Path, path: Path) -> Path:
    types = get_typestore(Stores.ROS1_NOETIC)
    to_bag([bag], path, "sqlite3", 9, None, "", None, types, (), (), (), ())
    return path


def _identical(logs: dict[str, Path], checkpoint: str, folder: Path) -> Iterator[dict]:
    """Every form replayed twice: digest, and the share that reading has of the time of reading and detecting."""
    for form, path in logs.items():
        for turn in (1, 2):
            job = Job(log=str(path), out=str(folder / "out"), checkpoint=checkpoint, outputs=())
            summary = run_job(job)
            ms = {name: summary["latency"][name]["p50_ms"] for name in ("load", *DETECTOR_STAGES)}
            yield {
                "check": "replayed",
                "form": form,
                "turn": turn,
                "frames": summary["frames"],
                "detections_sha256": summary["detections_sha256"],
                "load_ms": ms["load"],
                "detector_ms": sum(ms.values()) - ms["load"],
                "load_share": ms["load"] / sum(ms.values()),
            }


def _salvaged(log: Path) -> Iterator[dict]:
    """An MCAP file cut at every tenth of its length, and one whose writer crashed before its end."""
    data, chunks = log.read_bytes(), _chunks(log)
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut.mcap"
        sizes = {f"cut at {tenth} tenths": len(data) * tenth // 10 for tenth in range(1, 10)}
        sizes["writer crashed"] = max(end for end, _ in chunks) + 1  # the summary was never written
        for what, size in sizes.items():
            cut.write_bytes(data[:size])
            reader = McapReader(cut)
            back = sum(1 for _ in reader.messages())
            whole = sum(messages for end, messages in chunks if end <= size)
            yield {
                "check": "salvaged",
                "recording": what,
                "messages_in_complete_chunks": whole,
                "messages_back": back,
                "share": back / whole if whole else 1.0,
                "stopped": str(reader.stopped).replace(folder, "..."),
            }


def _chunks(log: Path) -> list[tuple[int, int]]:
    """Where every chunk ends and how many messages it has, by the mcap library."""
    from mcap.reader import make_reader

    with log.open("rb") as stream:
        indexes = make_reader(stream).get_summary().chunk_indexes
        ends = [(index.chunk_start_offset, index.chunk_start_offset + index.chunk_length) for index in indexes]
    with log.open("rb") as stream:
        return [(end, _messages_in(stream, start)) for start, end in ends]


def _messages_in(stream, start: int) -> int:
    from mcap.data_stream import ReadDataStream
    from mcap.records import Chunk, Message
    from mcap.stream_reader import breakup_chunk

    stream.seek(start + 9)  # opcode and length
    return sum(isinstance(record, Message) for record in breakup_chunk(Chunk.read(ReadDataStream(stream))))


def hour_long(scene: Path, checkpoint: str, sensors: tuple[str, ...], seconds: float = 3600.0) -> list[dict]:
    """One row: how resident memory rises while an hour of MCAP, made by repeating a scene, is replayed."""
    with tempfile.TemporaryDirectory() as folder:
        log, seen = Path(folder) / "hour.mcap", []
        with open_log(scene) as one:
            stamps = [message.timestamp_ns for message in one]
        turns = round(seconds / ((max(stamps) - min(stamps)) * 1e-9 + 0.5))
        with open_log(scene) as one, McapLogWriter(log) as writer:
            convert(one, writer, repeat=turns)
        detector = load(checkpoint)
        with open_log(log) as hour:
            assembly = assembly_for(detector.config.data, image_size=detector.inputs.covering, sensors=sensors)
            frames = LogFrames(hour, rig_of(hour, None), assembly)
            summary = replay(detector, _watched(frames, seen), Path(folder) / "out", sensors=sensors, outputs=())
        warm = round(_WARM_UP * len(seen))
        return [
            {
                "check": "an hour",
                "sensors": "+".join(sensors),
                "frames": summary["frames"],
                "gigabytes": log.stat().st_size / 1e9,
                "messages": sum(McapFile(log).counts.values()),
                "warm_mb": max(seen[: warm + 1]),
                "most_mb": max(seen),
                "rise_mb": max(seen) - max(seen[: warm + 1]),
            }
        ]


def _watched(frames: Iterable, seen: list[float]) -> Iterator:
    for frame in frames:
        seen.append(resident_mb())
        yield frame
