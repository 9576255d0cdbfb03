"""Five tenants in both placements, whose rows have words that name their tenant."""

from __future__ import annotations

from typing import Any

from tests.isolation.services import Service

PLACEMENTS = {"ant": "pooled", "bee": "tables", "cat": "pooled", "dog": "tables", "elk": "pooled"}
ROWS = 40
FILES = {
    "events": """
tenant: tenant
columns:
  - {name: tenant, type: String}
  - {name: word, type: String}
  - {name: k, type: Int64}
engine: {sorting_key: [tenant, k]}
tokens:
  - {name: ingest, scope: APPEND}
""",
    "nested": """
tenant: {column: tenant, nest_copy: false}
columns:
  - {name: tenant, type: LowCardinality(String), json: $.who.id}
  - {name: word, type: String}
  - {name: claimed, type: String, default: "''", json: $.who.name}
engine: {sorting_key: [tenant, word]}
""",
    "counts": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: String}
  - {name: word, type: String}
  - {name: n, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant, word], columns: [n]}
""",
    "fill_counts": """
sql: SELECT tenant, word, count() AS n FROM events GROUP BY tenant, word
materialize: {target: counts, per_tenant: true}
""",
    "words": "sql: SELECT word, k FROM events WHERE k >= {{ Int64(low, 0) }} ORDER BY k\n",
    "counted": "sql: SELECT word, sum(n) AS n FROM counts GROUP BY word ORDER BY word\n",
    "breaks": "sql: SELECT word, throwIf(k = 39) AS x FROM events ORDER BY k\n",
    "breaks_late": """
sql: |
  SELECT word, n.number AS b, throwIf(n.number = 20000) AS x FROM events CROSS JOIN numbers(30000) AS n
""",
    "large": "sql: SELECT word, repeat(word, 20) AS long, n.number AS b FROM events CROSS JOIN numbers(800) AS n\n",
    "slow": """
sql: SELECT word, sum(cityHash64(n.number, word)) AS x FROM events CROSS JOIN numbers(100000000) AS n GROUP BY word
endpoint: {limits: {max_seconds: 0.1}}
""",
    "short": """
sql: SELECT word FROM events CROSS JOIN numbers(5000) AS n
endpoint: {limits: {max_rows: 1000}}
""",
}


def rows_of(tenant: str, count: int = ROWS) -> list[dict[str, Any]]:
    return [{"tenant": tenant, "word": f"{tenant}-word-{k}", "k": k} for k in range(count)]


PIPES = ("words", "counted", "breaks", "breaks_late", "large", "slow", "short")


def token_of(service: Service, tenant: str) -> str:
    return service.token(*(f"PIPES:READ:{p}" for p in PIPES), "DATASOURCES:READ:events", tenant=tenant)
