"""Measures ingestion over HTTP against a raw insert of the same bytes."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from benchmarks.client import Sender
from benchmarks.nests import event
from benchmarks.processes import PROJECT, Direct, cpu_of, direct
from benchmarks.report import Goal, Report
from tests.support.server import Server, running

SIZES = (1_000, 10_000, 100_000)
_PATH = "/v0/events?name=events&wait=true"
METHOD = """One connection posts NDJSON to /v0/events?wait=true, and the bare engine (clickhouse-connect on chDB, in
a separate process and directory, with a table from the same push) inserts the same bytes with INSERT … FORMAT
JSONEachRow. The two alternate after each request, so that a busy machine slows down both. Figures are medians, and
the ratio is the median of the ratios of adjacent requests. The endpoint also checks every row's tenant, stores a
batch entirely or not at all, and responds when it is stored; the raw insert does neither."""


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure requests with 1,000 to 100,000 rows."""
    sizes = SIZES[:2] if quick else SIZES
    with running(directory / "bare") as server:
        server.push(PROJECT)
    with (
        running(directory / "server", ROOKERY_LOG_LEVEL="warning") as server,
        direct(directory / "bare" / ".rookery" / "data") as engine,
    ):
        server.push(PROJECT)
        rows = [_compared(directory, server, engine, size, 10 if quick else 25) for size in sizes]
    worst = min(row[3] for row in rows)
    return [
        Report(
            "ingest",
            "Ingestion through /v0/events compared with a raw insert",
            METHOD,
            ("rows", "events rows/s", "raw rows/s", "ratio", "events ms", "raw ms", "server cpu ms", "stages"),
            rows,
            goals=[Goal("at least 0.7 of the rate of a raw insert", f"{worst:.2f} in the worst case", worst >= 0.7)],
            draw=lambda axes: _bars(axes, rows),
        )
    ]


def _body(size: int) -> bytes:
    chance = random.Random(size)
    return b"\n".join(event(chance.randrange(1000), chance) for _ in range(size))


def _compared(directory: Path, server: Server, engine: Direct, size: int, times: int) -> list[Any]:
    body = _body(size)
    file = directory / f"{size}.ndjson"
    file.write_bytes(body)
    post = Sender(server.url, server.admin_token)
    post(_PATH, body)
    engine("insert", table="main.events", file=str(file), times=1)
    served: list[float] = []
    raw: list[float] = []
    cpu, timing = 0.0, ""
    for _ in range(times):
        before = cpu_of(server.process.pid)
        took, timing, _ = post(_PATH, body)
        served.append(took)
        cpu += cpu_of(server.process.pid) - before
        raw.extend(engine("insert", table="main.events", file=str(file), times=1)["took"])
    ratio = median(b / a for a, b in zip(served, raw, strict=True))
    return [
        size,
        size / median(served),
        size / median(raw),
        ratio,
        median(served) * 1000,
        median(raw) * 1000,
        cpu * 1000 / times,
        timing,
    ]


def _bars(axes: Axes, rows: list[list[Any]]) -> None:
    places = range(len(rows))
    axes.bar([p - 0.2 for p in places], [r[2] for r in rows], 0.38, label="raw insert")
    axes.bar([p + 0.2 for p in places], [r[1] for r in rows], 0.38, label="/v0/events")
    axes.set_xticks(list(places), [f"{r[0]:,}" for r in rows])
    axes.set_xlabel("rows per request")
    axes.set_ylabel("rows per second")
    axes.legend()
