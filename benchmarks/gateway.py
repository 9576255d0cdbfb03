"""Measures the gateway under load: rows per second, the time until rows are readable, and the behavior on
overload.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from benchmarks.client import Load, closed_loop, paced, request
from benchmarks.nests import LANDING, Events, add, project, rows, written
from benchmarks.processes import Direct, Peak, cpu_of, direct, memory_of
from benchmarks.report import Goal, Report, percentile
from tests.support.server import Server, running

MIB = 1 << 20
CLIENTS, SIZES = (1, 64), (1, 100, 10_000)
LARGE, ENGINE_BATCH = 10_000, 100_000
WAITING = 32 * MIB
PROBE_SECONDS = 0.1

METHOD = f"""1 or 64 persistent connections post NDJSON to /v0/events?wait=true, each sending its next request when
it gets a response. `landing only` has no tenants with tables. With active tenants, rows are distributed over the
given number of tenants with tables, and the time ends when the last row is readable in its tenant's table. The bare
engine (clickhouse-connect on chDB, in a separate process and directory, with tables from the same push) inserts the
same bytes, {ENGINE_BATCH:,} rows at a time. It alternates with the large requests that it is compared with, and
ratios are medians over rounds. Requests with one row are compared with one insert each, from one thread or from as
many threads as there are clients, whichever is faster. The load generator takes processor time from the server; the
bare engine does not need one."""


@dataclass
class Sides:
    """A server with tenants, and the bare engine with the same tables except those of the tenants."""

    server: Server
    engine: Direct
    directory: Path
    tenants: int


@dataclass
class Went:
    """One period of load: rows per second, the time until the last row was readable, and the processors used."""

    load: Load
    rows: int
    seconds: float
    cores: float

    @property
    def per_second(self) -> float:
        return self.rows / self.seconds


@contextmanager
def _sides(home: Path, tenants: int) -> Iterator[Sides]:
    files = project("routed") | {"datasources/plain.yaml": LANDING.format(tenant="nest_copy: false")}
    with running(home / "bare") as server:
        server.push(files)
    settings = {"ROOKERY_LOG_LEVEL": "warning", "ROOKERY_VISIBLE_SECONDS": "600"}
    with (
        running(home / "server", **settings) as server,
        direct(home / "bare" / ".rookery" / "data") as engine,
    ):
        server.push(files)
        add(server, 0, tenants)
        yield Sides(server, engine, home, tenants)


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure throughput, lag and overload."""
    tenants = 100 if quick else 1_000
    with _sides(directory / "rows", tenants) as sides:
        throughput = _throughput(sides, quick=quick)
    with _sides(directory / "lag", tenants) as sides:
        lag = _lag(sides, 6.0 if quick else 20.0)
    return [throughput, lag, _overload(directory / "overload", 4.0 if quick else 10.0)]


# --- rows per second -----------------------------------------------------------------------------------------------


def _throughput(sides: Sides, *, quick: bool) -> Report:
    """Measure every request size, number of clients and number of active tenants."""
    seconds, rounds = (1.5, 2) if quick else (3.0, 3)
    whole = b"\n".join(rows(LARGE, range(1_000), seed) for seed in range(ENGINE_BATCH // LARGE))
    file = written(sides.directory, "large", whole)
    compared = [(active, clients) for active in (0, 10) for clients in CLIENTS]
    found: dict[tuple[int, int, int], list[Went]] = {}
    engine: list[float] = []
    singles: list[float] = []
    _engine(sides, file, 1.0)
    cores: float = 0.0
    _went(sides, 0, 8, LARGE, 1.0)
    for _ in range(rounds):
        for active, clients in compared:
            found.setdefault((active, clients, LARGE), []).append(_went(sides, active, clients, LARGE, seconds))
        before = cpu_of(sides.engine.pid), time.perf_counter()
        engine.append(_engine(sides, file, seconds))
        cores = (cpu_of(sides.engine.pid) - before[0]) / (time.perf_counter() - before[1])
        found.setdefault((0, 64, 1), []).append(_went(sides, 0, 64, 1, seconds))
        singles.append(_single(sides, seconds / 2))
    for active in (0, 10, *sorted({100, sides.tenants})):
        for clients in CLIENTS:
            for size in SIZES:
                if (active, clients, size) not in found:
                    found[active, clients, size] = [_went(sides, active, clients, size, seconds)]
    ratios = {
        (active, clients): median(
            w.per_second / e for w, e in zip(found[active, clients, LARGE], engine, strict=True)
        )
        for active, clients in compared
    }
    table = [_row(*key, went) for key, went in sorted(found.items())]
    table.append(["engine", 1, ENGINE_BATCH, round(median(engine)), "", "", "", cores])
    table.append(["engine", "1, 64", 1, round(median(singles)), "", "", "", ""])
    small = median(w.per_second / s for w, s in zip(found[0, 64, 1], singles, strict=True))
    own = max(w.load.own_cpu / w.load.seconds for each in found.values() for w in each)
    return Report(
        "gateway",
        "Rows per second through /v0/events",
        METHOD,
        ("active", "clients", "rows", "rows/s", "stored/s", "p50 ms", "p99 ms", "cores"),
        table,
        goals=[
            _of_engine("landing only, large requests", 0.7, ratios[0, 64], ratios[0, 1]),
            _of_engine("10 active tenants, until readable", 0.35, ratios[10, 64], ratios[10, 1]),
            Goal(
                "64 clients, one row each: 10 times the rate of one insert each",
                f"{small:.1f} times",
                small >= 10,
            ),
        ],
        notes=[
            "active none: landing only; rows: per request",
            "rows/s: until all rows are readable; stored/s: until the responses are sent",
            f"cores: processors used by the server or the engine; the load generator uses at most {own:.2f}",
        ],
        draw=lambda axes: _bars(axes, found, median(engine)),
    )


def _of_engine(what: str, wanted: float, at_64: float, at_1: float) -> Goal:
    text = f"{at_64:.2f} with 64 clients, {at_1:.2f} with one"
    return Goal(f"{what}: at least {wanted} of the rate of the engine's own large inserts", text, at_64 >= wanted)


def _requests(server: Server, active: int, size: int) -> list[bytes]:
    """Requests with rows of the given number of tenants in turn; with 0, of a tenant without tables."""
    path = f"/v0/events?name={'events' if active else 'plain'}&wait=true"
    return [request("POST", server.url, path, server.admin_token, body) for body in _bodies(active or 1_000, size)]


@functools.cache
def _bodies(active: int, size: int) -> list[bytes]:
    if size == 1:
        return rows(1_000, range(active)).splitlines()
    return [rows(size, range(active), seed) for seed in range(8 if size > 1_000 else 32)]


def _went(sides: Sides, active: int, clients: int, size: int, seconds: float) -> Went:
    """Send the load and then a last row, and wait until this row, and so all rows before it, is readable."""
    server = sides.server
    requests = _requests(server, active, size)
    before = cpu_of(server.process.pid)
    load = closed_loop(server.url, requests, clients, seconds)
    took = load.seconds
    if active:
        took += Events(server).visible(rows(1, [0])) / 1000
    cores = (cpu_of(server.process.pid) - before) / took
    return Went(load, len(load.latencies) * size, took, cores)


def _engine(sides: Sides, file: str, seconds: float) -> float:
    """Rows per second that the bare engine inserts."""
    took: list[float] = []
    while sum(took) < seconds:
        took += sides.engine("insert", table="main.plain", file=file, times=1)["took"]
    return ENGINE_BATCH * len(took) / sum(took)


def _single(sides: Sides, seconds: float) -> float:
    """Rows per second of the bare engine if each row is a separate insert."""
    file = written(sides.directory, "lines", rows(1_000, range(1_000)))
    loads = [sides.engine("insert_load", table="main.plain", file=file, threads=n, seconds=seconds) for n in CLIENTS]
    return max(float(found["count"]) / float(found["seconds"]) for found in loads)


def _row(active: int, clients: int, size: int, went: list[Went]) -> list[Any]:
    took = [t * 1000 for w in went for t in w.load.latencies]
    return [
        f"{active:,}" if active else "none",
        clients,
        size,
        round(median(w.per_second for w in went)),
        round(median(w.rows / w.load.seconds for w in went)),
        percentile(took, 0.5),
        percentile(took, 0.99),
        median(w.cores for w in went),
    ]


def _bars(axes: Axes, found: dict[tuple[int, int, int], list[Went]], engine: float) -> None:
    kinds = sorted({active for active, _, _ in found})
    groups = [(clients, size) for clients in CLIENTS for size in SIZES]
    width = 0.8 / len(kinds)
    for shift, active in enumerate(kinds):
        heights = [median(w.per_second for w in found[active, clients, size]) for clients, size in groups]
        label = f"{active:,} active tenants" if active else "landing only"
        axes.bar(
            [n + width * (shift - (len(kinds) - 1) / 2) for n in range(len(groups))], heights, width, label=label
        )
    axes.axhline(engine, color="k", linestyle="--", linewidth=1, label="bare engine, 100,000 rows")
    axes.set_xticks(range(len(groups)), [f"{c} × {s:,}" for c, s in groups])
    axes.set_yscale("log")
    axes.set_xlabel("clients × rows per request")
    axes.set_ylabel("rows per second")
    axes.legend(fontsize=7)


# --- lag -----------------------------------------------------------------------------------------------------------


def _lag(sides: Sides, seconds: float) -> Report:
    """Half of the maximum load for ten tenants, with single rows at intervals whose delivery is timed."""
    server = sides.server
    _went(sides, 0, 8, LARGE, 1.0)
    rate = median(_went(sides, 10, 64, LARGE, 3.0).per_second for _ in range(3)) / 2
    path = "/v0/events?name=events&wait=visible"
    probe = [request("POST", server.url, path, server.admin_token, rows(1, [0]))]
    before = cpu_of(server.process.pid)
    load, probes = paced(server.url, [(_requests(server, 10, LARGE), LARGE / rate), (probe, PROBE_SECONDS)], seconds)
    cores = (cpu_of(server.process.pid) - before) / probes.seconds
    took = [[t * 1000 for t in each.latencies] for each in (load, probes)]
    table = [
        [name, len(ms), percentile(ms, 0.5), percentile(ms, 0.99), max(ms)]
        for name, ms in zip(("requests, stored", "probe, readable"), took, strict=True)
    ]
    p99 = percentile(took[1], 0.99)
    return Report(
        "gateway_lag",
        f"Lag at half of the maximum rate of 64 clients: {rate:,.0f} rows per second for ten tenants",
        METHOD
        + f"""\nThis is measured on a separate server, because tables of a thousand tenants are still being merged
for a while after writes. Requests with {LARGE:,} rows are sent at a fixed rate, and one row with wait=visible every
{PROBE_SECONDS * 1000:.0f} ms. Latency is measured from when a request was due; requests do not wait for other
responses.""",
        ("", "requests", "p50 ms", "p99 ms", "max ms"),
        table,
        goals=[Goal("readable within a second at the p99", f"{p99:.0f} ms", p99 < 1000)],
        notes=[f"{cores:.2f} cores busy in the server, {probes.own_cpu / probes.seconds:.2f} in the load generator"],
        draw=lambda axes: _spread(axes, took),
    )


def _spread(axes: Axes, took: list[list[float]]) -> None:
    for ms, label in zip(took, ("stored", "readable (probe)"), strict=True):
        axes.plot(sorted(ms), [100 * n / len(ms) for n in range(len(ms))], label=label)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("% of requests by then")
    axes.legend()


# --- too much ------------------------------------------------------------------------------------------------------


def _overload(home: Path, seconds: float) -> Report:
    """More and larger bodies than the limit allows: some are refused, the others are stored, and memory stays
    bounded.
    """
    body = rows(45_000, range(10))
    path = "/v0/events?name=events&wait=true"
    table: list[list[Any]] = []
    complete = True
    with running(home, ROOKERY_LOG_LEVEL="warning", ROOKERY_MAX_WAITING=WAITING) as server:
        server.push(project("routed"))
        add(server, 0, 10)
        requests = [request("POST", server.url, path, server.admin_token, body)]
        fitting = WAITING // len(body)
        closed_loop(server.url, requests, 2, seconds / 2)
        for clients in (2, fitting, 64):
            before = memory_of(server.process.pid)
            with Peak(server.process.pid) as peak:
                load = closed_loop(server.url, requests, clients, seconds, patience=1.0)
                Events(server).visible(rows(1, [0]))
            complete &= all(b"retry-after: 1" in head for head in load.refused)
            stored = len(load.latencies) * 45_000 / load.seconds
            offered = clients * len(body) / MIB
            table.append(
                [clients, offered, len(load.latencies), len(load.refused), stored, before / MIB, peak.bytes / MIB]
            )
    calm, full = table[1][-1], table[-1][-1]
    refused = table[-1][3]
    return Report(
        "gateway_overload",
        f"Bodies of {len(body) / MIB:.1f} MiB where {WAITING // MIB} MiB may wait",
        METHOD + "\nA client that gets 429 sends the request again after a second, as in Retry-After.",
        ("clients", "MiB at once", "stored", "refused", "rows/s", "memory before MiB", "peak MiB"),
        table,
        goals=[
            Goal(
                "what exceeds the limit is refused with Retry-After, and nothing else fails",
                f"{refused:,} refused",
                refused > 0 and complete,
            ),
            Goal(
                "memory is bounded: at most 1.25 times that of the clients whose bodies fit",
                f"{full / calm:.2f}",
                full / calm <= 1.25,
            ),
        ],
        draw=lambda axes: _memory(axes, table),
    )


def _memory(axes: Axes, table: list[list[Any]]) -> None:
    places = range(len(table))
    axes.bar([p - 0.2 for p in places], [r[1] for r in table], 0.38, label="offered at once")
    axes.bar([p + 0.2 for p in places], [r[-1] for r in table], 0.38, label="server's peak")
    axes.set_xticks(list(places), [f"{r[0]} clients" for r in table])
    axes.set_ylabel("MiB")
    axes.legend()
