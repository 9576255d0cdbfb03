"""Which columns a statement can read, and which of them it passes to functions whose result can grow with a value."""

from __future__ import annotations

import pytest

from engine.sql import shape
from engine.workspace.workspace import Workspace

NAMES = {
    "SELECT a FROM t": {"a"},
    "SELECT t.a FROM t": {"a", "t"},
    "SELECT j.x.y FROM t WHERE b = 1": {"j", "b"},
    "SELECT count(*) FROM t WHERE b > 1": {"b"},
    "SELECT count() FROM t": set(),
    "SELECT COLUMNS(a, b) FROM t": {"a", "b"},
    "SELECT sum(c) FROM t JOIN u USING (k) ORDER BY d LIMIT 1 BY e": {"c", "k", "d", "e"},
    "SELECT x FROM t ARRAY JOIN tags AS x": {"tags"},
    "SELECT * FROM t": None,
    "SELECT t.* FROM t": None,
    "SELECT tuple(*) FROM t": None,
    "SELECT COLUMNS('a') FROM t": None,
    "SELECT count((SELECT max(tuple(*)) FROM t)) FROM t": None,
}
PASSED = {
    "SELECT a, count() FROM t WHERE a = 'x' GROUP BY a ORDER BY a": set(),
    "SELECT sum(length(a)), max(a), uniq(a) FROM t": set(),
    "SELECT repeat(a, 9) FROM t": {"a"},
    "SELECT count() FROM t WHERE repeat(a, b) = c": {"a", "b"},
    "SELECT repeat(x, 9) FROM (SELECT a AS x FROM t)": {"a", "x"},
    "SELECT repeat(y, 9) FROM (SELECT x AS y FROM (SELECT arrayJoin(a) AS x FROM t))": {"a", "x", "y"},
    "WITH (SELECT any(a) FROM t) AS one SELECT repeat(one, 9)": {"a", "one"},
    "SELECT max(upper(t.a)) FROM t": {"a", "t"},
    "SELECT a FROM t UNION ALL SELECT b FROM t": None,
    "SELECT * APPLY(base64Decode) FROM t": None,
    "SELECT COLUMNS('a') APPLY(x -> repeat(x, 9)) FROM t": None,
    "SELECT arrayMap(x -> repeat(x, 2), a) FROM t": {"a", "x"},
}


@pytest.mark.feature
@pytest.mark.parametrize("sql", NAMES)
def test_names_include_every_column_a_statement_reads(workspace: Workspace, sql: str) -> None:
    names = shape.names(workspace.warehouse.parse(sql)[0])
    expected = NAMES[sql]
    assert names is None if expected is None else names is not None and expected <= names


@pytest.mark.feature
def test_names_leave_out_columns_that_are_not_read(workspace: Workspace) -> None:
    names = shape.names(workspace.warehouse.parse("SELECT a, sum(b) FROM t WHERE c = 'text' GROUP BY a")[0])
    assert names is not None and names.isdisjoint({"d", "e", "tenant_id"})


@pytest.mark.feature
@pytest.mark.parametrize("sql", PASSED)
def test_columns_passed_to_functions_are_found(workspace: Workspace, sql: str) -> None:
    passed_names = shape.passed([shape.uses(workspace.warehouse.parse(sql)[0])])
    expected = PASSED[sql]
    assert (
        passed_names is None
        if expected is None
        else passed_names is not None and passed_names & {"a", "b", "x", "y", "one", "t"} == expected
    )


@pytest.mark.feature
def test_aliases_are_followed_across_statements(workspace: Workspace) -> None:
    first, second = (workspace.warehouse.parse(s)[0] for s in ("SELECT a AS b FROM t", "SELECT repeat(b, 2) FROM n"))
    assert shape.passed([shape.uses(first), shape.uses(second)]) == {"a", "b"}
    assert shape.passed([shape.uses(first), None]) is None
