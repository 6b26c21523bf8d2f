"""Score a submission, a results.json of anybody's detector, with the nuScenes detection metric.

    python tools/score.py out/results.json --root data/nuscenes --version v1.0-trainval --split val
    python tools/score.py out/*/tracks.json --tracks --root data/drives/1000

Together the files must hold exactly the samples that are chosen. Tracks are scored on whatever samples there are, by
the devkit, which takes minutes.
"""

import argparse
from pathlib import Path

from perception.cli.options import names, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="the submission; of a batch, the one of every log")
    parser.add_argument("--root", required=True, help="folder in the nuScenes layout")
    parser.add_argument("--version", help="such as v1.0-mini; may be left out where the root holds one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", help="such as mini_val")
    which.add_argument("--scenes", type=names, help="such as scene-0103,scene-0916")
    parser.add_argument(
        "--tracks", action="store_true", help="a tracking submission, with the nuScenes tracking metric"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()

    from perception.data.nuscenes import NuScenes  # imports that take seconds: after --help
    from perception.eval.evaluate import breakdown_table, score_file, table
    from perception.eval.official_tracking import score_tracks
    from perception.eval.submission_reader import joined
    from perception.files import check_writable, write_json

    if args.json is not None:
        check_writable(args.json)
    dataset = NuScenes(args.root, args.version, split=args.split, scenes=args.scenes)
    with joined(args.results) as results:
        figures = score_tracks(dataset, results) if args.tracks else score_file(results, dataset)
    if args.tracks:
        print("\n".join(f"{name:<8} {value}" for name, value in figures.items() if name != "classes"))
    else:
        report = {"subsets": {args.results[0].stem: figures}, "frames": len(dataset), "skipped": 0, "frames_with": {}}
        print(table(report), breakdown_table(report), sep="\n\n")
    if args.json is not None:
        write_json(args.json, figures)


if __name__ == "__main__":
    run_main(main)
