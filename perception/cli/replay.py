"""Run a detector over logged drives: nuScenes folders, MCAP files, ROS 2 bags.

perception replay drive.mcap --checkpoint sim --out out/drive
perception replay data/nuscenes --version v1.0-mini --scenes scene-0103 --sensors camera,radar --checkpoint ...
perception replay "drives/*.mcap" --checkpoint sim --out out/fleet --jobs 4
perception replay cameras.mcap lidar.db3 --merge --checkpoint sim --out out/drive
"""

from __future__ import annotations

import argparse

from perception.cli.options import (
    add_device_option,
    add_limits_option,
    add_merge_option,
    add_transforms_option,
    names,
)
from perception.errors import PerceptionError

_EPILOG = """In a terminal: SPACE pauses, RIGHT steps one frame while paused, UP and DOWN change the rate, q quits.
Exit codes: 0 success, 1 some of several logs failed, 2 bad input, 130 Ctrl-C or q, 143
SIGTERM, 129 SIGHUP (results so far are kept)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "logs", metavar="LOG", nargs="+", help="nuScenes folder, .mcap, ROS bag (folder, .db3 or .bag), globs"
    )
    parser.add_argument("--checkpoint", required=True, help="folder, shipped name, or hf://owner/name[@revision]")
    parser.add_argument("--out", required=True, help="output folder; with several logs, one subfolder each")
    add_merge_option(parser)
    add_device_option(parser)

    what = parser.add_argument_group("what is replayed")
    what.add_argument("--version", help="of a nuScenes folder, such as v1.0-mini; optional if it has only one")
    what.add_argument(
        "--scenes", "--scene", type=names, help="of a nuScenes folder, such as scene-0103,scene-0916; default: all"
    )
    what.add_argument("--rig", help="file that maps topics to sensors; default: derived from the log")
    what.add_argument(
        "--topics", nargs="+", metavar="TOPIC", help="only these topics; include those of transforms and calibrations"
    )
    what.add_argument("--exclude-topics", nargs="+", default=(), metavar="TOPIC", help="all topics except these")
    add_transforms_option(what)
    what.add_argument("-m", "--remap", nargs="+", default=(), metavar="OLD:=NEW", help="rename topics")
    what.add_argument("--start-offset", type=float, default=0.0, metavar="S", help="start S seconds into the log")
    what.add_argument("--duration", "--playback-duration", type=float, metavar="S", help="seconds to replay")
    what.add_argument("--sensors", type=names, help="such as camera,radar; default: all sensors of the detector")
    what.add_argument("--frame-rate", type=float, metavar="HZ", help="maximum frames per second of log time")
    what.add_argument("--skip-damaged", action="store_true", help="skip and count data that cannot be decoded")
    add_limits_option(what)
    what.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND:SENSOR[:AMOUNT][@FROM-TO]",
        help="inject a fault: drop, delay, jitter, freeze, blank or bias; such as drop:CAM_FRONT:0.3,"
        " delay:lidar:0.15, freeze:radar@5-8, bias:LIDAR_TOP:yaw=2,x=0.1; may be repeated",
    )

    pace = parser.add_argument_group("playback", "Default: every frame, in order, as fast as possible.")
    pace.add_argument("-r", "--rate", type=float, help="maximum playback rate, relative to recorded time")
    pace.add_argument("--realtime", action="store_true", help="drop frames that are not taken in time, as on a vehicle")
    pace.add_argument("-l", "--loop", action="store_true", help="repeat until stopped")
    pace.add_argument("-p", "--start-paused", action="store_true", help="start paused; wait for SPACE or RIGHT")
    pace.add_argument("--deadline-ms", type=float, metavar="MS", help="count detections that take longer than this")

    results = parser.add_argument_group("results")
    results.add_argument(
        "--outputs",
        type=names,
        default=("mp4",),
        help="some of mp4, rrd (Rerun), mcap (Foxglove), live (a running Foxglove app), or none; default: mp4",
    )
    results.add_argument(
        "--score-threshold", type=float, default=0.3, help="minimum score of drawn boxes; default: 0.3"
    )
    results.add_argument("--truth", metavar="TABLES", help="nuScenes tables to score against; default: the log's own")

    several = parser.add_argument_group("several logs", "If interrupted, the same command resumes.")
    several.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes; default: 1")
    several.add_argument("--engine", choices=("local", "ray"), default="local", help="where jobs run; default: local")
    several.add_argument("--again", action="store_true", help="replay logs again that are already done")


def run(args: argparse.Namespace) -> int:
    from perception.replay import fleet
    from perception.replay.job import Job, run_job
    from perception.replay.latency import table
    from perception.replay.playback import Playback

    for option in ("rate", "frame_rate", "jobs", "deadline_ms"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise PerceptionError(f"--{option.replace('_', '-')}: a number above 0 was expected, found {value}")
    template = Job(
        log="",
        out=args.out,
        checkpoint=args.checkpoint,
        device=args.device,
        version=args.version,
        rig=args.rig,
        topics=None if args.topics is None else tuple(args.topics),
        exclude_topics=tuple(args.exclude_topics),
        remap=dict(_renaming(text) for text in args.remap),
        start_offset_s=args.start_offset,
        duration_s=args.duration,
        sensors=None if args.sensors is None else tuple(args.sensors),
        frame_rate_hz=args.frame_rate,
        faults=tuple(args.fault),
        truth=args.truth,
        score_threshold=args.score_threshold,
        outputs=tuple(name for name in args.outputs if name != "none"),
        deadline_ms=args.deadline_ms,
        skip_damaged=args.skip_damaged,
        limits=args.limits,
        exclude_transforms=tuple(args.exclude_transforms),
    )
    if args.merge:
        jobs = [fleet.merged_job(args.logs, template)]
    else:
        jobs = fleet.jobs_of(args.logs, template, args.scenes)
    paced = args.rate or args.realtime or args.loop or args.start_paused
    if len(jobs) > 1:
        if paced or "live" in template.outputs:
            raise PerceptionError(
                f"--rate, --realtime, --loop, --start-paused and live want one log, found {len(jobs)}"
            )
        return fleet.main(jobs, args.out, workers=args.jobs, engine=args.engine, again=args.again)
    playback = Playback(args.rate, args.realtime, args.start_paused)
    summary = run_job(jobs[0], playback, args.loop, progress=args.progress)
    print(table(summary["latency"]))
    for problem in summary["problems"]:
        print(problem)
    if args.realtime:
        print(f"{len(summary['dropped'])} frames dropped, {summary['frames']} taken")
    if summary["metrics"] is None:
        print(f"no metrics: {summary['no_metrics']}")
    else:
        print("mAP {mAP:.4f}, NDS {NDS:.4f} on {frames} frames with ground truth".format(**summary["metrics"]))
    print(f"{summary['frames']} frames, {summary['detections']} detections, sha256 {summary['detections_sha256']}")
    print(f"results: {args.out}")
    return 0


def _renaming(text: str) -> tuple[str, str]:
    old, sign, new = text.partition(":=")
    if not (old and sign and new):
        raise PerceptionError(f"--remap: OLD:=NEW was expected, found {text!r}")
    return old, new
