"""Finds the bad rows of a batch that could not be stored as a whole.

Each row gets a number, and the engine reads the batch again with settings under which it skips rows that it cannot
read: rows whose numbers are missing from the stage are bad. Which values are wrong is found column by column. So a
thousand bad rows take one pass per column instead of one INSERT each, and only the engine's own parser decides which
values are valid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from engine.errors import RookeryError
from engine.ingest.batch import RejectedRow, RowTexts, StagedBatch
from engine.ingest.batch_texts import as_read
from engine.ingest.formats.body_rows import has_no_known_key
from engine.ingest.formats.csv_records import is_unterminated
from engine.ingest.formats.json_values import has_unknown_escape
from engine.ingest.formats.nested_lists import has_deep_lists
from engine.ingest.read_settings import too_large
from engine.ingest.unreadable_values import explain_row, explain_value, has_clear_boundaries, single_values
from engine.ingest.validation import ENGINE_CONTEXT, UNCHECKED, Judge, SearchLimits, default_fails, refusal
from engine.ingest.values.rejections import (
    MAX_SHOWN_CHARACTERS,
    column_values,
    csv_cells,
    matches_header,
    parse_json,
    spelling_hint,
    unknown_keys_reason,
    unreadable_reason,
)
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, stage_ddl
from engine.project.datasource import Column
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.errors import exceeds_own_memory, is_caused_by_rows
from engine.warehouse.port import Input, Warehouse

TOLERANT_SETTINGS: Mapping[str, int] = {
    "input_format_allow_errors_num": 2_000_000_000,
    "input_format_allow_errors_ratio": 1,
}
UNEXPLAINED = "the row cannot be read; the reason was not determined, because too many other rows are bad"
_STOPPED_AT = re.compile(r"while reading the value of key (\w+)")
_EMPTY_OBJECT = re.compile(rb"\{\s*\}")
_MAX_REASON_CHARACTERS = 200


class Bisection:
    """Stages the rows of one append with their numbers, and finds the bad ones with the reasons.

    Runs on a `search` thread, which owns the stage until the append has its result.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        batch: StagedBatch,
        rows: RowTexts,
        settings: Mapping[str, int | str],
        limits: SearchLimits,
    ) -> None:
        self._warehouse = warehouse
        self._batch = batch
        self._schema = batch.schema
        self._table = batch.table
        self._rows = rows
        # Use one thread, so that rows are read in order and a failure concerns only the rows of its block.
        self._settings = {**settings, **TOLERANT_SETTINGS, "input_format_parallel_parsing": 0, "max_threads": 1}
        self._limits = limits
        self._failed_tries = 0
        self._unchecked: set[int] = set()
        """Rows that were not read one by one, because too many tries had failed."""
        self._stopped_at: dict[int, str] = {}
        """The engine's message for each row at which it stopped instead of skipping it."""

    def read(self) -> dict[int, RejectedRow]:
        """Fill the (empty) stage with the rows that can be read. Returns the others by number."""
        unrelated = self._unrelated_events()
        numbered = self._numbered(n for n in range(len(self._rows.texts)) if n not in unrelated)
        staged = self._insert(numbered)
        rejected = {n: self._rejected(n) for n in range(len(self._rows.texts)) if n not in staged}
        if rejected:
            # The stage must be empty to read values one by one. Afterwards the readable rows are staged again.
            self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in unrelated:
                rejected[n].add("", unknown_keys_reason(rejected[n].text))
            self._explain(rejected, numbered)
            self._stage_readable({n: text for n, text in numbered.items() if n not in rejected}, rejected)
        for row in rejected.values():
            row.values = self._values_of(row)
        return rejected

    def validate(self, purged: Collection[str]) -> dict[int, RejectedRow]:
        """The staged rows that fail a condition of the datasource, belong to `purged` tenants, or cannot be stored.

        By number.
        """
        judge = Judge(self._warehouse, self._batch, self._rows, self.stage_only, self._limits, purged)
        return judge.judge()

    def stage_only(self, numbers: Collection[int]) -> None:
        """Replace the stage's rows with these, which are known to be readable."""
        self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
        self._insert(self._numbered(numbers), is_readable=True)

    def _rejected(self, number: int) -> RejectedRow:
        return RejectedRow(number, self._rows.texts[number], self._rows.format, header=self._rows.header)

    def _values_of(self, row: RejectedRow) -> dict[str, str | None]:
        return column_values(row.text, self._rows.format, self._rows.header, self._schema)

    def _unrelated_events(self) -> set[int]:
        """Events without any of the datasource's keys that the conditions do not reject."""
        if self._rows.format is not Input.NDJSON or not self._schema.accepts_empty_rows(
            is_bound=self._batch.bound is not None
        ):
            return set()
        return {n for n, row in enumerate(self._rows.texts) if has_no_known_key(parse_json(row), self._schema.keys)}

    def _explain(self, rejected: Mapping[int, RejectedRow], numbered: Mapping[int, bytes]) -> None:
        """Add the reasons to as many unreadable rows as the limits allow."""
        for n in self._unchecked:
            rejected[n].add("", UNCHECKED)
        if self._rows.format is Input.CSV:
            for row in rejected.values():
                if not is_unterminated(row.text) and not matches_header(row.text, self._rows.header):
                    row.add("", unreadable_reason(row.text, self._rows.format, self._rows.header))
        for n, message in self._stopped_at.items():
            self._explain_stop(rejected[n], message)
        unexplained = [n for n in rejected if n in numbered and not rejected[n].columns]
        for n in unexplained[self._limits.explained_rows :]:
            rejected[n].add("", UNEXPLAINED)
        self._explain_values(rejected, {n: numbered[n] for n in unexplained[: self._limits.explained_rows]})

    def _stage_readable(self, readable: Mapping[int, bytes], rejected: dict[int, RejectedRow]) -> None:
        """Stage the readable rows again. Rows that fail now, unlike in the first attempt, are also rejected."""
        staged = self._insert(readable, is_readable=True)
        for n in readable.keys() - staged:
            rejected[n] = self._rejected(n)
            rejected[n].add("", "the row cannot be read")

    def _numbered(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """Rows with their numbers in front, as the stage reads them. Rows that cannot be numbered are left out,
        because they are bad.
        """
        if self._schema.infers_types:
            numbers = [n for n in numbers if not _has_deep_lists(self._rows.texts[n], self._rows.format)]
        texts = {n: _numbered_row(n, self._rows.texts[n], self._rows.format) for n in numbers}
        numbered = {n: text for n, text in texts.items() if text is not None}
        if self._rows.format is not Input.NDJSON or not (self._schema.shared or self._schema.paths):
            return numbered
        rewritten = {n: as_read(text, self._schema) for n, text in numbered.items()}
        return {n: text for n, text in rewritten.items() if text is not None}

    def _insert(
        self,
        rows: Mapping[int, bytes],
        header: bytes | None = None,
        columns: Sequence[str] = (),
        *,
        is_readable: bool = False,
    ) -> set[int]:
        """Insert numbered rows into the stage. Returns the numbers that arrived, each exactly once.

        CSV records that span lines are inserted one by one, unless they are known to be readable: the engine skips
        the first line of a bad record and continues in the middle of it.
        """
        if not rows:
            return set()
        header = self._rows.header if header is None else header
        is_csv = self._rows.format is Input.CSV
        if is_csv and not is_readable and any(b"\n" in row for row in rows.values()):
            return self._insert_multiline(rows, header, columns)
        names = (ROW_NUMBER_COLUMN, *columns) if columns else ()
        body = self._body(rows, header)
        try:
            self._warehouse.insert(self._table.sql(), body, self._rows.format, names, self._settings)
        except RookeryError as exc:
            if exceeds_own_memory(exc):
                raise too_large(exc, int(self._settings["max_memory_usage"])) from exc
            if not is_caused_by_rows(exc):
                raise
            return self._insert_halves(rows, header, columns, exc)
        # Records without a number are read as 0, so a number that occurs more than once does not identify a row.
        result = self._warehouse.query(f"SELECT {ROW_NUMBER_COLUMN}, count() FROM {self._table.sql()} GROUP BY 1")
        return {int(n) for n, times in result.rows if times == 1 and int(n) in rows}

    def _body(self, rows: Mapping[int, bytes], header: bytes) -> bytes:
        """Numbered rows as the body of an INSERT."""
        body = b"\n".join(rows.values()) + b"\n"
        return b"%s,%s\n%s" % (ROW_NUMBER_COLUMN.encode(), header, body) if self._rows.format is Input.CSV else body

    def _insert_multiline(self, rows: Mapping[int, bytes], header: bytes, columns: Sequence[str]) -> set[int]:
        """Insert CSV records some of which span lines: all of those at once if that succeeds, otherwise each one
        separately.
        """
        long = {n: row for n, row in rows.items() if b"\n" in row}
        short = {n: row for n, row in rows.items() if n not in long}
        staged = self._insert(short, header, columns)
        if self._insert(long, header, columns, is_readable=True) == long.keys():
            return staged | long.keys()
        # After a bad record, the engine may have read the next ones from the wrong position, so what it has staged
        # cannot be used.
        self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
        staged = self._insert(short, header, columns)
        for n, row in long.items():
            self._failed_tries += 1
            if self._failed_tries > self._limits.failed_tries:
                self._unchecked.add(n)
            else:
                staged |= self._insert({n: row}, header, columns, is_readable=True)
        return staged

    def _insert_halves(
        self, rows: Mapping[int, bytes], header: bytes, columns: Sequence[str], exc: RookeryError
    ) -> set[int]:
        """Insert rows in halves, because the engine stopped at one instead of skipping it, as for a time out of
        range.
        """
        self._failed_tries += 1
        if len(rows) == 1:
            self._stopped_at |= dict.fromkeys(rows, exc.message)
            return set()
        if self._failed_tries > self._limits.failed_tries:
            self._unchecked |= rows.keys()
            return set()
        pairs = list(rows.items())
        middle = len(pairs) // 2
        first = self._insert(dict(pairs[:middle]), header, columns)
        return first | self._insert(dict(pairs[middle:]), header, columns)

    def _explain_stop(self, row: RejectedRow, message: str) -> None:
        """Add the reason why the engine stopped at a row."""
        match = _STOPPED_AT.search(message)
        staged = next((c for c in self._schema.columns if match and c.name == match[1]), None)
        if staged is not None:
            value = (self._values_of(row).get(staged.column) or "")[:MAX_SHOWN_CHARACTERS]
            type = next(c.type for c in self._schema.source.columns if c.name == staged.column)
            row.add(staged.column, f"`{value}` does not fit {type}{spelling_hint(value, type, row.format)}")
            return
        defaults = self._failing_defaults(row)
        for column, why in defaults.items():
            row.add(*default_fails(column, why))
        if not defaults:
            row.add("", ENGINE_CONTEXT.split(message)[0][:_MAX_REASON_CHARACTERS])

    def _failing_defaults(self, row: RejectedRow) -> dict[Column, str]:
        """Columns that a row lacks and whose defaults throw on its other values, with the engine's messages."""
        values = self._values_of(row)
        wanted = [c for c in self._schema.columns if c.default and values.get(c.column) is None]
        numbered = self._numbered([row.number])
        if not (wanted and numbered):
            return {}
        # In a stage without defaults the row can be read, and each default can be evaluated on its values.
        bare = Name(self._table.database, f"{self._table.name}_bare")
        failing: dict[Column, str] = {}
        try:
            self._warehouse.execute(stage_ddl(self._schema, bare, defaults=False))
            body = self._body(numbered, self._rows.header)
            self._warehouse.insert(bare.sql(), body, self._rows.format, (), self._settings)
            for staged in wanted:
                if message := self._refusal_of(f"SELECT ignore({staged.default}) FROM {bare.sql()}"):
                    declared = next(c for c in self._schema.source.columns if c.name == staged.column)
                    failing[declared] = message
        except RookeryError as exc:
            if not is_caused_by_rows(exc):
                raise
        finally:
            self._warehouse.execute(ddl.drop_table(bare))
        return failing

    def _refusal_of(self, query: str) -> str | None:
        """The engine's message if it refuses a query because of its rows."""
        try:
            # Without the INSERT's settings, toDate('2024-13-45') would return a date instead of throwing.
            self._warehouse.query(query, None, self._settings)
        except RookeryError as exc:
            if not is_caused_by_rows(exc):
                raise
            return refusal(exc, int(self._settings["max_memory_usage"]))
        return None

    def _explain_values(self, rejected: Mapping[int, RejectedRow], numbered: Mapping[int, bytes]) -> None:
        """Find the values that cannot be read. Each value is read separately, so that an error points to exactly one
        value.
        """
        for n, row in rejected.items():
            if n not in numbered and not row.columns:
                explain_row(row, self._schema, unreadable_reason(row.text, self._rows.format, self._rows.header))
        values = {n: single_values(rejected[n], self._schema) for n in numbered}
        for staged in {c.name: c for c in self._schema.columns}.values() if numbered else ():
            rows = {n: texts[staged.name] for n, texts in values.items() if staged.name in texts}
            readable = self._insert(rows, staged.name.encode(), (staged.name,))
            if rows:
                self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in rows.keys() - readable:
                explain_value(rejected[n], staged, self._schema)
        for row in rejected.values():
            if not row.columns:
                explain_row(row, self._schema)


def _has_deep_lists(row: bytes, format: Input) -> bool:
    if format is Input.CSV:
        return any(has_deep_lists(cell.encode()) for cell in csv_cells(row) or ())
    return has_deep_lists(row)


def _numbered_row(number: int, row: bytes, format: Input) -> bytes | None:
    """A row with its number in front, or None if the row is malformed, so that the engine would not read the
    number.
    """
    if format is Input.CSV:
        return None if is_unterminated(row) else b"%d,%s" % (number, row)
    text = row.strip()
    if has_unknown_escape(text) or (not isinstance(parse_json(text), dict) and not has_clear_boundaries(text)):
        return None
    if _EMPTY_OBJECT.fullmatch(text):
        return b'{"%s":%d}' % (ROW_NUMBER_COLUMN.encode(), number)
    return b'{"%s":%d,%s' % (ROW_NUMBER_COLUMN.encode(), number, text[1:])
