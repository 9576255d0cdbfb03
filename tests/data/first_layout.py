"""A project with every kind of definition, as a program of stored layout 1 left it: its files, its rows, its answers.

`first_layout.tar.xz` is the directory `.rookery` that commit 618065d wrote in the zone `ZONE`; `first_layout.json` is what
that program answered. `make_first_layout.py` makes both.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARCHIVE = HERE / "first_layout.tar.xz"
ANSWERS = HERE / "first_layout.json"
COMMIT = "618065d"
ZONE = "America/New_York"

TABLES, POOLED, UNKNOWN = ("1", "2"), ("3", "4"), "9"
TENANTS = (*TABLES, *POOLED)
SUSPENDED = ("2", "4")
"""Tenants on whose rows the view of `ratios` failed once."""
KEY, BAD_KEY = "first-key", "all-bad-key"

EVENTS = """
tenant: {column: tenant_id, fanout: direct}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: at, type: DateTime}
  - {name: at_ms, type: DateTime64(3)}
  - {name: day, type: Date}
  - {name: event, type: LowCardinality(String)}
  - {name: label, type: LowCardinality(Nullable(String))}
  - {name: tags, type: Array(LowCardinality(String))}
  - {name: props, type: "Map(String, UInt64)"}
  - {name: payload, type: JSON}
  - {name: price, type: "Decimal(18, 4)"}
  - {name: score, type: Nullable(Int32)}
  - {name: big, type: UInt64}
  - {name: divisor, type: UInt32, default: 1}
engine: {sorting_key: [tenant_id, at]}
tokens:
  - {name: backend, scope: APPEND}
"""
CLICKS = """
tenant: {column: tenant_id, fanout: routed, nest_copy: false}
columns:
  - {name: tenant_id, type: LowCardinality(String)}
  - {name: at, type: DateTime}
  - {name: page, type: LowCardinality(String)}
engine: {sorting_key: [tenant_id, at]}
"""
VISITS = """
tenant: {column: tenant_id}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: DateTime}
  - {name: units, type: UInt64}
engine: {sorting_key: [tenant_id, at], ttl: at + INTERVAL 30 DAY}
"""
RATES = """
columns:
  - {name: currency, type: LowCardinality(String)}
  - {name: rate, type: "Decimal(18, 4)"}
  - {name: at, type: DateTime}
engine: {type: ReplacingMergeTree, sorting_key: currency, version: at}
final: true
"""


def _target(columns: str, engine: str, *, tenant: str = "tenant: {column: tenant_id, landing: false}") -> str:
    listed = "\n".join(
        f'  - {{name: {c.split(" ", 1)[0]}, type: "{c.split(" ", 1)[1]}"}}' for c in columns.split("; ")
    )
    return f"{tenant}\ncolumns:\n{listed}\nengine: {engine}\n"


def _fills(target: str, sql: str, *, per_tenant: bool = True) -> str:
    return (
        f"nodes:\n  - name: {target}_rows\n    sql: |\n      {sql}\n"
        f"materialize: {{target: {target}, per_tenant: {str(per_tenant).lower()}}}\n"
    )


def _summing(key: str, columns: str) -> str:
    return f"{{type: SummingMergeTree, sorting_key: [{key}], columns: [{columns}]}}"


def _endpoint(sql: str) -> str:
    return f"sql: |\n  {sql}\ntokens:\n  - {{name: reports, scope: READ}}\n"


FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/clicks.yaml": CLICKS,
    "datasources/visits.yaml": VISITS,
    "datasources/rates.yaml": RATES,
    "datasources/daily.yaml": _target(
        "tenant_id UInt32; day Date; event LowCardinality(String); events UInt64; big UInt64",
        _summing("tenant_id, day, event", "events, big"),
    ),
    "datasources/weekly.yaml": _target(
        "tenant_id UInt32; week Date; events UInt64", _summing("tenant_id, week", "events")
    ),
    "datasources/hourly.yaml": _target(
        "tenant_id UInt32; hour DateTime; ids AggregateFunction(uniq, UInt64); "
        "price AggregateFunction(sum, Decimal(18, 4)); last AggregateFunction(argMax, String, DateTime)",
        "{type: AggregatingMergeTree, sorting_key: [tenant_id, hour]}",
    ),
    "datasources/ratios.yaml": _target(
        "tenant_id UInt32; event LowCardinality(String); ratio Int64", _summing("tenant_id, event", "ratio")
    ),
    "datasources/pages.yaml": _target(
        "tenant_id LowCardinality(String); page LowCardinality(String); day Date; clicks UInt64",
        _summing("tenant_id, page, day", "clicks"),
    ),
    "datasources/monthly.yaml": _target(
        "tenant_id UInt32; month Date; units UInt64", _summing("tenant_id, month", "units")
    ),
    "datasources/kinds.yaml": _target(
        "event LowCardinality(String); day Date; events UInt64", _summing("event, day", "events"), tenant=""
    ),
    "datasources/ones.yaml": _target(
        "event LowCardinality(String); events UInt64", _summing("event", "events"), tenant=""
    ),
    "pipes/fill_daily.yaml": _fills(
        "daily",
        "SELECT tenant_id, toDate(at) AS day, event, count() AS events, sum(big) AS big FROM events GROUP BY tenant_id, day, event",
    ),
    "pipes/fill_weekly.yaml": _fills(
        "weekly",
        "SELECT tenant_id, toMonday(day) AS week, sum(daily.events) AS events FROM daily GROUP BY tenant_id, week",
    ),
    "pipes/fill_hourly.yaml": _fills(
        "hourly",
        "SELECT tenant_id, toStartOfHour(at) AS hour, uniqState(id) AS ids, sumState(price) AS price, "
        "argMaxState(toString(event), at) AS last FROM events GROUP BY tenant_id, hour",
    ),
    "pipes/fill_ratios.yaml": _fills(
        "ratios",
        "SELECT tenant_id, event, sum(intDiv(1000, divisor)) AS ratio FROM events GROUP BY tenant_id, event",
    ),
    "pipes/fill_pages.yaml": _fills(
        "pages",
        "SELECT tenant_id, page, toDate(at) AS day, count() AS clicks FROM clicks GROUP BY tenant_id, page, day",
    ),
    "pipes/fill_monthly.yaml": _fills(
        "monthly",
        "SELECT tenant_id, toStartOfMonth(at) AS month, sum(units) AS units FROM visits GROUP BY tenant_id, month",
    ),
    "pipes/fill_kinds.yaml": _fills(
        "kinds",
        "SELECT event, toDate(at) AS day, count() AS events FROM events GROUP BY event, day",
        per_tenant=False,
    ),
    "pipes/fill_ones.yaml": _fills(
        "ones", "SELECT event, count() AS events FROM events WHERE tenant_id = 1 GROUP BY event", per_tenant=False
    ),
    "endpoints/by_day.yaml": _endpoint(
        "SELECT toDate(at) AS day, count() AS events, sum(price) AS price, max(big) AS big, sum(score) AS score FROM events "
        "WHERE at >= {{DateTime(since, '2024-01-01 00:00:00')}} GROUP BY day ORDER BY day"
    ),
    "endpoints/labels.yaml": _endpoint(
        "SELECT label, arrayJoin(tags) AS tag, count() AS events FROM events GROUP BY label, tag ORDER BY label, tag"
    ),
    "endpoints/payloads.yaml": _endpoint(
        "SELECT id, at, at_ms, day, props, payload.page.path::String AS path, payload.n::Int64 AS n FROM events ORDER BY id"
    ),
    "endpoints/of_daily.yaml": _endpoint(
        "SELECT day, event, sum(daily.events) AS events, sum(daily.big) AS big FROM daily GROUP BY day, event ORDER BY day, event"
    ),
    "endpoints/of_weekly.yaml": _endpoint(
        "SELECT week, sum(weekly.events) AS events FROM weekly GROUP BY week ORDER BY week"
    ),
    "endpoints/of_hourly.yaml": _endpoint(
        "SELECT hour, uniqMerge(ids) AS ids, sumMerge(price) AS price, argMaxMerge(last) AS last FROM hourly "
        "GROUP BY hour ORDER BY hour"
    ),
    "endpoints/of_ratios.yaml": _endpoint(
        "SELECT event, sum(ratio) AS ratios FROM ratios GROUP BY event ORDER BY event"
    ),
    "endpoints/of_pages.yaml": _endpoint(
        "SELECT page, day, sum(pages.clicks) AS clicks FROM pages GROUP BY page, day ORDER BY page, day"
    ),
    "endpoints/of_monthly.yaml": _endpoint(
        "SELECT month, sum(monthly.units) AS units FROM monthly GROUP BY month ORDER BY month"
    ),
    "endpoints/of_kinds.yaml": _endpoint(
        "SELECT event, day, sum(kinds.events) AS events FROM kinds GROUP BY event, day ORDER BY event, day"
    ),
    "endpoints/of_ones.yaml": _endpoint(
        "SELECT event, sum(ones.events) AS events FROM ones GROUP BY event ORDER BY event"
    ),
    "endpoints/of_rates.yaml": _endpoint("SELECT currency, rate, at FROM rates ORDER BY currency"),
}
ENDPOINTS = tuple(sorted(Path(f).stem for f in FILES if f.startswith("endpoints/")))
COUNTED = ("events", "clicks", "rates")
"""Tables of the workspace whose rows are counted."""


def events(seed: int, count: int, tenants: tuple[str, ...] = (*TENANTS, UNKNOWN)) -> list[dict[str, Any]]:
    """Rows of `events`, the same for the same seed; a third of them around midnight."""
    chance = random.Random(seed)
    return [_event(chance, seed * 1000 + n, chance.choice(tenants)) for n in range(count)]


def _event(chance: random.Random, id: int, tenant: str) -> dict[str, Any]:
    moment = 1_730_000_000 + chance.randrange(0, 20_000_000)
    if chance.random() < 0.35:
        moment = moment // 86400 * 86400 + chance.randrange(0, 6 * 3600)
    row: dict[str, Any] = {
        "tenant_id": int(tenant),
        "id": id,
        "at": moment,
        "at_ms": moment * 1000 + chance.randrange(1000),
        "day": f"2025-0{chance.randrange(1, 10)}-11",
        "event": chance.choice(("view", "click", "pay", f"own-{tenant}")),
        "label": chance.choice((None, "red", "blue")),
        "tags": chance.sample(("a", "b", "c", f"t-{tenant}"), chance.randrange(4)),
        "props": {k: chance.randrange(100) for k in chance.sample(("x", "y", "z"), 2)},
        "payload": {"page": {"path": chance.choice(("/", "/buy"))}, "n": chance.randrange(9)},
        "price": f"{chance.randrange(100_000)}.{chance.randrange(10_000):04}",
        "big": 2**53 + 1 + chance.randrange(1000),
        "divisor": chance.randrange(1, 9),
    }
    if chance.random() < 0.5:
        row["score"] = chance.randrange(-5, 6)
    return row


def clicks(seed: int, count: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {
            "tenant_id": chance.choice(TENANTS),
            "at": 1_740_000_000 + chance.randrange(1_000_000),
            "page": chance.choice(("/", "/about", "/buy")),
        }
        for _ in range(count)
    ]


def visits(seed: int, count: int) -> list[dict[str, Any]]:
    """Half of the rows are so old that landing drops them at once, the others stay for decades."""
    chance = random.Random(seed)
    return [
        {
            "tenant_id": int(chance.choice(TENANTS)),
            "at": chance.choice((1_700_000_000, 4_000_000_000)) + chance.randrange(10_000_000),
            "units": chance.randrange(1, 50),
        }
        for _ in range(count)
    ]


def unpacked(directory: Path) -> Path:
    """The packed directory below another one, which then holds `.rookery`."""
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory


def answers() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ANSWERS.read_text(encoding="utf-8"))
    return document


def asked(server: Any) -> Iterator[tuple[str, Any]]:
    """Every question that is recorded, and its answer by a running server. The same for every program."""
    for tenant in TENANTS:
        token = server.mint(*(f"PIPES:READ:{e}" for e in ENDPOINTS), tenant=tenant)
        for endpoint in ENDPOINTS:
            response = server.get(f"/v0/pipes/{endpoint}.json", token)
            yield f"{endpoint} of {tenant}", _answer(response)
        since = server.get("/v0/pipes/by_day.json", token, params={"since": "2025-03-09 01:30:00"})
        yield f"by_day since of {tenant}", _answer(since)
    for table in COUNTED:
        yield f"count of {table}", server.sql(f"SELECT count() AS rows FROM {table}")
    yield "quarantined", server.admin_json("GET", "/v0/datasources/events/quarantine")["total"]
    suspended = server.admin_json("GET", "/v0/fanout")["suspended"]
    yield "suspended", sorted([s["view"], s["tenant"], s["without"]] for s in suspended)
    yield (
        "tenants",
        [[t["id"], t["placement"], t["state"]] for t in server.admin_json("GET", "/v0/tenants")["tenants"]],
    )
    yield "static token", server.admin_json("GET", "/v0/tokens/backend")["token"]


def _answer(response: Any) -> Any:
    assert response.status_code == 200, response.text
    body = response.json()
    return {"meta": body["meta"], "data": body["data"]}
