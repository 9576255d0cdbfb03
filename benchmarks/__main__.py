"""Run the benchmarks: `python -m benchmarks [--quick] [NAME…]`."""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

from benchmarks.report import RESULTS, console

ALL = ("endpoints", "ingest", "fanout", "routing", "gateway", "lanes", "many", "memory")
LONG = ("crash", "faults", "recovery", "first_endpoint")
"""Run only when they are named."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The overhead of rookery, as ratios.")
    known = f"of {', '.join(ALL)} (all of them by default), {', '.join(LONG)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=known)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds, for a rough impression")
    given = parser.parse_args()
    unknown = set(given.names) - {*ALL, *LONG}
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    for name in given.names or ALL:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="rookery-bench-") as directory:
            for report in importlib.import_module(f"benchmarks.{name}").run(Path(directory), quick=given.quick):
                report.show()
                report.save(quick=given.quick)
        console.print(f"[dim]{name}: {time.monotonic() - started:.0f} s[/]")
    console.print(f"results and charts: {RESULTS}")


if __name__ == "__main__":
    main()
