"""The project of the isolation tests, and rows whose every value shows their tenant."""

from __future__ import annotations

from typing import Any

PLACEMENTS = {"acme": "pooled", "zed": "tables", "omega": "pooled", "yeti": "tables"}
OWN_WORKSPACE = ("acme", "zed")
ROWS = 60
"""Rows of a tenant in `events`."""

COLUMNS = """
columns:
  - {name: tenant, type: String}
  - {name: id, type: UInt64}
  - {name: at, type: DateTime64(3)}
  - {name: day, type: Date}
  - {name: s, type: String}
  - {name: lc, type: LowCardinality(String)}
  - {name: n, type: Nullable(Int64)}
  - {name: i, type: Int64}
  - {name: arr, type: Array(String)}
  - {name: nums, type: Array(Int64)}
  - {name: m, type: "Map(String, String)"}
  - {name: t, type: "Tuple(a String, b Int64)"}
  - {name: j, type: JSON(max_dynamic_paths=4)}
  - {name: u, type: UUID}
  - {name: d, type: "Decimal(18, 4)"}
  - {name: f, type: FixedString(12)}
  - {name: e, type: "Enum8('own' = 1, 'mine' = 2, 'zed_enum' = 3, 'omega_enum' = 4, 'yeti_enum' = 5)"}
"""
INDEXES = """
indexes:
  - {name: by_i, expression: i, type: minmax, granularity: 1}
  - {name: by_s, expression: s, type: bloom_filter(0.01), granularity: 1}
  - {name: by_lc, expression: lower(s), type: "ngrambf_v1(3, 256, 2, 0)", granularity: 1}
  - {name: by_day, expression: day, type: minmax, granularity: 1}
"""
FILES: dict[str, str] = {
    # The landing datasource with a copy in each nest, and one without.
    "events": f"""
tenant: tenant
{COLUMNS}
{INDEXES}
engine:
  sorting_key: [tenant, i, day, cityHash64(id)]
  sampling_key: cityHash64(id)
  settings: {{index_granularity: 16}}
""",
    "logs": f"""
tenant: {{column: tenant, nest_copy: false}}
{COLUMNS}
{INDEXES}
engine: {{sorting_key: [tenant, at, s], settings: {{index_granularity: 16}}}}
""",
    "sums": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: LowCardinality(String)}
  - {name: day, type: Date}
  - {name: lc, type: LowCardinality(String)}
  - {name: events, type: UInt64}
  - {name: total, type: "Decimal(38, 4)"}
engine: {type: SummingMergeTree, sorting_key: [tenant, day, lc], columns: [events, total]}
""",
    "fill_sums": """
sql: |
  SELECT tenant, day, lc, count() AS events, sum(d) AS total FROM events GROUP BY tenant, day, lc
materialize: {target: sums, per_tenant: true}
""",
    "states": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: String}
  - {name: day, type: Date}
  - {name: users, type: "AggregateFunction(uniqExact, String)"}
  - {name: names, type: "AggregateFunction(groupUniqArray, String)"}
  - {name: largest, type: "SimpleAggregateFunction(max, Int64)"}
engine: {type: AggregatingMergeTree, sorting_key: [tenant, day]}
""",
    "fill_states": """
nodes:
  - {name: all_of_them, sql: "SELECT tenant, day, s, i FROM logs"}
  - name: as_states
    sql: |
      SELECT tenant, day, uniqExactState(s) AS users, groupUniqArrayState(s) AS names, max(i) AS largest
      FROM all_of_them GROUP BY tenant, day
materialize: {target: states, per_tenant: true}
""",
    "latest": """
tenant: {column: tenant, landing: false}
final: true
columns:
  - {name: tenant, type: String}
  - {name: lc, type: LowCardinality(String)}
  - {name: s, type: String}
  - {name: i, type: Int64}
  - {name: at, type: DateTime64(3)}
engine: {type: ReplacingMergeTree, sorting_key: [tenant, lc], version: at}
""",
    "fill_latest": """
sql: SELECT tenant, lc, s, i, at FROM events
materialize: {target: latest, per_tenant: true}
""",
    "bare": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: String}
  - {name: s, type: String}
  - {name: i, type: Int64}
engine: {sorting_key: [tenant, s]}
""",
    "fill_bare": """
sql: SELECT tenant, s, i FROM events
materialize: {target: bare, per_tenant: true, drop_tenant_column: true}
""",
    # One tenant's rows in an ordinary datasource, as an author would make it for that tenant alone.
    "omega_ds": """
columns:
  - {name: omega_column, type: String}
engine: {sorting_key: [omega_column]}
""",
    "omega_pipe": """
sql: SELECT s AS omega_column FROM events WHERE tenant = 'omega'
materialize: {target: omega_ds}
""",
    "omega_usage": """
sql: SELECT count() AS c, max(omega_column) AS m FROM omega_ds
""",
    # Dimensions, with and without a tenant.
    "prices": """
columns:
  - {name: lc, type: String}
  - {name: price, type: Int64}
engine: {sorting_key: [lc]}
""",
    "accounts": """
tenant: {column: tenant, landing: false}
columns:
  - {name: tenant, type: String}
  - {name: plan, type: String}
engine: {sorting_key: [tenant]}
""",
    # Endpoints, most of them written without regard to tenants.
    "everything": "sql: SELECT * FROM events\n",
    "all_logs": "sql: SELECT * FROM logs ORDER BY id\n",
    "totals": "sql: SELECT day, lc, sum(events) AS events, sum(total) AS total FROM sums GROUP BY day, lc\n",
    "merged": "sql: SELECT day, uniqExactMerge(users) AS users, arraySort(groupUniqArrayMerge(names)) AS names, "
    "max(largest) AS largest FROM states GROUP BY day\n",
    "raw_states": """
sql: |
  SELECT day, finalizeAggregation(users) AS users, arraySort(finalizeAggregation(names)) AS names FROM states
""",
    "last_seen": "sql: SELECT lc, s, i FROM latest\n",
    "bared": "sql: SELECT * FROM bare\n",
    "crossed": """
sql: SELECT a.s AS s, b.s AS other, plan FROM events AS a CROSS JOIN logs AS b CROSS JOIN accounts
""",
    "joined": "sql: |\n  SELECT e.s, e.i, p.price FROM events AS e LEFT JOIN prices AS p ON e.lc = p.lc\n",
    "united": "sql: SELECT s FROM events UNION ALL SELECT s FROM logs UNION ALL SELECT s FROM bare\n",
    "wrong_tenant": "sql: SELECT * FROM events WHERE tenant != 'acme' AND tenant != 'zed'\n",
    "other_tenant": "sql: SELECT s FROM events WHERE tenant = {{ String(tenant_id, 'omega') }}\n",
    "keyed": """
sql: SELECT s FROM events WHERE tenant = {{ String(customer) }}
parameters:
  - {name: customer, type: String, tenant_key: true}
""",
    "scalar": "sql: SELECT (SELECT groupArray(s) FROM (SELECT s FROM events ORDER BY s)) AS everybody, "
    "(SELECT max(plan) FROM accounts) AS plan\n",
    "chained": """
nodes:
  - {name: chained_a, sql: "SELECT * FROM events"}
  - {name: chained_b, sql: "SELECT * FROM chained_a WHERE s IN (SELECT s FROM chained_a)"}
  - {name: chained_c, sql: "SELECT s, (SELECT count() FROM chained_b) AS c FROM chained_b"}
""",
    "over": "sql: SELECT * FROM everything\n",
    "chosen": """
sql: |
  SELECT {{ columns(which, 's') }}, {{ column(by, 'i') }} AS by FROM events
  {% if defined(low) %} WHERE {{ column(by, 'i') }} >= {{ Int64(low) }} {% end %}
""",
    "typed": """
sql: |
  SELECT count() AS c, {{ String(text, '') }} AS text, {{ Array(list, 'String', 'a,b') }} AS list FROM events
  WHERE s = {{ String(text, '') }} OR i = {{ Int64(number, 0) }} OR day = {{ Date(day, '2024-01-01') }}
     OR at = {{ DateTime64(moment, '2024-01-01 00:00:00.000') }}
     OR u = {{ UUID(id, '00000000-0000-0000-0000-000000000000') }}
     OR has({{ Array(list, 'String', 'a,b') }}, s) OR d = {{ Float64(ratio, 0.5) }}
""",
    "parsed": "sql: SELECT toInt64(concat({{ String(text) }}, s)) AS x FROM events WHERE s != {{ String(text) }}\n",
    "thrown": "sql: SELECT sum(toInt64(s)) AS total FROM events WHERE {{ Int64(by, 1) }} > 0\n",
}
LANDING = ("events", "logs")
READABLE = ("events", "logs", "sums", "states", "latest", "bare", "prices", "accounts")
PIPES = tuple(
    n for n in FILES
    if n not in {*READABLE, "omega_ds", "omega_pipe", "omega_usage"} and not n.startswith("fill_")
)  # fmt: skip


def rows_of(tenant: str, *, count: int = ROWS, landing: str = "events") -> list[dict[str, Any]]:
    """Rows whose every value shows their tenant. Values of other tenants break functions that work on one's own:
    texts that are not numbers, zeros, the ends of ranges."""
    own = tenant in OWN_WORKSPACE
    number = list(PLACEMENTS).index(tenant) + 1
    return [_row(tenant, number, k, own, landing) for k in range(count)]


def _row(tenant: str, number: int, k: int, own: bool, landing: str) -> dict[str, Any]:
    word = f"77{number}0{k:03}" if own else f"{tenant}-secret-{k}"
    return {
        "tenant": tenant,
        "id": number * 1000 + k,
        "at": f"2024-0{number}-{k % 28 + 1:02} 00:00:{k % 60:02}.{number}00",
        "day": f"2024-0{number}-{k % 7 + 1:02}" if own or k % 9 else ("1970-01-01", "2149-06-06")[k % 2],
        "s": word,
        "lc": f"{tenant}-kind-{k % 4}",
        "n": None if k % 5 == 0 else number * 1000 + k,
        "i": k + 1 if own else (0, -9_223_372_036_854_775_808, 9_223_372_036_854_775_807, number * 1000)[k % 4],
        "arr": [word, f"{tenant}-item"][: 2 if own else k % 3],
        "nums": [k + 1, number] if own else [],
        "m": {f"{tenant}_key": word},
        "t": {"a": word, "b": k + 1 if own else 0},
        "j": {"shared": word, f"{tenant}_path_{k % 8}": k, "deep": {f"{tenant}_deep": word}},
        "u": f"{number:08x}-0000-4000-8000-{k:012x}",
        "d": f"{number}.{k:04}",
        "f": f"{tenant[:5]}{landing[:2]}{k:03}",
        "e": "own" if own else f"{tenant}_enum",
    }


def sentinels(tenant: str) -> list[str]:
    """Texts that stand in every column of a tenant's rows and in no other's."""
    number = list(PLACEMENTS).index(tenant) + 1
    word = f"77{number}00" if tenant in OWN_WORKSPACE else f"{tenant}-secret"
    parts = [f"{tenant}{part}" for part in ("-plan", "-kind", "-item", "_key", "_path", "_deep")]
    return [word, *parts, f"{number:08x}-0000", f"2024-0{number}-", f"{tenant[:5]}ev", f"{tenant[:5]}lo"]
