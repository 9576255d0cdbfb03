"""A query over all tenants restarts if a tenant was added or removed between composing and reading."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.compiler.compose import Caller
from engine.compiler.scope import Scope
from engine.control import tenants
from engine.control.erasure import delete_rows
from engine.errors import NOT_TOGETHER, RookeryError
from engine.query.all_tenants import placements_of_all_tenants, with_stable_tenants
from engine.query.result import QueryResult
from engine.schema import Name
from engine.warehouse.port import Format, Statement
from engine.workspace.snapshot import Snapshot
from tests.support.in_process import Rookery, open_rookery

FILES = {
    "datasources/events.yaml": """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: id, type: UInt32}, {name: n, type: Int64}]
engine: {sorting_key: [tenant_id]}
""",
    "datasources/sums.yaml": """
tenant: {column: tenant_id, landing: false}
columns: [{name: tenant_id, type: UInt32}, {name: n, type: Int64}]
engine: {type: SummingMergeTree, sorting_key: [tenant_id], columns: [n]}
""",
    "pipes/fill.yaml": "sql: SELECT tenant_id, sum(n) AS n FROM events GROUP BY tenant_id\n"
    "materialize: {target: sums, per_tenant: true}\n",
}


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("together")) as opened:
        opened.push(FILES)
        opened.append([{"tenant_id": t, "id": t, "n": 10**t} for t in range(1, 6)])
        yield opened


@pytest.fixture(autouse=True)
def two_of_each(rookery: Rookery) -> None:
    rookery.add("1", "2")
    rookery.add("3", "4", placement="pooled")


def _sum(
    rookery: Rookery,
    changes: list[Callable[[], None]],
    table: str = "sums",
    after: list[Callable[[], None]] | None = None,
) -> int:
    """The sum over all tenants, with one change of the tenants between composing and reading at each attempt.

    Those in `after` come when the rows are read.
    """

    def begin(snapshot: Snapshot, read: set[str]) -> QueryResult:
        scope = Scope(rookery.workspace.name, unrestricted=True, everywhere=placements_of_all_tenants(snapshot, 9))
        build = snapshot.build
        render: Any = None
        caller = Caller(render, scope)
        composed = build.composer.adhoc(build, f"SELECT sum(n) AS n FROM {table}", frozenset({table}), caller)
        read.update(composed.relations)
        if changes:
            changes.pop(0)()
        answer = QueryResult(rookery.workspace.warehouse.stream(Statement(composed.sql, {}, {}, "sum"), Format.JSON))
        if after:
            after.pop(0)()
        return answer

    answer = with_stable_tenants(rookery.workspace, begin)
    return int(json.loads(answer.head)["data"][0]["n"])


def test_a_tenant_added_or_removed_is_read_completely_or_not_at_all(rookery: Rookery) -> None:
    assert _sum(rookery, []) == 11110
    assert _sum(rookery, [lambda: tenants.remove(rookery.workspace, "1")]) == 11100
    assert _sum(rookery, [lambda: tenants.remove(rookery.workspace, "3")]) == 10100
    assert _sum(rookery, [lambda: rookery.add("1")]) == 10100
    assert _sum(rookery, [lambda: rookery.add("3", placement="pooled")]) == 11110
    assert _sum(rookery, [lambda: rookery.add("5", placement="pooled")]) == 111110
    assert _sum(rookery, [lambda: tenants.remove(rookery.workspace, "5")]) == 11110


def test_a_tenant_added_and_removed_again_is_not_read_in_part(rookery: Rookery) -> None:
    """The tenants are the same before and after, and were not when the rows were read."""
    registry = rookery.workspace.registry

    def come() -> None:
        row = {"id": "9", "placement": "pooled", "state": "adding", "created_at": ""}
        registry.write("tenant", {"9": row})
        rookery.run("INSERT INTO main.sums VALUES (9, 7)")
        rookery.workspace.refresh()

    def go() -> None:
        delete_rows(rookery.workspace, Name("main", "sums"), "tenant_id = 9")
        registry.remove("tenant", ["9"])
        rookery.workspace.refresh()

    assert _sum(rookery, [come], after=[go]) == 11110


@pytest.mark.parametrize("tenant", ["1", "3"])
def test_a_tenant_that_is_not_ready_is_left_out(rookery: Rookery, tenant: str) -> None:
    """As when adding or removing it was interrupted."""
    row = rookery.workspace.current.tenants[tenant].as_dict()
    for state in ("adding", "removing"):
        rookery.workspace.registry.write("tenant", {tenant: {**row, "state": state}})
        rookery.workspace.refresh()
        assert _sum(rookery, []) == 11110 - 10 ** int(tenant)
    rookery.workspace.registry.write("tenant", {tenant: row})
    rookery.workspace.refresh()


def test_tenants_that_change_at_every_attempt_are_an_error(rookery: Rookery) -> None:
    changes = [lambda t=t: tenants.remove(rookery.workspace, t) for t in ("1", "2", "3")]  # type: ignore[misc]
    with pytest.raises(RookeryError) as caught:
        _sum(rookery, changes)
    assert caught.value.code is NOT_TOGETHER
    two_of_each_changes = [lambda: rookery.add("1", "2"), lambda: tenants.remove(rookery.workspace, "1")]
    assert _sum(rookery, [*two_of_each_changes, lambda: rookery.add("1")], table="events") == 111110
