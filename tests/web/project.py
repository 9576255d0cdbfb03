"""The project that the web tests run against, and its rows.

Tenants 1 (own tables) and 2 (pooled) exist, tenant 3 sends events and is not added. Every tenant's values are unlike
any other's, so that a leak shows in the bytes of an answer.
"""

from __future__ import annotations

from typing import Any

from tests.support.server import Server

FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: DateTime, default: "toDateTime('2026-01-01 00:00:00')"}
  - {name: kind, type: LowCardinality(String), default: "'view'"}
  - {name: note, type: String, default: "''"}
  - {name: units, type: Int16, default: "1"}
  - {name: page, type: String, default: "'-'", json: $.page.path}
  - {name: depth, type: Int16, default: "0", json: "$.page['how deep']"}
  - {name: tags, type: "Array(String)", json: "$.tags[:]"}
engine: {sorting_key: [tenant_id, at]}
tokens:
  - {name: ingest, scope: APPEND}
""",
    "datasources/notes.yaml": """
tenant: owner
columns:
  - {name: owner, type: String}
  - {name: text, type: String}
engine: {sorting_key: [owner]}
""",
    "datasources/daily.yaml": """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
  - {name: kind, type: LowCardinality(String)}
  - {name: events, type: UInt64}
  - {name: units, type: Int64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, day, kind], columns: [events, units]}
""",
    "datasources/prices.yaml": """
columns:
  - {name: kind, type: String}
  - {name: price, type: Float64}
  - {name: big, type: UInt64, default: "9007199254740993"}
  - {name: updated, type: DateTime, default: "toDateTime(0)"}
engine: {type: ReplacingMergeTree, sorting_key: [kind], version: updated}
""",
    "datasources/payroll.yaml": """
columns:
  - {name: employee_secret_column, type: String}
engine: {sorting_key: [employee_secret_column]}
""",
    "datasources/clicks.yaml": """
tenant: org
columns:
  - {name: org, type: UInt32, json: $.who.org}
  - {name: big, type: UInt64, default: "1"}
  - {name: wide, type: Int256, default: "1"}
  - {name: few, type: Nullable(Int8)}
  - {name: list, type: Array(Int8)}
engine: {sorting_key: [org]}
""",
    "pipes/fill_daily.yaml": """
nodes:
  - name: fill_daily_sums
    sql: |
      SELECT tenant_id, toDate(at) AS day, kind, count() AS events, sum(units) AS units
      FROM events GROUP BY tenant_id, day, kind
materialize: {target: daily, per_tenant: true}
""",
    "pipes/by_kind.yaml": """
description: Units by kind.
nodes:
  - name: by_kind_node
    sql: |
      SELECT kind, sum(events) AS events, sum(units) AS units FROM daily
      WHERE day >= {{ Date(from_day, '2000-01-01', description='First day') }}
      {% if defined(kind) %} AND kind = {{ String(kind) }} {% end %}
      GROUP BY kind ORDER BY kind
""",
    "pipes/outer.yaml": """
sql: SELECT count() AS kinds, sum(units) AS units, {{ String(label, 'none') }} AS label FROM by_kind
""",
    "pipes/raw.yaml": """
sql: SELECT at, kind, note, units, page FROM events ORDER BY note
""",
    "pipes/keyed.yaml": """
sql: SELECT count() AS events, min(note) AS note FROM events WHERE tenant_id = {{ UInt32(customer) }}
parameters:
  - {name: customer, type: UInt32, tenant_key: true}
""",
    "pipes/outer_keyed.yaml": """
sql: SELECT events, note FROM keyed
""",
    "pipes/notes_of.yaml": """
sql: SELECT text FROM notes ORDER BY text
""",
    "pipes/priced.yaml": """
sql: SELECT kind, price, big FROM prices FINAL ORDER BY kind
""",
    "pipes/typed.yaml": """
sql: |
  SELECT {{ Int8(small, 1) }} AS small, {{ Date(day, '2026-01-01') }} AS day,
         {{ DateTime(moment, '2026-01-01 00:00:00') }} AS moment,
         {{ Array(list, 'Int32', '1,2') }} AS list, {{ Float64(ratio, 0.5) }} AS ratio,
         {{ Boolean(flag, False) }} AS flag, {{ UUID(id, '00000000-0000-0000-0000-000000000000') }} AS id
""",
    "pipes/echo.yaml": """
sql: SELECT {{ String(text) }} AS text
""",
    "pipes/declared.yaml": """
sql: SELECT {{ String(size) }} AS size, {{ Int32(count) }} AS n, {{ String(must) }} AS must
parameters:
  - {name: size, type: String, enum: [small, large], default: small}
  - {name: count, type: Int32, default: 7}
  - {name: must, type: String, required: true}
""",
    "pipes/sized.yaml": """
sql: SELECT {{ Array(sizes, 'String', 'small') }} AS sizes, {{ Int32(level, 1) }} AS level
parameters:
  - {name: sizes, type: Array(String), enum: [small, large]}
  - {name: level, type: Int32, enum: [1, 2]}
""",
    "pipes/through.yaml": """
sql: SELECT size, n, must FROM declared
""",
    "pipes/chosen.yaml": """
sql: SELECT {{ String(order, 'asc', enum=['asc', 'desc']) }} AS direction
""",
    "pipes/picky.yaml": """
sql: |
  {% if defined(teapot) %}{{ custom_error({'error': 'no tea', 'code': 7}, 418) }}{% end %}
  {% if Int32(days, 7) > 90 %}{{ error('at most 90 days') }}{% end %}
  SELECT {{ Int32(days, 7) }} AS days
""",
    "pipes/picked_column.yaml": """
sql: SELECT {{ column(by, 'kind') }} AS value FROM prices ORDER BY value
""",
    "pipes/divided.yaml": """
sql: SELECT intDiv(10, {{ Int32(by, 1) }}) AS result
""",
    "pipes/many.yaml": """
sql: |
  SELECT number, toString(number * 7) AS text, number / 3 AS third
  FROM numbers({{ UInt32(rows, 10) }})
""",
    "pipes/breaks.yaml": """
sql: |
  SELECT number, throwIf(number = {{ UInt64(bad, 0) }}, 'the value 4711 of somebody') AS x
  FROM numbers({{ UInt32(rows, 10) }})
""",
    "pipes/slow.yaml": """
sql: SELECT sum(cityHash64(number)) AS x FROM numbers(100000000000)
endpoint: {limits: {max_seconds: 0.5, max_concurrent: 1}}
""",
    "pipes/short.yaml": """
sql: SELECT number FROM numbers({{ UInt32(rows, 10) }})
endpoint: {limits: {max_rows: 100}}
""",
    "pipes/hungry.yaml": """
sql: SELECT groupArray(number) AS all FROM numbers(30000000)
endpoint: {limits: {max_memory: 50MiB}}
""",
    "pipes/reserved_words.yaml": """
sql: SELECT {{ String(from, 'none') }} AS a, {{ String(tag, 'none') }} AS b
""",
    "pipes/binary.yaml": """
sql: SELECT concat('a', char(255, 254)) AS text, number FROM numbers({{ UInt32(rows, 1) }})
""",
    "pipes/edges.yaml": """
sql: |
  SELECT 'quote " comma , line\\n' AS text, CAST(NULL AS Nullable(Int32)) AS nothing, 0 / 0 AS nan,
         toUInt64(18446744073709551615) AS huge, [1, 2] AS list, map('a', 1) AS m, toDate('2026-02-03') AS day
""",
}

EVENTS: list[dict[str, Any]] = [
    {"tenant_id": 1, "at": "2026-01-01 10:00:00", "kind": "view", "note": "one-a", "units": 1},
    {"tenant_id": 1, "at": "2026-01-02 10:00:00", "kind": "view", "note": "one-b", "units": 2},
    {"tenant_id": 1, "at": "2026-01-02 11:00:00", "kind": "sale", "note": "one-c", "units": 40},
    {"tenant_id": 2, "at": "2026-01-01 10:00:00", "kind": "view", "note": "two-a", "units": 500},
    {"tenant_id": 2, "at": "2026-01-03 10:00:00", "kind": "rent", "note": "two-b", "units": 6000},
    {"tenant_id": 3, "at": "2026-01-03 10:00:00", "kind": "ghost", "note": "three-a", "units": 7000},
]
TOTALS = {"1": {"view": 3, "sale": 40}, "2": {"view": 500, "rent": 6000}}
FOREIGN = {"1": ("two-", "three-", "rent", "ghost", "500", "6000", "7000"), "2": ("one-", "three-", "sale", "ghost")}


def fill(server: Server) -> None:
    """Push the project, add its tenants, send its rows."""
    server.push(FILES)
    server.tenant("1", "tables")
    server.tenant("2", "pooled")
    server.events("events", EVENTS)
    server.events("notes", [{"owner": "1", "text": "note of one"}, {"owner": "2", "text": "note of two"}])
    server.events(
        "prices", [{"kind": "view", "price": 0.5, "updated": 1}, {"kind": "sale", "price": 2, "updated": 1}]
    )
    server.events("prices", [{"kind": "view", "price": 0.75, "updated": 2}])
    server.events("payroll", [{"employee_secret_column": "salary-4711"}])
