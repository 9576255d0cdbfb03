"""Measures how the duration of an insert grows with the number of tenants, for both placements."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from matplotlib.axes import Axes

from benchmarks.report import Report
from tests.support.server import Server, running

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = {
    f"{part}/{file.name}": file.read_text(encoding="utf-8")
    for part in ("datasources", "pipes")
    for file in sorted((ROOT / part).glob("*.yaml"))
}
STEPS = (1, 10, 100, 1_000)
BATCH = 1_000
METHOD = f"""The example project at the top of the repository, whose per-tenant pipe sums up usage: a tenant with
`tables` has a copy of its events and a table of sums (two views); pooled tenants share one table of sums (one view
for all of them). Requests of {BATCH:,} rows through /v0/events?wait=true on one connection, of one tenant (1
active) or spread evenly over all (all active); medians. With `tables`, the rows are in the nests when the response
is sent."""


def run(directory: Path, *, quick: bool) -> list[Report]:
    """Measure both placements while tenants are added step by step."""
    steps = STEPS[:3] if quick else STEPS
    rows: list[list[Any]] = []
    notes: list[str] = []
    for placement in ("tables", "pooled"):
        with running(directory / placement, ROOKERY_LOG_LEVEL="warning") as server:
            server.push(EXAMPLE)
            there = 0
            for step in steps:
                added = _add(server, there, step, placement)
                one, every = _insert(server, 1, step), _insert(server, step, step)
                notes += [f"{placement}, {step:,} tenants, all active: {every}"] if isinstance(every, str) else []
                every = "failed" if isinstance(every, str) else every
                rows.append([placement, step, one, every, added / max(1, step - there) * 1000])
                there = step
    return [
        Report(
            "fanout",
            f"Insert of {BATCH:,} rows by number of tenants",
            METHOD,
            ("placement", "tenants", "1 active, ms", "all active, ms", "ms to add a tenant"),
            rows,
            notes=notes,
            draw=lambda axes: _curves(axes, rows),
        )
    ]


def _add(server: Server, there: int, step: int, placement: str) -> float:
    ids = [str(n) for n in range(there, step)]
    response = server.admin("POST", "/v0/tenants", json={"ids": ids, "placement": placement}, timeout=900)
    if response.status_code >= 300:
        raise RuntimeError(response.text)
    return response.elapsed.total_seconds()


def _insert(server: Server, active: int, tenants: int) -> float | str:
    """Median milliseconds of a request with rows of the given number of tenants, or why it was refused."""
    chance = random.Random(active)
    body = b"\n".join(
        orjson.dumps({"tenant_id": n % active, "event": "api_call", "units": chance.randrange(100) / 10})
        for n in range(BATCH)
    )
    took: list[float] = []
    for _ in range(12 if tenants <= 100 else 4):
        response = server.admin(
            "POST", "/v0/events", params={"name": "events", "wait": "true"}, content=body, timeout=300
        )
        if response.status_code != 200:
            return str(response.json()["error"])[:200]
        took.append(response.elapsed.total_seconds() * 1000)
    return median(took[1:])


def _curves(axes: Axes, rows: list[list[Any]]) -> None:
    for placement, style in (("tables", "-"), ("pooled", "--")):
        mine = [r for r in rows if r[0] == placement]
        for label, column in (("1 active", 2), ("all active", 3)):
            points = [(r[1], r[column]) for r in mine if not isinstance(r[column], str)]
            axes.plot(*zip(*points, strict=True), f"o{style}", label=f"{placement}, {label}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("tenants")
    axes.set_ylabel("milliseconds per request")
    axes.legend()
