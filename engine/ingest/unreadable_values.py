"""Which value of a row cannot be read: each is taken out of its row, so that none is blamed for another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

from engine.ingest.batch import RejectedRow
from engine.ingest.formats.csv_records import has_closing_quote, is_unterminated, raw_cells
from engine.ingest.values.rejections import MAX_SHOWN_CHARACTERS, loaded, names_in
from engine.ingest.values.shared_keys import Member, is_readable, members
from engine.ingest.values.staging import ROW_NUMBER_COLUMN, StageSchema
from engine.ingest.values.wide_types import Staged
from engine.warehouse.port import Input


def alone(row: RejectedRow, stage: StageSchema) -> dict[str, bytes]:
    """Rows with one value of a row each, by the stage's columns that read it, with the row's number."""
    if row.format is Input.CSV:
        cells, places = raw_cells(row.text), _places(row.header)
        found = {
            c.name: cells[at] for c in stage.columns if (at := places.get(c.name.lower(), len(cells))) < len(cells)
        }
        return {name: b"%d,%s" % (row.number, text) for name, text in found.items() if has_closing_quote(text)}
    values = {m.name: m.value for m in members(row.text) or () if is_readable(m.value) or loaded(m.value) is not None}
    return {
        c.name: b'{"%s":%d,"%s":%s}' % (ROW_NUMBER_COLUMN.encode(), row.number, c.name.encode(), value)
        for c in stage.columns
        if (value := values.get(_key(c))) is not None
    }


def blame_value(row: RejectedRow, staged: Staged, stage: StageSchema) -> None:
    """Say what is wrong with a value that the engine cannot read for one of the stage's columns."""
    columns = [c for c in stage.columns if c.name == staged.name]
    if row.format is Input.CSV:
        text = raw_cells(row.text)[_places(row.header)[staged.name.lower()]]
        row.add(staged.column, f"`{_shown(text)}` is not of type {_kind(stage, staged)}")
        return
    value = next(m.value for m in members(row.text) or () if m.name == _key(staged))
    if staged.type != "JSON" or not staged.path:
        for column in columns:
            part = _part(value, column.path) or value
            row.add(column.column, _why(part) or f"`{_shown(part)}` is not of type {_kind(stage, column)}")
        return
    parts = ((c, _part(value, c.path)) for c in columns)
    within = [(c, why) for c, part in parts if part is not None and (why := _why(part))]
    for column, why in within:
        row.add(column.column, why)
    if not within:
        row.add(columns[0].column if len(columns) == 1 else "", f"`{staged.given}` cannot be read: {_deeper(value)}")


def blame_rest(row: RejectedRow, stage: StageSchema, otherwise: str = "the row cannot be read") -> None:
    """Say what is wrong with a row in which every value that columns read is good by itself, or that is none."""
    for column, why in _aside(row, stage):
        row.add(column, why)
    if not row.columns:
        row.add("", otherwise)


def has_borders(text: bytes) -> bool:
    """Whether a text is an object whose values end where every parser sees their end, good or not."""
    found = members(text)
    return found is not None and all(is_readable(m.value) for m in found)


def _aside(row: RejectedRow, stage: StageSchema) -> Iterator[tuple[str, str]]:
    return _fields_aside(row, stage) if row.format is Input.CSV else _members_aside(row, stage)


def _fields_aside(row: RejectedRow, stage: StageSchema) -> Iterator[tuple[str, str]]:
    columns = {c.name.lower(): c.column for c in stage.columns}
    for name, cell in zip(names_in(row.header), raw_cells(row.text), strict=False):
        if not has_closing_quote(cell):
            why = "does not end with its closing quote; a quote in a quoted field is doubled"
            if is_unterminated(cell):
                why = "has a quote at its beginning that is never closed"
            yield columns.get(name.strip().lower(), ""), f"the field `{_shown(cell)}` {why}"


def _members_aside(row: RejectedRow, stage: StageSchema) -> Iterator[tuple[str, str]]:
    found = members(row.text) or []
    columns: dict[bytes, str] = {}
    for c in stage.columns:
        columns.setdefault(_key(c), c.column)
    for key, times in Counter(m.name for m in found).items():
        if times > 1 and key in columns:
            yield columns[key], f"the key `{_shown(key)}` stands in the row {times} times"
    for member in found:
        if why := _why(member.value):
            named = "" if member.name in columns else f"the value of `{_shown(member.key)}`: "
            yield columns.get(member.name, ""), named + why


def _why(value: bytes) -> str | None:
    """What is wrong with the text of a JSON value; None if it is one."""
    try:
        str(json.loads(value.decode(errors="replace"), strict=False, parse_constant=_no_constant)).encode()
    except UnicodeEncodeError:
        return f"`{_shown(value)}` has half of a surrogate pair, which is no character"
    except (ValueError, RecursionError):
        return f"`{_shown(value)}` is not JSON"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _deeper(value: bytes) -> str:
    """What is wrong with a value in which columns have values, and which is none that they can be taken out of."""
    if why := _why(value):
        return why
    if not value.startswith(b"{"):
        return f"`{_shown(value)}` is not an object"
    return f"`{_shown(value)}` is not what the columns in it need, or has a key twice"


def _part(value: bytes, path: tuple[str | None, ...]) -> bytes | None:
    """The text of what stands at a path in an object, as far as it leads through objects."""
    for step in path:
        if step is None:
            return value
        found: Mapping[bytes, Member] = {m.key: m for m in members(value) or ()}
        if (member := found.get(step.encode())) is None:
            return None
        value = member.value
    return value


@lru_cache(maxsize=32)
def _places(header: bytes) -> dict[str, int]:
    """Where the columns of a CSV file stand, by name in lower case."""
    return {name.strip().lower(): at for at, name in enumerate(names_in(header))}


def _key(staged: Staged) -> bytes:
    return staged.given.encode().lower()


def _kind(stage: StageSchema, staged: Staged) -> str:
    return next(c.type for c in stage.source.columns if c.name == staged.column)


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")[:MAX_SHOWN_CHARACTERS]
