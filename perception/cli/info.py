"""Show what a log contains, diagnose it, and write a rig file for it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.cli.options import add_log_options, add_merge_option, add_transforms_option
from perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "logs",
        metavar="LOG",
        nargs="+",
        help="nuScenes folder, .mcap file, ROS bag (folder, .db3 or .bag); several: a row each",
    )
    add_merge_option(parser)
    add_log_options(parser)
    add_transforms_option(parser)
    parser.add_argument("--rig", help="check the log against this rig file instead of proposing one")
    parser.add_argument("--doctor", action="store_true", help="diagnose the log; exit code 1 for errors")
    parser.add_argument("--save-rig", metavar="PATH", help="write the rig, with the mounts, to this file")


def run(args: argparse.Namespace) -> int:
    from perception.files import write_file
    from perception.logs import doctor
    from perception.logs.default_rig import with_mounts
    from perception.logs.inspect import inspect, table
    from perception.logs.log import open_log
    from perception.logs.rehearsal import rehearse
    from perception.logs.rig import load_rig, to_yaml

    if len(args.logs) > 1 and not args.merge:
        return _overview(args)
    rig = None if args.rig is None else load_rig(args.rig)
    options = {"version": args.version, "scene": args.scene, "limits": args.limits}
    options["exclude_transforms"] = args.exclude_transforms
    with open_log(args.logs, strict=False, **options) as log:
        info = inspect(log, rig, progress=args.progress and sys.stderr.isatty())
        rehearsal = rehearse(log, rig, info.duration_s) if args.doctor else None
    print(table(info))
    if args.save_rig is not None:
        write_file(Path(args.save_rig), to_yaml(with_mounts(info)).encode())
    if rehearsal is None:
        return 0
    findings = doctor.diagnose(info, rehearsal)
    print(doctor.report(findings))
    return int(any(finding.severity == "error" for finding in findings))


def _overview(args: argparse.Namespace) -> int:
    from perception.logs.overview import HEADER, rows
    from perception.logs.rig import load_rig
    from perception.text import aligned

    if args.save_rig is not None:
        raise PerceptionError(f"--save-rig: one log was expected, found {len(args.logs)}")
    rig = None if args.rig is None else load_rig(args.rig)
    found = list(rows(args.logs, rig, version=args.version, scene=args.scene, limits=args.limits))
    print(aligned([HEADER, *(row for row, _ in found)], left=(0, 3, 5, 6)))
    return int(args.doctor and not all(sound for _, sound in found))
