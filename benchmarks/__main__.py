"""`python -m benchmarks`: measure figures, print them, and keep them in results/ and RESULTS.md."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys

from benchmarks.figures import FIGURES
from benchmarks.machine import Options
from benchmarks.release import checked_out
from benchmarks.results import claims_table, measurements, save


def main() -> None:
    """Measure the figures that are named."""
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.figures if name not in FIGURES]:
        parser.error(f"no figure is named {unknown[0]}; --list names them")
    if arguments.list or not arguments.figures:
        for name, figure in FIGURES.items():
            print(f"{name:25}  {figure.title}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that servers under way are stopped
    rows = []
    with contextlib.ExitStack() as stack:
        try:
            former = stack.enter_context(checked_out(arguments.against)) if arguments.against else None
        except LookupError as error:
            parser.error(str(error))
        options = Options(arguments.seconds, arguments.rounds, arguments.threads, former)
        for name in arguments.figures:
            figure = FIGURES[name]
            print(f"\n{name}: {figure.title}\n", flush=True)
            rows.append(save(name, figure.title, figure.run(options), options))
            print(measurements(rows[-1]), flush=True)
    print(f"\n{claims_table(rows)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="what to measure")
    parser.add_argument("--list", action="store_true", help="name the figures")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="of each load on a server")
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="in which every contestant has its turn")
    parser.add_argument("--threads", type=int, default=Options.threads, help="compute threads of each contestant")
    parser.add_argument("--against", metavar="COMMIT", help="measure the service of this commit as well")
    return parser


if __name__ == "__main__":
    main()
