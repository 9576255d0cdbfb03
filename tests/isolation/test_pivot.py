"""A tenant's answer over shared tables is the answer over tables that hold only the tenant's rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from engine.compiler import encoding, scope, views
from engine.errors import RookeryError
from engine.fanout import landing_log
from engine.query import executor
from engine.query.errors import error_for_caller
from engine.query.result import QueryResult
from engine.warehouse.port import Statement, Warehouse
from tests.isolation.pivot import Grammar, Pivot, engine_at, open_pivot, run
from tests.support.soak import soak_rounds

SEED = 1
QUERIES = 250
"""The most that are tried until a removed safeguard is noticed."""
SAMPLE = soak_rounds(30)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    warehouse = engine_at(tmp_path_factory.mktemp("pivot"))
    yield warehouse
    warehouse.close()


@pytest.fixture(scope="module")
def pivot(engine: Warehouse) -> Iterator[Pivot]:
    made = open_pivot(engine, SEED)
    yield made
    made.close()


@pytest.fixture
def again(pivot: Pivot) -> Iterator[Pivot]:
    """The same workspaces, with nothing found yet."""
    yield pivot
    pivot.found.clear()


@pytest.mark.soak
@pytest.mark.proves("A2", "B3")
def test_answers_do_not_depend_on_neighbors(again: Pivot) -> None:
    run(again, Grammar(SEED), SAMPLE)
    assert again.found == []
    assert again.compared >= SAMPLE


def without(part: str, column: str, type: str, *, types: bool = False) -> str:
    """`encoding.own_values` that leaves dictionaries, or types of dynamic columns, as they are."""
    dynamic = types and encoding.has_types(type)
    return column if dynamic == (part == "types") else encoding.own_values(column, type, types=types)


def once(self: executor.Queries, execution: executor.Execution, statement: Statement) -> QueryResult:
    """A query that is not run again when it fails."""
    try:
        return self._open(execution, statement)
    except RookeryError as exc:
        raise error_for_caller(exc, reads_all=False) from exc


@pytest.mark.parametrize("part", ["dictionaries", "types", "second run"])
def test_removing_a_safeguard_is_detected(again: Pivot, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    if part == "second run":
        monkeypatch.setattr(executor.Queries, "_open_or_rerun", once)
    else:
        monkeypatch.setattr(scope, "own_values", partial(without, part))
    run(again, Grammar(SEED), QUERIES, until=lambda p: bool(p.found))
    assert again.found, f"{again.compared} queries did not notice that {part} are left out"


def test_rows_are_re_encoded_for_views(engine: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of one tenant would fail on what a neighbor sent in the same block."""
    plain = partial(_unencoded, scope.select)
    monkeypatch.setattr(views, "select", plain)
    monkeypatch.setattr(landing_log, "select", plain)
    made = open_pivot(engine, SEED, "feed")
    try:
        run(made, Grammar(SEED), QUERIES, until=lambda p: bool(p.found))
        assert made.found
    finally:
        made.close()


def _unencoded(select: Any, relation: Any, source: Any, conditions: Any, options: Any = None) -> str:
    return str(select(relation, source, conditions, replace(options or scope.SelectOptions(), encode="")))
