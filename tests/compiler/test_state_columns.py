"""An endpoint that returns states of aggregate functions gets a warning, which says how to merge them."""

from __future__ import annotations

import pytest

from engine.workspace.workspace import Workspace
from tests.support.compiling import compiled

DAILY = """columns:
  - {name: day, type: Date}
  - {name: n, type: AggregateFunction(count)}
  - {name: users, type: "AggregateFunction(uniq, String)"}
  - {name: q, type: "AggregateFunction(quantiles(0.5, 0.9), Float64)"}
  - {name: last, type: "AggregateFunction(argMax, LowCardinality(String), DateTime64(3))"}
  - {name: best, type: "SimpleAggregateFunction(max, UInt64)"}
engine: {type: AggregatingMergeTree, sorting_key: [day]}
"""


def hints(workspace: Workspace, **pipes: str) -> list[str]:
    """The hints of the warnings for endpoints over `daily`, each of which names its endpoint."""
    files = {"daily": DAILY, **{name: f"sql: {sql}\n" for name, sql in pipes.items()}}
    warnings = [w for w in compiled(workspace, files).warnings if w.code.id == "RK2024"]
    return [f"{w.message.split('`')[1]}: {(w.hint or '').partition(': ')[2]}" for w in warnings]


@pytest.mark.parametrize(
    ("sql", "merged"),
    [
        ("SELECT day, n FROM daily", "countMerge(n)"),
        ("SELECT day, users AS u FROM daily", "uniqMerge(u)"),
        ("SELECT day, uniqMergeState(users) AS u FROM daily GROUP BY day", "uniqMerge(u)"),
        ("SELECT q FROM daily", "quantilesMerge(0.5, 0.9)(q)"),
        ("SELECT last FROM daily", "argMaxMerge(last)"),
        ("SELECT sumState(1.5) AS total", "sumMerge(total)"),
        ("SELECT [n] AS listed FROM daily", "use the combinator -Merge"),
        ("SELECT {{ column(which, 'n') }} AS chosen FROM daily", "countMerge(chosen)"),
    ],
)
def test_states(workspace: Workspace, sql: str, merged: str) -> None:
    assert hints(workspace, asked=sql) == [f"asked: {merged}"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT day, countMerge(n) AS n, argMaxMerge(last) AS last FROM daily GROUP BY day",
        "SELECT day, max(best) AS best FROM daily GROUP BY day",
        "SELECT day, best FROM daily",
        "SELECT finalizeAggregation(n) AS n FROM daily",
        "SELECT 'AggregateFunction(' AS text",
    ],
)
def test_values(workspace: Workspace, sql: str) -> None:
    assert hints(workspace, asked=sql) == []


def test_a_pipe_that_another_one_reads(workspace: Workspace) -> None:
    merging = "SELECT countMerge(n) AS n FROM inner"
    assert hints(workspace, inner="SELECT n FROM daily", outer=merging) == []
    assert hints(workspace, inner="SELECT n FROM daily", outer="SELECT n FROM inner") == ["outer: countMerge(n)"]
