"""What the object decoder is worth: variants of it on top of one dense detector, which is frozen.

    python tools/ablate_decoder.py --root data/sim --drives data/drives/1000 --json docs/results/decoder.json

What the frozen parts make of the training batches is computed once and kept in memory, about 6 MB a frame; then every
variant trains on the same batches for the same number of steps, and detects on the same drives, with every set of
sensors. Weights go to --out, one folder for each variant and seed, from which a run that was interrupted goes on.
"""

import argparse
import os
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # before torch: spinning threads stall a busy machine
os.environ["OMP_NUM_THREADS"] = "1"  # variants train side by side, a core each

from perception.cli.options import names, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="sim", help="the dense detector; default: the shipped one")
    parser.add_argument("--root", type=Path, required=True, help="drives to train on")
    parser.add_argument("--drives", type=Path, required=True, help="drives to score on")
    parser.add_argument("--epochs", type=int, default=2, help="augmented versions of each frame; default: 2")
    parser.add_argument("--passes", type=int, default=2, help="how often each is seen; default: 2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the decoders' weights and order")
    parser.add_argument("--variants", type=names, help="some of those that the table lists; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/decoder"), help="folder of the weights")
    parser.add_argument("--json", type=Path, required=True, help="where the rows go")
    args = parser.parse_args()

    from benchmarks.decoder import VARIANTS, ablate
    from benchmarks.decoder import table as as_table
    from perception.files import check_writable, write_json

    check_writable(args.json)
    rows = ablate(
        args.checkpoint, args.root, args.drives, args.out, args.variants or tuple(VARIANTS), args.seeds,
        args.epochs, args.passes,
    )  # fmt: skip
    write_json(args.json, rows)
    print(as_table(rows))


if __name__ == "__main__":
    run_main(main)
