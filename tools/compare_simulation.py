"""Compare simulated drives with recorded ones: prints Markdown tables, or renews them in a document."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from perception.errors import PerceptionError
from perception.sim.compare import comparison, put_between_markers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", required=True, metavar="ROOT", help="nuScenes folder; keyframes are enough")
    parser.add_argument("--sim", required=True, metavar="ROOT", help="folder written by tools/simulate.py")
    parser.add_argument("--into", metavar="FILE", help="put the tables between the markers of this document")
    arguments = parser.parse_args()
    try:
        tables = comparison(arguments.real, arguments.sim)
        if arguments.into:
            path = Path(arguments.into)
            path.write_text(put_between_markers(path.read_text(), tables, path))
        else:
            print(tables)
    except (PerceptionError, OSError) as error:
        print(f"compare_simulation: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
