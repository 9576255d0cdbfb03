"""Ordinary pipes fill a target without a tenant column with rows of at most one tenant, unless it is declared shared."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from engine.compiler import storage
from engine.compiler.compose import Caller
from engine.compiler.scope import Scope
from engine.control.doctor import examination
from engine.errors import ONE_TENANT_FOR_ALL, POOLED_ONLY, UNDECLARED_SHARE, Problems, RookeryError
from engine.schema import Name
from engine.warehouse import ddl
from engine.workspace.workspace import Workspace
from tests.support.compiling import compiled, problems_of, pushed, temporary_workspace
from tests.support.soak import soak_rounds

LANDING = """
tenant: {tenant}
columns:
  - {{name: {tenant}, type: UInt32}}
  - {{name: kind, type: String}}
  - {{name: units, type: Int64}}
  - {{name: arr, type: Array(UInt32)}}
  - {{name: t, type: "Tuple(tenant_id UInt32, b String)"}}
engine: {{sorting_key: [{tenant}]}}
"""
PUBLIC = """
columns: [{name: kind, type: String}, {name: price, type: Int64}]
engine: {sorting_key: kind}
"""
OWN = """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: kind, type: String}, {name: units, type: Int64}]
engine: {sorting_key: [tenant_id]}
"""
WORLD = {
    "events": LANDING.format(tenant="tenant_id"),
    "orders": LANDING.format(tenant="tenant_id"),
    "clicks": LANDING.format(tenant="org"),
    "prices": PUBLIC,
    "daily": OWN,
    "fill_daily": "sql: SELECT tenant_id, kind, units FROM events\nmaterialize: {target: daily, per_tenant: true}\n",
    "endpoint_of_all": "sql: SELECT tenant_id, kind, units FROM events\n",
    "endpoint_of_one": "sql: SELECT kind, units FROM events WHERE tenant_id = 1\n",
    "endpoint_that_mixes": "sql: SELECT kind, sum(units) AS units FROM events GROUP BY kind\n",
    "one_ds": "columns: [{name: kind, type: String}, {name: units, type: Int64}]\nengine: {sorting_key: kind}\n",
    "one_pipe": "sql: SELECT kind, units FROM events WHERE tenant_id = 1\nmaterialize: {target: one_ds}\n",
    "two_ds": "columns: [{name: kind, type: String}, {name: units, type: Int64}]\nengine: {sorting_key: kind}\n",
    "two_pipe": "sql: SELECT kind, units FROM events WHERE tenant_id = 2\nmaterialize: {target: two_ds}\n",
    "open_ds": "shared: true\ncolumns: [{name: kind, type: String}, {name: units, type: Int64}]\n"
    "engine: {sorting_key: kind}\n",
    "open_pipe": "sql: SELECT kind, units FROM events\nmaterialize: {target: open_ds}\n",
}
ONE_TENANTS = [
    "SELECT kind, units FROM events WHERE tenant_id = 1",
    "SELECT kind, units FROM events WHERE 1 = tenant_id AND units > 2",
    "SELECT kind, units FROM events PREWHERE tenant_id = 1 WHERE units > 2",
    "SELECT kind, units FROM events AS e WHERE (units > 2 AND (e.tenant_id = 1 AND kind != ''))",
    "SELECT kind, sum(units) AS units FROM events WHERE tenant_id = 1 GROUP BY kind HAVING units > 0",
    "SELECT kind, max(units) OVER () AS units FROM events WHERE tenant_id = 1",
    "SELECT kind, units FROM events WHERE tenant_id = 1 UNION ALL SELECT kind, price AS units FROM prices",
    "SELECT kind, units FROM events WHERE tenant_id = 1 UNION ALL SELECT kind, units FROM orders WHERE tenant_id = 1",
    "SELECT kind, units FROM (SELECT * FROM events) WHERE tenant_id = 1",
    "SELECT kind, units FROM (SELECT kind, units FROM events WHERE tenant_id = 1) WHERE units > 2",
    "WITH x AS (SELECT * FROM events) SELECT kind, units FROM x WHERE x.tenant_id = 1",
    "WITH x AS (SELECT * FROM events WHERE tenant_id = 1) SELECT kind, units FROM x",
    "SELECT e.kind AS kind, price AS units FROM events AS e LEFT JOIN prices AS p ON e.kind = p.kind "
    "WHERE e.tenant_id = 1",
    "SELECT p.kind AS kind, units FROM prices AS p JOIN events AS e ON e.kind = p.kind WHERE e.tenant_id = 1",
    "SELECT e.kind AS kind, o.units AS units FROM events AS e JOIN orders AS o ON e.kind = o.kind "
    "WHERE e.tenant_id = 1 AND o.tenant_id = 1",
    "SELECT e.kind AS kind, o.units AS units FROM events AS e LEFT JOIN orders AS o ON e.tenant_id = o.tenant_id "
    "AND e.kind = o.kind WHERE e.tenant_id = 1",
    "SELECT kind, o.units AS units FROM events AS e JOIN orders AS o USING (tenant_id, kind) WHERE tenant_id = 1",
    "SELECT kind, units FROM events WHERE tenant_id = 1 AND kind IN (SELECT kind FROM orders WHERE tenant_id = 1)",
    "SELECT kind, units FROM events WHERE tenant_id = 1 AND kind IN (SELECT kind FROM prices)",
    "SELECT kind, units FROM events ARRAY JOIN arr AS a WHERE tenant_id = 1 AND a > 3",
    "SELECT kind, units FROM clicks WHERE org = 1",
    "SELECT kind, units FROM endpoint_of_all WHERE tenant_id = 1",
    "SELECT kind, units FROM endpoint_of_one",
    "SELECT kind, units FROM one_ds",
    "SELECT kind, units FROM one_ds UNION ALL SELECT kind, units FROM events WHERE tenant_id = 1",
    "SELECT kind, price AS units FROM prices",
    "SELECT kind, units FROM open_ds",
]
"""Each reads one tenant's rows, or none."""
SEVERAL_TENANTS = [
    "SELECT kind, units FROM events",
    "SELECT tenant_id, kind, units FROM events",
    "SELECT kind, sum(units) AS units FROM events GROUP BY kind",
    "SELECT kind, units FROM events WHERE tenant_id = 1 OR 1 = 1",
    "SELECT kind, units FROM events WHERE tenant_id = 1 OR tenant_id = 2",
    "SELECT kind, units FROM events WHERE NOT (tenant_id = 1)",
    "SELECT kind, units FROM events WHERE NOT (tenant_id != 1)",
    "SELECT kind, units FROM events WHERE tenant_id IN (1)",
    "SELECT kind, units FROM events WHERE tenant_id IN (1, 2)",
    "SELECT kind, units FROM events WHERE tenant_id >= 1 AND tenant_id <= 1",
    "SELECT kind, units FROM events WHERE tenant_id = 1.0",
    "SELECT kind, units FROM events WHERE tenant_id = true",
    "SELECT kind, units FROM events WHERE tenant_id = toUInt32(kind)",
    "SELECT kind, units FROM events WHERE tenant_id = tenant_id",
    "SELECT kind, units FROM events WHERE tenant_id % 2 = 1",
    "SELECT kind, units FROM events WHERE equals(tenant_id, 1) = 0",
    "SELECT kind, units FROM events WHERE if(units > 3, tenant_id = 1, 1)",
    "SELECT kind, units FROM events WHERE units = 1 AND kind = '1'",
    "SELECT kind, units FROM events HAVING tenant_id = 1",
    "SELECT kind, units, 1 AS tenant_id FROM events WHERE tenant_id = 1",
    "SELECT units AS tenant_id, kind, 1 AS units FROM events WHERE tenant_id = 1",
    "WITH 1 AS tenant_id SELECT kind, units FROM events WHERE tenant_id = 1",
    "WITH 1 AS tenant_id SELECT kind, units FROM (SELECT kind, units FROM events WHERE tenant_id = 1)",
    "SELECT kind, units FROM (SELECT kind, units, toUInt32(1) AS tenant_id FROM events) WHERE tenant_id = 1",
    "SELECT kind, units FROM (SELECT units AS tenant_id, kind, units FROM events) WHERE tenant_id = 1",
    "SELECT kind, units FROM (SELECT t.tenant_id AS tenant_id, kind, units FROM events) AS x WHERE x.tenant_id = 1",
    "SELECT t.tenant_id AS tenant_id, kind, units FROM events WHERE tenant_id = 1",
    "SELECT kind, units FROM events AS t WHERE t.tenant_id = 1",
    "SELECT kind, units FROM events ARRAY JOIN arr AS tenant_id WHERE tenant_id = 1",
    "SELECT kind, units FROM events WHERE arrayExists(tenant_id -> tenant_id = 1, arr)",
    "SELECT kind, units FROM events AS e(org, tenant_id, units, arr, t) WHERE tenant_id = '1'",
    "SELECT kind, units FROM (SELECT any(tenant_id) AS tenant_id, kind, sum(units) AS units FROM events GROUP BY kind)"
    " WHERE tenant_id = 1",
    "SELECT kind, sum(units) AS units FROM events GROUP BY kind HAVING any(tenant_id) = 1",
    "SELECT kind, units FROM events WHERE tenant_id = 1 UNION ALL SELECT kind, units FROM events",
    "SELECT kind, units FROM events WHERE tenant_id = 1 UNION ALL SELECT kind, units FROM events WHERE tenant_id = 2",
    "SELECT kind, units FROM events WHERE tenant_id = 1 UNION ALL SELECT kind, units FROM two_ds",
    "SELECT kind, units FROM one_ds UNION ALL SELECT kind, units FROM two_ds",
    "SELECT kind, units FROM events WHERE tenant_id = 1 AND kind IN (SELECT kind FROM orders)",
    "SELECT kind, units FROM events WHERE tenant_id = 1 AND kind IN orders",
    "SELECT kind, units / (SELECT sum(units) FROM events) AS units FROM events WHERE tenant_id = 1",
    "WITH (SELECT max(units) FROM events) AS m SELECT kind, m AS units FROM events WHERE tenant_id = 1",
    "SELECT kind, price + (SELECT sum(units) FROM events) AS units FROM prices",
    "SELECT e.kind AS kind, o.units AS units FROM events AS e JOIN orders AS o ON e.kind = o.kind "
    "WHERE e.tenant_id = 1",
    "SELECT e.kind AS kind, o.units AS units FROM events AS e CROSS JOIN orders AS o WHERE o.tenant_id = 1",
    "SELECT e.kind AS kind, o.units AS units FROM events AS e JOIN orders AS o ON e.kind = o.kind "
    "WHERE e.tenant_id = 1 AND o.tenant_id = 2",
    "SELECT p.kind AS kind, price AS units FROM prices AS p LEFT ANTI JOIN events AS e ON e.kind = p.kind "
    "WHERE e.tenant_id = 0",
    "SELECT p.kind AS kind, price AS units FROM prices AS p LEFT JOIN events AS e ON e.kind = p.kind "
    "WHERE e.tenant_id = 0",
    "SELECT p.kind AS kind, units FROM prices AS p ANY LEFT JOIN events AS e ON e.kind = p.kind WHERE e.tenant_id = 1",
    "SELECT p.kind AS kind, units FROM events AS e RIGHT JOIN prices AS p ON e.kind = p.kind WHERE e.tenant_id = 1",
    "SELECT kind, rowNumberInAllBlocks() AS units FROM events WHERE tenant_id = 1 AND units != 0",
    "SELECT kind, units FROM clicks WHERE tenant_id = 1",
    "SELECT kind, units FROM endpoint_of_all",
    "SELECT kind, units FROM endpoint_that_mixes",
    "SELECT kind, units FROM endpoint_of_one UNION ALL SELECT kind, units FROM endpoint_of_all",
    "SELECT kind, units FROM one_ds WHERE kind IN (SELECT kind FROM events)",
]
"""Each returns rows of several tenants, or depends on them."""
TARGET = "columns: [{name: kind, type: String}, {name: units, type: Float64}]\nengine: {sorting_key: kind}\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with temporary_workspace(tmp_path_factory.mktemp("sharing")) as workspace:
        yield workspace


def _files(sql: str, target: str = TARGET, more: str = "") -> dict[str, str]:
    return {**WORLD, "made": target, "pipe": f"sql: |\n  {sql}\nmaterialize: {{target: made{more}}}\n"}


def _codes(workspace: Workspace, files: dict[str, str]) -> set[str]:
    return {p.code.id for p in problems_of(workspace, files)}


def test_rows_of_one_tenant_can_reach_a_target_without_a_tenant_column(workspace: Workspace) -> None:
    assert {sql: c for sql in ONE_TENANTS if (c := _codes(workspace, _files(sql)))} == {}


def test_rows_of_several_tenants_need_a_declaration(workspace: Workspace) -> None:
    """Some of these the engine refuses itself, or the target has no such column."""
    codes = {sql: _codes(workspace, _files(sql)) for sql in SEVERAL_TENANTS}
    assert {sql: c for sql, c in codes.items() if not c <= {"RK2014", "RK2007", "RK2011"} or not c} == {}
    assert sum(c == {"RK2014"} for c in codes.values()) > 0.85 * len(codes)


def test_the_refusal_names_the_place_and_the_declaration(workspace: Workspace) -> None:
    (problem,) = problems_of(workspace, _files("SELECT kind, units FROM events"))
    assert problem.code is UNDECLARED_SHARE
    assert str(problem.place) == "pipe.yaml:3:23"
    assert problem.hint
    for words in ("`shared: true` in made.yaml", "`per_tenant: true`", "tenant_id = "):
        assert words in problem.hint


def test_a_declaration_allows_each_refused_pipe(workspace: Workspace) -> None:
    allowed = [s for s in SEVERAL_TENANTS if _codes(workspace, _files(s)) == {"RK2014"}]
    codes = {s: _codes(workspace, _files(s, "shared: true\n" + TARGET)) for s in allowed}
    assert set().union(*codes.values()) <= {"RK2011"}


def test_a_target_without_a_file_is_refused_too(workspace: Workspace) -> None:
    files = _files("SELECT kind, units FROM events", more=", engine: {sorting_key: kind}")
    del files["made"]
    (problem,) = problems_of(workspace, files)
    assert problem.code is UNDECLARED_SHARE and "datasources/made.yaml" in (problem.hint or "")


def test_two_pipes_of_different_tenants_cannot_fill_one_target(workspace: Workspace) -> None:
    files = _files("SELECT kind, units FROM events WHERE tenant_id = 1")
    files["second"] = "sql: SELECT kind, units FROM events WHERE tenant_id = 2\nmaterialize: {target: made}\n"
    assert _codes(workspace, files) == {"RK2014"}
    files["second"] = files["second"].replace("= 2", "= 1")
    assert _codes(workspace, files) == set()


def test_sharing_is_followed_through_chains_of_targets(workspace: Workspace) -> None:
    first = "sql: SELECT kind, units FROM %s\nmaterialize: {target: made}\n"
    second = "sql: SELECT kind, units FROM made\nmaterialize: {target: last}\n"
    for source, codes in (("events", {"RK2014"}), ("one_ds", set()), ("open_ds", set())):
        files = {**WORLD, "made": TARGET, "pipe": first % source, "last": TARGET, "again": second}
        assert _codes(workspace, files) == codes, source


def test_rows_without_their_tenant_are_not_assigned_to_others(workspace: Workspace) -> None:
    """A per-tenant pipe cannot read one tenant's table beside the rows of all tenants."""
    for sql in (
        "SELECT e.tenant_id AS tenant_id, o.kind AS kind, o.units AS units FROM events AS e "
        "JOIN one_ds AS o ON e.kind = o.kind",
        "SELECT tenant_id, kind, units FROM events WHERE kind IN (SELECT kind FROM one_ds)",
    ):
        for more in (", per_tenant: true", ""):
            assert _codes(workspace, _files(sql, OWN, more)) == {"RK2014"}, sql
    open_one = "SELECT tenant_id, kind, units FROM events WHERE kind IN (SELECT kind FROM open_ds)"
    assert _codes(workspace, _files(open_one, OWN, ", per_tenant: true")) == set()


def test_misleading_pipes_get_a_warning(workspace: Workspace) -> None:
    """An endpoint that puts one tenant's rows beside others', and a pipe that sees pooled tenants only."""
    files = {**WORLD, "beside": "sql: SELECT kind, units FROM one_ds UNION ALL SELECT kind, units FROM daily\n"}
    files["both"] = "sql: SELECT kind, units FROM one_ds UNION ALL SELECT kind, units FROM two_ds\n"
    files["one_usage"] = "sql: SELECT kind, sum(units) AS units FROM one_ds GROUP BY kind\n"
    files["part"] = "sql: SELECT kind, units FROM daily\nmaterialize: {target: part_ds}\n"
    files["part_ds"] = "shared: true\n" + TARGET
    codes = [(w.code, (w.place.file if w.place else "")) for w in compiled(workspace, files).warnings]
    misleading = [(ONE_TENANT_FOR_ALL, "beside.yaml"), (ONE_TENANT_FOR_ALL, "both.yaml"), (POOLED_ONLY, "part.yaml")]
    assert sorted(codes, key=str) == sorted(misleading, key=str)


class _Programs:
    """Random ordinary pipes over the landing datasources, some of them pinned, from a seed."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def condition(self, name: str) -> str:
        q = self.pick.choice(("", f"{name}."))
        pins = [f"{q}tenant_id = 1", f"1 = {q}tenant_id", f"{q}tenant_id = 1 AND units > 2", "tenant_id = '1'"]
        others = [
            "1",
            "units > 2",
            f"{q}tenant_id = 1 OR units > 6",
            f"NOT {q}tenant_id = 2",
            f"{q}tenant_id IN (1, 2)",
        ]
        return self.pick.choice(pins if self.pick.random() < 0.7 else others)

    def table(self, depth: int) -> str:
        if depth and self.pick.random() < 0.4:
            return f"(SELECT {self.pick.choice(('*', 'tenant_id, kind, units'))} FROM {self.select(depth - 1)})"
        return self.pick.choice(("events", "orders", "endpoint_of_all"))

    def select(self, depth: int) -> str:
        name = self.pick.choice("xyz")
        join = ""
        if self.pick.random() < 0.3:
            kind = self.pick.choice(("JOIN", "LEFT JOIN", "ANY LEFT JOIN", "SEMI LEFT JOIN", "ANTI LEFT JOIN"))
            right = self.pick.choice(("prices", "orders", "(SELECT * FROM orders WHERE tenant_id = 1)"))
            on = self.pick.choice(
                ("ON {n}.kind = r.kind", "USING (tenant_id, kind)", "ON {n}.tenant_id = r.tenant_id")
            )
            join = f" {kind} {right} AS r {on.format(n=name)}"
        return f"{self.table(depth)} AS {name}{join} WHERE {self.condition(name)}"

    def program(self) -> str:
        item = self.pick.choice(
            ("units", "toInt64(tenant_id)", "sum(units) OVER (PARTITION BY kind)", "count() OVER ()")
        )
        items = [f"SELECT kind, {item} AS units FROM {self.select(2)}" for _ in range(self.pick.choice((1, 1, 2)))]
        if self.pick.random() < 0.3:
            items[0] += f" AND kind IN (SELECT kind FROM {self.select(0)})"
        return " UNION ALL ".join(items)


ROWS = [(t, f"k{n % 3}", n + t, [t, n], (n % 3, "b")) for t in (1, 2, 3) for n in range(6)]


SMALL = ("events", "orders", "prices", "endpoint_of_all")


def _fill(workspace: Workspace, database: str, tenants: tuple[int, ...]) -> None:
    build = compiled(workspace, WORLD)
    workspace.warehouse.execute(ddl.create_database(database))
    for name in ("events", "orders", "prices"):
        table = storage.workspace_table(build.datasources[name], database)
        workspace.warehouse.execute(ddl.create_table(table))
        for row in ROWS if name != "prices" else [("k0", 3), ("k1", 5)]:
            if name == "prices" or row[0] in tenants:
                workspace.warehouse.execute(f"INSERT INTO {Name(database, name).sql()} VALUES {row}")


@pytest.mark.soak
def test_accepted_random_pipes_reveal_no_other_tenant(workspace: Workspace) -> None:
    """Its output over everybody's rows is what it is over the rows of tenant 1 alone."""
    _fill(workspace, "everybody", (1, 2, 3))
    _fill(workspace, "alone", (1,))
    programs, pinned = _Programs(3), 0
    for _ in range(soak_rounds(45)):
        sql = programs.program()
        files = {n: text for n, text in _files(sql).items() if n in ("pipe", "made", *SMALL)}
        try:
            build = compiled(workspace, files)
        except RookeryError:
            continue
        pinned += 1
        answers = [_answer(workspace, build, Scope(d, unrestricted=True)) for d in ("everybody", "alone")]
        assert answers[0] == answers[1], sql
    assert pinned > 7


def _answer(workspace: Workspace, build: Any, scope: Scope) -> list[tuple[Any, ...]]:
    def render(template: Any, binder: Any, columns: Any) -> Any:
        return template.render({}, binder, columns)

    composed = build.composer.request(build, "pipe", Caller(render, scope))
    return sorted(tuple(r) for r in workspace.warehouse.query(composed.sql).rows)


LEGACY = {
    "events": WORLD["events"],
    "made": TARGET,
    "pipe": "sql: SELECT kind, units FROM events\nmaterialize: {target: made}\n",
    "usage": "sql: SELECT kind, sum(units) AS units FROM made GROUP BY kind\n",
}


def test_deployed_undeclared_pipes_continue_and_are_reported(workspace: Workspace) -> None:
    """A workspace that was deployed before this was refused: its registry holds the files."""
    legacy = Workspace(workspace.settings.model_copy(update={"workspace": "legacy"}), workspace.warehouse)
    try:
        files = {n: {"text": text, "file": f"{n}.yaml"} for n, text in LEGACY.items()}
        legacy.registry.write("resource", files)
        legacy.refresh()
        result = pushed(legacy, LEGACY)
        assert [w.code for w in result.warnings] == [UNDECLARED_SHARE]
        assert pushed(legacy, {**LEGACY, "other": "sql: SELECT 1 AS x\n"}).applied
        (finding,) = [f for f in examination.examine(legacy).findings if f.check == "undeclared-share"]
        assert finding.object == "made" and "`shared: true` in made.yaml" in (finding.hint or "")
        for changed in ("made", "pipe"):
            text = LEGACY[changed] + "description: changed\n"
            with pytest.raises(Problems, match="RK2014"):
                pushed(legacy, {changed: text})
        new = {"made2": TARGET, "pipe2": LEGACY["pipe"].replace("target: made", "target: made2")}
        with pytest.raises(Problems, match="RK2014"):
            pushed(legacy, new)
        assert not pushed(legacy, {"made": "shared: true\n" + TARGET}).warnings
        assert "undeclared-share" not in [f.check for f in examination.examine(legacy).findings]
        with pytest.raises(Problems, match="RK2014"):
            pushed(legacy, {"made": TARGET})
    finally:
        legacy.analyser.close()
