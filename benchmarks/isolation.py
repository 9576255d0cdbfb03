"""Measures what re-encoding and the second tenant check cost an endpoint, compared with an older version.

    python -m benchmarks.isolation --base REVISION

Two servers, one of this version and one of the revision (checked out to a temporary folder), have the same rows.
Calls of their endpoints alternate. The benchmark compares the processor time that each server takes for a call,
including HTTP, because a busy machine affects this less than the time that a caller waits. The result is the lower
quartile of many short rounds.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import quantiles

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.server import Server, running

ROOT = Path(__file__).resolve().parents[1]
TENANTS, SMALL, LARGE = 500, 2_000, 1_000_000
ROUNDS, CALLS = 40, 12

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: timestamp, type: DateTime}
  - {name: event, type: LowCardinality(String)}
  - {name: browser, type: LowCardinality(String), default: "'firefox'"}
  - {name: country, type: LowCardinality(Nullable(String)), default: "'ch'"}
  - {name: tags, type: Array(LowCardinality(String)), default: "['a', 'b']"}
  - {name: user_id, type: String, default: "'u'"}
  - {name: path, type: String, default: "'/'"}
  - {name: units, type: Float64}
engine: {type: MergeTree, sorting_key: [tenant_id, timestamp]}
"""
QUERIES = {
    "by event": "SELECT event, count() AS c, sum(units) AS u FROM events GROUP BY event ORDER BY c",
    "one event": "SELECT max(units) AS u FROM events WHERE event = 'e3' AND timestamp > '2026-01-01 00:10:00'",
    "per hour": "SELECT toStartOfHour(timestamp) AS h, sum(units) AS u FROM events GROUP BY h ORDER BY h",
    "no dictionary": "SELECT uniq(user_id) AS c, avg(units) AS u FROM events WHERE timestamp > '2026-01-01 00:10:00'",
    "tags": "SELECT arrayJoin(tags) AS t, count() AS c FROM events GROUP BY t ORDER BY t",
    "newest": "SELECT * FROM events ORDER BY timestamp DESC LIMIT 20",
    "count": "SELECT count() AS c FROM events",
}


def files() -> dict[str, str]:
    pipes = {
        f"pipes/{n.replace(' ', '_')}.yaml": f"nodes:\n  - name: of_{n.replace(' ', '_')}\n    sql: >\n      {q}\n"
        for n, q in QUERIES.items()
    }
    return {"datasources/events.yaml": EVENTS, **pipes}


def fill(server: Server) -> None:
    """Small tenants of equal size, and tenant 0 with many rows."""
    server.push(files())
    for tenant in ("0", "7"):
        server.tenant(tenant)
    total = LARGE + TENANTS * SMALL
    numbers = range(total)
    table = pa.table({
        "tenant_id": pa.array([0 if n < LARGE else 1 + n % (TENANTS - 1) for n in numbers], pa.uint32()),
        "timestamp": pa.array([1767225600 + n // TENANTS for n in numbers], pa.uint32()),
        "event": pa.array([f"e{n * 7 % 40}" for n in numbers]), "units": pa.array([n % 100 / 4 for n in numbers]),
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink)
    params = {"name": "events", "mode": "append", "format": "parquet"}
    server.admin_json("POST", "/v0/datasources", params=params, content=sink.getvalue(), timeout=600)


def processor(pid: int) -> float:
    """Milliseconds of processor time that another process has taken so far (its CPU clock on Linux)."""
    return time.clock_gettime((~pid << 3) | 2) * 1000


def compare(sides: Mapping[str, Server], tenant: int, query: str) -> dict[str, list[float]]:
    """Milliseconds of processor time per call and round, by side."""
    name = query.replace(" ", "_")
    tokens = {side: server.mint(f"PIPES:READ:{name}", tenant=str(tenant)) for side, server in sides.items()}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        for side, server in list(sides.items())[:: -1 if number % 2 else 1]:
            before = processor(server.process.pid)
            for _ in range(CALLS):
                server.get(f"/v0/pipes/{name}.json", tokens[side]).raise_for_status()
            if number:
                found[side].append((processor(server.process.pid) - before) / CALLS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="618065d", help="the revision to compare with")
    base = parser.parse_args().base
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "code"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(old), base], check=True)
        try:
            with running(Path(folder) / "old", PYTHONPATH=old) as was, running(Path(folder) / "new") as now:
                sides = {"old": was, "new": now}
                for server in sides.values():
                    fill(server)
                print(f"processor time per call, ms: {base} / now, ratio; {ROUNDS} rounds of {CALLS} calls\n")
                for query in QUERIES:
                    for tenant, rows in ((7, SMALL), (0, LARGE)):
                        took = {
                            side: quantiles(times, n=4)[0] for side, times in compare(sides, tenant, query).items()
                        }
                        ratio = took["new"] / took["old"]
                        print(
                            f"{query:14} {rows:>9,} rows  {took['old']:7.2f} {took['new']:7.2f}  {ratio:5.2f}",
                            flush=True,
                        )
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(old)], check=True)


if __name__ == "__main__":
    main()
