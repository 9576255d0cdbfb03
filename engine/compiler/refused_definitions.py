"""Which parts of a datasource's definition the engine refuses.

The engine's error names neither the key of the file nor its place. So a refused table is put together again part by
part in the scratch database: each part with which it is refused is reported at its place, and left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.errors import SQL_SEMANTICS, Place, RookeryError
from engine.project.model import Column, Datasource, Engine
from engine.schema import Table

Shape = Callable[[Datasource], Table]
"""The empty table that a datasource stands for in the scratch database."""

_TEMPORARY = re.compile(r"(?: AS [A-Za-z0-9_]+)?_tmp_alter[0-9]+")
_BEYOND = (
    ", required columns: ", ". It can be enabled with", ". Set setting ", ". (Note: ", ": failed at position ",
)  # fmt: skip
"""Where the engine's sentence goes on with lists, settings of its own, or the text of the statement."""
_KEYS = {
    "sorting_key": "sort by columns, or by expressions of columns, that can be compared",
    "primary_key": "it is a leading part of the sorting key; remove it to take the whole key",
    "partition_key": "such as toYYYYMM(timestamp): an expression of columns that can be compared",
    "sampling_key": "it is part of the primary key, and an unsigned integer",
    "ttl": "such as timestamp + INTERVAL 90 DAY, of a Date or DateTime column",
}
_OPTIONS = {
    "version": "an integer, Date or DateTime column",
    "is_deleted": "a UInt8 column",
    "sign": "an Int8 column",
    "columns": "columns of numbers that are not in the sorting key",
}


class Definer(Protocol):
    """What is asked of an engine about a table."""

    def define(self, table: Table) -> None:
        """Create an empty table of this definition in the scratch database. Raises the engine's error."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a definition: how it is added, and what is reported if the engine refuses it."""

    add: Callable[[Datasource], Datasource]
    what: str
    place: Place
    hint: str


def refusals(source: Datasource, shape: Shape, definer: Definer) -> Iterator[RookeryError]:
    """What the engine refuses of a definition, each part at its place; nothing if it takes the whole.

    Raises errors of the database that say nothing about the definition.
    """
    whole = _refused(source, shape, definer)
    if whole is None:
        return
    found = list(_Search(shape, definer).through(source))
    if found:
        yield from found
        return
    place = source.place
    named = Place(place.file, place.line, place.column, f"datasource `{source.name}`")
    yield RookeryError(
        SQL_SEMANTICS,
        f"the database refuses this table: {plain(whole)}",
        hint="each part is accepted alone; compare the columns, the keys and the settings with each other",
        place=named,
        detail=whole.detail,
    )


def plain(exc: RookeryError) -> str:
    """The engine's sentence without names of its own making and without lists of columns."""
    text = _TEMPORARY.sub("", exc.message)
    for beyond in _BEYOND:
        text = text.partition(beyond)[0]
    return text


def _refused(source: Datasource, shape: Shape, definer: Definer) -> RookeryError | None:
    try:
        definer.define(shape(source))
    except RookeryError as exc:
        if exc.is_server_fault:
            raise
        return exc
    return None


@dataclass(frozen=True, slots=True)
class _Search:
    """Puts a definition together from its parts."""

    shape: Shape
    definer: Definer

    def through(self, source: Datasource) -> Iterator[RookeryError]:
        columns = tuple(c.model_copy(update={"default": "", "codec": ""}) for c in source.columns)
        bare = source.model_copy(update={"columns": columns, "engine": Engine(), "indexes": ()})
        if _refused(bare, self.shape, self.definer) is not None:
            yield from self._types(bare, source)
            return
        for parts in (_defaults(source), _codecs(source), _keys(source), _engine(source), _indexes(source)):
            bare = yield from self._added(bare, parts)

    def _types(self, bare: Datasource, source: Datasource) -> Iterator[RookeryError]:
        for column in bare.columns:
            alone = bare.model_copy(update={"columns": (column,), "tenant": None, "name": source.name})
            exc = _refused(alone, self.shape, self.definer)
            if exc is not None:
                message = f"column `{column.name}`: the database refuses the type {column.type}: {plain(exc)}"
                place = source.column(column.name) or column
                hint = "choose a type that can be stored"
                yield RookeryError(SQL_SEMANTICS, message, hint=hint, place=place.place_of("type"), detail=exc.detail)

    def _added(self, bare: Datasource, parts: Sequence[_Part]) -> Generator[RookeryError, None, Datasource]:
        """The definition with these parts, as far as the engine takes them; halves are tried, then single parts."""
        if not parts:
            return bare
        more = bare
        for part in parts:
            more = part.add(more)
        exc = _refused(more, self.shape, self.definer)
        if exc is None:
            return more
        if len(parts) > 1:
            middle = len(parts) // 2
            bare = yield from self._added(bare, parts[:middle])
            return (yield from self._added(bare, parts[middle:]))
        part = parts[0]
        message = f"{part.what} is refused by the database: {plain(exc)}"
        yield RookeryError(SQL_SEMANTICS, message, hint=part.hint, place=part.place, detail=exc.detail)
        return bare


def _with_column(name: str, **update: Any) -> Callable[[Datasource], Datasource]:
    def add(source: Datasource) -> Datasource:
        columns = tuple(c.model_copy(update=update) if c.name == name else c for c in source.columns)
        return source.model_copy(update={"columns": columns})

    return add


def _with_engine(**update: Any) -> Callable[[Datasource], Datasource]:
    return lambda source: source.model_copy(update={"engine": source.engine.model_copy(update=update)})


def _defaults(source: Datasource) -> list[_Part]:
    hint = "an SQL expression of the column's type, of constants and other columns; texts in quotes: \"'a'\""
    return [
        _Part(_with_column(c.name, default=c.default), _of("default", c), c.place_of("default"), hint)
        for c in source.columns
        if c.default
    ]


def _codecs(source: Datasource) -> list[_Part]:
    hint = 'such as ZSTD(1), or "Delta, ZSTD(1)" for numbers and times'
    return [
        _Part(_with_column(c.name, codec=c.codec), _of("codec", c), c.place_of("codec"), hint)
        for c in source.columns
        if c.codec
    ]


def _of(what: str, column: Column) -> str:
    return f"the {what} `{getattr(column, what)[:80]}` of column `{column.name}`"


def _keys(source: Datasource) -> list[_Part]:
    engine = source.engine
    found = []
    for key, hint in _KEYS.items():
        value = getattr(engine, key)
        if value:
            text = ", ".join(value) if isinstance(value, tuple) else value
            what = f"the {key.replace('_', ' ')} `{text[:80]}`" if key != "ttl" else f"the TTL `{text[:80]}`"
            found.append(_Part(_with_engine(**{key: value}), what, engine.place_of(key), hint))
    return found


def _engine(source: Datasource) -> list[_Part]:
    """The engine's type with its options, in an order in which each is possible, and the table's settings."""
    engine = source.engine
    found = []
    if engine.type == "VersionedCollapsingMergeTree":
        found.append(_option(engine, "sign", type="CollapsingMergeTree", sign=engine.sign))
        version = _option(engine, "version", type=engine.type, version=engine.version)
        # Without its sign column, such a table is refused whatever its version column is.
        found.append(replace(version, add=lambda s: version.add(s) if s.engine.sign else s))
    elif engine.type == "CollapsingMergeTree":
        found.append(_option(engine, "sign", type=engine.type, sign=engine.sign))
    elif engine.type != "MergeTree":
        hint = "leave the engine out to have a MergeTree"
        if engine.type == "AggregatingMergeTree":
            hint = "columns outside of the sorting key have types such as SimpleAggregateFunction(sum, UInt64)"
        what = f"the engine {engine.type}"
        found.append(_Part(_with_engine(type=engine.type), what, engine.place_of("type"), hint))
        found += [
            _option(engine, o, **{o: getattr(engine, o)})
            for o in ("version", "is_deleted", "columns")
            if getattr(engine, o)
        ]
    for name, value in engine.settings:
        found.append(_setting(engine, name, value))
    return found


def _option(engine: Engine, option: str, **update: Any) -> _Part:
    value = getattr(engine, option)
    text = ", ".join(value) if isinstance(value, tuple) else value
    what = f"`{option}: {text[:80]}` of {engine.type}"
    hint = f"{engine.type} takes {_OPTIONS[option]}"
    return _Part(_with_engine(**update), what, engine.place_of(option), hint)


def _setting(engine: Engine, name: str, value: str) -> _Part:
    def add(source: Datasource) -> Datasource:
        settings = tuple(sorted((*source.engine.settings, (name, value))))
        return _with_engine(settings=settings)(source)

    hint = "a setting of MergeTree tables with a value of its type, such as index_granularity: 4096"
    return _Part(add, f"the setting `{name}: {value[:80]}`", engine.place_of("settings"), hint)


def _indexes(source: Datasource) -> list[_Part]:
    hint = "such as minmax or bloom_filter(0.01), over an expression of columns whose type the index takes"

    def adding(position: int) -> Callable[[Datasource], Datasource]:
        return lambda s: s.model_copy(update={"indexes": (*s.indexes, source.indexes[position])})

    return [
        _Part(adding(n), f"the index `{i.name}` of type {i.type[:80]}", i.place_of("type"), hint)
        for n, i in enumerate(source.indexes)
    ]
