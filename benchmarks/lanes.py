"""Measures the fair queues of writers: their cost without bad rows, and how long one writer waits during another's
bad rows.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.client import Load, closed_loop, request
from benchmarks.nests import rows
from benchmarks.report import Goal, Report, percentile
from tests.support.server import Server, running

BEFORE = "ROOKERY_BENCH_BEFORE"
CLIENTS, LARGE, BAD = 64, 10_000, 10_000
EVENTS = """\
columns:
  - {name: tenant_id, type: UInt32}
  - {name: timestamp, type: DateTime, default: now()}
  - {name: event, type: LowCardinality(String)}
  - {name: units, type: Float64}
  - {name: user_id, type: String}
tenant: {column: tenant_id, fanout: routed}
engine: {sorting_key: [tenant_id, timestamp]}
"""
METHOD = f"""Persistent connections post NDJSON to /v0/events?wait=true in closed loops. If {BEFORE} has the path of
another checkout, a server of that version runs too, with its own directory, and alternates with this one in every
round; ratios are medians over rounds of this version's requests per second to the other's. Another writer, the
neighbor, appends one row at a time with its own token, first alone and then while one connection sends {BAD:,} bad
rows at a time."""


@dataclass
class Side:
    """A server under load, with a token for all tenants and one for each tenant."""

    name: str
    server: Server
    token: str
    tenants: list[str]
    seen: dict[str, list[Load]] = field(default_factory=dict)

    def requests(self, body: bytes, *tokens: str) -> list[bytes]:
        path = "/v0/events?name=events&wait=true"
        return [request("POST", self.server.url, path, token, body) for token in tokens or (self.token,)]


@contextmanager
def _side(name: str, directory: Path, **environment: str) -> Iterator[Side]:
    with running(directory, ROOKERY_LOG_LEVEL="warning", **environment) as server:
        server.push({"datasources/events.yaml": EVENTS})
        ids = [str(n) for n in range(CLIENTS)]
        server.admin_json("POST", "/v0/tenants", json={"ids": ids})
        scope = "DATASOURCES:APPEND:events"
        tenants = [server.static(f"of {n}", scope, tenant=n) for n in ids]
        yield Side(name, server, server.static("all", scope), tenants)


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure cases with good rows, and how long the neighbor waits."""
    seconds, rounds = (1.0, 2) if quick else (4.0, 5)
    with ExitStack() as stack:
        sides = [stack.enter_context(_side("now", directory / "now"))]
        if before := os.environ.get(BEFORE):
            environment = {"PYTHONPATH": before}
            sides.append(stack.enter_context(_side("before", directory / "before", **environment)))
        cases: dict[str, Callable[[Side], Load]] = {
            f"{CLIENTS} clients with one token, one row each": lambda s: _load(
                s, s.requests(_row(1)), CLIENTS, seconds
            ),
            f"{CLIENTS} clients, each with its own tenant, one row each": lambda s: _load(
                s, s.requests(_unnamed(), *s.tenants), CLIENTS, seconds
            ),
            f"8 clients, {LARGE:,} rows each": lambda s: _load(s, s.requests(_row(LARGE)), 8, seconds),
            "a neighbor, alone": lambda s: _load(s, s.requests(_unnamed(), s.tenants[0]), 1, seconds),
            "another writer's rows, next to bad rows": lambda s: _beside(s, seconds),
        }
        for _ in range(rounds):
            for case, load in cases.items():
                for side in sides:
                    side.seen.setdefault(case, []).append(load(side))
        return [_report(sides, list(cases))]


def _row(count: int) -> bytes:
    return rows(count, range(CLIENTS))


def _unnamed() -> bytes:
    """A row without a tenant, for the tenant that the token is bound to."""
    return b'{"event": "api_call", "units": 1, "user_id": "u"}'


def _load(side: Side, requests: list[bytes], clients: int, seconds: float) -> Load:
    return closed_loop(side.server.url, requests, clients, seconds)


def _beside(side: Side, seconds: float) -> Load:
    """The neighbor's requests while the search for another writer's bad rows never pauses."""
    side.server.admin_json("DELETE", "/v0/datasources/events/quarantine", json={"all": True})
    bad = b"\n".join(b'{"event": "e", "units": "x%d"}' % n for n in range(BAD))
    stop = threading.Event()
    begun = threading.Event()

    def send() -> None:
        while not stop.is_set():
            begun.set()
            params = {"name": "events", "wait": "true"}
            side.server.post("/v0/events", side.tenants[1], params=params, content=bad)
            side.server.admin_json("DELETE", "/v0/datasources/events/quarantine", json={"all": True})

    sender = threading.Thread(target=send)
    sender.start()
    begun.wait()
    try:
        return _load(side, side.requests(_unnamed(), side.tenants[0]), 1, seconds)
    finally:
        stop.set()
        sender.join()


def _report(sides: list[Side], cases: list[str]) -> Report:
    table, ratios = [], {}
    for case in cases:
        for side in sides:
            took = [t * 1000 for load in side.seen[case] for t in load.latencies]
            speed = median(load.per_second for load in side.seen[case])
            table.append([case, side.name, round(speed), percentile(took, 0.5), percentile(took, 0.99), max(took)])
        if len(sides) > 1:
            now, before = (side.seen[case] for side in sides)
            ratios[case] = median(n.per_second / b.per_second for n, b in zip(now, before, strict=True))
    goals = [
        Goal(f"{case}: at least 0.95 of before", f"{ratio:.2f}", ratio >= 0.95)
        for case, ratio in ratios.items()
        if case != "another writer's rows, next to bad rows"
    ]
    return Report(
        "lanes",
        "Appends in fair lanes",
        METHOD,
        ("case", "program", "requests/s", "p50 ms", "p99 ms", "max ms"),
        table,
        goals=goals,
        notes=[f"next to bad rows: {ratios[cases[-1]]:.1f} times as many requests as before"] if ratios else [],
    )
