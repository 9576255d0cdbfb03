"""Finds the staged rows that cannot be stored, and the values that cause this."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.compiler.expiry_check import ExpiryCheck
from engine.compiler.scope import BARRIER
from engine.errors import RookeryError
from engine.ingest.batch import RejectedRow, RowTexts, StagedBatch
from engine.ingest.purged_tenants import purged_among, purged_reason
from engine.ingest.read_settings import memory_above
from engine.ingest.row_expressions import MAX_EXPRESSION_CHARACTERS, RowExpression, row_expressions
from engine.ingest.values.json_paths import INVALID_ID
from engine.ingest.values.rejections import MAX_SHOWN_CHARACTERS, column_values, rejection_reason
from engine.ingest.values.staging import (
    ROW_NUMBER_COLUMN,
    full_projection,
    is_tenant_column,
    validity_checks,
)
from engine.ingest.values.staging_rules import StagedColumn
from engine.project.datasource import Column
from engine.schema import quote
from engine.warehouse.errors import exceeds_own_memory, is_caused_by_rows
from engine.warehouse.port import Rows, Value, Warehouse
from engine.workspace.workspace import Workspace

UNCHECKED = "not checked: too many other rows cannot be read"
ENGINE_CONTEXT = re.compile(r":? \((?:while|at row|in file)")
"""The beginning of the part of an engine's message that is not useful to the sender of the rows."""
_MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """Limits on the search for one append's bad rows."""

    explained_rows: int
    """Maximum number of unreadable rows whose reasons are determined."""
    failed_tries: int
    """Maximum number of INSERTs and queries that may fail while rows are searched by bisection. Failures are slow."""
    query_memory: int
    """Maximum memory of a query over staged rows, in bytes: what the INSERT of the rows may take."""


def search_limits(workspace: Workspace, batch: StagedBatch) -> SearchLimits:
    """The limits according to the settings, for a batch's number of columns."""
    settings, columns = workspace.settings, batch.schema.source.columns
    return SearchLimits(settings.search_rows, settings.search_tries, settings.commit_memory(len(columns)))


@dataclass(slots=True)
class Judge:
    """Validates the rows of a batch whose stage has row numbers. Used by one `search` thread."""

    warehouse: Warehouse
    batch: StagedBatch
    rows: RowTexts
    restage: Callable[[Collection[int]], None]
    """Replaces the rows of the stage by those with the given numbers."""
    limits: SearchLimits
    purged: Collection[str] = ()
    """Ids of purged tenants."""
    rejected: dict[int, RejectedRow] = field(default_factory=dict)
    """The rows that cannot be stored, by number."""
    _throwing_rows: set[int] = field(default_factory=set)
    _failed_tries: int = 0

    def judge(self) -> dict[int, RejectedRow]:
        """Find the rows that fail a condition of the datasource or cannot be stored. Returns them by number."""
        schema = self.batch.schema
        # Values below the top level of an event are cast only when they are checked and stored, and a cast may throw.
        nested = [c for c in schema.columns if c.type == "JSON" and not is_tenant_column(schema, c)]
        conditions = validity_checks(schema, self.batch.bound)
        for staged, check in conditions:
            if staged not in nested:
                self._reject_failing(staged, check)
        guarded = [self._reject_failing(staged, staged.guard) for staged in nested if staged.guard]
        if any(guarded):
            # A cast is evaluated on all values of a block, including those of rows that a condition filters out.
            self.restage(self._good_numbers())
        self._reject_throwing({c.column: c.full.check for c in nested if c.full.check})
        # Rows on which a check throws are excluded from here on.
        for staged, check in conditions:
            if staged in nested:
                self._reject_failing(staged, check)
        self._reject_throwing({c.column: c.full.stored for c in nested})
        self.reject_purged()
        self.reject_unstorable()
        for row in self.rejected.values():
            row.values = self._values_of(row)
        return self.rejected

    def _good_numbers(self) -> list[int]:
        """Numbers of the staged rows that are not rejected."""
        result = self._query(f"SELECT {ROW_NUMBER_COLUMN} FROM {self.batch.table.sql()}")
        return sorted({int(n) for (n,) in result.rows} - self.rejected.keys())

    def _values_of(self, row: RejectedRow) -> dict[str, str | None]:
        return column_values(row.text, self.rows.format, self.rows.header, self.batch.schema)

    def _reject_failing(self, staged: StagedColumn, check: str) -> bool:
        """Reject the rows that fail a column's check. Returns whether there are any."""
        schema, bound_tenant = self.batch.schema, self.batch.bound_tenant
        table = self._rows_without(self._throwing_rows)
        failing = self._query(
            f"SELECT {ROW_NUMBER_COLUMN}, toString({staged.value}) FROM {table} WHERE ifNull(NOT ({check}), 0)"
        )
        for number, value in failing.rows:
            row = self._reject(int(number))
            if not is_tenant_column(schema, staged) or value == INVALID_ID:
                value = self._values_of(row).get(staged.column, value)
            row.add(staged.column, rejection_reason(schema, staged, value, bound_tenant, row.format))
            row.is_foreign |= bound_tenant is not None and is_tenant_column(schema, staged) and value is not None
        return bool(failing.rows)

    def _reject(self, number: int) -> RejectedRow:
        row = RejectedRow(number, self.rows.texts[number], self.rows.format, header=self.rows.header)
        return self.rejected.setdefault(number, row)

    def _reject_throwing(self, expressions: Mapping[str, str]) -> None:
        """Reject the rows on which the expression of a column throws."""
        # Most batches have no such row, which one query over all expressions shows.
        rows, count = self.good_rows(), len(self.rows.texts)
        if not expressions or self._message_of(rows, [*expressions.values()], 0, count) is None:
            return
        for column, expression in expressions.items():
            for number, message in self._throwing(rows, expression, 0, count).items():
                self._throwing_rows.add(number)
                self._add_cast_reason(self._reject(number), column, message)

    def _add_cast_reason(self, row: RejectedRow, column: str, message: str) -> None:
        """Say that a row's value for a column cannot be cast, or that the column's default throws."""
        value = self._values_of(row).get(column)
        declared = next(c for c in self.batch.schema.source.columns if c.name == column)
        if message == UNCHECKED:
            row.add("", UNCHECKED)
        elif value is not None:
            row.add(column, f"`{value[:MAX_SHOWN_CHARACTERS]}` is not of type {declared.type}")
        elif declared.default:
            row.add(*default_fails(declared, message))
        else:
            row.add("", _shortened(message))

    def reject_purged(self) -> None:
        """Reject the good rows of purged tenants."""
        rows, tenant = self.good_rows(), self.batch.schema.tenant
        ids = purged_among(self.warehouse, self.batch, rows, self.purged)
        if not ids or tenant is None:
            return
        found = self._query(
            f"SELECT {ROW_NUMBER_COLUMN}, toString({tenant.value}) AS _rk_id FROM {rows} "
            "WHERE has({p:Array(String)}, _rk_id)",
            {"p": [*ids]},
        )
        for number, id in found.rows:
            self._reject(int(number)).add(tenant.column, purged_reason(str(id)))

    def reject_unstorable(self) -> None:
        """Reject the rows on which a key, a TTL or an index of the datasource's table throws, or a TTL overflows."""
        if expressions := row_expressions(self.batch.schema.source):
            self._reject_throwing_expressions(expressions)
        if self.batch.schema.expiry is not None:
            self._reject_overflowing(self.batch.schema.expiry)

    def _reject_overflowing(self, check: ExpiryCheck) -> None:
        """Reject the rows whose TTL overflows."""
        rows = self._stored_values()
        # Most batches have no row on which the check itself throws. Where it cannot be computed, nothing is known.
        unknown = self._throwing(rows, check.condition, 0, len(self.rows.texts))
        failing = self._query(
            f"SELECT {ROW_NUMBER_COLUMN} FROM {_without(rows, unknown)} WHERE NOT ({check.condition})"
        )
        column = check.columns[0] if len(check.columns) == 1 else ""
        reason = f"the TTL `{check.ttl[:MAX_EXPRESSION_CHARACTERS]}` is beyond the last date of its type"
        for (number,) in failing.rows:
            self._reject(int(number)).add(column, reason)

    def _reject_throwing_expressions(self, expressions: Sequence[RowExpression]) -> None:
        count = len(self.rows.texts)
        if self._message_of(self._stored_values(), [e.sql for e in expressions], 0, count) is None:
            return
        for expression in expressions:
            if self._message_of(self._stored_values(), [expression.sql], 0, 0) is not None:
                # The expression fails even without rows, so it cannot be evaluated outside its table.
                continue
            for number, message in self._throwing(self._stored_values(), expression.sql, 0, count).items():
                row = self._reject(number)
                if message == UNCHECKED:
                    row.add("", UNCHECKED)
                else:
                    row.add(expression.column, f"{expression.name} cannot be computed: {_shortened(message)}")

    def _stored_values(self) -> str:
        """The good rows as the datasource would store them, as SQL to select from."""
        names = [quote(c.name) for c in self.batch.schema.source.columns]
        # An alias with the name of a column would replace the column in the other values.
        projection = full_projection(self.batch.schema, self.batch.bound)
        values = ", ".join(f"{v} AS _rk_v{n}" for n, v in enumerate(projection.values))
        renamed = ", ".join(f"_rk_v{n} AS {name}" for n, name in enumerate(names))
        return (
            f"(SELECT {ROW_NUMBER_COLUMN}, {renamed} FROM "
            f"(SELECT {ROW_NUMBER_COLUMN}, {values} FROM {self.good_rows()} LIMIT {BARRIER}) LIMIT {BARRIER})"
        )

    def good_rows(self) -> str:
        """The staged rows that are not rejected, as SQL to select from."""
        return self._rows_without(self.rejected)

    def _rows_without(self, numbers: Collection[int]) -> str:
        """The staged rows except some, as SQL to select from."""
        return _without(self.batch.table.sql(), numbers)

    def _throwing(self, rows: str, expression: str, start: int, stop: int) -> dict[int, str]:
        """The rows from `start` up to (excluding) `stop` on which an expression throws, and the messages, found by
        bisection.
        """
        message = self._message_of(rows, [expression], start, stop)
        if message is None:
            return {}
        if stop - start == 1:
            return {start: message}
        if self._failed_tries > self.limits.failed_tries:
            return dict.fromkeys(range(start, stop), UNCHECKED)
        middle = (start + stop) // 2
        return self._throwing(rows, expression, start, middle) | self._throwing(rows, expression, middle, stop)

    def _message_of(self, rows: str, expressions: Sequence[str], start: int, stop: int) -> str | None:
        """The engine's message if an expression throws on a row from `start` up to (excluding) `stop`."""
        try:
            self._query(
                f"SELECT sum(ignore({', '.join(expressions)})) FROM (SELECT * FROM {rows} "
                f"WHERE {ROW_NUMBER_COLUMN} >= {start} AND {ROW_NUMBER_COLUMN} < {stop} LIMIT {BARRIER})",
                max_threads=1,
            )
        except RookeryError as exc:
            if not is_caused_by_rows(exc):
                raise
            self._failed_tries += 1
            return refusal(exc, self.limits.query_memory)
        return None

    def _query(self, sql: str, bindings: Mapping[str, Value] | None = None, **settings: int) -> Rows:
        """Run a query over staged rows, from which an expression may make any amount of data."""
        return self.warehouse.query(sql, bindings, {"max_memory_usage": self.limits.query_memory, **settings})


def refusal(exc: RookeryError, max_bytes: int) -> str:
    """Why the engine refuses to evaluate an expression on a row, with at most `max_bytes` of memory."""
    return f"it takes {memory_above(max_bytes)}" if exceeds_own_memory(exc) else exc.message


def default_fails(column: Column, message: str) -> tuple[str, str]:
    """A column, and the reason why a row without a value for it does not get the default."""
    default = column.default[:MAX_EXPRESSION_CHARACTERS]
    return column.name, f"the default `{default}` cannot be computed: {_shortened(message)}"


def _without(rows: str, numbers: Collection[int]) -> str:
    """Rows except those with some numbers, as SQL to select from.

    The LIMIT keeps the engine from evaluating outer conditions on the excluded rows.
    """
    excluded = "".join(f" AND NOT {ROW_NUMBER_COLUMN} BETWEEN {first} AND {last}" for first, last in _runs(numbers))
    return f"(SELECT * FROM {rows} WHERE 1{excluded} LIMIT {BARRIER})"


def _shortened(message: str) -> str:
    return ENGINE_CONTEXT.split(message)[0][:_MAX_REASON_CHARACTERS]


def _runs(numbers: Collection[int]) -> list[tuple[int, int]]:
    """The first and last number of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for n in sorted(numbers):
        first = runs.pop()[0] if runs and runs[-1][1] == n - 1 else n
        runs.append((first, n))
    return runs
