"""Finds the columns of a derived table that its views and sources determine, so that comparing them is meaningful."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.compiler.views import in_block_range
from engine.control.doctor.comparable_columns import ComparableColumns, comparable_columns
from engine.control.doctor.derived_tables import Derived
from engine.control.doctor.findings import Context
from engine.control.doctor.merged_sources import bounds
from engine.plan.coverage import Coverage
from engine.schema import quote
from engine.warehouse.port import Warehouse

_VOLATILE = re.compile(
    r"\b(now|now64|today|yesterday|rand|rand32|rand64|randConstant|randUniform|randNormal|randomString\w*|fuzzBits|"
    r"generate\w+|getSetting|rowNumber\w*|blockNumber|nowInBlock|runningDifference|neighbor|hostName|version|uptime|"
    r"currentDatabase|serverUUID|dict\w+|timezone|toUnixTimestamp64Now)\("
)
"""Functions whose value changes from call to call, or depends on previously read rows."""
_GROUPING = re.compile(r"\b(Aggregating|Distinct|LimitBy|Limit|Window|Sorting with limit)\b")
"""Steps of a query plan whose result depends on which rows are in one block."""


@dataclass(frozen=True, slots=True)
class DeterminedColumns:
    """The columns of a derived table that are compared."""

    columns: ComparableColumns
    merging: str | None
    """Which source merges its rows, as a clause for messages; None if none does."""


def determined_columns(context: Context, derived: Derived, coverage: Coverage) -> DeterminedColumns | str:
    """The columns that can be compared, or the reason why the table cannot be compared at all."""
    columns = comparable_columns(derived.table)
    if isinstance(columns, str):
        return columns
    columns_or_reason = _without_volatile(context.workspace.warehouse, derived, columns)
    if isinstance(columns_or_reason, str):
        return columns_or_reason
    return _limited_by_merges(context, derived, coverage, columns_or_reason)


def _without_volatile(warehouse: Warehouse, derived: Derived, columns: ComparableColumns) -> ComparableColumns | str:
    """The columns without those whose values change each time the view's query runs.

    The query plan is searched, not the text: it contains the functions of all pipes that the view reads.
    """
    skipped, values = dict(columns.skipped), list(columns.values)
    plain = derived.table.engine == "MergeTree"
    keys = {c.name for c in derived.table.columns if quote(c.name) in columns.key or c.name in columns.key}
    for view in derived.views:
        sql = in_block_range(view.backfill, 0, 1)
        # In a plain table, every block has separate groups, so the result depends on how rows were batched.
        if plain and _GROUPING.search(_query_plan(warehouse, f"SELECT * FROM ({sql})")):
            return "its rows depend on which rows were sent together, since its query groups or limits them"
        if not _VOLATILE.search(sql):
            continue
        for column in view.columns:
            match = _VOLATILE.search(_query_plan(warehouse, f"SELECT {quote(column)} FROM ({sql})"))
            if match is None:
                continue
            # Its values determine which rows exist, so other columns cannot be compared either.
            if plain or column in keys:
                return f"column {column} is computed by {match[1]}(), which returns a different value each time"
            skipped[column] = f"{match[1]}() returns a different value each time"
            values = [v for v in values if v[0] != column]
    return replace(columns, values=tuple(values), skipped=tuple(skipped.items()))


def _query_plan(warehouse: Warehouse, sql: str) -> str:
    result = warehouse.query(f"EXPLAIN actions = 1 {sql}")
    return "\n".join(str(row[0]) for row in result.rows)


def _limited_by_merges(
    context: Context, derived: Derived, coverage: Coverage, columns: ComparableColumns
) -> DeterminedColumns | str:
    """The columns that can still be computed from sources whose engines have merged rows."""
    merging: str | None = None
    exact = known = {name for name, _ in columns.values}
    for view in derived.views:
        source = context.live.tables.get(view.log or view.source)
        if source is None or source.engine == "MergeTree":
            continue
        if coverage.superseded(view) is not None:
            return f"its rows were computed by several queries, and {source.name} merges its rows"
        merging = f"{source.name} merges its rows ({source.engine})"
        bound_by_column = bounds(context.workspace.warehouse, context.snapshot.build, view, source, columns)
        if bound_by_column is None:
            exact = known = set()
            break
        # A target with several views is limited by each of them.
        exact = exact & {name for name, bound in bound_by_column.items() if bound == "exact"}
        known = known & bound_by_column.keys()
    if merging is None:
        return DeterminedColumns(columns, None)
    unknown = [(name, f"it depends on how {merging}") for name, _ in columns.values if name not in known]
    limited = replace(
        columns,
        values=tuple(v for v in columns.values if v[0] in known),
        additive=columns.additive & known,
        idempotent=columns.idempotent & known,
        floor=frozenset(known - exact),
        skipped=(*columns.skipped, *unknown),
    )
    return DeterminedColumns(limited, merging)
