"""No per-tenant pipe that compiles brings a value of one tenant into the rows of another in the shared target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from engine.control import tenants
from engine.errors import TENANT_MIX, Problems, RookeryError
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query.executor import Queries
from engine.settings import load
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions
from engine.workspace.workspace import Workspace
from tests.isolation.mixing import KEPT, REFUSED, SOURCES
from tests.isolation.services import Service

BOTH = ("acme", "omega")


@dataclass
class Mixed:
    """`mixed` gets the rows of two tenants, `alone` only those of `acme`."""

    mixed: Service
    alone: Service

    def rows(self, service: Service, table: str) -> list[tuple[Any, ...]]:
        result = service.workspace.warehouse.query(f"SELECT * FROM {service.name}.{table}")
        return sorted((tuple(map(repr, r)) for r in result.rows), key=repr)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    settings = load(data=tmp_path_factory.mktemp("mixing") / "data", workspace="mixed", readers=2, writers=3)
    warehouse = EmbeddedWarehouse(
        settings.data, WarehouseOptions(readers=2, writers=3, database=settings.empty_database)
    )
    services = []
    try:
        for name in ("mixed", "alone"):
            workspace = Workspace(settings.model_copy(update={"workspace": name}), warehouse)
            services.append(Service(workspace, Queries(workspace), Gateway(workspace, StagingPool(workspace))))
            services[-1].push(SOURCES)
            tenants.add(workspace, BOTH, "pooled")
            if name == "mixed":
                tenants.add(workspace, ["yeti"], "tables")
        yield Mixed(*services)
    finally:
        for service in services:
            service.workspace.analyser.close()
        warehouse.close()


def pipe(sql: str, target: str, kind: str = "per_tenant: true", key: str = "tenant") -> str:
    return f"sql: |\n  {sql}\nmaterialize: {{target: {target}, {kind}, engine: {{sorting_key: [{key}]}}}}\n"


def problems(service: Service, files: Mapping[str, str]) -> list[RookeryError]:
    try:
        service.push(files, dry_run=True)
    except Problems as exc:
        return exc.problems
    except RookeryError as exc:
        return [exc]
    return []


@pytest.mark.proves("A11", "D11")
@pytest.mark.parametrize("title", REFUSED)
def test_pipes_that_could_mix_tenants_do_not_compile(made: Mixed, title: str) -> None:
    (problem,) = problems(made.mixed, {"p": pipe(REFUSED[title], "t")})
    assert problem.hint or problem.code.id == "RK2007", problem
    # The engine itself refuses a few, and some lack the tenant column altogether.
    assert problem.code.id in ("RK2013", "RK2007", "RK2008", "RK2011"), problem
    assert "internal" not in problem.message


@pytest.mark.proves("A11")
def test_most_refusals_come_from_the_lineage_check(made: Mixed) -> None:
    codes = [problems(made.mixed, {"p": pipe(sql, "t")})[0].code for sql in list(REFUSED.values())[::3]]
    assert codes.count(TENANT_MIX) > 0.85 * len(codes)


def row(tenant: str, k: int, factor: int) -> dict[str, Any]:
    """Rows of which each tenant's tuples, arrays and documents name the other."""
    other = BOTH[1 - BOTH.index(tenant)]
    return {
        "tenant": tenant,
        "kind": f"k{k % 3}",
        "units": k * factor,
        "arr": [f"{tenant}-{k}", other],
        "t": {"tenant": other if k % 2 else tenant, "x": k},
        "e": {"tenant": other, "kind": tenant},
        "j": {"tenant": other},
    }


def feed(service: Service, who: tuple[str, ...]) -> None:
    """Each batch is one block for the views, of all tenants together."""
    plain = ("tenant", "kind", "units")
    service.append("lands", [{"tenant": "omega", "kind": f"k{i}", "price": i + 1} for i in range(2)])
    service.append("accounts", [{"tenant": t, "plan": f"{t}-plan", "paid": len(t)} for t in who])
    for batch in range(2):
        more = [row(t, i, BOTH.index(t) + 2 + batch) for i in range(4) for t in who]
        service.append("more", [{k: r[k] for k in plain} for r in more])
        service.append("events", [row(t, i, BOTH.index(t) + 1 + batch) for i in range(1, 7) for t in who])


@pytest.mark.proves("A11", "D11", "B6")
def test_compiled_pipes_keep_tenants_apart_in_the_shared_target(made: Mixed) -> None:
    """One tenant's rows in the target are the same with and without the other's rows in the same blocks."""
    files = {f"p{n}": pipe(sql, f"t{n}") for n, sql in enumerate(KEPT.values())}
    files["reader"] = pipe("SELECT tenant, kind, units FROM standing", "t_reader")
    files["standing"] = "sql: SELECT tenant, kind, units FROM events WHERE units > 2\ntype: standard\n"
    for service, who in ((made.mixed, BOTH), (made.alone, BOTH[:1])):
        service.push(files)
        feed(service, who)
    for title, table in [*zip(KEPT, (f"t{n}" for n in range(len(KEPT))), strict=True), ("reader", "t_reader")]:
        mixed, alone = (made.rows(w, table) for w in (made.mixed, made.alone))
        assert [r for r in mixed if r[0] == "'acme'"] == alone, title
        assert {r[0] for r in mixed} <= {"'acme'", "'omega'"}, title
        assert alone or title == "anti", title


NODES = """
nodes:
  - {{name: first_node, sql: "{first}"}}
  - {{name: last_node, sql: "{last}"}}
materialize: {{target: t, per_tenant: true, engine: {{sorting_key: [tenant]}}}}
"""


@pytest.mark.proves("A11")
@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("SELECT any(tenant) AS tenant, kind FROM events GROUP BY kind", "SELECT tenant, kind FROM first_node"),
        ("SELECT kind, tenant AS t FROM events", "SELECT t AS tenant, kind FROM first_node"),
        ("SELECT tenant, e FROM events", "SELECT e.tenant AS tenant, 1 AS kind FROM first_node AS e"),
        ("SELECT tenant, t AS x FROM events", "SELECT x.tenant AS tenant, 1 AS kind FROM first_node AS x"),
        ("SELECT tenant, kind FROM more", "SELECT tenant, kind FROM events WHERE ('omega', kind) IN first_node"),
        ("SELECT count() AS c FROM events", "SELECT tenant, c AS kind FROM events CROSS JOIN first_node"),
        ("SELECT max(units) AS m FROM more", "SELECT tenant, (SELECT m FROM first_node) AS kind FROM events"),
        ("SELECT kind FROM lands", "SELECT 'acme' AS tenant, kind FROM events WHERE kind IN first_node"),
        ("SELECT tenant, kind FROM events LIMIT 3", "SELECT tenant, kind FROM first_node"),
        (
            "WITH x AS (SELECT kind FROM lands) SELECT kind FROM "
            "(WITH y AS (SELECT kind FROM x), x AS (SELECT kind FROM more) SELECT kind FROM y)",
            "SELECT e1.tenant AS tenant, n.kind AS kind FROM events AS e1 CROSS JOIN first_node AS n",
        ),
    ],
)
def test_mixing_over_two_nodes_does_not_compile(made: Mixed, first: str, last: str) -> None:
    (problem,) = problems(made.mixed, {"p": NODES.format(first=first, last=last)})
    assert problem.code is TENANT_MIX


@pytest.mark.proves("A11")
def test_an_ordinary_pipe_cannot_choose_the_tenants_of_its_rows(made: Mixed) -> None:
    """Tenants read a target with a tenant column filtered by it, no matter which pipe fills it."""
    target = SOURCES["accounts"].replace("plan", "kind").replace("paid", "units")
    for sql in (
        "SELECT 'acme' AS tenant, kind, units FROM events",
        "SELECT any(tenant) AS tenant, kind, sum(units) AS units FROM events GROUP BY kind",
        "SELECT kind AS tenant, kind, units FROM events",
        "WITH 'acme' AS tenant SELECT tenant, kind, units FROM more",
    ):
        files = {"filled": target, "p": f"sql: {sql}\nmaterialize: {{target: filled}}\n"}
        (problem,) = problems(made.mixed, files)
        assert problem.code is TENANT_MIX
    good = "SELECT tenant, kind, sum(units) AS units FROM events GROUP BY tenant, kind"
    assert problems(made.mixed, {"filled": target, "p": f"sql: {good}\nmaterialize: {{target: filled}}\n"}) == []
    other = "SELECT tenant, kind, price AS units FROM lands"
    assert problems(made.mixed, {"filled": target, "p": f"sql: {other}\nmaterialize: {{target: filled}}\n"}) == []


@pytest.mark.proves("A11", "D11")
def test_two_pipes_of_different_kinds_cannot_fill_one_target(made: Mixed) -> None:
    files = {
        "p": pipe(KEPT["plain"], "t"),
        "q": pipe("SELECT 'acme' AS tenant, kind, units FROM events", "t", kind="per_tenant: false"),
    }
    assert problems(made.mixed, files)


def test_an_output_that_cannot_be_a_column_is_an_error(made: Mixed) -> None:
    (problem,) = problems(made.mixed, {"p": pipe("SELECT tenant, upper(kind) FROM events", "t")})
    assert problem.code.id == "RK2011"
    assert "upper(kind)" in problem.message
