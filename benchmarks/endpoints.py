"""What an endpoint costs next to the same SQL on the bare engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from benchmarks.client import Load, closed_loop, open_loop, request
from benchmarks.processes import PROJECT, Direct, cpu_of, direct
from benchmarks.report import Goal, Report, percentile
from tests.support.server import Server, running

ROWS, TENANTS = 6_000_000, 1_000
CONNECTIONS = (1, 8, 64)

_FILL = f"""INSERT INTO main.events SETTINGS insert_deduplication_token = 'fill'
SELECT number % {TENANTS}, toDateTime('2024-01-01 00:00:00', 'UTC') + intDiv(number, {TENANTS}) * 600,
       ['api_call', 'export', 'storage', 'login', 'search'][1 + cityHash64(number) % 5],
       cityHash64(number, 1) % 5000, (cityHash64(number, 2) % 1000) / 10
FROM numbers({ROWS})"""

_BY_HAND = """SELECT event, count() AS events, uniqExact(user_id) AS users, round(sum(units), 2) AS units
FROM main.events
WHERE tenant_id = {tenant} AND timestamp >= toDateTime('2020-01-01 00:00:00')
GROUP BY event
ORDER BY event"""

METHOD = f"""{ROWS:,} rows of {TENANTS:,} pooled tenants, in two identical directories: a server on one, the bare
engine (clickhouse-connect on chDB, one handle per thread) on the other. The endpoint is called with a JWT per tenant over
kept connections; the bare engine runs what one would write by hand, tenant and time as literals, answering in JSON.
The two take turns in rounds of a few seconds, so that a busy machine slows both; ratios are medians over rounds.
The load generator shares the processors with the server, the bare engine has none: what it takes is shown."""


@dataclass
class Sides:
    """Both sides of the comparison, over the same data."""

    server: Server
    engine: Direct
    tokens: list[str]

    def requests(self, pipe: str) -> list[bytes]:
        return [request("GET", self.server.url, f"/v0/pipes/{pipe}.json", token) for token in self.tokens]


@contextmanager
def _sides(directory: Path) -> Iterator[Sides]:
    home, copy = directory / "server", directory / "copy"
    with running(home) as server:
        server.push(PROJECT)
        ids = [str(n) for n in range(TENANTS)]
        server.done("POST", "/v0/tenants", json={"ids": ids, "placement": "pooled"})
    with direct(home / ".rookery" / "data") as engine:
        engine("command", statements=[_FILL, "OPTIMIZE TABLE main.events FINAL"])
    shutil.copytree(home / ".rookery" / "data", copy, symlinks=True)
    with running(home, ROOKERY_LOG_LEVEL="warning") as server, direct(copy) as engine:
        scopes = ["PIPES:READ:usage", "PIPES:READ:one"]
        tokens = [server.mint(*scopes, tenant=str(n)) for n in range(0, TENANTS, 5)]
        yield Sides(server, engine, tokens)


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Throughput, the cost of a call, and 200 callers."""
    with _sides(directory) as sides:
        return [_throughput(sides, quick=quick), _overhead(sides, quick=quick), _callers(sides, quick=quick)]


def _bare(sides: Sides, statements: list[str], threads: int, seconds: float) -> tuple[Load, float]:
    found = sides.engine("load", statements=statements, threads=threads, seconds=seconds)
    return Load(found["latencies"], found["seconds"], 0.0), found["cpu"]


def _served(sides: Sides, requests: list[bytes], connections: int, seconds: float) -> tuple[Load, float]:
    before = cpu_of(sides.server.process.pid)
    load = closed_loop(sides.server.url, requests, connections, seconds)
    return load, cpu_of(sides.server.process.pid) - before


def _throughput(sides: Sides, *, quick: bool) -> Report:
    seconds, rounds = (2.0, 3) if quick else (5.0, 5)
    requests = sides.requests("usage")
    statements = [_BY_HAND.format(tenant=n) for n in range(0, TENANTS, 5)]
    _served(sides, requests, 8, 2.0)
    _bare(sides, statements, max(CONNECTIONS), 2.0)
    rows: list[list[Any]] = []
    for connections in CONNECTIONS:
        served, bare = [], []
        for _ in range(rounds):
            served.append(_served(sides, requests, connections, seconds))
            bare.append(_bare(sides, statements, connections, seconds))
        rows.append([connections, *_compared(served, bare)])
    worst = min(row[3] for row in rows)
    return Report(
        "endpoint_throughput",
        f"Endpoint against the bare engine, a query of {rows[0][6]:.1f} ms",
        METHOD,
        (
            *(
                "connections",
                "endpoint /s",
                "bare /s",
                "ratio",
                "endpoint p50",
                "endpoint p99",
                "bare p50",
                "bare p99",
            ),
            *("server cpu ms", "client cpu ms", "bare cpu ms"),
        ),
        rows,
        goals=[
            Goal("at least 0.9 of the bare engine's throughput", f"{worst:.2f} at the worst", worst >= 0.9),
        ],
        notes=["cpu: processor time per request; the client's is part of what the endpoint's side takes"],
        draw=lambda axes: _bars(axes, rows),
    )


def _compared(served: list[tuple[Load, float]], bare: list[tuple[Load, float]]) -> list[float]:
    ratio = median(s.per_second / b.per_second for (s, _), (b, _) in zip(served, bare, strict=True))
    all_served = [t * 1000 for load, _ in served for t in load.latencies]
    all_bare = [t * 1000 for load, _ in bare for t in load.latencies]
    return [
        median(s.per_second for s, _ in served),
        median(b.per_second for b, _ in bare),
        ratio,
        percentile(all_served, 0.5),
        percentile(all_served, 0.99),
        percentile(all_bare, 0.5),
        percentile(all_bare, 0.99),
        sum(cpu for _, cpu in served) * 1000 / len(all_served),
        sum(s.own_cpu for s, _ in served) * 1000 / len(all_served),
        sum(cpu for _, cpu in bare) * 1000 / len(all_bare),
    ]


def _bars(axes: Axes, rows: list[list[Any]]) -> None:
    places = range(len(rows))
    axes.bar([p - 0.2 for p in places], [r[2] for r in rows], 0.38, label="bare engine")
    axes.bar([p + 0.2 for p in places], [r[1] for r in rows], 0.38, label="endpoint over HTTP")
    axes.set_xticks(list(places), [str(r[0]) for r in rows])
    axes.set_xlabel("connections (threads of the bare engine)")
    axes.set_ylabel("queries per second")
    axes.legend()


def _overhead(sides: Sides, *, quick: bool) -> Report:
    seconds, rounds = (2.0, 3) if quick else (4.0, 5)
    requests = sides.requests("one")
    added: list[float] = []
    served_p50: list[float] = []
    bare_p50: list[float] = []
    p99: list[float] = []
    for _ in range(rounds):
        served, _ = _served(sides, requests, 1, seconds)
        bare, _ = _bare(sides, ["SELECT 1 AS one"], 1, seconds)
        served_p50.append(percentile(served.latencies, 0.5) * 1000)
        bare_p50.append(percentile(bare.latencies, 0.5) * 1000)
        p99.append(percentile(served.latencies, 0.99) * 1000)
        added.append(served_p50[-1] - bare_p50[-1])
    measured = median(added)
    return Report(
        "endpoint_overhead",
        "A trivial query, one connection",
        METHOD,
        ("round", "endpoint p50 ms", "endpoint p99 ms", "bare p50 ms", "added ms"),
        [[n + 1, *row] for n, row in enumerate(zip(served_p50, p99, bare_p50, added, strict=True))],
        goals=[Goal("at most 1 ms added to the p50", f"{measured:.2f} ms", measured <= 1.0)],
    )


def _callers(sides: Sides, *, quick: bool) -> Report:
    seconds = 8.0 if quick else 20.0
    before = cpu_of(sides.server.process.pid)
    load = open_loop(sides.server.url, sides.requests("usage"), 200, 1.0, seconds)
    cpu = cpu_of(sides.server.process.pid) - before
    took = [t * 1000 for t in load.latencies]
    p95 = percentile(took, 0.95)
    row = [200, len(took), load.per_second, percentile(took, 0.5), p95, percentile(took, 0.99), max(took)]
    busy = [cpu / load.seconds, load.own_cpu / load.seconds]
    return Report(
        "callers",
        "200 connected callers, each asking once a second",
        METHOD + "\nLatency counts from the moment when a caller was due, also when its last answer came late.",
        ("callers", "requests", "per second", "p50 ms", "p95 ms", "p99 ms", "max ms", "server cores", "client cores"),
        [[*row, *busy]],
        goals=[Goal("p95 under 100 ms", f"{p95:.1f} ms", p95 < 100)],
        draw=lambda axes: _spread(axes, took),
    )


def _spread(axes: Axes, took: list[float]) -> None:
    axes.plot(sorted(took), [100 * n / len(took) for n in range(len(took))])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("% of requests answered by then")
