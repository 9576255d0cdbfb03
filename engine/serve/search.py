"""Finding the bad rows of a batch that did not go in as it is.

Every row gets a number, and the engine reads the batch once more, leaving out what it cannot read: rows whose number
is missing are bad. Which of their columns are, it is asked column by column. So a thousand bad rows cost as many
passes as there are columns, and not an insert each, and the engine's own parser is the only judge throughout.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from engine.compiler.scope import BARRIER, base_type
from engine.errors import RookeryError
from engine.schema import Name
from engine.serve.batch import Bad
from engine.serve.staging import NUMBER, Stage, Staged, checks, is_tenant, tenant_kind
from engine.warehouse.port import Input, Warehouse

TOLERANT: Mapping[str, int] = {"input_format_allow_errors_num": 2_000_000_000, "input_format_allow_errors_ratio": 1}
MOST_TRIES = 200
"""Inserts that may fail while rows are parted, for a failure is slow. A row that stops the engine takes a few."""
UNDECIDED = "not looked at: too many other rows cannot be read"
SHOWN = 80
"""Characters of a value that a reason shows."""
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
        found: dict[int, Bad] = {}
        conditions = checks(self._stage, bound)
        # Values deeper in an event are cast only when they are taken, and a cast may throw.
        deeper = [c for c in self._stage.columns if c.type == "JSON" and not is_tenant(self._stage, c)]
        if deeper:
            everything = [c.taken for c in deeper] + [c.check for c in deeper if c.check]
            for number, why in self._throwing(", ".join(everything), 0, len(rows)).items():
                row = found.setdefault(number, Bad(number, rows[number], format, header=header))
                row.add("", _ASIDE.split(why)[0][:200])
        passed = f" AND {NUMBER} NOT IN ({', '.join(map(str, found))})" if found else ""
        table = f"(SELECT * FROM {self._table.sql()} WHERE 1{passed} LIMIT {BARRIER})"
        for staged, check in conditions:
            failing = self._warehouse.query(
                f"SELECT {NUMBER}, toString({staged.value}) FROM {table} WHERE ifNull(NOT ({check}), 0)"
            )
            for number, value in failing.rows:
                row = found.setdefault(int(number), Bad(int(number), rows[int(number)], format, header=header))
                row.add(staged.column, reason(self._stage, staged, value, bound))
                row.foreign |= bound is not None and is_tenant(self._stage, staged) and value is not None
        for row in found.values():
            row.values = values_of(row.text, format, header, self._stage)
        return found

    def keep_only(self, rows: Mapping[int, bytes], format: Input, header: bytes = b"") -> None:
        """Stage these rows and no others."""
        self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
        numbered = {n: text for n, row in rows.items() if (text := _numbered(n, row, format)) is not None}
        self._insert(numbered, format, header, together=True)

    def _throwing(self, expressions: str, start: int, stop: int) -> dict[int, str]:
        """Staged rows from a number up to another for which an expression throws, and what it says, by halves."""
        try:
            self._warehouse.query(
                f"SELECT sum(ignore({expressions})) FROM (SELECT * FROM {self._table.sql()} "
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
            return self._throwing(expressions, start, middle) | self._throwing(expressions, middle, stop)
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
            bad[n].add("", "the row is not a JSON object" if format is Input.NDJSON else "the row cannot be read")
        for staged in {c.name: c for c in self._stage.columns}.values() if sound else ():
            fine = self._insert(sound, format, header, (staged.name,))
            self._warehouse.execute(f"TRUNCATE TABLE {self._table.sql()}")
            for n in sound.keys() - fine:
                values = values_of(bad[n].text, format, header, self._stage)
                kind = next(c.type for c in self._stage.source.columns if c.name == staged.column)
                shown = (values.get(staged.column) or "")[:SHOWN]
                bad[n].add(staged.column, f"`{shown}` is not of type {kind}")
        for row in bad.values():
            if not row.columns:
                row.add("", "the row cannot be read: a key twice, or values that do not end")


def _numbered(number: int, row: bytes, format: Input) -> bytes | None:
    """The row with its number in front, or None where it cannot have one: it is bad by itself."""
    if format is Input.CSV:
        return b"%d,%s" % (number, row)
    text = row.strip()
    try:
        if not isinstance(orjson.loads(text), dict):
            return None
    except orjson.JSONDecodeError:
        return None
    if _EMPTY_OBJECT.fullmatch(text):
        return b'{"_rk_n":%d}' % number
    return b'{"_rk_n":%d,%s' % (number, text[1:])


def reason(stage: Stage, staged: Staged, value: str | None, bound: str | None) -> str:
    """Why a value that could be read is not stored, in words for its sender."""
    shown = "missing or null" if value is None else f"`{value[:SHOWN]}`"
    if not is_tenant(stage, staged):
        kind = next(c.type for c in stage.source.columns if c.name == staged.column)
        return f"{shown} does not fit {kind}"
    if bound is not None:
        return f"{shown} is not the tenant that the token writes for"
    return f"{shown} is no canonical {base_type(tenant_kind(stage.source))}"


def values_of(row: bytes, format: Input, header: bytes, stage: Stage) -> dict[str, str | None]:
    """The texts that a row has for the datasource's columns, as far as they can be told."""
    given = _csv_values(row, header) if format is Input.CSV else _json_values(row)
    return {c.column: _text(given[c.name]) for c in stage.columns if c.name in given}


def _csv_values(row: bytes, header: bytes) -> dict[str, Any]:
    with suppress(csv.Error):
        names, *cells = csv.reader(io.StringIO(b"\n".join((header, row)).decode(errors="replace"), newline=""))
        if len(cells) == 1:
            return dict(zip(names, cells[0], strict=False))
    return {}


def _json_values(row: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(row)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value, default=str).decode()
