"""A fault in the scope or the compiler ends in an error: the tenant of each row is checked a second time."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from engine.compiler import compose, scope
from engine.compiler.scope import CHECKED_TENANT_PREFIX, RowFilter
from engine.control import push, tenants
from engine.errors import ISOLATION, RookeryError
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query import authorize
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.schema import nest_database
from engine.settings import Settings
from engine.tokens.claims import Claims, Scope
from engine.warehouse.port import Input
from engine.workspace.snapshot import DeployedFile
from engine.workspace.workspace import Workspace
from tests.isolation.mutants import load, mutants
from tests.isolation.pivot import engine_at
from tests.support.soak import soaking

FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns:
  - {name: tenant_id, type: LowCardinality(String)}
  - {name: owner, type: LowCardinality(String)}
  - {name: n, type: UInt32}
engine: {type: MergeTree, sorting_key: [tenant_id, n]}
""",
    "datasources/plain.yaml": """
tenant: {column: tenant_id, nest_copy: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: owner, type: String}
engine: {type: MergeTree, sorting_key: [tenant_id]}
""",
    "pipes/add.yaml": """
nodes:
  - name: grouped
    sql: SELECT tenant_id, owner, sum(n) AS n FROM events GROUP BY tenant_id, owner
materialize:
  target: sums
  per_tenant: true
  engine: {type: ReplacingMergeTree, sorting_key: [tenant_id, owner]}
""",
}
TENANTS = {"7": "pooled", "8": "tables", "9": "pooled", "10": "tables"}
QUERIES = (
    "SELECT * FROM events", "SELECT owner FROM events WHERE n > 0", "SELECT owner, n FROM sums FINAL",
    "SELECT DISTINCT owner FROM events ORDER BY owner DESC LIMIT 3", "SELECT owner FROM plain",
    "SELECT a.owner FROM sums AS a JOIN plain AS b ON a.owner = b.owner", "SELECT groupArray(owner) FROM events",
    "SELECT count(), any(owner) FROM sums GROUP BY n", "SELECT max(tenant_id), max(owner) FROM plain",
)  # fmt: skip
NAMES = frozenset({"events", "plain", "sums"})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    warehouse = engine_at(tmp_path_factory.mktemp("second"))
    made = Workspace(Settings(workspace="second"), warehouse)
    gateway = Gateway(made, StagingPool(made))
    push.push(made, {Path(f).stem: DeployedFile(text, f) for f, text in FILES.items()})
    for tenant, placement in TENANTS.items():
        tenants.add(made, [tenant], placement)
    for name in ("events", "plain"):
        rows = [{"tenant_id": t if name == "events" else int(t), "owner": f"of {t}.", "n": 1} for t in TENANTS]
        gateway.append(name, "\n".join(map(json.dumps, rows)).encode(), Input.NDJSON).result(60)
    yield made
    gateway.close()
    made.close()


def rows(workspace: Workspace, composer: Any, sql: str, as_scope: Any) -> str:
    """What a statement returns, as text; the second check is bound to the scope's tenant."""
    build = workspace.current.build
    composed = composer.adhoc(build, sql, NAMES, compose.Caller(lambda *_: "", as_scope))
    bindings = dict.fromkeys(composed.assembled.placeholders, as_scope.tenant)
    return str(workspace.warehouse.query(composed.sql, bindings).rows)


def foreign(found: str, tenant: str) -> set[str]:
    return set(re.findall(r"of (\d+)\.", found)) - {tenant}


def scopes(of: Any, workspace: Workspace) -> Iterator[Any]:
    """Scopes of a pooled tenant and one with tables, plain and with a filter behind the barrier, of a module's class."""
    for tenant in ("7", "8"):
        nest = nest_database(workspace.name, tenant) if TENANTS[tenant] == "tables" else None
        yield of.Scope(workspace.name, tenant, nest)
        filters = {"events": (RowFilter(f"{scope.TABLE_ALIAS}.n < 5"),)}
        yield of.Scope(workspace.name, tenant, nest, filters, barrier=True)


@pytest.mark.soak
@pytest.mark.proves("A2")
@pytest.mark.parametrize(
    ("module", "functions", "share"),
    [
        (scope, {"bind", "_filters_on", "_read", "_read_whole", "select", "_column", "mentioned"}, 0.25),
        # Some faults here concern no tenant: they change the size that is checked, or the key of the cache.
        (compose, {"_binding", "_refuse_unchecked_rows", "bind", "adhoc"}, 0.19),
    ],
)
def test_no_fault_in_the_scope_shows_rows_of_others(
    workspace: Workspace, module: Any, functions: set[str], share: float
) -> None:
    tried = asked = stopped = 0
    # Outside of `make soak`, every second fault.
    for fault, source in islice(mutants(inspect.getsource(module), functions), None, None, 1 if soaking() else 2):
        changed = load(source, module)
        composer = changed.Composer(workspace.current.build.composer.verifier) if module is compose else None
        every = list(scopes(changed if module is scope else scope, workspace))
        # In turn: a plain scope of one placement with a filtered one of the other.
        chosen = every if soaking() else [every[tried % 2], every[3 - tried % 2]]
        asked += len(chosen)
        for number, one in enumerate(chosen):
            sql = QUERIES[(tried + number) % len(QUERIES)]
            try:
                visible = rows(workspace, composer or workspace.current.build.composer, sql, one)
            except (RookeryError, TypeError, ValueError, KeyError, AttributeError, NameError, IndexError):
                stopped += 1
                continue
            assert not foreign(visible, one.tenant), (fault, sql, visible)
        tried += 1
    assert tried > 20
    assert stopped > share * asked


@pytest.mark.parametrize("change", [
    (r"PREWHERE \(_rk_t\.`tenant_id` = [^)]*\)", ""), (r"(`tenant_id`) = \{", r"\1 != {"), (r"(`tenant_id`) = \{", r"\1 >= {"),
    (r"PREWHERE \(", "PREWHERE 1 OR ("), (r"\{rk_tenant_(\w+):(\w+)\}", r"CAST('9' AS \2)"), ("PREWHERE", "WHERE 1 OR"),
])  # fmt: skip
@pytest.mark.parametrize("barrier", [False, True])
def test_a_changed_filter_is_an_error(workspace: Workspace, change: tuple[str, str], barrier: bool) -> None:
    build = workspace.current.build
    for sql in QUERIES:
        caller = compose.Caller(lambda *_: "", scope.Scope(workspace.name, "7", barrier=barrier))
        composed = build.composer.adhoc(build, sql, NAMES, caller)
        bindings = dict.fromkeys(composed.assembled.placeholders, "7")
        text = re.sub(*change, composed.sql)
        assert text != composed.sql
        used = {n: v for n, v in bindings.items() if f"{{{n}:" in text}
        output = ""
        with suppress(RookeryError):
            output = str(workspace.warehouse.query(text, used).rows)
        assert not foreign(output, "7"), (sql, text, output)


def test_the_check_compares_with_the_tokens_own_tenant(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the scope has another tenant than the token, no row is shown."""
    queries = Queries(workspace)
    claims = Claims("test", scopes=(Scope("DATASOURCES:READ", "events"),), tenant="7")
    body = queries.sql(QueryRequest(claims), "SELECT owner FROM events").head
    assert b"of 7." in body
    grant = authorize._grant

    def mistaken(*given: Any, **more: Any) -> authorize.Granted:
        granted = grant(*given, **more)
        return authorize.Granted(scope.Scope(workspace.name, "9"), granted.fixed, granted.names)

    monkeypatch.setattr(authorize, "_grant", mistaken)
    with pytest.raises(RookeryError) as caught:
        queries.sql(QueryRequest(claims), "SELECT owner FROM events")
    assert caught.value.code is ISOLATION
    assert "of 9." not in str(caught.value)


def test_every_shared_relation_is_checked(workspace: Workspace) -> None:
    """The placeholder of the second check is in each relation over a table that tenants share, and in no other."""
    build = workspace.current.build
    for relation in build.relations.values():
        pooled = scope.Scope(workspace.name, "7").bind(relation)
        nested = scope.Scope(workspace.name, "8", nest_database(workspace.name, "8")).bind(relation)
        assert pooled.witnessed == (CHECKED_TENANT_PREFIX in pooled.sql) == (relation.tenant is not None)
        assert nested.witnessed == (relation.tenant is not None and not relation.in_nest)
