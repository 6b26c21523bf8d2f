"""Compare two replays of the same drive, frame by frame. Exit code 0: within tolerance; 1: beyond; 2: an error.

perception compare reference/scene-0103 out/scene-0103 --tolerance lost_share=0.05 --report out/compare.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.replay.tolerance import Tolerances, tolerances_help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "tolerances, their defaults and what they limit; beyond tolerance is what is greater, and none switches one\n"
        f"off:\n{tolerances_help()}"
    )
    parser.add_argument("a", metavar="A", type=Path, help="folder of the reference: result.jsonl and summary.json")
    parser.add_argument("b", metavar="B", type=Path, help="folder of the candidate")
    parser.add_argument(
        "--tolerance",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="such as lost_share=0.05; may be given several times; all of them are listed below",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="of what counts as a box; its match may have half of it; default: 0.3",
    )
    parser.add_argument(
        "--match-distance", type=float, default=2.0, help="largest distance of a match, in metres; default: 2"
    )
    parser.add_argument("--report", metavar="PATH", type=Path, help="tables and pictures, as .html or as one .png")
    parser.add_argument("--json", metavar="PATH", type=Path, help="all metrics, for a program")
    parser.add_argument(
        "--update-reference",
        action="store_true",
        help="then replace folder A, whatever is in it, by a copy of B; the exit code is 0",
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison and write what is asked for; the exit code.

    Raises:
        PerceptionError: a result that cannot be read, an unknown tolerance, a file that cannot be written.
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
