"""Measures how much memory a large response takes while it is sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
from matplotlib.axes import Axes

from benchmarks.processes import PROJECT, Peak, direct, memory_of
from benchmarks.report import Goal, Report
from tests.support.server import Server, running

MIB = 1 << 20
TEXT = 480
FORMATS = ("json", "csv", "ndjson", "parquet")
METHOD = f"""An endpoint selects rows of {TEXT} random printable characters, which hardly compress, until the
response has the desired size; the client reads and discards it. The server's resident memory is sampled every 20
ms. Growth is the difference between the peak and the memory before the request, after a response of a tenth of the
size in each format, so that caches and the engine's pools already exist. `slow reader` pauses after every 16 MiB,
which shows whether the server buffers data for a slow client."""


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure one large response per format, and one with a slow reader."""
    size = (512 if quick else 1024) * MIB
    home = directory / "server"
    with running(home) as server:
        server.push(PROJECT)
    with direct(home / ".rookery" / "data") as engine:
        count = size * 14 // 10 // TEXT
        fill = f"INSERT INTO main.blobs SELECT number, randomPrintableASCII({TEXT}) FROM numbers({count})"
        engine("command", statements=[f"{fill} SETTINGS max_block_size = 20000, max_insert_threads = 1"])
    with running(home, ROOKERY_LOG_LEVEL="warning") as server:
        token = server.mint("PIPES:READ:dump")
        for name in FORMATS:
            _response(server, token, name, size // TEXT // 10)
        rows = [_measured(server, token, name, size) for name in FORMATS]
        rows.append(_measured(server, token, "json", size, pause=0.15))
    most = max(row[3] for row in rows)
    return [
        Report(
            "memory",
            f"Memory of a response of {size // MIB} MiB",
            METHOD,
            ("format", "response MiB", "before MiB", "growth MiB", "growth / response", "seconds", "MiB/s"),
            rows,
            goals=[
                Goal(
                    "bounded: growth of less than a quarter of the response", f"{most:.0f} MiB", most < size / MIB / 4
                )
            ],
            draw=lambda axes: _bars(axes, rows),
        )
    ]


def _measured(server: Server, token: str, name: str, size: int, pause: float = 0.0) -> list[Any]:
    rows = size // (TEXT if name != "parquet" else TEXT * 8 // 10)
    before = memory_of(server.process.pid)
    with Peak(server.process.pid) as peak:
        started = time.monotonic()
        length = _response(server, token, name, rows, pause)
        took = time.monotonic() - started
    grown = max(0, peak.bytes - before)
    label = f"{name}, slow reader" if pause else name
    return [label, length / MIB, before / MIB, grown / MIB, grown / length, took, length / MIB / took]


def _response(server: Server, token: str, name: str, rows: int, pause: float = 0.0) -> int:
    """Read a response of `rows` rows and return its length in bytes."""
    url = f"/v0/pipes/dump.{name}"
    length = mark = 0
    timeout = httpx.Timeout(600.0)
    headers = {"authorization": f"Bearer {token}"}
    with server.http.stream("GET", url, params={"rows": rows}, headers=headers, timeout=timeout) as response:
        if response.status_code != 200:
            raise RuntimeError(response.read().decode())
        for chunk in response.iter_raw(1 << 20):
            length += len(chunk)
            if pause and length - mark >= 16 * MIB:
                mark = length
                time.sleep(pause)
    return length


def _bars(axes: Axes, rows: list[list[Any]]) -> None:
    places = range(len(rows))
    axes.bar(places, [r[3] for r in rows], 0.5)
    axes.set_xticks(list(places), [r[0] for r in rows])
    axes.set_ylabel("growth of resident memory, MiB")
