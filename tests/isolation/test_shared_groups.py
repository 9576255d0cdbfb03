"""Shared aggregates over many tenants: groups of too few tenants cannot be read in any way."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from engine.control import tenants
from engine.control.doctor import examination
from engine.control.erasure import delete_rows
from engine.errors import RookeryError
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.schema import Name
from engine.tokens.claims import Claims
from engine.tokens.claims import Scope as TokenScope
from tests.support.compiling import problems_of
from tests.support.in_process import Rookery, open_rookery

pytestmark = [pytest.mark.feature, pytest.mark.proves("C18")]

LEAST = 4
EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt32}
  - {name: n, type: Int64}
  - {name: region, type: String}
  - {name: kind, type: LowCardinality(String)}
engine: {sorting_key: [tenant_id]}
"""
PRICES = "columns: [{name: kind, type: String}, {name: price, type: Int64}]\nengine: {sorting_key: kind}\n"
POPULAR = """
shared: {min_tenants: %d}
columns:
  - {name: region, type: String}
  - {name: kind, type: String}
  - {name: events, type: "SimpleAggregateFunction(sum, UInt64)"}
  - {name: units, type: "SimpleAggregateFunction(sum, Int64)"}
  - {name: mean, type: "AggregateFunction(avg, Int64)"}
engine: {type: AggregatingMergeTree, sorting_key: [region, kind]}
"""
OUTPUTS = "region, kind, count() AS events, sum(n) AS units, avgState(n) AS mean"
FILL = f"sql: |\n  SELECT {OUTPUTS} FROM events GROUP BY region, kind\nmaterialize: {{target: popular}}\n"
CODES = (
    f"shared: {{min_tenants: {LEAST}}}\n"
    """
columns: [{name: code, type: String}, {name: events, type: "SimpleAggregateFunction(sum, UInt64)"}]
engine: {type: AggregatingMergeTree, sorting_key: [code]}
"""
)
FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/popular.yaml": POPULAR % LEAST,
    "pipes/fill.yaml": FILL,
    "datasources/codes.yaml": CODES,
    "pipes/fill_codes.yaml": "sql: SELECT kind AS code, count() AS events FROM events WHERE region = 'codes' GROUP BY code\n"
    "materialize: {target: codes}\n",
    "pipes/compare.yaml": "sql: |\n  SELECT region, kind, sum(events) AS events, sum(units) AS units,\n"
    "  round(avgMerge(mean), 3) AS mean FROM popular GROUP BY region, kind ORDER BY region, kind\n",
}
PLAIN = {"events": EVENTS, "prices": PRICES, "popular": POPULAR % 10}
KEEPS = [
    f"SELECT {OUTPUTS} FROM events GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM events WHERE tenant_id != 7 AND n > 0 GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM (SELECT * FROM events) GROUP BY region, kind",
    f"WITH x AS (SELECT tenant_id, region, kind, n FROM events) SELECT {OUTPUTS} FROM x GROUP BY region, kind",
    "SELECT e.region AS region, p.kind AS kind, countIf(n > 2) AS events, sum(n * price) AS units, avgState(n) AS mean "
    "FROM events AS e JOIN prices AS p ON e.kind = p.kind GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM events GROUP BY region, kind, n % 2",
]
REFUSED = [
    f"SELECT {OUTPUTS} FROM events WHERE tenant_id = 1 GROUP BY region, kind UNION ALL "
    f"SELECT {OUTPUTS} FROM events GROUP BY region, kind",
    "SELECT 'a' AS region, 'b' AS kind, count() AS events, sum(n) AS units, avgState(n) AS mean FROM events",
    "SELECT region, kind, count() AS events, max(n) AS units, avgState(n) AS mean FROM events GROUP BY region, kind",
    "SELECT region, kind, count() AS events, toInt64(uniq(id)) AS units, avgState(n) AS mean FROM events "
    "GROUP BY region, kind",
    "SELECT region, kind, count() AS events, sumIf(n, tenant_id = 7) AS units, avgState(n) AS mean FROM events "
    "GROUP BY region, kind",
    "SELECT toString(tenant_id) AS region, kind, count() AS events, sum(n) AS units, avgState(n) AS mean FROM events "
    "GROUP BY region, kind",
    "SELECT region, any(kind) AS kind, count() AS events, sum(n) AS units, avgState(n) AS mean FROM events "
    "GROUP BY region",
    "SELECT region, kind, count() AS events, n AS units, avgState(n) AS mean FROM events GROUP BY region, kind, n",
    "SELECT region, kind, count() AS events, sum(sum(n)) OVER () AS units, avgState(n) AS mean FROM events "
    "GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM events GROUP BY region, kind WITH ROLLUP",
    f"SELECT {OUTPUTS} FROM events GROUP BY region, kind LIMIT 1 BY kind",
    f"SELECT {OUTPUTS}, 1 AS tenant_id FROM events GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM (SELECT any(tenant_id) AS tenant_id, region, kind, n FROM events GROUP BY region, kind, n) "
    "GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM (SELECT toUInt32(1) AS tenant_id, region, kind, n FROM events) GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM events WHERE n > (SELECT avg(n) FROM events) GROUP BY region, kind",
    "SELECT e.region AS region, e.kind AS kind, count() AS events, sum(f.n) AS units, avgState(e.n) AS mean "
    "FROM events AS e JOIN events AS f ON e.kind = f.kind GROUP BY region, kind",
    "SELECT 'a' AS region, kind, count() AS events, sum(price) AS units, avgState(price) AS mean FROM prices "
    "GROUP BY region, kind",
]
ANOTHER = "SELECT region, kind, count() AS events, sumIf(n, %s = 7) AS units, avgState(n) AS mean FROM "
REFUSED += [
    ANOTHER % "t" + "(SELECT tenant_id AS t, tenant_id, region, kind, n FROM events) GROUP BY region, kind",
    ANOTHER % "t" + "(SELECT *, tenant_id + 0 AS t FROM events) GROUP BY region, kind",
    ANOTHER % "`plus(tenant_id, 0)`" + "(SELECT *, tenant_id + 0 FROM events) GROUP BY region, kind",
    ANOTHER % "t.1" + "(SELECT *, tuple(*) AS t FROM events) GROUP BY region, kind",
    ANOTHER % "t" + "events WHERE (tenant_id AS t) > 0 GROUP BY region, kind",
    "WITH tenant_id AS t " + ANOTHER % "t" + "events GROUP BY region, kind",
    ANOTHER % "COLUMNS('^tenant')" + "events GROUP BY region, kind",
    f"SELECT {OUTPUTS} FROM events GROUP BY region, kind HAVING countIf(tenant_id = 7) > 0",
]
TARGETS = [
    POPULAR.replace("AggregatingMergeTree", "SummingMergeTree") % 10,
    POPULAR.replace("SimpleAggregateFunction(sum, Int64)", "SimpleAggregateFunction(max, Int64)") % 10,
    POPULAR.replace('"SimpleAggregateFunction(sum, Int64)"', "Int64") % 10,
    POPULAR.replace("kind, type: String", "kind, type: LowCardinality(String)") % 10,
    POPULAR.replace("[region, kind]", "[region, lower(kind)]") % 10,
]


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("groups")) as opened:
        opened.push(FILES)
        opened.add("1", "2")
        opened.add("3", placement="pooled")
        yield opened


def _codes(rookery: Rookery, sql: str, target: str = POPULAR % 10) -> set[str]:
    pipe = f"sql: |\n  {sql}\nmaterialize: {{target: popular}}\n"
    return {p.code.id for p in problems_of(rookery.workspace, {**PLAIN, "popular": target, "pipe": pipe})}


def test_only_provable_groups_can_be_shared(rookery: Rookery) -> None:
    assert {sql: c for sql in KEEPS if (c := _codes(rookery, sql))} == {}
    codes_by_sql = {sql: _codes(rookery, sql) for sql in REFUSED}
    assert {sql: c for sql, c in codes_by_sql.items() if not c or not c <= {"RK2015", "RK2011", "RK2009"}} == {}
    assert sum(c == {"RK2015"} for c in codes_by_sql.values()) > 0.8 * len(codes_by_sql)
    assert {t: c for t in TARGETS if not (c := _codes(rookery, KEEPS[0], t)) or not c <= {"RK2015", "RK2007"}} == {}


def test_targets_derived_from_groups_are_not_public(rookery: Rookery) -> None:
    """A view reads all groups, so its target is not public."""
    files = {**PLAIN, "pipe": FILL, "last": PRICES.replace("price", "events").replace("Int64", "UInt64")}
    files["again"] = "sql: SELECT kind, events FROM popular\nmaterialize: {target: last}\n"
    assert {p.code.id for p in problems_of(rookery.workspace, files)} == {"RK2014"}
    files["last"] = "shared: true\n" + files["last"]
    assert problems_of(rookery.workspace, files) == []


def _asked(rookery: Rookery, sql: str, tenant: str | None = "1", filter: str | None = None) -> list[dict[str, Any]]:
    scopes = (TokenScope("DATASOURCES:READ", "popular"), TokenScope("DATASOURCES:READ", "codes", filter))
    scopes = (*scopes, TokenScope("PIPES:READ", "compare"))
    claims = Claims("a test", scopes if tenant else (TokenScope("ADMIN"),), tenant=tenant)
    answer = Queries(rookery.workspace).sql(QueryRequest(claims), sql)
    try:
        rows: list[dict[str, Any]] = json.loads(answer.head)["data"]
        return rows
    finally:
        answer.close()


Groups = dict[tuple[str, str], list[tuple[int, int]]]


def _expected(rows: Groups) -> list[dict[str, Any]]:
    return [
        {"region": r, "kind": k, "events": len(g), "units": sum(n for _, n in g)}
        | {"mean": round(sum(n for _, n in g) / len(g), 3)}
        for (r, k), g in sorted(rows.items())
        if len({t for t, _ in g}) >= LEAST
    ]


def test_groups_are_shown_with_enough_tenants_and_erased_exactly(rookery: Rookery) -> None:
    """Random rows, merges and erasures, beside what Python makes of them."""
    pick = random.Random(18)
    rows: Groups = defaultdict(list)
    hidden, compare = 0, "SELECT * FROM compare"
    purged: set[int] = set()
    for step in range(8):
        batch = []
        for _ in range(14):
            tenant, n = pick.randrange(1, 9), pick.randrange(100)
            group = (pick.choice("ab"), pick.choice("xyz"))
            if tenant not in purged:
                rows[group].append((tenant, n))
            batch.append({"tenant_id": tenant, "id": 1, "n": n, "region": group[0], "kind": group[1]})
        rookery.append(batch)
        if step % 3 == 2:
            rookery.run("OPTIMIZE TABLE main.popular FINAL")
        if step in (3, 6):
            gone = pick.randrange(1, 9)
            tenants.remove(rookery.workspace, str(gone), purge=True)
            purged.add(gone)  # Its later rows go to quarantine.
            rows = defaultdict(list, {g: kept for g, r in rows.items() if (kept := [x for x in r if x[0] != gone])})
        reader = next(t for t in ("1", "2", "3") if t in rookery.workspace.current.tenants)
        for who in (reader, None):
            assert _asked(rookery, compare, who) == _expected(rows), step
        hidden += len(rows) - len(_expected(rows))
    assert hidden and _expected(rows)
    assert [f for f in examination.examine(rookery.workspace, deep=True).findings if "popular" in f.object] == []


def test_no_query_reveals_a_hidden_group(rookery: Rookery) -> None:
    """Conditions and functions are not evaluated on it: one that fails there does not fail."""
    rookery.append([{"tenant_id": t, "id": 1, "n": 1, "region": "open", "kind": "k"} for t in range(20, 20 + LEAST)])
    rookery.append([{"tenant_id": 30, "id": 1, "n": 4711, "region": "hidden", "kind": "secret"}])
    assert rookery.rows("SELECT count() FROM main.popular FINAL WHERE region = 'hidden'") == [(1,)]
    for sql in (
        "SELECT count() AS c FROM popular WHERE region = 'hidden'",
        "SELECT count() AS c FROM popular WHERE throwIf(region = 'hidden') = 1",
        "SELECT count() AS c FROM popular WHERE region = 'hidden' AND throwIf(units = 4711)",
        "SELECT sum(throwIf(kind = 'secret')) AS c FROM popular",
        "SELECT count() AS c FROM popular WHERE intDiv(1, units - 4711) = 9 AND kind LIKE 'sec%'",
        "SELECT count() AS c FROM (SELECT * FROM popular ORDER BY units DESC LIMIT 1) WHERE units = 4711",
        "SELECT countIf(region = 'hidden') AS c FROM popular",
        "SELECT sum(n) AS c FROM (SELECT count() AS n FROM popular WHERE kind = 'secret' GROUP BY region)",
        "SELECT count() AS c FROM popular FINAL WHERE kind = 'secret'",
    ):
        assert _asked(rookery, sql) in ([{"c": 0}], [{"c": None}]), sql
    codes = [{"tenant_id": t, "id": 1, "n": 1, "region": "codes", "kind": "7"} for t in range(20, 20 + LEAST)]
    rookery.append([*codes, {**codes[0], "kind": "secret"}])
    for sql, answer in (
        ("SELECT count() AS c FROM codes WHERE toUInt32(code) = 7", 1),
        ("SELECT toInt64(sum(toUInt8(code))) AS c FROM codes", 7),
        ("SELECT count() AS c FROM codes WHERE intDiv(1, length(code) - 6) = -0", 1),
        (
            "SELECT toInt32(max(CAST(code, 'Int32'))) AS c FROM codes WHERE code >= '5' AND toDate(toInt32(code)) > '1970-01-02'",
            7,
        ),
        ("SELECT toInt32(any(accurateCast(code, 'UInt8'))) AS c FROM codes WHERE 1 / (events - 1) > 0", 7),
    ):
        assert _asked(rookery, sql) == [{"c": answer}], sql
    assert _asked(rookery, "SELECT count() AS c FROM codes", "1", "CAST(code, 'UInt8') = 7") == [{"c": 1}]
    for column in ("_rk_tenants", "_part", "_block_number"):
        with pytest.raises(RookeryError):
            _asked(rookery, f"SELECT {column} FROM popular")
    rookery.append([{"tenant_id": t, "id": 1, "n": 1, "region": "hidden", "kind": "secret"} for t in range(31, 34)])
    assert _asked(rookery, "SELECT sum(units) AS c FROM popular WHERE region = 'hidden'") == [{"c": 4714}]


def test_a_group_is_recomputed_after_an_interruption(rookery: Rookery) -> None:
    """An erasure ended after it had recorded the keys and deleted the groups: the next run recomputes them."""
    rookery.append([{"tenant_id": t, "id": 1, "n": 10, "region": "cut", "kind": "k"} for t in range(40, 46)])
    rookery.run(
        "CREATE TABLE main._rk_groups_popular (region String, kind String) ENGINE = MergeTree ORDER BY tuple()"
    )
    rookery.run("INSERT INTO main._rk_groups_popular VALUES ('cut', 'k')")
    delete_rows(rookery.workspace, Name("main", "popular"), "region = 'cut'")
    tenants.remove(rookery.workspace, "45", purge=True)
    assert _asked(rookery, "SELECT units AS c FROM popular WHERE region = 'cut'") == [{"c": 50}]
    assert rookery.rows("EXISTS TABLE main._rk_groups_popular") == [(0,)]
