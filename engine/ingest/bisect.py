"""Finding the bad rows of a batch that did not go in as it is.

Every row gets a number, and the engine reads the batch once more, leaving out what it cannot read: rows whose number
is missing are bad. Which of their columns are, it is asked column by column. So a thousand bad rows cost as many
passes as there are columns, and not an insert each, and the engine's own parser is the only judge throughout.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from engine.errors import RookeryError
from engine.ingest.batch import RejectedRow
from engine.ingest.formats.body_rows import has_no_known_key
from engine.ingest.formats.csv_records import is_unterminated
from engine.ingest.formats.json_values import has_unknown_escape
from engine.ingest.read_settings import is_too_large, opens_too_far
from engine.ingest.unreadable_values import alone, blame_rest, blame_value, has_borders
from engine.ingest.validation import ASIDE, UNDECIDED, Judge, default_throws
from engine.ingest.values.rejections import (
    MAX_SHOWN_CHARACTERS,
    has_all_cells,
    loaded,
    strange,
    unreadable,
    values_of,
)
from engine.ingest.values.shared_keys import spread
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, StageSchema, stage_ddl
from engine.project.model import Column
from engine.schema import Name
from engine.warehouse import ddl
from engine.warehouse.port import Input, Warehouse

TOLERANT_SETTINGS: Mapping[str, int] = {
    "input_format_allow_errors_num": 2_000_000_000,
    "input_format_allow_errors_ratio": 1,
}
UNEXPLAINED = "the row cannot be read; why was not looked for, as too many other rows are bad"
_STOPPED_AT = re.compile(r"while reading the value of key (\w+)")
_EMPTY_OBJECT = re.compile(rb"\{\s*\}")


class Bisection:
    """Reads a batch's rows into a stage, numbered, and tells which are bad and why."""

    def __init__(
        self,
        warehouse: Warehouse,
        stage: StageSchema,
        table: Name,
        settings: Mapping[str, int | str],
        limits: tuple[int, int],
    ) -> None:
        """`limits` are the bad rows that are explained, and the inserts that may fail while rows are parted."""
        self._warehouse = warehouse
        self._stage = stage
        self._table = table
        self._settings = {**settings, **TOLERANT_SETTINGS, "input_format_parallel_parsing": 0, "max_threads": 1}
        self._explained, self._most_tries = limits
        self._tries = 0
        self._undecided: set[int] = set()
        self._stopped: dict[int, str] = {}

    def read(self, rows: Sequence[bytes], format: Input, header: bytes, compare_keys: bool) -> dict[int, RejectedRow]:
        """Fill the (empty) stage with the rows that can be read. Returns the others by number, from 0.

        With `compare_keys`, events that have none of the datasource's keys are bad.
        """
        strangers = self._strangers(rows) if compare_keys and format is Input.NDJSON else set()
        sound = self._numbered({n: row for n, row in enumerate(rows) if n not in strangers}, format)
        there = self._insert(sound, format, header)
        bad = {n: RejectedRow(n, row, format, header=header) for n, row in enumerate(rows) if n not in there}
        if bad:
            self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in strangers:
                bad[n].add("", strange(rows[n]))
            for n in self._undecided:
                bad[n].add("", UNDECIDED)
            if format is Input.CSV:
                for row in bad.values():
                    if not is_unterminated(row.text) and not has_all_cells(row.text, header):
                        row.add("", unreadable(row.text, format, header))
            for n, why in self._stopped.items():
                self._tell(bad[n], why, format, header)
            unclear = [n for n in bad if n in sound and not bad[n].columns]
            for n in unclear[self._explained :]:
                bad[n].add("", UNEXPLAINED)
            self._explain(bad, {n: sound[n] for n in unclear[: self._explained]}, format, header)
            left = {n: text for n, text in sound.items() if n not in bad}
            again = self._insert(left, format, header, together=True)
            for n in left.keys() - again:
                bad[n] = RejectedRow(n, rows[n], format, header=header)
                bad[n].add("", "the row cannot be read")
        for row in bad.values():
            row.values = values_of(row.text, format, header, self._stage)
        return bad

    def check(
        self, bound: str | None, rows: Sequence[bytes], format: Input, header: bytes = b""
    ) -> dict[int, RejectedRow]:
        """Rows of the filled stage that do not meet what is asked of them, or cannot be stored, by number."""

        def stage_again(numbers: Collection[int]) -> None:
            self.keep_only({n: rows[n] for n in numbers}, format, header)

        judge = Judge(self._warehouse, self._stage, self._table, rows, format, header, stage_again, self._most_tries)
        return judge.judge(bound)

    def keep_only(self, rows: Mapping[int, bytes], format: Input, header: bytes = b"") -> None:
        """Stage these rows and no others."""
        self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
        self._insert(self._numbered(rows, format), format, header, together=True)

    def _strangers(self, rows: Sequence[bytes]) -> set[int]:
        """Events that have none of the datasource's keys."""
        return {n for n, row in enumerate(rows) if has_no_known_key(loaded(row), self._stage.keys)}

    def _numbered(self, rows: Mapping[int, bytes], format: Input) -> dict[int, bytes]:
        """Rows with their numbers in front, as the stage takes them; a row that cannot have one is bad."""
        found = {n: _numbered(n, row, format) for n, row in rows.items()}
        sound = {n: row for n, row in found.items() if row is not None}
        if not self._stage.shared or format is not Input.NDJSON:
            return sound
        return {n: text for n, row in sound.items() if (text := spread(row, self._stage.shared)) is not None}

    def _insert(
        self,
        rows: Mapping[int, bytes],
        format: Input,
        header: bytes,
        columns: Sequence[str] = (),
        *,
        together: bool = False,
    ) -> set[int]:
        """Which of the numbered rows the engine reads; a number that comes twice counts for none.

        Records of CSV that span lines are read one by one, unless they are known to be sound `together`: at a bad
        one the engine would go on in the middle of it.
        """
        if not rows:
            return set()
        if format is Input.CSV and not together and any(b"\n" in row for row in rows.values()):
            return self._by_lines(rows, header, columns)
        body = b"\n".join(rows.values()) + b"\n"
        if format is Input.CSV:
            body = ROW_NUMBER_COLUMN.encode() + b"," + header + b"\n" + body
        names = (ROW_NUMBER_COLUMN, *columns) if columns else ()
        try:
            self._warehouse.insert(self._table.sql(), body, format, names, self._settings)
        except RookeryError as exc:
            if is_too_large(exc):
                raise opens_too_far(exc, int(self._settings["max_memory_usage"])) from exc
            if exc.is_server_fault:
                raise
            return self._parted(rows, format, header, columns, exc)
        there = self._warehouse.query(f"SELECT {ROW_NUMBER_COLUMN}, count() FROM {self._table.sql()} GROUP BY 1")
        return {int(n) for n, times in there.rows if times == 1 and int(n) in rows}

    def _by_lines(self, rows: Mapping[int, bytes], header: bytes, columns: Sequence[str]) -> set[int]:
        """The same for CSV with records that span lines: these all at once if that goes well, or else each alone."""
        long = {n: row for n, row in rows.items() if b"\n" in row}
        short = {n: row for n, row in rows.items() if n not in long}
        found = self._insert(short, Input.CSV, header, columns)
        if self._insert(long, Input.CSV, header, columns, together=True) == long.keys():
            return found | long.keys()
        self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
        found = self._insert(short, Input.CSV, header, columns)
        for n, row in long.items():
            self._tries += 1
            if self._tries > self._most_tries:
                self._undecided.add(n)
            else:
                found |= self._insert({n: row}, Input.CSV, header, columns, together=True)
        return found

    def _parted(
        self,
        rows: Mapping[int, bytes],
        format: Input,
        header: bytes,
        columns: Sequence[str],
        exc: RookeryError,
    ) -> set[int]:
        """The same, for rows at one of which the engine stops instead of leaving it out: a time out of its range."""
        self._tries += 1
        if len(rows) == 1:
            self._stopped |= dict.fromkeys(rows, exc.message)
            return set()
        if self._tries > self._most_tries:
            self._undecided |= rows.keys()
            return set()
        pairs = list(rows.items())
        middle = len(pairs) // 2
        first = self._insert(dict(pairs[:middle]), format, header, columns)
        return first | self._insert(dict(pairs[middle:]), format, header, columns)

    def _tell(self, row: RejectedRow, why: str, format: Input, header: bytes) -> None:
        """Why the engine stopped at a row."""
        found = _STOPPED_AT.search(why)
        staged = next((c for c in self._stage.columns if found and c.name == found[1]), None)
        if staged is None:
            blamed = self._throwing_defaults(row, format, header)
            for column in blamed:
                row.add(*default_throws(column, blamed[column]))
            if not blamed:
                row.add("", ASIDE.split(why)[0][:200])
            return
        shown = (values_of(row.text, format, header, self._stage).get(staged.column) or "")[:MAX_SHOWN_CHARACTERS]
        kind = next(c.type for c in self._stage.source.columns if c.name == staged.column)
        row.add(staged.column, f"`{shown}` does not fit {kind}")

    def _throwing_defaults(self, row: RejectedRow, format: Input, header: bytes) -> dict[Column, str]:
        """Columns that a row lacks and whose defaults throw on its other values, and what they say."""
        values = values_of(row.text, format, header, self._stage)
        wanted = [c for c in self._stage.columns if c.default and values.get(c.column) is None]
        sound = self._numbered({row.number: row.text}, format)
        if not (wanted and sound):
            return {}
        bare = Name(self._table.database, f"{self._table.name}_bare")
        body = sound[row.number] + b"\n"
        if format is Input.CSV:
            body = ROW_NUMBER_COLUMN.encode() + b"," + header + b"\n" + body
        found: dict[Column, str] = {}
        try:
            self._warehouse.execute(stage_ddl(self._stage, bare, defaults=False))
            self._warehouse.insert(bare.sql(), body, format, (), self._settings)
            for staged in wanted:
                if why := self._why_not(f"SELECT ignore({staged.default}) FROM {bare.sql()}"):
                    declared = next(c for c in self._stage.source.columns if c.name == staged.column)
                    found[declared] = why
        except RookeryError as exc:
            if exc.is_server_fault:
                raise
        finally:
            self._warehouse.execute(ddl.drop_table(bare))
        return found

    def _why_not(self, query: str) -> str | None:
        """What the engine says of a query's rows, if it refuses them."""
        try:
            # Without the settings of the insert, toDate('2024-13-45') is a day and throws nothing.
            self._warehouse.query(query, None, self._settings)
        except RookeryError as exc:
            if exc.is_server_fault:
                raise
            return exc.message
        return None

    def _explain(
        self, bad: Mapping[int, RejectedRow], sound: Mapping[int, bytes], format: Input, header: bytes
    ) -> None:
        """Which value of each row cannot be read: every one is read alone, so that none is blamed for another."""
        for n in (n for n in bad if n not in sound and not bad[n].columns):
            blame_rest(bad[n], self._stage, unreadable(bad[n].text, format, header))
        single = {n: alone(bad[n], self._stage) for n in sound}
        for staged in {c.name: c for c in self._stage.columns}.values() if sound else ():
            rows = {n: texts[staged.name] for n, texts in single.items() if staged.name in texts}
            fine = self._insert(rows, format, staged.name.encode(), (staged.name,))
            if rows:
                self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in rows.keys() - fine:
                blame_value(bad[n], staged, self._stage)
        for row in bad.values():
            if not row.columns:
                blame_rest(row, self._stage)


def _numbered(number: int, row: bytes, format: Input) -> bytes | None:
    """The row with its number in front, or None where it cannot have one: it is bad by itself."""
    if format is Input.CSV:
        return None if is_unterminated(row) else b"%d,%s" % (number, row)
    text = row.strip()
    if has_unknown_escape(text) or (not isinstance(loaded(text), dict) and not has_borders(text)):
        return None
    if _EMPTY_OBJECT.fullmatch(text):
        return b'{"%s":%d}' % (ROW_NUMBER_COLUMN.encode(), number)
    return b'{"%s":%d,%s' % (ROW_NUMBER_COLUMN.encode(), number, text[1:])
