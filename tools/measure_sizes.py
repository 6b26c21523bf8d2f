"""What full-size models cost, counted without running them: parameters, GFLOP, memory, milliseconds by roofline.

python tools/measure_sizes.py configs/nuscenes.yaml configs/nuscenes_r50_pillar.yaml --into docs/performance.md
"""

import argparse
from pathlib import Path

from perception.cli.options import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="of the models")
    parser.add_argument("--into", type=Path, help="document whose tables of sizes are made anew")
    args = parser.parse_args()

    from benchmarks.report import put_between_markers
    from benchmarks.sizes import document, sizes, training_step
    from perception.config import load_config

    models, steps = {}, {}
    for name in args.configs:
        config, checkpointed = load_config(name), load_config(name, ["train.checkpointing=true"])
        models[Path(name).name] = rows = sizes(config)
        steps[Path(name).name] = training_step(config, rows, sizes(checkpointed))
    text = document(models, steps)
    print(text)
    if args.into is not None:
        put_between_markers(args.into, text, "sizes")


if __name__ == "__main__":
    run_main(main)
