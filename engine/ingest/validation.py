"""Which staged rows cannot be stored, and for which of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.compiler.scope import BARRIER
from engine.errors import RookeryError
from engine.ingest.batch import RejectedRow
from engine.ingest.row_expressions import SHOWN as EXPRESSION
from engine.ingest.row_expressions import evaluated
from engine.ingest.values.json_paths import NO_ID
from engine.ingest.values.rejections import MAX_SHOWN_CHARACTERS, reason, values_of
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, StageSchema, checks, is_tenant, values_taken
from engine.ingest.values.wide_types import Staged
from engine.project.model import Column
from engine.schema import Name, quote
from engine.warehouse.port import Input, Warehouse

UNDECIDED = "not looked at: too many other rows cannot be read"
ASIDE = re.compile(r":? \((?:while|at row|in file)")
"""Where the engine stops to tell what the sender can use."""


@dataclass(slots=True)
class Judge:
    """Judges the numbered rows of a stage.

    `rows` are their texts, `bad` those that are not good, by number; `stage_again` stages some of them and no others.
    `most_tries` queries may fail while rows are parted: failures are slow.
    """

    warehouse: Warehouse
    stage: StageSchema
    table: Name
    rows: Sequence[bytes]
    format: Input
    header: bytes
    stage_again: Callable[[Collection[int]], None]
    most_tries: int
    bad: dict[int, RejectedRow] = field(default_factory=dict)
    _thrown: set[int] = field(default_factory=set)
    _tries: int = 0

    def judge(self, bound: str | None) -> dict[int, RejectedRow]:
        """Rows that do not meet what is asked of them, or cannot be stored, by number."""
        # Values deeper in an event are cast only when they are judged and taken, and a cast may throw.
        deeper = [c for c in self.stage.columns if c.type == "JSON" and not is_tenant(self.stage, c)]
        conditions = checks(self.stage, bound)
        for staged, check in conditions:
            if staged not in deeper:
                self._ask(staged, check, bound)
        guarded = [self._ask(staged, staged.guard, bound) for staged in deeper if staged.guard]
        if any(guarded):
            # The types of all values in a block are cast, also those of rows that are filtered out.
            self.stage_again(self._left())
        self._note_throwing({c.column: c.check for c in deeper if c.check})
        for staged, check in conditions:
            if staged in deeper:
                self._ask(staged, check, bound)
        self._note_throwing({c.column: c.taken for c in deeper})
        self.note_unstorable(bound)
        for row in self.bad.values():
            row.values = values_of(row.text, self.format, self.header, self.stage)
        return self.bad

    def _left(self) -> list[int]:
        """Numbers of the staged rows that are not bad."""
        found = self.warehouse.query(f"SELECT {ROW_NUMBER_COLUMN} FROM {self.table.sql()}")
        return sorted({int(n) for (n,) in found.rows} - self.bad.keys())

    def _ask(self, staged: Staged, check: str, bound: str | None) -> bool:
        """Note the rows that do not meet a condition; whether there are some."""
        table = self._without(self._thrown)
        failing = self.warehouse.query(
            f"SELECT {ROW_NUMBER_COLUMN}, toString({staged.value}) FROM {table} WHERE ifNull(NOT ({check}), 0)"
        )
        for number, value in failing.rows:
            row = self._row(int(number))
            if not is_tenant(self.stage, staged) or value == NO_ID:
                value = values_of(row.text, self.format, self.header, self.stage).get(staged.column, value)
            row.add(staged.column, reason(self.stage, staged, value, bound))
            row.foreign |= bound is not None and is_tenant(self.stage, staged) and value is not None
        return bool(failing.rows)

    def _row(self, number: int) -> RejectedRow:
        return self.bad.setdefault(number, RejectedRow(number, self.rows[number], self.format, header=self.header))

    def _note_throwing(self, expressions: Mapping[str, str]) -> None:
        """Note the rows, of those that are not bad, on which a column's expression throws."""
        sound = self._without(self.bad)
        if not expressions or not self._throwing(sound, [*expressions.values()], 0, len(self.rows), parted=False):
            return
        for column, expression in expressions.items():
            for number, why in self._throwing(sound, [expression], 0, len(self.rows)).items():
                row = self._row(number)
                self._thrown.add(number)
                value = values_of(row.text, self.format, self.header, self.stage).get(column)
                declared = next(c for c in self.stage.source.columns if c.name == column)
                if why == UNDECIDED:
                    row.add("", UNDECIDED)
                elif value is None:
                    row.add(*default_throws(declared, why) if declared.default else ("", _short(why)))
                else:
                    row.add(column, f"`{value[:MAX_SHOWN_CHARACTERS]}` is not of type {declared.type}")

    def note_unstorable(self, bound: str | None) -> None:
        """Note the rows, of those that are not bad, on which a key, a TTL or an index of the table throws."""
        expressions = evaluated(self.stage.source)
        if not expressions:
            return
        names = [quote(c.name) for c in self.stage.source.columns]
        # No alias of a value may be a column's name: it would take the column's place in the other values.
        values = ", ".join(f"{v} AS _rk_v{n}" for n, v in enumerate(values_taken(self.stage, bound)))
        named = ", ".join(f"_rk_v{n} AS {name}" for n, name in enumerate(names))
        rows = len(self.rows)

        def stored() -> str:
            sound = self.sound()
            return (
                f"(SELECT {ROW_NUMBER_COLUMN}, {named} FROM (SELECT {ROW_NUMBER_COLUMN}, {values} FROM {sound} LIMIT {BARRIER}) "
                f"LIMIT {BARRIER})"
            )

        if not self._throwing(stored(), [e.sql for e in expressions], 0, rows, parted=False):
            return
        for expression in expressions:
            if self._throwing(stored(), [expression.sql], 0, 0, parted=False):
                # It cannot be asked by itself.
                continue
            for number, why in self._throwing(stored(), [expression.sql], 0, rows).items():
                row = self._row(number)
                if why == UNDECIDED:
                    row.add("", UNDECIDED)
                else:
                    row.add(expression.column, f"{expression.what} cannot be computed: {_short(why)}")

    def sound(self) -> str:
        """The stage's rows that are not bad, as what a SELECT is from."""
        return self._without(self.bad)

    def _without(self, numbers: Collection[int], *conditions: str) -> str:
        """The stage's rows but for some, and for those that do not meet conditions."""
        passed = "".join(f" AND NOT {ROW_NUMBER_COLUMN} BETWEEN {first} AND {last}" for first, last in _runs(numbers))
        passed += "".join(f" AND ({c})" for c in conditions)
        return f"(SELECT * FROM {self.table.sql()} WHERE 1{passed} LIMIT {BARRIER})"

    def _throwing(
        self, table: str, expressions: Sequence[str], start: int, stop: int, *, parted: bool = True
    ) -> dict[int, str]:
        """Rows from a number up to another for which one of the expressions throws, and what it says, by halves.

        If not `parted`, only whether there are some.
        """
        try:
            self.warehouse.query(
                f"SELECT sum(ignore({', '.join(expressions)})) FROM (SELECT * FROM {table} "
                f"WHERE {ROW_NUMBER_COLUMN} >= {start} AND {ROW_NUMBER_COLUMN} < {stop} LIMIT {BARRIER})",
                None,
                {"max_threads": 1},
            )
        except RookeryError as exc:
            if exc.is_server_fault:
                raise
            self._tries += 1
            if stop - start == 1 or not parted:
                return {start: exc.message}
            if self._tries > self.most_tries:
                return dict.fromkeys(range(start, stop), UNDECIDED)
            middle = (start + stop) // 2
            first = self._throwing(table, expressions, start, middle)
            return first | self._throwing(table, expressions, middle, stop)
        return {}


def default_throws(column: Column, why: str) -> tuple[str, str]:
    """A column, and the reason for which a row that lacks it has no default for it."""
    return column.name, f"the default `{column.default[:EXPRESSION]}` cannot be computed: {_short(why)}"


def _short(why: str) -> str:
    return ASIDE.split(why)[0][:200]


def _runs(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Numbers as first and last of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for n in sorted(numbers):
        first = runs.pop()[0] if runs and runs[-1][1] == n - 1 else n
        runs.append((first, n))
    return runs
