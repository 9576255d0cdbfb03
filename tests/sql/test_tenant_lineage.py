"""A per-tenant pipe that could mix tenants in the pool does not compile; one that keeps them apart does."""

import pytest

from engine.errors import TENANT_MIX, TENANT_OUTPUT
from engine.workspace.workspace import Workspace
from tests.support.compiling import BASE, problems_of

DIMENSION = """
columns:
  - {name: kind, type: String}
  - {name: price, type: Float64}
engine: {sorting_key: kind}
"""
ACCOUNTS = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: plan, type: String}
engine: {sorting_key: tenant_id}
"""
KEEPS = [
    "SELECT tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY tenant_id, day",
    "SELECT tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY ALL",
    "SELECT e.tenant_id AS tenant_id, toDate(at) AS day, units FROM events AS e",
    "WITH x AS (SELECT tenant_id, at, units FROM events) SELECT tenant_id, toDate(at) AS day, units FROM x",
    "SELECT tenant_id, day, units FROM (SELECT *, toDate(at) AS day FROM events)",
    "SELECT tenant_id, toDate(at) AS day, sum(units) OVER (PARTITION BY tenant_id ORDER BY at) AS units FROM events",
    "SELECT tenant_id, day, units FROM (SELECT *, toDate(at) AS day FROM events ORDER BY at LIMIT 1 BY tenant_id)",
    "SELECT e.tenant_id AS tenant_id, toDate(at) AS day, units * price AS units "
    "FROM events AS e LEFT JOIN prices AS p ON e.kind = p.kind",
    "SELECT tenant_id, toDate(at) AS day, units FROM events JOIN accounts USING (tenant_id) WHERE plan = 'pro'",
    "SELECT e.tenant_id AS tenant_id, toDate(at) AS day, units FROM events AS e "
    "JOIN accounts AS a ON e.tenant_id = a.tenant_id AND a.plan = 'pro'",
    "SELECT tenant_id, toDate(at) AS day, units FROM events WHERE kind IN (SELECT kind FROM prices)",
]
MIXES = [
    "SELECT any(tenant_id) AS tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY day",
    "SELECT toUInt32(1) AS tenant_id, toDate(at) AS day, units FROM events",
    "SELECT tenant_id + 1 AS tenant_id, toDate(at) AS day, units FROM events",
    "SELECT tenant_id, toDate(at) AS day, units / (SELECT sum(units) FROM events) AS units FROM events",
    "WITH (SELECT max(units) FROM events) AS m SELECT tenant_id, toDate(at) AS day, m AS units FROM events",
    "SELECT tenant_id, toDate(at) AS day, sum(units) OVER (ORDER BY at) AS units FROM events",
    "SELECT tenant_id, toDate(at) AS day, sum(units) OVER w AS units FROM events WINDOW w AS (PARTITION BY kind)",
    "SELECT tenant_id, toDate(at) AS day, units FROM events LIMIT 1 BY kind",
    "SELECT e.tenant_id AS tenant_id, toDate(at) AS day, a.tenant_id AS units "
    "FROM events AS e JOIN accounts AS a ON e.kind = a.plan",
    "SELECT a.tenant_id AS tenant_id, toDate(at) AS day, units "
    "FROM events AS e JOIN (SELECT toUInt32(number) AS tenant_id FROM numbers(9)) AS a ON e.units = a.tenant_id",
    "SELECT tenant_id, toDate(at) AS day, units FROM events WHERE units > (SELECT avg(units) FROM events)",
    "SELECT tenant_id, toDate(at) AS day, units FROM events WHERE kind IN (SELECT kind FROM events)",
    "SELECT tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY tenant_id, day WITH ROLLUP",
    "SELECT tenant_id, toDate(at) AS day, rowNumberInAllBlocks() AS units FROM events",
    "SELECT * REPLACE (toUInt32(1) AS tenant_id), toDate(at) AS day FROM events",
]


def _with(sql: str) -> dict[str, str]:
    pipe = f"sql: |\n  {sql}\nmaterialize: {{target: daily, per_tenant: true}}\n"
    return {**BASE, "sums": pipe, "prices": DIMENSION, "accounts": ACCOUNTS}


@pytest.mark.parametrize("sql", KEEPS)
def test_pipes_that_keep_tenants_apart_compile(workspace: Workspace, sql: str) -> None:
    assert [str(p) for p in problems_of(workspace, _with(sql))] == []


@pytest.mark.proves("A11")
@pytest.mark.parametrize("sql", MIXES)
def test_pipes_that_could_mix_tenants_are_refused_with_a_hint_and_a_place(workspace: Workspace, sql: str) -> None:
    (problem,) = problems_of(workspace, _with(sql))
    assert problem.code in (TENANT_MIX, TENANT_OUTPUT)
    assert problem.hint
    assert problem.place is not None and problem.place.file == "sums.yaml"


def test_mixing_in_an_earlier_node_or_another_pipe_is_refused(workspace: Workspace) -> None:
    nodes = """
nodes:
  - {name: totals, sql: "SELECT any(tenant_id) AS tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY day"}
  - {name: last, sql: "SELECT tenant_id, day, units FROM totals"}
materialize: {target: daily, per_tenant: true}
"""
    (problem,) = problems_of(workspace, {**BASE, "sums": nodes})
    assert problem.code is TENANT_MIX
    assert "totals" in str(problem.place)
    other = (
        'sql: "SELECT max(tenant_id) AS tenant_id, toDate(at) AS day, sum(units) AS units FROM events GROUP BY day"\n'
    )
    reader = "sql: SELECT tenant_id, day, units FROM other\nmaterialize: {target: daily, per_tenant: true}\n"
    problems = problems_of(workspace, {**BASE, "sums": reader, "other": other + "type: standard\n"})
    assert [p.code for p in problems] == [TENANT_MIX]
