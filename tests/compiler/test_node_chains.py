"""Chains of templates are checked with fitting sample values, and return what Python computes."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from engine.compiler.build import Build
from engine.compiler.compose import Caller
from engine.compiler.scope import Scope
from engine.errors import CYCLE, SQL_SEMANTICS, RookeryError
from engine.template.environment import Binder, Template
from engine.workspace.workspace import Workspace
from tests.compiler.node_chains import SOURCE, Maker, rows
from tests.support.compiling import BASE, compiled, problems_of, pushed
from tests.support.soak import soak_rounds

SEED, PIPES, CALLS = 20_261_129, soak_rounds(10), 2


def _answer(workspace: Workspace, build: Build, pipe: str, request: Mapping[str, Any], columns: str) -> list[Any]:
    """What an admin's call returns."""

    def render(template: Template, binder: Binder, known: frozenset[str]) -> str:
        return template.render(request, binder, known)

    composed = build.composer.request(build, pipe, Caller(render, Scope(workspace.name, unrestricted=True)))
    text = f"SELECT {columns} FROM view({composed.sql})" if columns != "*" else composed.sql
    return [tuple(row) for row in workspace.warehouse.query(text, composed.bindings).rows]


@pytest.mark.soak
def test_random_chains_are_checked_and_return_what_python_computes(workspace: Workspace) -> None:
    random = Random(SEED)
    stored = rows(random, 60)
    maker = Maker(random, stored)
    pipes = [maker.pipe() for _ in range(PIPES)]
    result = pushed(workspace, {"events": SOURCE, **{p.name: p.text for p in pipes}})
    assert not result.warnings
    values = ", ".join(r.values() for r in stored)
    workspace.warehouse.execute(f"INSERT INTO main.events (id, at, kind, units, flag) VALUES {values}")
    build = workspace.current.build
    for pipe in pipes:
        for _ in range(CALLS):
            request = pipe.request(random)
            expected = sorted(r.id for r in pipe.rows(request))
            ids = sorted(i for (i,) in _answer(workspace, build, pipe.name, request, "id"))
            assert ids == expected, f"{pipe.text}\n{request}"
    pushed(workspace, {}, *[p.name for p in pipes], "events", prune=True)


CHOSEN = """
nodes:
  - {name: by_day, sql: "SELECT 'day' AS unit, {{ Int32(shift, 0) }} AS shift"}
  - {name: by_hour, sql: "SELECT 'hour' AS unit, toInt32({{ String(offset) }}) AS shift"}
  - name: chosen
    sql: SELECT unit, shift FROM {% if day_diff(Date(a), Date(b)) > 3 %} by_day {% else %} by_hour {% end %}
"""


def test_a_node_is_chosen_by_a_computed_condition_and_needs_only_its_own_parameters(workspace: Workspace) -> None:
    build = compiled(workspace, {**BASE, "picked": CHOSEN})
    assert build.pipes["picked"].reads == frozenset()
    assert [n.name for n in build.pipes["picked"].needed()] == ["by_day", "by_hour", "chosen"]
    far = {"a": "2026-01-01", "b": "2026-02-01", "shift": "2"}
    assert _answer(workspace, build, "picked", far, "*") == [("day", 2)]
    near = {"a": "2026-01-01", "b": "2026-01-02", "offset": "7"}
    assert _answer(workspace, build, "picked", near, "*") == [("hour", 7)]


@pytest.mark.parametrize("wrong", ["nope", "toDate(kind, 1, 2, 3)"])
def test_every_node_that_a_branch_names_is_checked(workspace: Workspace, wrong: str) -> None:
    broken = CHOSEN.replace("'day' AS unit", f"{wrong} AS unit").replace(" AS shift\"}\n  - {name: by_h", " AS shift FROM events\"}\n  - {name: by_h")  # fmt: skip
    (problem,) = problems_of(workspace, {**BASE, "picked": broken})
    assert problem.code is SQL_SEMANTICS
    assert "node `by_day`" in str(problem.place)


BRANCHES = """
nodes:
  - {name: hours, sql: SELECT 'hour' AS unit}
  - {name: deep, sql: SELECT 'deep' AS unit}
  - name: chosen
    sql: |
      SELECT unit FROM
      {% if granularity == 'minute' %} minute_intervals
      {% elif Int32(n, 1) > 100 %} {% if Int32(n, 1) > 1000 %} deep {% else %} nowhere_at_all {% end %}
      {% else %} hours {% end %}
"""


def test_a_branch_with_an_unknown_name_is_a_warning_and_an_error_when_called(workspace: Workspace) -> None:
    build = compiled(workspace, {**BASE, "picked": BRANCHES})
    assert [w.code.id for w in build.warnings] == ["RK2020", "RK2020"]
    assert "minute_intervals" in build.warnings[0].message
    assert "`granularity` is 'minute'" in build.warnings[0].message
    assert "nowhere_at_all" in build.warnings[1].message
    assert str(build.warnings[0].place).startswith("picked.yaml:8:40")
    assert _answer(workspace, build, "picked", {"n": "2000"}, "*") == [("deep",)]
    assert _answer(workspace, build, "picked", {"granularity": "day"}, "*") == [("hour",)]
    with pytest.raises(RookeryError, match="minute_intervals") as caught:
        _answer(workspace, build, "picked", {"granularity": "minute"}, "*")
    assert caught.value.code.id == "RK2020"


def test_a_cycle_that_depends_on_the_request_is_a_clear_error(workspace: Workspace) -> None:
    """The content of a loop that no dry run enters is unknown until a request enters it."""
    files = {
        "rounds": "sql: SELECT 1 AS x {% for i in range(Int32(n, 0)) %} UNION ALL SELECT x FROM back {% end %}\n",
        "back": "sql: SELECT x FROM rounds\n",
    }
    build = compiled(workspace, files)
    assert _answer(workspace, build, "back", {}, "*") == [(1,)]
    for pipe in files:
        with pytest.raises(RookeryError) as caught:
            _answer(workspace, build, pipe, {"n": "1"}, "*")
        assert caught.value.code is CYCLE
