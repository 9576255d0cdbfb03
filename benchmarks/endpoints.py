"""Measures an endpoint against the same SQL on the bare engine."""

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

_COMPOSED = """WITH `events` AS (
SELECT _rk_t.`timestamp`, _rk_t.`event`, _rk_t.`user_id`, _rk_t.`units`
FROM `main`.`events` AS _rk_t PREWHERE (_rk_t.`tenant_id` = {rk_tenant_uint32:UInt32})
WHERE NOT throwIf(_rk_t.`tenant_id` != {rk_witness_uint32:UInt32}, 'rookery: a row of another tenant')
)
SELECT event, count() AS events, uniqExact(user_id) AS users, round(sum(events.units), 2) AS units FROM events
WHERE timestamp >= {p1:DateTime} GROUP BY event ORDER BY event ASC
SETTINGS max_execution_time = '10.0', timeout_overflow_mode = 'throw', max_memory_usage = 2147483648,
result_overflow_mode = 'throw', max_result_bytes = 4194304, max_result_rows = 25000"""

METHOD = f"""{ROWS:,} rows of {TENANTS:,} pooled tenants, in two identical directories: a server on one, the bare
engine (clickhouse-connect on chDB, one handle per thread) on the other. The endpoint is called with a JWT per
tenant over persistent connections. The bare engine runs two statements. `same` is the endpoint's final statement,
with its bound values and limits. `by hand` is what one would write without rookery: tenant and time as literals, no
limits. All of them return JSON. They alternate in rounds of a few seconds, so that a busy machine slows down all of
them; ratios are medians over rounds. The load generator shares the processors with the server, and the bare engine
does not need one; its processor time is shown."""


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
        server.admin_json("POST", "/v0/tenants", json={"ids": ids, "placement": "pooled"})
    with direct(home / ".rookery" / "data") as engine:
        engine("command", statements=[_FILL, "OPTIMIZE TABLE main.events FINAL"])
    shutil.copytree(home / ".rookery" / "data", copy, symlinks=True)
    with running(home, ROOKERY_LOG_LEVEL="warning") as server, direct(copy) as engine:
        scopes = ["PIPES:READ:usage", "PIPES:READ:one"]
        tokens = [server.mint(*scopes, tenant=str(n)) for n in range(0, TENANTS, 5)]
        yield Sides(server, engine, tokens)


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure the throughput, the cost of a call, and 200 callers."""
    with _sides(directory) as sides:
        return [_throughput(sides, quick=quick), _overhead(sides, quick=quick), _callers(sides, quick=quick)]


def _bare(
    sides: Sides, statements: list[str], threads: int, seconds: float, bindings: list[dict[str, str]] | None = None
) -> tuple[Load, float]:
    found = sides.engine("load", statements=statements, threads=threads, seconds=seconds, bindings=bindings or [])
    return Load(found["latencies"], found["seconds"], 0.0), found["cpu"]


def _served(sides: Sides, requests: list[bytes], connections: int, seconds: float) -> tuple[Load, float]:
    before = cpu_of(sides.server.process.pid)
    load = closed_loop(sides.server.url, requests, connections, seconds)
    return load, cpu_of(sides.server.process.pid) - before


def _throughput(sides: Sides, *, quick: bool) -> Report:
    seconds, rounds = (2.0, 3) if quick else (4.0, 5)
    tenants = range(0, TENANTS, 5)
    requests = sides.requests("usage")
    by_hand = [_BY_HAND.format(tenant=n) for n in tenants]
    values = [{"rk_tenant_uint32": str(n), "rk_witness_uint32": str(n), "p1": "2020-01-01 00:00:00"} for n in tenants]
    _served(sides, requests, 8, 2.0)
    _bare(sides, by_hand, max(CONNECTIONS), 2.0)
    rows: list[list[Any]] = []
    for connections in CONNECTIONS:
        served, same, hand = [], [], []
        for _ in range(rounds):
            served.append(_served(sides, requests, connections, seconds))
            same.append(_bare(sides, [_COMPOSED] * len(values), connections, seconds, values))
            hand.append(_bare(sides, by_hand, connections, seconds))
        rows.append([connections, "endpoint", *_figures(served, served)])
        rows.append([connections, "same", *_figures(served, same)])
        rows.append([connections, "by hand", *_figures(served, hand)])
    worst = {kind: min(r[3] for r in rows if r[1] == kind) for kind in ("same", "by hand")}
    return Report(
        "endpoint_throughput",
        f"Endpoint compared with the bare engine, for a query of {rows[1][4]:.1f} ms",
        METHOD,
        (
            *("connections", "", "per second", "endpoint's ratio", "p50 ms", "p99 ms"),
            *("cpu ms", "client's cpu ms", "endpoint's cpu ratio"),
        ),
        rows,
        goals=[
            Goal(
                "at least 0.9 of the same SQL run directly",
                f"{worst['same']:.2f} in the worst case",
                worst["same"] >= 0.9,
            ),
            Goal(
                "the same for SQL written by hand",
                f"{worst['by hand']:.2f} in the worst case",
                worst["by hand"] >= 0.9,
            ),
        ],
        notes=[
            "cpu: processor time per query; the client's is in addition to the server's",
            "the ratio of processor time would be the throughput ratio if clients ran on another machine",
        ],
        draw=lambda axes: _bars(axes, rows),
    )


def _figures(served: list[tuple[Load, float]], other: list[tuple[Load, float]]) -> list[float]:
    ratio = median(s.per_second / o.per_second for (s, _), (o, _) in zip(served, other, strict=True))
    took = [t * 1000 for load, _ in other for t in load.latencies]
    return [
        median(load.per_second for load, _ in other),
        ratio,
        percentile(took, 0.5),
        percentile(took, 0.99),
        _cpu(other),
        sum(load.own_cpu for load, _ in other) * 1000 / len(took),
        _cpu(other) / _cpu(served),
    ]


def _cpu(rounds: list[tuple[Load, float]]) -> float:
    """Milliseconds of processor time per query, excluding the client."""
    return sum(cpu for _, cpu in rounds) * 1000 / sum(len(load.latencies) for load, _ in rounds)


def _bars(axes: Axes, rows: list[list[Any]]) -> None:
    for shift, kind in enumerate(("endpoint", "same", "by hand")):
        mine = [r for r in rows if r[1] == kind]
        label = "endpoint over HTTP" if kind == "endpoint" else f"bare engine, {kind}"
        axes.bar([n + 0.27 * (shift - 1) for n in range(len(mine))], [r[2] for r in mine], 0.26, label=label)
    axes.set_xticks(range(len(CONNECTIONS)), [str(c) for c in CONNECTIONS])
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
        "200 connected callers, each with one request per second",
        METHOD + "\nLatency is measured from when a request was due, even if the previous response was late.",
        ("callers", "requests", "per second", "p50 ms", "p95 ms", "p99 ms", "max ms", "server cores", "client cores"),
        [[*row, *busy]],
        goals=[Goal("p95 under 100 ms", f"{p95:.1f} ms", p95 < 100)],
        draw=lambda axes: _spread(axes, took),
    )


def _spread(axes: Axes, took: list[float]) -> None:
    axes.plot(sorted(took), [100 * n / len(took) for n in range(len(took))])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("% of requests with a response by then")
