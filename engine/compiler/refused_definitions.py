"""Finds the parts of a datasource's definition that the engine refuses.

The engine's error names neither the key in the file nor its position. So a refused table is rebuilt part by part in
the scratch database. Each part that makes the engine refuse the table is reported at its position and left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.errors import SQL_SEMANTICS, Place, RookeryError
from engine.project.datasource import Column, Datasource, Engine
from engine.schema import Table

TableFactory = Callable[[Datasource], Table]
"""Returns a datasource's empty table in the scratch database."""

_TEMPORARY = re.compile(r"(?: AS [A-Za-z0-9_]+)?_tmp_alter[0-9]+")
_MESSAGE_ENDS = (
    ", required columns: ", ". It can be enabled with", ". Set setting ", ". (Note: ", ": failed at position ",
)  # fmt: skip
"""Beginnings of what the engine appends to its message: lists, hints about its settings, and the statement's text."""
_KEYS = {
    "sorting_key": "sort by columns, or by expressions of columns, that can be compared",
    "primary_key": "it is a leading part of the sorting key; remove it to use the whole key",
    "partition_key": "such as toYYYYMM(timestamp): an expression of columns that can be compared",
    "sampling_key": "it is part of the primary key, and an unsigned integer",
    "ttl": "such as timestamp + INTERVAL 90 DAY, of a Date or DateTime column",
}
_OPTIONS = {
    "version": "an integer, Date or DateTime column",
    "is_deleted": "a UInt8 column",
    "sign": "an Int8 column",
    "columns": "numeric columns that are not in the sorting key",
}


class Definer(Protocol):
    """What this module needs from an engine."""

    def define(self, table: Table) -> None:
        """Create an empty table of this definition in the scratch database. Raises the engine's error."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a definition: how to add it to a datasource, and what to report if the engine refuses it."""

    add: Callable[[Datasource], Datasource]
    what: str
    place: Place
    hint: str


def refused_parts(source: Datasource, make_table: TableFactory, definer: Definer) -> Iterator[RookeryError]:
    """Yield an error for each part of a definition that the engine refuses; nothing if it accepts the definition.

    Raises errors of the database that do not concern the definition.
    """
    error = _error_of(source, make_table, definer)
    if error is None:
        return
    problems = list(_Search(make_table, definer).errors(source))
    if problems:
        yield from problems
        return
    place = source.place
    location = Place(place.file, place.line, place.column, f"datasource `{source.name}`")
    yield RookeryError(
        SQL_SEMANTICS,
        f"the database refuses this table: {short_message(error)}",
        hint="the database accepts each part alone; compare the columns, the keys and the settings with each other",
        place=location,
        detail=error.detail,
    )


def short_message(exc: RookeryError) -> str:
    """The engine's message without its temporary names and without lists of columns."""
    text = _TEMPORARY.sub("", exc.message)
    for end in _MESSAGE_ENDS:
        text = text.partition(end)[0]
    return text


def _error_of(source: Datasource, make_table: TableFactory, definer: Definer) -> RookeryError | None:
    """The error with which the engine refuses a table; None if it accepts it. Raises errors of the server itself."""
    try:
        definer.define(make_table(source))
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        return exc
    return None


@dataclass(frozen=True, slots=True)
class _Search:
    """Rebuilds a definition from its parts."""

    make_table: TableFactory
    definer: Definer

    def errors(self, source: Datasource) -> Iterator[RookeryError]:
        """Yield an error for each refused part: first the types, then what depends on them."""
        # Begin with the columns alone. Everything else depends on their types.
        columns = tuple(c.model_copy(update={"default": "", "codec": ""}) for c in source.columns)
        bare = source.model_copy(update={"columns": columns, "engine": Engine(), "indexes": ()})
        if _error_of(bare, self.make_table, self.definer) is not None:
            yield from self._types(bare, source)
            return
        for parts in (_defaults(source), _codecs(source), _keys(source), _engine(source), _indexes(source)):
            bare = yield from self._add_parts(bare, parts)

    def _types(self, bare: Datasource, source: Datasource) -> Iterator[RookeryError]:
        """Yield an error for each column that the engine refuses even as the only one."""
        for column in bare.columns:
            alone = bare.model_copy(update={"columns": (column,), "tenant": None, "name": source.name})
            exc = _error_of(alone, self.make_table, self.definer)
            if exc is not None:
                message = f"column `{column.name}`: the database refuses the type {column.type}: {short_message(exc)}"
                place = source.column(column.name) or column
                hint = "choose a type that can be stored"
                yield RookeryError(SQL_SEMANTICS, message, hint=hint, place=place.place_of("type"), detail=exc.detail)

    def _add_parts(self, accepted: Datasource, parts: Sequence[_Part]) -> Generator[RookeryError, None, Datasource]:
        """Add the parts that the engine accepts, and yield an error for each other part. Tries halves first."""
        if not parts:
            return accepted
        extended = accepted
        for part in parts:
            extended = part.add(extended)
        exc = _error_of(extended, self.make_table, self.definer)
        if exc is None:
            return extended
        if len(parts) > 1:
            # Most parts are fine. Halving finds one refused part among n with about log n tables instead of n.
            middle = len(parts) // 2
            accepted = yield from self._add_parts(accepted, parts[:middle])
            return (yield from self._add_parts(accepted, parts[middle:]))
        part = parts[0]
        message = f"{part.what} is refused by the database: {short_message(exc)}"
        yield RookeryError(SQL_SEMANTICS, message, hint=part.hint, place=part.place, detail=exc.detail)
        return accepted


def _with_column(name: str, **update: Any) -> Callable[[Datasource], Datasource]:
    """Returns a datasource with other values in one column."""

    def add(source: Datasource) -> Datasource:
        columns = tuple(c.model_copy(update=update) if c.name == name else c for c in source.columns)
        return source.model_copy(update={"columns": columns})

    return add


def _with_engine(**update: Any) -> Callable[[Datasource], Datasource]:
    """Returns a datasource with other options of its engine."""
    return lambda source: source.model_copy(update={"engine": source.engine.model_copy(update=update)})


def _defaults(source: Datasource) -> list[_Part]:
    """The defaults of columns, as parts."""
    hint = "an SQL expression of the column's type, from constants and other columns; strings in quotes: \"'a'\""
    return [
        _Part(_with_column(c.name, default=c.default), _column_part("default", c), c.place_of("default"), hint)
        for c in source.columns
        if c.default
    ]


def _codecs(source: Datasource) -> list[_Part]:
    """The codecs of columns, as parts."""
    hint = 'such as ZSTD(1), or "Delta, ZSTD(1)" for numbers and times'
    return [
        _Part(_with_column(c.name, codec=c.codec), _column_part("codec", c), c.place_of("codec"), hint)
        for c in source.columns
        if c.codec
    ]


def _column_part(what: str, column: Column) -> str:
    return f"the {what} `{getattr(column, what)[:80]}` of column `{column.name}`"


def _keys(source: Datasource) -> list[_Part]:
    """The sorting, primary, partition and sampling keys, and the TTL, as parts."""
    engine = source.engine
    parts = []
    for key, hint in _KEYS.items():
        value = getattr(engine, key)
        if value:
            text = ", ".join(value) if isinstance(value, tuple) else value
            what = f"the {key.replace('_', ' ')} `{text[:80]}`" if key != "ttl" else f"the TTL `{text[:80]}`"
            parts.append(_Part(_with_engine(**{key: value}), what, engine.place_of(key), hint))
    return parts


def _engine(source: Datasource) -> list[_Part]:
    """The engine's type and options, in an order in which each can be added separately, then the table's settings."""
    engine = source.engine
    parts = []
    if engine.type == "VersionedCollapsingMergeTree":
        parts.append(_option(engine, "sign", type="CollapsingMergeTree", sign=engine.sign))
        version = _option(engine, "version", type=engine.type, version=engine.version)
        # Without a sign column, the engine refuses such a table, whatever its version column is.
        parts.append(replace(version, add=lambda s: version.add(s) if s.engine.sign else s))
    elif engine.type == "CollapsingMergeTree":
        parts.append(_option(engine, "sign", type=engine.type, sign=engine.sign))
    elif engine.type != "MergeTree":
        hint = "without an engine, the table is a MergeTree"
        if engine.type == "AggregatingMergeTree":
            hint = "columns outside the sorting key need types such as SimpleAggregateFunction(sum, UInt64)"
        what = f"the engine {engine.type}"
        parts.append(_Part(_with_engine(type=engine.type), what, engine.place_of("type"), hint))
        parts += [
            _option(engine, o, **{o: getattr(engine, o)})
            for o in ("version", "is_deleted", "columns")
            if getattr(engine, o)
        ]
    for name, value in engine.settings:
        parts.append(_setting(engine, name, value))
    return parts


def _option(engine: Engine, option: str, **update: Any) -> _Part:
    """One option of the engine, as a part."""
    value = getattr(engine, option)
    text = ", ".join(value) if isinstance(value, tuple) else value
    what = f"`{option}: {text[:80]}` of {engine.type}"
    hint = f"{engine.type} needs {_OPTIONS[option]}"
    return _Part(_with_engine(**update), what, engine.place_of(option), hint)


def _setting(engine: Engine, name: str, value: str) -> _Part:
    """One setting of the table, as a part."""

    def add(source: Datasource) -> Datasource:
        settings = tuple(sorted((*source.engine.settings, (name, value))))
        return _with_engine(settings=settings)(source)

    hint = "a setting of MergeTree tables with a value of its type, such as index_granularity: 4096"
    return _Part(add, f"the setting `{name}: {value[:80]}`", engine.place_of("settings"), hint)


def _indexes(source: Datasource) -> list[_Part]:
    """The skip indexes, as parts."""
    hint = "such as minmax or bloom_filter(0.01), over an expression of columns whose type the index supports"

    def adding(position: int) -> Callable[[Datasource], Datasource]:
        return lambda s: s.model_copy(update={"indexes": (*s.indexes, source.indexes[position])})

    return [
        _Part(adding(n), f"the index `{i.name}` of type {i.type[:80]}", i.place_of("type"), hint)
        for n, i in enumerate(source.indexes)
    ]
