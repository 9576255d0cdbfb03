"""Counts rows that are lost or duplicated when the server is killed hundreds of times while rows arrive."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import Goal, Report
from tests.fanout.retrying_writers import OWN, Delivered, Stream, add_tenants, check_delivery, kill, project
from tests.support.server import ROOT, Server, running

KILLS = 210
EVERY = 35
"""Number of kills between two complete counts."""
ADDED = tuple(str(n) for n in range(20, 30))
METHOD = """Four writers send requests of 1 to 20 rows of six tenants (four with tables of their own, one pooled, one
unknown) and repeat requests that were not acknowledged; a fifth of the requests are sent twice at the same time,
and a tenth are never repeated. The server gets SIGKILL at a random moment: up to a second after it is ready, while
it starts and recovers, while a tenant is added, or while the fan-out changes its mode. Between kills, every row is
searched in landing, in its tenant's copy and, by count and sum, in a SummingMergeTree that a per-tenant pipe fills.
The naive writer does not send an Idempotency-Key."""
COLUMNS = ("fan-out", "writer", "kills", "requests", "acknowledged", "lost rows", "doubled rows", "nests that differ")


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure both modes, a random change between them, and the naive writer."""
    kills = 20 if quick else KILLS
    plans = (("routed", True, kills // 3), ("direct", True, kills // 3), ("changing", True, kills - kills // 3 * 2))
    rows: list[list[Any]] = []
    for mode, keyed, number in (*plans, ("routed", False, kills // 10)):
        found = _crash(directory / f"{mode}-{keyed}", mode, keyed, number)
        writer = "with keys" if keyed else "naive"
        rows.append(
            [mode, writer, number, found.requests, found.acknowledged, found.lost, found.doubled, len(found.apart)]
        )
    sound = [r for r in rows if r[1] == "with keys"]
    bad = sum(r[5] + r[6] + r[7] for r in sound)
    total = sum(r[2] for r in sound)
    goal = Goal(f"nothing lost or duplicated by {total} kills", f"{bad} rows or nests", bad == 0)
    return [Report("crash", "Rows lost or duplicated by kills", METHOD, COLUMNS, rows, goals=[goal])]


def _crash(directory: Path, mode: str, keyed: bool, kills: int) -> Delivered:
    chance, stream = random.Random(f"{mode} {keyed}"), Stream(kills, keyed=keyed)
    modes = ("routed", "direct") if mode == "changing" else (mode,)
    added: list[str] = []
    with running(directory, ROOKERY_LOG_LEVEL="error") as server:
        server.push(project(modes[0]))
        add_tenants(server)
        stream.connect(server)
        stream.start()
        kill(server, stream)
    for number in range(1, kills):
        if chance.random() < 0.15:
            _kill_at_start(directory, chance)
            continue
        with running(directory, ROOKERY_LOG_LEVEL="error") as server:
            stream.connect(server)
            if number % EVERY == 0:
                _count(server, stream, added)
            _live(server, stream, chance, modes, added)
            kill(server, stream)
    with running(directory) as server:
        stream.connect(server)
        stream.finish()
        return _count(server, stream, added)


def _count(server: Server, stream: Stream, added: list[str]) -> Delivered:
    """Check the rows while no writer runs: the server is down, so writers retry."""
    stream.disconnect()
    time.sleep(0.5)
    for tenant in added:
        server.tenant(tenant, "tables")
    found = check_delivery(server, stream, (*OWN, *added))
    stream.connect(server)
    if not found.clean:
        print(f"{found}; {stream.faults[:3]}", file=sys.stderr)
    return found


def _live(server: Server, stream: Stream, chance: random.Random, modes: tuple[str, ...], added: list[str]) -> None:
    """What the server does when it is killed."""
    what, pause = chance.random(), chance.uniform(0.02, 1.0)
    if what < 0.2 and len(added) < len(ADDED):
        added.append(ADDED[len(added)])
        _for_a_moment(lambda: server.tenant(added[-1], "tables"), pause / 2)
    elif what < 0.5 and len(modes) > 1:
        _for_a_moment(lambda: server.push(project(chance.choice(modes))), pause)
    else:
        time.sleep(pause)


def _for_a_moment(what: Callable[[], Any], pause: float) -> None:
    def quietly() -> None:
        with suppress(httpx.HTTPError, AssertionError):
            what()

    threading.Thread(target=quietly, daemon=True).start()
    time.sleep(pause)


def _kill_at_start(directory: Path, chance: random.Random) -> None:
    """Kill a server that may not have started to respond yet."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "serve", "--port", "0"],
        cwd=directory,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(chance.uniform(0.5, 2.5))
    process.kill()
    process.wait()
