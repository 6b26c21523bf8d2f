"""Compare two replays of the same drive, frame by frame. Exit code 0: within tolerance; 1: exceeded; 2: error.

perception compare reference/scene-0103 out/scene-0103 --tolerance lost_share=0.05 --report out/compare.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.replay.tolerance import Tolerances, tolerances_help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "tolerances, their defaults and what they limit; greater values exceed them, and none disables one:\n"
        f"{tolerances_help()}"
    )
    parser.add_argument("a", metavar="A", type=Path, help="folder of the reference: result.jsonl and summary.json")
    parser.add_argument("b", metavar="B", type=Path, help="folder of the candidate")
    parser.add_argument(
        "--tolerance",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="such as lost_share=0.05; may be repeated; all tolerances are listed below",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="minimum score of a box; half of it for its match; default: 0.3",
    )
    parser.add_argument(
        "--match-distance", type=float, default=2.0, help="largest distance of a match, in metres; default: 2"
    )
    parser.add_argument("--report", metavar="PATH", type=Path, help="tables and pictures, as .html or a single .png")
    parser.add_argument("--json", metavar="PATH", type=Path, help="write all metrics as JSON")
    parser.add_argument(
        "--update-reference",
        action="store_true",
        help="after the comparison, replace folder A and all its contents by a copy of B; exit code 0",
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison, write the requested files and return the exit code.

    Raises:
        PerceptionError: results that cannot be read, an unknown tolerance, or a file that cannot be written.
    """
    from perception.files import check_writable, write_json
    from perception.replay.compare import compare
    from perception.replay.compare_tables import table
    from perception.replay.reference import update_reference

    tolerances = Tolerances.parse(args.tolerance)
    if args.update_reference and not args.a.exists():
        update_reference(args.b, args.a)
        print(f"{args.a}: there was no reference, now it is a copy of {args.b}")
        return 0
    if args.report is not None:
        from perception.replay.compare_report import check_report, write_report

        check_report(args.report)
    if args.json is not None:
        check_writable(args.json)
    options = {"score_threshold": args.score_threshold, "match_distance_m": args.match_distance}
    comparison = compare(args.a, args.b, tolerances, **options)
    print(table(comparison))
    if args.report is not None:
        write_report(comparison, args.report)
        print(f"report: {args.report}")
    if args.json is not None:
        write_json(args.json, comparison.as_dict())
    if args.update_reference:
        update_reference(args.b, args.a)
        print(f"{args.a}: is now a copy of {args.b}")
        return 0
    return 1 if comparison.exceeded else 0
