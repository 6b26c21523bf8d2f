"""Convert a log to another format, or logs and data sets to a folder in the nuScenes layout.

    perception convert drive.mcap --to ros2 --out drive_bag
    perception convert data/kitti --to nuscenes --out data/kitti-nuscenes
    perception convert drives/*.mcap --to nuscenes --pseudo-labels sim --jobs 4 --out data/own

Of a log every message that can be decoded is converted, exactly, and what is left out is named. Folders in the nuScenes
layout are made of annotated data sets (Astyx HiRes2019, KITTI, View-of-Delft) and of logs, without boxes, with those of
a file or a replay, or with those that a detector finds; docs/own-data.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from perception.cli.options import add_device_option, add_log_options, add_merge_option
from perception.data.nuscenes_constants import KEYFRAME_HZ
from perception.errors import PerceptionError
from perception.logs.log import is_log

_MIN_SCORE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="nuScenes folder, .mcap file, ROS bag, data set")
    add_merge_option(parser)
    add_log_options(parser)
    parser.add_argument(
        "--to",
        required=True,
        choices=("mcap", "ros2", "nuscenes"),
        help="MCAP, in the layout of Foxglove's nuScenes converter; a ROS 2 bag; a folder in nuScenes' layout",
    )
    parser.add_argument("--out", required=True, type=Path, help="the .mcap file, or the folder")
    parser.add_argument("--storage", choices=("sqlite3", "mcap"), default="sqlite3", help="of a bag; default: sqlite3")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="repeat the drive N times")
    parser.add_argument("--skip-damaged", action="store_true", help="skip data that cannot be read")

    made = parser.add_argument_group("logs to nuscenes", "A scene a log. If interrupted, the same command resumes.")
    boxes = made.add_mutually_exclusive_group()
    boxes.add_argument("--boxes", type=Path, help="a nuScenes submission, or the folder of the replays of these logs")
    boxes.add_argument("--pseudo-labels", metavar="CHECKPOINT", help="boxes that this detector finds, tracked")
    made.add_argument("--min-score", type=float, metavar="S", help=f"minimum score of a box; default: {_MIN_SCORE}")
    made.add_argument("--rig", help="file that maps topics to sensors; default: derived from the log")
    made.add_argument(
        "--frame-rate", type=float, metavar="HZ", help="samples a second at most; default: 2, or all that --boxes has"
    )
    add_device_option(made)
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that detect; default: 1")
    made.add_argument("--engine", choices=("local", "ray"), default="local", help="where they run; default: local")


def run(args: argparse.Namespace) -> None:
    first = Path(args.logs[0]).expanduser()
    of_logs = {"--merge": args.merge, "--scene": args.scene is not None, "--repeat": args.repeat != 1}
    of_both = {
        f"--{name.replace('_', '-')}": getattr(args, name) is not None
        for name in ("boxes", "pseudo_labels", "min_score", "rig", "frame_rate")
    }
    if args.to == "nuscenes" and first.is_dir() and not is_log(first):
        _refuse(of_logs | of_both, "is for logs, not for a data set that becomes nuScenes'")
        _require_one(args)
        return _data_set_to_nuscenes(args)
    if args.to == "nuscenes":
        _refuse({"--repeat": args.repeat != 1}, "is for logs that stay logs")
        return _logs_to_nuscenes(args)
    _refuse(of_both, "is for --to nuscenes")
    _require_one(args)
    from tqdm import tqdm

    from perception.logs.convert import convert
    from perception.logs.log import open_log
    from perception.logs.mcap_writer import McapLogWriter
    from perception.logs.rosbag_writer import RosbagWriter

    options = {"version": args.version, "scene": args.scene, "limits": args.limits}
    with open_log(args.logs, strict=not args.skip_damaged, **options) as log:
        writer = McapLogWriter(args.out) if args.to == "mcap" else RosbagWriter(args.out, args.storage)
        total = args.repeat * sum(topic.count or 0 for topic in log.topics.values() if topic.kind)
        with writer, tqdm(desc="convert", unit="msg", total=total or None, disable=not args.progress) as bar:
            counts = convert(log, writer, repeat=args.repeat, progress=bar.update)
    for topic, count in sorted(counts.items()):
        print(f"{count:8d}  {topic}")
    print(args.out)


def _refuse(given: Mapping[str, bool], why: str) -> None:
    for option in (name for name, is_given in given.items() if is_given):
        raise PerceptionError(f"{option}: {why}")


def _require_one(args: argparse.Namespace) -> None:
    if len(args.logs) > 1 and not args.merge:
        raise PerceptionError(f"one log, or --merge, was expected, found {len(args.logs)}")


def _logs_to_nuscenes(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from perception.data.nuscenes_writer import require_new
    from perception.replay import fleet
    from perception.replay.dataset import VERSION, scene_names, write_dataset
    from perception.replay.job import Job
    from perception.replay.labels import Labels, NoLabels, ReplayLabels, SubmissionLabels

    for option, value in (("--frame-rate", args.frame_rate), ("--jobs", args.jobs)):
        if value is not None and not value > 0:
            raise PerceptionError(f"{option}: a number above 0 was expected, found {value}")
    require_new(args.out, VERSION)
    replays = args.boxes or args.out / "replays"
    template = Job(
        log="",
        out=str(replays),
        checkpoint=args.pseudo_labels or "",
        device=args.device,
        version=args.version,
        rig=args.rig,
        frame_rate_hz=args.frame_rate,
        outputs=(),
        skip_damaged=args.skip_damaged,
        limits=args.limits,
    )
    if args.merge:
        jobs = [fleet.merged_job(args.logs, template)]
    else:
        jobs = fleet.jobs_of(args.logs, template, None if args.scene is None else [args.scene])
    if args.frame_rate is None and args.boxes is None:  # a scene of a nuScenes folder has samples of its own
        jobs = [replace(job, frame_rate_hz=KEYFRAME_HZ) if job.scene is None else job for job in jobs]
    names = scene_names(jobs, replays)
    if args.pseudo_labels is not None:
        statuses = fleet.run_fleet(jobs, replays, workers=args.jobs, engine=args.engine)
        failed = [status for status in statuses if status.status == "failed"]
        if (failed and not args.skip_damaged) or len(failed) == len(jobs):
            raise PerceptionError(f"{len(jobs)} logs were expected to be replayed, {len(failed)} were not: {failed[0]}")
        names = [name for name, status in zip(names, statuses) if status not in failed]
        jobs = [job for job, status in zip(jobs, statuses) if status not in failed]
    if args.boxes is not None and not args.boxes.is_dir():
        labels: list[Labels] = [SubmissionLabels(args.boxes)] * len(jobs)
    elif args.boxes is not None or args.pseudo_labels is not None:
        labels = [ReplayLabels(job.out) for job in jobs]
    else:
        labels = [NoLabels()] * len(jobs)
    min_score = _MIN_SCORE if args.min_score is None else args.min_score
    with tqdm(desc="convert", unit="frame", disable=not args.progress) as bar:
        counts, scenes, problems = write_dataset(jobs, args.out, labels, names, min_score, bar.update)
    for name in labels[0].task.classes:
        print(f"{counts[name]:8d}  {name}")
    for problem in problems:
        print(problem)
    print(f"{args.out}: scenes: {len(scenes)}")


def _data_set_to_nuscenes(args: argparse.Namespace) -> None:
    from collections import Counter

    from tqdm import tqdm

    from perception.data.layouts import find_layout, splits_of
    from perception.data.nuscenes_files import DataError
    from perception.data.nuscenes_writer import NuScenesWriter
    from perception.task import CLASSES

    layout = find_layout(Path(args.logs[0]).expanduser())
    frames, counts, damaged = layout.open(Path(args.logs[0]), layout.task), Counter[str](), 0
    with NuScenesWriter(args.out, args.version or "v1.0-own", splits=splits_of(frames)) as writer:
        for index in tqdm(range(len(frames)), desc="convert", unit="frame", disable=not args.progress):
            try:
                frame = frames[index]
            except DataError:
                if not args.skip_damaged:
                    raise
                frame = None
            if frame is None or frame.boxes is None:
                damaged += 1
                continue
            writer.add(frame)
            counts.update(CLASSES[label] for label in frame.boxes.label.tolist())
    for name in CLASSES:
        print(f"{counts[name]:8d}  {name}")
    print(f"{args.out}: {len(frames) - damaged} frames of {layout.name}, {damaged} damaged ones left out")
