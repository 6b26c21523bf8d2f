"""Measure what the parts of this package cost beside what people use today; interleaved runs, medians, ratios.

    python tools/benchmark.py pool fusion metric --json out/performance.json
    python tools/benchmark.py all --json docs/performance.json --into docs/performance.md --scene ... --peers-python ...

docs/performance.md says how the environment of the peers is made. Rows of an earlier run stay in the file until their
benchmark is run again. Leave the machine alone meanwhile.
"""

import argparse
import os
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before torch: spinning threads stall a busy machine
os.environ["OMP_NUM_THREADS"] = "1"

from perception.cli.options import run_main

ALL = (
    "tables", "loading", "metric", "voxelize", "sparse_conv", "pool", "fusion", "frames", "logs", "model", "sweep",
    "accuracy",
)  # fmt: skip
MORE = ("shards", "shards_lidar", "gpu", "replay", "mangled", "hour")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="+", choices=["all", *ALL, *MORE], metavar="NAME", help=f"{', '.join((*ALL, *MORE))}; all"
    )
    parser.add_argument("--json", required=True, type=Path, help="where the rows go")
    parser.add_argument("--into", type=Path, help="document whose tables are made anew")
    parser.add_argument("--plot", type=Path, help="picture of the voxelization's sweep")
    parser.add_argument("--checkpoint", default="sim", help="of frames, model and accuracy; default: the shipped one")
    parser.add_argument("--scene", type=Path, help="a nuScenes scene, for loading, logs, replay and hour")
    parser.add_argument("--drives", type=Path, help="simulated drives, for accuracy, shards and shards_lidar")
    parser.add_argument("--tables", type=Path, help="folder for tables of trainval's size, 2.5 GB, made if need be")
    parser.add_argument("--peers-python", type=Path, help="interpreter with spconv and efficientnet_pytorch")
    parser.add_argument("--lss", type=Path, help="clone of Lift-Splat-Shoot, for frames")
    args = parser.parse_args()

    from benchmarks import document, suite, voxelize  # imports that take seconds: after --help
    from benchmarks.report import put_between_markers
    from perception.files import check_writable

    check_writable(args.json)
    keys = ("checkpoint", "scene", "drives", "tables", "peers_python", "lss")
    needs = suite.Needs(**{key: getattr(args, key) for key in keys})
    for row in suite.run(list(ALL) if "all" in args.names else args.names, needs, args.json):
        print(*(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    if args.plot is not None:
        voxelize.plot(suite.read_rows(suite.extra_path(args.json, "sweep")), args.plot)
    if args.into is not None:
        put_between_markers(args.into, document.performance(args.json))


if __name__ == "__main__":
    run_main(main, keeps_memory=False)  # peers are to run as their users run them
