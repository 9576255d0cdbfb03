"""Counts rows lost or duplicated by killed repairs, deleted parts and full disks, with more rounds than in the test
suite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import Goal, Report
from tests.control.test_derived_tables import delete_parts, fill
from tests.fanout.test_expired_source_rows import JANUARY, OWN, POOLED, TODAY, Ledger, files, repairs_killed
from tests.fanout.test_full_disk import fill_up, mounted_disk
from tests.support.in_process import open_rookery

METHOD = """\
Killed repairs: `rookery fanout repair` is killed after each of its writes; then the repair runs again, and every
rollup is compared with what was sent. Deleted parts: random parts of derived tables are dropped, 25 at a time;
`rookery doctor` must name each table, and its repair must restore every value. Full disk: a file system of 40 MiB
fills up at a different write each time; afterwards landing and rollups must have all acknowledged rows."""
COLUMNS = ("trial", "kind", "times", "wrong afterwards")


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Run all three. A difference ends the run with an error, except in killed repairs, where differences are
    counted.
    """
    rows: list[list[Any]] = [["killed repair", "direct", *_killed(directory / "killed", 6 if quick else 1)]]
    for mode in ("direct", "routed"):
        sent: list[dict[str, int]] = []
        with open_rookery(directory / mode) as rookery:
            fill(rookery, mode, sent)
            rows.append(["deleted parts", mode, delete_parts(rookery, sent, 1 if quick else 4), 0])
    for reserve, times in ((None, 1), (0, 1)) if quick else ((None, 2), (0, 5)):
        with mounted_disk(directory / f"small {reserve}") as place:
            fill_up(place, reserve, times)
        rows.append(["full disk", "to the last byte" if reserve == 0 else "with its reserve", times, 0])
    bad = sum(int(r[3]) for r in rows)
    goal = Goal("nothing lost or duplicated", f"{bad} differences", bad == 0)
    return [Report("recovery", "Rows lost or duplicated by recoveries", METHOD, COLUMNS, rows, goals=[goal])]


def _killed(directory: Path, stride: int) -> tuple[int, int]:
    with open_rookery(directory) as rookery:
        rookery.push(files("direct"))
        rookery.add(*POOLED, placement="pooled")
        rookery.add(*OWN)
        ledger = Ledger(rookery)
        for at in (JANUARY, TODAY):
            ledger.send(at, *((int(t), 5) for t in (*POOLED, *OWN)))
        ledger.expire()
        found = [wrong for _, wrong in repairs_killed(ledger, stride)]
        return len(found), sum(map(bool, found))
