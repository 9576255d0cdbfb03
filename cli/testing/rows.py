"""Reads rows of files: expected rows, and rows of fixtures with the tenant of each."""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cli.options import options
from cli.testing.values import NULLS, Cell, Row, cell_of_json, parsed
from engine.errors import BAD_ROW, NO_FILE, Place, RookeryError
from engine.project.datasource import Datasource
from engine.project.source import YamlList, YamlMapping, YamlText

FORMATS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv"}
CSV_NULL = "\\N"
MAX_FILE_BYTES = 32 << 20
"""Largest file with rows, in bytes."""
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class FixtureRow:
    """A row of a fixture."""

    text: bytes
    """The row as it is sent, with its line break."""
    tenant: str | None
    """Its tenant; None if the datasource has no tenant column or the row names no tenant."""
    place: Place


@dataclass(frozen=True, slots=True)
class Fixture:
    """The rows of one datasource."""

    datasource: str
    format: str
    place: Place
    """Where the test file declares it."""
    head: bytes
    """The header line of CSV; otherwise empty."""
    rows: tuple[FixtureRow, ...]

    def rows_of(self, tenant: str | None) -> Sequence[FixtureRow]:
        """The rows of a tenant, or those without one."""
        return [row for row in self.rows if row.tenant == tenant]

    def body(self, rows: Sequence[FixtureRow]) -> bytes:
        """The body that appends some of the rows."""
        return self.head + b"".join(row.text for row in rows)


def format_of(path: Path, place: Place) -> str:
    """The format of a file by its extension. Raises RK1008."""
    if path.suffix not in FORMATS:
        hint = "use .ndjson or .csv"
        raise RookeryError(NO_FILE, f"the format of `{path.name}` is unknown", hint=hint, place=place)
    return FORMATS[path.suffix]


def named_file(folder: Path, name: str, place: Place) -> Path:
    """The path of a file that a test file in a folder names at `place`. Raises RK1008 if it is outside the project.

    A project that someone else wrote must not read or change other files of this machine, also not through links.
    """
    path = folder / name
    try:
        real = path.resolve()
        is_inside = any(real.is_relative_to(root.resolve()) for root in (options.project, folder))
    except (OSError, RuntimeError, ValueError):
        # Reading it will show what is wrong with it.
        return path
    if not is_inside:
        hint = "copy it into the project; links to other files are not followed"
        raise RookeryError(NO_FILE, f"file `{path.name}` is outside the project", hint=hint, place=place)
    return path


def read_file(path: Path, place: Place) -> bytes:
    """The content of a file that a test file names at `place`. Raises RK1008."""
    try:
        # Checked first: opening a named pipe may block forever.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RookeryError(NO_FILE, f"`{path.name}` is not a regular file", place=place)
        if status.st_size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES >> 20} MiB"
            raise RookeryError(NO_FILE, f"`{path.name}` is larger than {limit}", hint="use fewer rows", place=place)
        return path.read_bytes()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "the path is not valid"
        message = f"file `{path.name}` cannot be read: {reason}"
        hint = "paths are relative to the test file"
        raise RookeryError(NO_FILE, message, hint=hint, place=place) from exc


def fixture(datasource: Datasource, value: object, folder: Path, place: Place) -> Fixture:
    """A fixture from its value in a test file: the path of a file, or a list of rows. Raises RK1008 and RK5001."""
    tenant_of = _tenant_reader(datasource)
    if isinstance(value, YamlList):
        rows = tuple(_inline_row(row, tenant_of) for row in value if isinstance(row, YamlMapping))
        return Fixture(datasource.name, "ndjson", place, b"", rows)
    path = folder / str(value)
    format, content, file = format_of(path, place), read_file(path, place), _shown(str(value), place)
    head = b""
    if format == "csv":
        head, found = _csv_rows(content, file, datasource.tenant_column)
    else:
        found = _json_rows(content, file, tenant_of)
    return Fixture(datasource.name, format, place, head, tuple(found))


def _shown(path: str, place: Place) -> str:
    """The path of a file next to a test file, as messages show it."""
    return (Path(place.file or "").parent / path).as_posix()


TenantReader = Callable[[Any], str | None]


def _tenant_reader(datasource: Datasource) -> TenantReader:
    """A function that returns the tenant of an event."""
    column = datasource.column(datasource.tenant_column) if datasource.tenant_column else None

    def tenant_of(event: Any) -> str | None:
        for key in column.path if column else ():
            event = event.get(key) if isinstance(event, dict) else None
        if isinstance(event, float) and event.is_integer():
            event = int(event)
        return str(event) if column and isinstance(event, str | int) else None

    return tenant_of


def _inline_row(row: YamlMapping, tenant_of: TenantReader) -> FixtureRow:
    text = orjson.dumps(as_json(row), option=orjson.OPT_APPEND_NEWLINE)
    return FixtureRow(text, tenant_of(orjson.loads(text)), row.source.place(row.location))


def as_json(value: object) -> Any:
    """A value of a test file as JSON. Numbers keep all of their digits."""
    if isinstance(value, YamlMapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, YamlList):
        return [as_json(item) for item in value]
    text = str(value)
    if not isinstance(value, YamlText) or value.style:
        return text
    if text in NULLS:
        return None
    if text in ("true", "false"):
        return text == "true"
    return orjson.Fragment(text) if _NUMBER.fullmatch(text) else text


def _json_rows(content: bytes, file: str, tenant_of: TenantReader) -> Iterator[FixtureRow]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            tenant = tenant_of(orjson.loads(line))
        except orjson.JSONDecodeError:
            # The server says what is wrong with the line.
            tenant = None
        yield FixtureRow(line + b"\n", tenant, Place(file, number))


def _csv_rows(content: bytes, file: str, tenant_column: str | None) -> tuple[bytes, Iterator[FixtureRow]]:
    records = _csv_records(content, file)
    _, head, names = next(records, (1, b"", []))
    index = names.index(tenant_column) if tenant_column in names else None

    def rows() -> Iterator[FixtureRow]:
        for line, text, values in records:
            tenant = values[index] if index is not None and index < len(values) else None
            yield FixtureRow(text, tenant, Place(file, line))

    return head, rows()


def _csv_records(content: bytes, file: str) -> Iterator[tuple[int, bytes, list[str]]]:
    """Records of CSV: the first line of each, its text, and its values."""
    try:
        lines = content.decode("utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as exc:
        raise RookeryError(BAD_ROW, "the file is not UTF-8", place=Place(file)) from exc
    reader, start = csv.reader(lines, strict=False), 0
    for values in reader:
        text = "".join(lines[start : reader.line_num])
        if values:
            yield start + 1, (text if text.endswith("\n") else text + "\n").encode(), values
        start = reader.line_num


def expected_rows(path: Path, place: Place) -> list[Row]:
    """The rows of an expected file. In CSV, \\N is NULL. Raises RK1008 and RK5001."""
    format, content, file = format_of(path, place), read_file(path, place), _shown(path.name, place)
    if format == "csv":
        records = _csv_records(content, file)
        _, _, names = next(records, (1, b"", []))
        return [dict(zip(names, map(_csv_cell, values), strict=False)) for _, _, values in records]
    rows: list[Row] = []
    for number, line in enumerate(content.decode(errors="replace").split("\n"), 1):
        if line.strip():
            rows.append(_json_row(line, Place(file, number)))
    return rows


def _csv_cell(text: str) -> Cell:
    return None if text == CSV_NULL else text


def _json_row(line: str, place: Place) -> Row:
    try:
        row = cell_of_json(parsed(line))
    except ValueError as exc:
        raise RookeryError(BAD_ROW, f"not valid JSON: {exc}", place=place) from exc
    if not isinstance(row, dict):
        raise RookeryError(BAD_ROW, "a row must be a JSON object", place=place)
    return row


def parameter(value: object) -> str | list[str]:
    """A parameter of a call as a string, or as a list of strings for an array."""
    if isinstance(value, YamlList):
        return [item if isinstance(item, str) else orjson.dumps(as_json(item)).decode() for item in value]
    return orjson.dumps(as_json(value)).decode() if isinstance(value, YamlMapping) else str(value)
