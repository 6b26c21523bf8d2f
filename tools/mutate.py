"""Put small mistakes into the package and count how many of them its tests notice.

    python tools/mutate.py perception.eval.metric --survivors
    python tools/mutate.py --sample 40 --jobs 2 --json out/mutation.json     # every module of mutation/modules.py
    python tools/mutate.py --named                                           # the mistakes of mutation/named.py

A mistake is a swapped operator, comparison or function, another constant, a negated condition, a dropped keyword
argument, a removed statement or a missing return value. It lives in the memory of a process of its own; the checkout is
not touched. Ends with 1 where fewer than --at-least of a module's mutants are noticed. Survivors that are known to do
the same as the original are listed, with the reason, in mutation/survivors.yaml; they count as survivors.
"""

import argparse
from pathlib import Path

from mutation import named, runner
from mutation.modules import TESTS
from perception.cli.options import run_main


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; all where none is given")
    parser.add_argument("--named", action="store_true", help="the named mistakes instead; all of them must be noticed")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants of each module")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--timeout", type=float, help="seconds a mutant; by default, by how long its tests take")
    parser.add_argument("--survivors", action="store_true", help="print the mutants that no test noticed")
    parser.add_argument("--at-least", type=float, default=0.85, help="share of mutants of each module")
    parser.add_argument("--json", type=Path, help="where the counts and survivors go")
    args = parser.parse_args()
    if unknown := set(args.modules) - set(TESTS):
        parser.error(f"modules: some of {', '.join(TESTS)} were expected, found {', '.join(sorted(unknown))}")
    runner.prepare()
    if args.named:
        return named.check()
    options = (args.jobs, args.sample, args.seed, args.timeout)
    reports = [runner.run_module(module, TESTS[module], *options) for module in args.modules or TESTS]
    return runner.show(reports, args.at_least, args.survivors, args.json)


if __name__ == "__main__":
    run_main(main)
