"""Measures thousands of tenants with their own tables: adding them, restarting, and idling."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from benchmarks.nests import Events, add, project, rows
from benchmarks.processes import cpu_of, memory_of
from benchmarks.report import Goal, Report
from tests.support.server import Server, running

MIB, GB = 1 << 20, 10**9
START_SECONDS, MEMORY = 20.0, 1.2 * GB
SETTINGS = {"ROOKERY_LOG_LEVEL": "warning", "ROOKERY_VISIBLE_SECONDS": "600"}
METHOD = """Each tenant has a copy of its rows, a table of sums and the view between them, routed. Tenants are added
in steps. Then a request with two rows of each tenant is sent, until its rows are readable. The server is stopped
and started again on the same directory; the time is from the start of the process until /ready returns 200.
Processor time is that of the server; memory is the resident memory of its process."""


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure adding tenants and restarting."""
    steps = (1, 100, 300, 500) if quick else (1, 1_000, 2_000, 3_000, 4_000, 5_000)
    quiet, watched = (5.0, 5.0) if quick else (60.0, 20.0)
    tenants = steps[-1]
    with running(directory, **SETTINGS) as server:
        server.push(project("routed", aggregate=True))
        added = _added(server, steps)
        seconds = Events(server).visible(rows(2 * tenants, range(tenants))) / 1000
        memory = memory_of(server.process.pid)
        stopping = time.monotonic()
        server.stop()
        stopped = time.monotonic() - stopping
    facts: list[list[Any]] = [
        [f"two rows of each tenant readable after, s ({seconds / tenants * 1000:.1f} ms each)", seconds],
        ["memory before the restart, MiB", memory / MIB],
        ["stop, s", stopped],
    ]
    starting = time.monotonic()
    with running(directory, **SETTINGS) as server:
        ready, cpu = time.monotonic() - starting, cpu_of(server.process.pid)
        started = memory_of(server.process.pid)
        first = Events(server).visible(rows(1, [0]))
        time.sleep(quiet)
        before = cpu_of(server.process.pid)
        time.sleep(watched)
        idle = (cpu_of(server.process.pid) - before) / watched
        memory = memory_of(server.process.pid)
    facts += [
        [f"start to ready, s ({cpu:.1f} s of processor time)", ready],
        ["memory when ready, MiB", started / MIB],
        ["first row readable after, ms", first],
        [f"memory after {quiet:.0f} s without requests, MiB", memory / MIB],
        ["processor, % of one core when idle", idle * 100],
    ]
    most = max(started, memory)
    goals = [
        Goal(f"ready within {START_SECONDS:.0f} s of the start", f"{ready:.1f} s", ready <= START_SECONDS),
        Goal("at most 1.2 GB after a restart", f"{most / GB:.2f} GB", most <= MEMORY),
    ]
    return [
        Report(
            "many_added",
            f"Adding {tenants:,} tenants with their own tables",
            METHOD,
            ("tenants", "ms to add one", "processor ms", "memory MiB"),
            added,
            draw=lambda axes: _curve(axes, added),
        ),
        Report("many", f"{tenants:,} tenants with their own tables", METHOD, ("", "measured"), facts, goals=goals),
    ]


def _added(server: Server, steps: tuple[int, ...]) -> list[list[Any]]:
    """Milliseconds per tenant in each step, and the server's memory after it."""
    table: list[list[Any]] = []
    there = 0
    for step in steps:
        before = cpu_of(server.process.pid)
        seconds = add(server, there, step)
        cpu = cpu_of(server.process.pid) - before
        table.append(
            [step, seconds / (step - there) * 1000, cpu / (step - there) * 1000, memory_of(server.process.pid) / MIB]
        )
        there = step
    return table


def _curve(axes: Axes, added: list[list[Any]]) -> None:
    axes.plot([r[0] for r in added[1:]], [r[1] for r in added[1:]], "o-")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tenants")
    axes.set_ylabel("milliseconds to add a tenant")
    memory = axes.twinx()
    memory.plot([r[0] for r in added], [r[3] for r in added], "s--", color="C1")
    memory.set_ylim(bottom=0)
    memory.set_ylabel("memory, MiB (dashed)")
