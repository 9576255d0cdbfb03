"""Finding the bad rows of a batch that did not go in as it is.

Every row gets a number, and the engine reads the batch once more, leaving out what it cannot read: rows whose number
is missing are bad. Which of their columns are, it is asked column by column. So a thousand bad rows cost as many
passes as there are columns, and not an insert each, and the engine's own parser is the only judge throughout.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from engine.compiler.scope import BARRIER
from engine.errors import RookeryError
from engine.schema import Name
from engine.serve.batch import Bad
from engine.serve.nested import NO_ID
from engine.serve.reasons import SHOWN, has_all_cells, loaded, reason, unreadable, values_of
from engine.serve.staging import NUMBER, Stage, checks, is_tenant
from engine.warehouse.port import Input, Warehouse

TOLERANT: Mapping[str, int] = {"input_format_allow_errors_num": 2_000_000_000, "input_format_allow_errors_ratio": 1}
MOST_TRIES = 200
"""Inserts that may fail while rows are parted, for a failure is slow. A row that stops the engine takes a few."""
UNDECIDED = "not looked at: too many other rows cannot be read"
_STOPPED_AT = re.compile(r"while reading the value of key (\w+)")
_ASIDE = re.compile(r":? \((?:while|at row|in file)")
_EMPTY_OBJECT = re.compile(rb"\{\s*\}")


class Search:
    """Reads a batch's rows into a stage, numbered, and tells which are bad and why."""

    def __init__(self, warehouse: Warehouse, stage: Stage, table: Name, settings: Mapping[str, int | str]) -> None:
        self._warehouse = warehouse
        self._stage = stage
        self._table = table
        self._settings = {**settings, **TOLERANT, "input_format_parallel_parsing": 0, "max_threads": 1}
        self._tries = 0
        self._undecided: set[int] = set()
        self._stopped: dict[int, str] = {}

    def read(self, rows: Sequence[bytes], format: Input, header: bytes = b"") -> dict[int, Bad]:
        """Fill the (empty) stage with the rows that can be read. Returns the others by number, from 0."""
        sound = {n: numbered for n, row in enumerate(rows) if (numbered := _numbered(n, row, format)) is not None}
        there = self._insert(sound, format, header)
        bad = {n: Bad(n, row, format, header=header) for n, row in enumerate(rows) if n not in there}
        if bad:
            self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in self._undecided:
                bad[n].add("", UNDECIDED)
            if format is Input.CSV:
                for row in bad.values():
                    if not has_all_cells(row.text, header):
                        row.add("", unreadable(row.text, format, header))
            for n, why in self._stopped.items():
                self._tell(bad[n], why, format, header)
            self._explain(bad, {n: sound[n] for n in bad if n in sound and not bad[n].columns}, format, header)
            left = {n: text for n, text in sound.items() if n not in bad}
            again = self._insert(left, format, header, together=True)
            for n in left.keys() - again:
                bad[n] = Bad(n, rows[n], format, header=header)
                bad[n].add("", "the row cannot be read")
        for row in bad.values():
            row.values = values_of(row.text, format, header, self._stage)
        return bad

    def check(self, bound: str | None, rows: Sequence[bytes], format: Input, header: bytes = b"") -> dict[int, Bad]:
        """Rows of the filled stage that do not meet what is asked of them, or cannot be stored, by number."""
        # Values deeper in an event are cast only when they are judged and taken, and a cast may throw.
        deeper = [c for c in self._stage.columns if c.type == "JSON" and not is_tenant(self._stage, c)]
        conditions = checks(self._stage, bound)
        thrown = self._throwing(self._without({}), [c.check for c in deeper if c.check], 0, len(rows))
        sound = self._without(thrown)
        found: dict[int, Bad] = {}
        for staged, check in conditions:
            failing = self._warehouse.query(
                f"SELECT {NUMBER}, toString({staged.value}) FROM {sound} WHERE ifNull(NOT ({check}), 0)"
            )
            for number, value in failing.rows:
                text = rows[int(number)]
                if not is_tenant(self._stage, staged) or value == NO_ID:
                    value = values_of(text, format, header, self._stage).get(staged.column, value)
                row = found.setdefault(int(number), Bad(int(number), text, format, header=header))
                row.add(staged.column, reason(self._stage, staged, value, bound))
                row.foreign |= bound is not None and is_tenant(self._stage, staged) and value is not None
        fit = self._without(thrown, *(f"ifNull({c}, 1)" for _, c in conditions))
        thrown |= self._throwing(fit, [c.taken for c in deeper], 0, len(rows))
        for number, why in thrown.items():
            found[number] = Bad(number, rows[number], format, header=header)
            found[number].add("", _ASIDE.split(why)[0][:200])
        for row in found.values():
            row.values = values_of(row.text, format, header, self._stage)
        return found

    def _without(self, numbers: Collection[int], *conditions: str) -> str:
        """The stage's rows but for some, and for those that do not meet conditions."""
        passed = "".join(f" AND NOT {NUMBER} BETWEEN {first} AND {last}" for first, last in _runs(numbers))
        passed += "".join(f" AND ({c})" for c in conditions)
        return f"(SELECT * FROM {self._table.sql()} WHERE 1{passed} LIMIT {BARRIER})"

    def keep_only(self, rows: Mapping[int, bytes], format: Input, header: bytes = b"") -> None:
        """Stage these rows and no others."""
        self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
        numbered = {n: text for n, row in rows.items() if (text := _numbered(n, row, format)) is not None}
        self._insert(numbered, format, header, together=True)

    def _throwing(self, table: str, expressions: Sequence[str], start: int, stop: int) -> dict[int, str]:
        """Rows from a number up to another for which one of the expressions throws, and what it says, by halves."""
        if not expressions:
            return {}
        try:
            self._warehouse.query(
                f"SELECT sum(ignore({', '.join(expressions)})) FROM (SELECT * FROM {table} "
                f"WHERE {NUMBER} >= {start} AND {NUMBER} < {stop} LIMIT {BARRIER})",
                None,
                {"max_threads": 1},
            )
        except RookeryError as exc:
            if exc.code.status >= 500:
                raise
            self._tries += 1
            if stop - start == 1:
                return {start: exc.message}
            if self._tries > MOST_TRIES:
                return dict.fromkeys(range(start, stop), UNDECIDED)
            middle = (start + stop) // 2
            first = self._throwing(table, expressions, start, middle)
            return first | self._throwing(table, expressions, middle, stop)
        return {}

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
            body = NUMBER.encode() + b"," + header + b"\n" + body
        names = (NUMBER, *columns) if columns else ()
        try:
            self._warehouse.insert(self._table.sql(), body, format, names, self._settings)
        except RookeryError as exc:
            if exc.code.status >= 500:
                raise
            return self._parted(rows, format, header, columns, exc)
        there = self._warehouse.query(f"SELECT {NUMBER}, count() FROM {self._table.sql()} GROUP BY 1")
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
            if self._tries > MOST_TRIES:
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
        if self._tries > MOST_TRIES:
            self._undecided |= rows.keys()
            return set()
        pairs = list(rows.items())
        middle = len(pairs) // 2
        first = self._insert(dict(pairs[:middle]), format, header, columns)
        return first | self._insert(dict(pairs[middle:]), format, header, columns)

    def _tell(self, row: Bad, why: str, format: Input, header: bytes) -> None:
        """Why the engine stopped at a row."""
        found = _STOPPED_AT.search(why)
        staged = next((c for c in self._stage.columns if found and c.name == found[1]), None)
        if staged is None:
            row.add("", _ASIDE.split(why)[0][:200])
            return
        shown = (values_of(row.text, format, header, self._stage).get(staged.column) or "")[:SHOWN]
        kind = next(c.type for c in self._stage.source.columns if c.name == staged.column)
        row.add(staged.column, f"`{shown}` does not fit {kind}")

    def _explain(self, bad: Mapping[int, Bad], sound: Mapping[int, bytes], format: Input, header: bytes) -> None:
        for n in (n for n in bad if n not in sound and not bad[n].columns):
            bad[n].add("", unreadable(bad[n].text, format, header))
        for staged in {c.name: c for c in self._stage.columns}.values() if sound else ():
            fine = self._insert(sound, format, header, (staged.name,))
            self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in sound.keys() - fine:
                if staged.path:
                    bad[n].add(staged.column, f"what `{staged.name}` holds cannot be read")
                    continue
                values = values_of(bad[n].text, format, header, self._stage)
                kind = next(c.type for c in self._stage.source.columns if c.name == staged.column)
                shown = (values.get(staged.column) or "")[:SHOWN]
                bad[n].add(staged.column, f"`{shown}` is not of type {kind}")
        for row in bad.values():
            if not row.columns:
                row.add("", "the row cannot be read: a key twice, or values that do not end")


def _runs(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Numbers as first and last of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for n in sorted(numbers):
        first = runs.pop()[0] if runs and runs[-1][1] == n - 1 else n
        runs.append((first, n))
    return runs


def _numbered(number: int, row: bytes, format: Input) -> bytes | None:
    """The row with its number in front, or None where it cannot have one: it is bad by itself."""
    if format is Input.CSV:
        return b"%d,%s" % (number, row)
    text = row.strip()
    if not isinstance(loaded(text), dict):
        return None
    if _EMPTY_OBJECT.fullmatch(text):
        return b'{"_rk_n":%d}' % number
    return b'{"_rk_n":%d,%s' % (number, text[1:])
