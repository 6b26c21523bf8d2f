"""Show what a log contains, diagnose it, and write a rig file for it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from perception.cli.options import add_log_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="nuScenes folder, .mcap file, ROS 2 bag (folder or .db3)")
    add_log_options(parser)
    parser.add_argument("--rig", help="check the log against this rig file instead of proposing one")
    parser.add_argument("--doctor", action="store_true", help="diagnose the log; exit code 1 for errors")
    parser.add_argument("--save-rig", metavar="PATH", help="write the proposed rig to this file")


def run(args: argparse.Namespace) -> int:
    from perception.files import write_file
    from perception.logs import doctor
    from perception.logs.inspect import inspect, table
    from perception.logs.log import open_log
    from perception.logs.rehearsal import rehearse
    from perception.logs.rig import load_rig, to_yaml

    rig = None if args.rig is None else load_rig(args.rig)
    with open_log(args.log, version=args.version, scene=args.scene, strict=False) as log:
        info = inspect(log, rig, progress=args.progress and sys.stderr.isatty())
        rehearsal = rehearse(log, rig, info.duration_s) if args.doctor else None
    print(table(info))
    if args.save_rig is not None:
        write_file(Path(args.save_rig), to_yaml(info.rig).encode())
    if rehearsal is None:
        return 0
    findings = doctor.diagnose(info, rehearsal)
    print(doctor.report(findings))
    return int(any(finding.severity == "error" for finding in findings))
