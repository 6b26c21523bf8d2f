"""Push what vehicles never should through a live stream, and print what became of it.

    python tools/soak.py faults --frames 100000        # one long drive with every fault there is
    python tools/soak.py sequences --number 10000      # short drives, each with faults of its own
    python tools/soak.py deaths                        # each sensor, and each two, dead for a while
    python tools/soak.py overload --seconds 60         # frames at twice the rate that the detector can take
    python tools/soak.py cost                          # what the stream itself takes of a frame

``--small`` puts a small neural detector, untrained, in the place of the stub that tells the bits of frames apart.
Exits with 1 if something is not as it must be.
"""

from __future__ import annotations

import argparse

from perception.cli.options import run_main


def main() -> int:
    from soaking.runs import cost, deaths, faults, overload, sequences

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=("faults", "sequences", "deaths", "overload", "cost"))
    parser.add_argument("--frames", type=int, default=2000, help="of the long drive; default: 2000")
    parser.add_argument("--number", type=int, default=200, help="of sequences; default: 200")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload; default: 60")
    parser.add_argument("--seed", type=int, default=0, help="of the faults; default: 0")
    parser.add_argument("--small", action="store_true", help="a neural detector")
    args = parser.parse_args()
    if args.run == "faults":
        lines, problems = faults(args.frames, args.seed, args.small)
    elif args.run == "sequences":
        lines, problems = sequences(args.number, args.seed, args.small)
    elif args.run == "deaths":
        lines, problems = deaths()
    elif args.run == "overload":
        lines, problems = overload(args.seconds)
    else:
        lines, problems = cost()
    print("\n".join([*lines, *(f"PROBLEM {problem}" for problem in problems)]))
    return int(bool(problems))


if __name__ == "__main__":
    run_main(main)
