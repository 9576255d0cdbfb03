"""Tenants with their own tables: the projects, rows and steps that the fan-out benchmarks share."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from benchmarks.client import Sender
from tests.support.server import Server

LANDING = """tenant: {{column: tenant_id, {tenant}}}
columns:
  - {{name: tenant_id, type: UInt32}}
  - {{name: timestamp, type: DateTime('UTC')}}
  - {{name: event, type: LowCardinality(String)}}
  - {{name: user_id, type: UInt32}}
  - {{name: units, type: Float64}}
engine: {{type: MergeTree, sorting_key: [tenant_id, timestamp]}}
"""
_TARGET = """tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
  - {name: event, type: LowCardinality(String)}
  - {name: units, type: Float64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, day, event], columns: [units]}
"""
_SUMS = """nodes:
  - name: by_day
    sql: |
      SELECT tenant_id, toDate(timestamp) AS day, event, sum(units) AS units
      FROM events
      GROUP BY tenant_id, day, event
materialize: {target: usage, per_tenant: true}
"""
_KINDS = ("api_call", "export", "storage", "login", "search")
ADDED_AT_ONCE = 500


def project(fanout: str, *, aggregate: bool = False) -> dict[str, str]:
    """A landing datasource `events`; with `aggregate`, also sums per tenant."""
    files = {"datasources/events.yaml": LANDING.format(tenant=f"fanout: {fanout}")}
    if aggregate:
        files |= {"datasources/usage.yaml": _TARGET, "pipes/sums.yaml": _SUMS}
    return files


def rows(count: int, tenants: Sequence[int], seed: int = 1) -> bytes:
    """NDJSON rows, distributed evenly over tenants."""
    chance = random.Random(seed)
    return b"\n".join(event(tenants[n % len(tenants)], chance) for n in range(count))


def event(tenant: int, chance: random.Random) -> bytes:
    """A random event of a tenant, as JSON."""
    return orjson.dumps(
        {
            "tenant_id": tenant,
            "timestamp": f"2026-01-{chance.randint(1, 28):02} {chance.randint(0, 23):02}:00:00",
            "event": chance.choice(_KINDS),
            "user_id": chance.randrange(5000),
            "units": chance.randrange(1000) / 10,
        }
    )


def add(server: Server, first: int, upto: int) -> float:
    """Add tenants with their own tables, several hundred at a time. Returns the seconds that it took."""
    started = time.perf_counter()
    for start in range(first, upto, ADDED_AT_ONCE):
        ids = [str(n) for n in range(start, min(upto, start + ADDED_AT_ONCE))]
        response = server.admin("POST", "/v0/tenants", json={"ids": ids, "placement": "tables"}, timeout=900)
        if response.status_code >= 300:
            raise RuntimeError(response.text)
    return time.perf_counter() - started


class Events:
    """Appends to a datasource over one persistent connection."""

    def __init__(self, server: Server, datasource: str = "events") -> None:
        self._post = Sender(server.url, server.admin_token)
        self._path = f"/v0/events?name={datasource}&wait="

    def stored(self, body: bytes) -> float:
        """Milliseconds until the rows are stored."""
        return self._post(self._path + "true", body)[0] * 1000

    def visible(self, body: bytes) -> float:
        """Milliseconds until the rows are readable in their tenants' tables."""
        took, _, answer = self._post(self._path + "visible", body)
        if not orjson.loads(answer)["visible"]:
            raise RuntimeError(f"not readable after {took:.0f} s")
        return took * 1000


def written(directory: Path, name: str, body: bytes) -> str:
    """Write a body to a file for the bare engine, and return its path."""
    file = directory / f"{name}.ndjson"
    file.write_bytes(body)
    return str(file)
