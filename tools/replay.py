"""Run a detector over logged drives; look at logs, convert them, compare results. See --help and docs/replay.md."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import run_main
from perception.cli.replay import main

if __name__ == "__main__":
    run_main(main)
