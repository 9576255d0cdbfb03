"""How rows are staged before they are stored: the types in which they arrive, and the conditions that they must meet.

Nothing is wrapped, clamped or guessed on the way: values arrive in types that hold what no column of theirs could,
and the tenant arrives as the text that was sent. In an event, a value stands where its column's path says; a file's
columns go by their names.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from engine.compiler.scope import tenant_literal
from engine.ingest.formats.file_columns import SourceType
from engine.ingest.row_expressions import flag_check, names_in
from engine.ingest.values.fast_path import fast_checks_of, fast_tenant_check
from engine.ingest.values.json_paths import nested
from engine.ingest.values.shared_keys import Reader
from engine.ingest.values.staged_paths import in_lists, raw
from engine.ingest.values.wide_types import (
    FEWEST_DIGITS,
    NULLABLE,
    Staged,
    WideType,
    typed_default,
    unwrapped,
    wide_type_of,
)
from engine.project.model import Column, Datasource
from engine.schema import Name, fingerprint, literal, quote
from engine.tenant_ids import MAX_TENANT_BYTES, base_type, integer_bounds
from engine.warehouse.port import Input
from engine.warehouse.type_names import Type, parse_type

WIDE_DIGITS = b"0" * FEWEST_DIGITS
"""Integers are staged as Int128: the engine's parser wraps what does not fit, and the check then sees it. A batch
with a number of this many digits has its integers staged as text, as are integers that are wide themselves."""

_OWN = secrets.token_hex(4)
"""Part of the names of the stage's own columns, so that no event can have them for keys."""
ROW_NUMBER_COLUMN = f"_rk_n_{_OWN}"
"""The stage's column for numbers of rows."""
_NEVER = f"_rk_never_{_OWN}"
"""The stage's column that no row fills."""
_LOOKED_AT = 2
"""Columns that are looked at to tell rows that may be empty."""
NO_SOURCE_TYPES: Mapping[str, SourceType] = {}
HOLDS_STATE = re.compile(r"(?<!Simple)AggregateFunction\(")
"""In a type: an aggregate state, or something with one in it."""
_ESCAPED_KEY = re.compile(rb'"[^"\\]*+\\u[^"]*+"\s*+:')
"""A key with an escape in it."""
_TO_ZEROS = bytes(ord("0") if ord("0") <= i <= ord("9") else ord("x") for i in range(256))


@dataclass(frozen=True, slots=True)
class StageSchema:
    """How a datasource's rows are staged. If it is `repeatable`, taking rows twice gives the same values.

    Tables of what only one file may need are not `kept`. `shared` are keys of events, in lower case, that several of
    the stage's columns are filled from.
    """

    source: Datasource
    columns: tuple[Staged, ...]
    tenant: Staged | None
    identity: str
    repeatable: bool = True
    kept: bool = True
    shared: Mapping[bytes, tuple[Reader, ...]] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of events that columns have their values under, as they are written and in lower case."""
        return frozenset(key for c in self.source.columns for key in (c.path[0], c.path[0].lower()))

    def takes_empty(self, bound: str | None) -> bool:
        """Whether a row with none of the keys would meet the conditions, for a writer that is bound to a tenant."""
        return (self.tenant is None or bound is not None) and not any(c.required for c in self.source.columns)


def has_long_number(body: bytes) -> bool:
    """Whether a text batch may hold a number that the wide stage would wrap."""
    # So many digits cover four places in a row of which every eighth is looked at: most batches are told by that.
    return b"0000" in body[::8].translate(_TO_ZEROS) and WIDE_DIGITS in body.translate(_TO_ZEROS)


def has_empty_number(source: Datasource, body: bytes) -> bool:
    """Whether a JSON batch may have an empty text for an integer, which the engine takes for 0."""
    if b'""' not in body:
        return False
    keys = [re.escape(c.path[0]) for c in source.columns if integer_bounds(parse_type(c.type).kind)]
    return bool(keys) and empty_texts(keys).search(body) is not None


def empty_texts(keys: list[str]) -> re.Pattern[bytes]:
    """Where one of these keys, spelled for a pattern, has an empty text."""
    return re.compile(f'"({"|".join(keys)})"\\s*:\\s*""'.encode(), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Manner:
    """What a batch needs of its stage: integers as the text that was sent if `exact`; texts deeper in an event as
    they were sent, whatever they are, if `verbatim`."""

    exact: bool = False
    verbatim: bool = False


USUAL = Manner()


def manner_of(source: Datasource, format: Input, texts: Sequence[bytes]) -> Manner:
    """The manner in which a batch has to be staged; finding out is cheap, and the usual manner is faster."""
    if format is Input.PARQUET:
        return USUAL
    exact = any(map(has_long_number, texts))
    if format is not Input.NDJSON:
        return Manner(exact)
    exact = exact or any(has_empty_number(source, t) for t in texts)
    return Manner(exact, any(has_unlike_text(source, t) for t in texts))


def has_unlike_text(source: Datasource, body: bytes) -> bool:
    """Whether a JSON batch may have a number, object or list where a text column deeper in an event reads.

    Out of an object that is read as such, the engine would write it anew: without nulls, with other numbers and keys.
    """
    keys = {re.escape(orjson.dumps(c.path[-1])[1:-1].decode()) for c in source.columns if _is_text(source, c)}
    if not keys:
        return False
    # The engine sees through escapes in keys only where it reads an object as such.
    escaped = b"\\u" in body and _ESCAPED_KEY.search(body) is not None
    return not escaped and unlike_texts(sorted(keys)).search(body) is not None


@lru_cache(maxsize=256)
def _unlike(keys: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(f'"(?:{"|".join(keys)})"\\s*+:\\s*+[-0-9{{\\[]'.encode(), re.IGNORECASE)


def unlike_texts(keys: list[str]) -> re.Pattern[bytes]:
    """Where one of these keys, spelled for a pattern, has a number, an object or a list."""
    return _unlike(tuple(keys))


def stage_of(
    source: Datasource, format: Input, manner: Manner = USUAL, given: Mapping[str, SourceType] = NO_SOURCE_TYPES
) -> StageSchema:
    """How a datasource's rows of a format are staged. `given` is what a typed file has in its columns."""
    found = [(c, _staged(source, c, format, manner, given)) for c in source.columns]
    names, shared = _names(found) if format is Input.NDJSON else ({}, {})
    if shared:
        found = [(c, _staged(source, c, format, manner, given, names.get(c.name))) for c in source.columns]
    stored = {c.name: _as_stored(staged, c.type) for c, staged in found}
    seeing = [c.model_copy(update={"default": _seeing(c.default, stored)}) for c in source.columns]
    columns = tuple(_staged(source, c, format, manner, given, names.get(c.name)) for c in seeing)
    tenant = next((s for s in columns if s.column == source.tenant_column), None)
    # Defaults of columns deeper in an event, and of a file's objects, are computed when rows are taken.
    late = [c for c in source.columns if is_deeper(c, format) or (given and c.type.startswith("Tuple("))]
    repeatable = not any(c.default for c in late)
    identity = fingerprint([(c.name, c.type, c.default) for c in columns])[:12]
    return StageSchema(source, columns, tenant, identity, repeatable, kept=not given, shared=shared)


def _names(found: Sequence[tuple[Column, Staged]]) -> tuple[dict[str, str], dict[bytes, tuple[Reader, ...]]]:
    """The stage's names for columns whose key is read in several ways, and who reads these keys."""
    ways: dict[bytes, dict[tuple[str, str], list[Column]]] = {}
    for column, staged in found:
        key = column.path[0].encode().lower()
        ways.setdefault(key, {}).setdefault((staged.type, staged.default), []).append(column)
    names: dict[str, str] = {}
    shared: dict[bytes, tuple[Reader, ...]] = {}
    for key, by_way in ways.items():
        if len(by_way) == 1:
            continue
        whole = any(len(c.steps) == 1 for columns in by_way.values() for c in columns)
        readers = []
        for columns in by_way.values():
            reader = Reader(f"_rk_{_OWN}_{len(names)}", _opening(columns) if whole else b"")
            names |= dict.fromkeys((c.name for c in columns), reader.name)
            readers.append(reader)
        shared[key] = tuple(readers)
    return names, shared


def _opening(columns: Sequence[Column]) -> bytes:
    """What a value begins with that columns have values in, where another column takes it whatever it is."""
    if any(len(c.steps) == 1 for c in columns):
        return b""
    return b"[" if columns[0].steps[1] is None else b"{"


def _as_stored(staged: Staged, kind: str) -> str:
    """A column's value for other columns' defaults. A row in which it is none is refused for it, and not here."""
    if staged.taken == staged.value or "Nullable(" in kind:
        return staged.taken
    inner = staged.taken.removeprefix("CAST(").removesuffix(f" AS {kind})")
    if inner == staged.taken or staged.type.startswith(("Array(", "Map(", "Tuple(")):
        return staged.taken
    return f"CAST(assumeNotNull(accurateCastOrNull({inner}, {literal(base_type(kind))})) AS {kind})"


def _seeing(default: str, stored: Mapping[str, str]) -> str:
    """A default that sees what is stored of the columns that it may name, as parameters: the engine minds scopes."""
    named = names_in(default)
    values = {name: sql for name, sql in stored.items() if name in named and sql != quote(name)}
    if not values:
        return default
    lists = ", ".join(f"[{sql}]" for sql in values.values())
    return f"arrayMap(({', '.join(map(quote, values))}) -> {default}, {lists})[1]"


def may_be_empty(stage: StageSchema) -> str:
    """SQL that is true of staged rows with none of the keys, and maybe of others with little else than defaults."""
    # Texts come first: they are quick to ask, and seldom empty in a row that has others.
    empty = {
        "String": "empty({})",
        "Int128": "{} = 0",
        "Float64": "{} = 0",
        "LowCardinality(String)": "empty({})",
        "Nullable": "isNull({})",
        "JSON": "empty(JSONAllPaths({}))",
    }
    names = {c.name: c.type if c.type in empty else c.type.partition("(")[0] for c in stage.columns if not c.default}
    found = [test.format(quote(name)) for kind, test in empty.items() for name, own in names.items() if own == kind]
    return " AND ".join(found[:_LOOKED_AT]) or "1"


def stage_ddl(stage: StageSchema, table: Name, *, defaults: bool = True) -> str:
    """The statement that makes a stage's table; rows have a number there where they were given one."""
    parts = {
        c.name: f"{quote(c.name)} {c.type}" + (f" DEFAULT {c.default}" if c.default and defaults else "")
        for c in stage.columns
    }
    parts[ROW_NUMBER_COLUMN] = f"{ROW_NUMBER_COLUMN} UInt64"
    # The engine reads a row no further than to the last column it has, and would miss a key that comes twice.
    parts[_NEVER] = f"{_NEVER} UInt8"
    return f"CREATE TABLE IF NOT EXISTS {table.sql()} ({', '.join(parts.values())}) ENGINE = Memory"


def is_tenant(stage: StageSchema, staged: Staged) -> bool:
    """Whether a column says whose the row is."""
    return staged is stage.tenant


def tenant_kind(source: Datasource) -> str:
    """The tenant column's type."""
    return next(c.type for c in source.columns if c.name == source.tenant_column)


def checks(stage: StageSchema, bound: str | None) -> list[tuple[Staged, str]]:
    """What every row must meet, in the engine's words; `bound` is the tenant that the token writes for."""
    found = [(c, c.check) for c in stage.columns if c.check]
    if stage.tenant is None:
        return found
    value = stage.tenant.value
    if bound is not None:
        return [*found, (stage.tenant, f"ifNull({value} = {literal(bound)}, 1)")]
    return [*found, (stage.tenant, tenant_check(base_type(tenant_kind(stage.source)), value))]


def tenant_check(kind: str, value: str) -> str:
    """The condition under which a text (SQL, null if absent) is a tenant's id as it is written."""
    check = f"toString(to{kind}OrNull({value})) = {value}"
    if kind == "String":
        check = (
            f"length({value}) BETWEEN 1 AND {MAX_TENANT_BYTES} AND isValidUTF8({value}) AND "
            f"NOT match({value}, '[\\\\p{{Cc}}\\\\p{{Zl}}\\\\p{{Zp}}]') AND normalizeUTF8NFC({value}) = {value}"
        )
    return f"ifNull({check}, 0)"


def condition(stage: StageSchema, bound: str | None, *, usual: bool = False) -> str:
    """SQL that is true of good rows; if `usual`, only of those that are good and nothing out of the ordinary."""
    conditions = []
    for staged, check in checks(stage, bound):
        short = _short(stage, staged, bound) if usual else None
        conditions.append(f"ifNull({check}, 1)" if short is None else short)
    return " AND ".join(c for c in conditions if c) or "1"


def _short(stage: StageSchema, staged: Staged, bound: str | None) -> str | None:
    """A column's short condition, empty if there is nothing to ask, or None if it has none."""
    if is_tenant(stage, staged):
        return fast_tenant_check(base_type(tenant_kind(stage.source)), staged.value) if bound is None else None
    return None if staged.usual is None else staged.usual[0] or ""


def taken(stage: StageSchema, bound: str | None, *, usual: bool = False) -> str:
    """The SQL of a stage's rows as they are stored, with the writer's tenant stamped on them if it has one.

    If `usual`, it throws on rows that do not meet the usual condition.
    """
    return ", ".join(values_taken(stage, bound, usual=usual))


def values_taken(stage: StageSchema, bound: str | None, *, usual: bool = False) -> list[str]:
    """The same, for each column in the datasource's order."""
    expressions = [c.usual[1] if usual and c.usual else c.taken for c in stage.columns]
    if bound is not None and stage.tenant is not None:
        kind = tenant_kind(stage.source)
        expressions[stage.columns.index(stage.tenant)] = f"CAST({tenant_literal(kind, bound)} AS {kind})"
    return expressions


def is_deeper(column: Column, format: Input) -> bool:
    """Whether a column's value stands in an object of the event. Files have columns, by their names."""
    return format is Input.NDJSON and len(column.steps) > 1


def _staged(
    source: Datasource,
    column: Column,
    format: Input,
    manner: Manner,
    given: Mapping[str, SourceType] = NO_SOURCE_TYPES,
    name: str | None = None,
) -> Staged:
    """One column on its way, in the stage's column `name` if that is not called as what is read."""
    key = column.path[0] if format is Input.NDJSON else column.name
    name, exact = name or key, manner.exact
    if format is Input.NDJSON and column.lists:
        return in_lists(column, name, exact=exact)
    if is_deeper(column, format):
        if _holds_others(source, column):
            return raw(column, name)
        if manner.verbatim and _is_text(source, column):
            return raw(column, name, _beside(source, column))
        return nested(source, column, name)
    value = quote(name)
    if column.name == source.tenant_column:
        taken = f"CAST(assumeNotNull({value}) AS {column.type})"
        return Staged(column.name, name, "Nullable(String)", "", value, taken, key=key)
    if HOLDS_STATE.search(column.type):
        # Reading an aggregate state out of bytes that anyone can choose is not safe.
        taken = f"defaultValueOfTypeName({literal(column.type)})"
        return Staged(column.name, name, "Nullable(String)", "", value, taken, f"isNull({value})", key=key)
    kind = parse_type(column.type)
    typed = given.get(column.name.lower(), "text") if format is Input.PARQUET else None
    if typed == "null":
        # Not read at all, so that the stage's default takes its place.
        name = f"_rk_{_OWN}_{column.name}"
        value, typed = quote(name), "text"
    if kind.parts and format is Input.CSV:
        # A list is written as in SQL, where only what has quotes is a text.
        typed = "other"
    if exact and format is Input.NDJSON and integer_bounds(kind.kind):
        # As the parser of numbers does, which is not asked then.
        value = f"transform({value}, ['true', 'false'], ['1', '0'], {value})"
    found = wide_type_of(kind, exact=exact, given=typed)
    staged, read, there = found.staged, value, ""
    if column.required:
        staged, read, there = _required(found.staged, value)
    if typed == "other" and kind.kind == "Tuple" and format is Input.PARQUET:
        return _struct(column, kind, name, found)
    there = " AND ".join(filter(None, [there, flag_check(source, column.name, read)]))
    if found.check is None:
        stored = value if read == value else f"CAST({read} AS {column.type})"
        return Staged(column.name, name, staged, column.default, value, stored, there or None, key=key)
    taken = found.taken(read) if found.taken else read
    stored = taken if taken == value and staged == column.type else f"CAST({taken} AS {column.type})"
    usual = _usually(read, column, kind, stored, found.staged)
    check = found.check(read)
    if there:
        check = f"({there} AND {check})"
        usual = usual and (" AND ".join(filter(None, [there, usual[0]])), usual[1])
    return Staged(
        column.name,
        name,
        staged,
        "" if column.required else typed_default(kind, column.default, found),
        value,
        stored,
        check,
        usual,
        key=key,
    )


def _struct(column: Column, kind: Type, name: str, found: WideType) -> Staged:
    """An object of a typed file. The engine reads null as an object whose parts are all null."""
    value, default = quote(name), column.default or f"defaultValueOfTypeName({literal(column.type)})"
    nothing = _is_nothing(value, parse_type(found.staged))
    stored = f"CAST({found.taken(value) if found.taken else value} AS {column.type})"
    return Staged(
        column.name,
        name,
        found.staged,
        "",
        value,
        f"if({nothing}, CAST({default} AS {column.type}), {stored})",
        f"({nothing} OR {found.check(value)})" if found.check else None,
        key=column.name,
    )


def _is_nothing(value: str, type: Type) -> str:
    """The condition under which all parts of what is staged are null or empty."""
    if type.kind == "Tuple":
        parts = (_is_nothing(f"tupleElement({value}, {n})", part) for n, part in enumerate(type.parts, 1))
        return f"({' AND '.join(parts)})"
    if type.nullable:
        return f"isNull({value})"
    if type.kind == "JSON":
        return f"empty(JSONAllPaths({value}))"
    return f"empty({value})" if type.kind in ("Array", "Map") else "0"


def _required(staged: str, value: str) -> tuple[str, str, str]:
    """The type in which a required value is staged, the SQL of the value and of the condition that it is there."""
    kind = parse_type(staged)
    if kind.kind == "JSON":
        return staged, value, f"notEmpty(JSONAllPaths({value}))"
    if kind.parts or not NULLABLE.fullmatch(kind.kind):
        return staged, value, f"notEmpty({value})"
    return f"Nullable({unwrapped(staged)})", f"assumeNotNull({value})", f"isNotNull({value})"


def _is_text(source: Datasource, column: Column) -> bool:
    """Whether a column is a text deeper in an event, and no list of texts."""
    if len(column.steps) == 1 or column.lists or column.name == source.tenant_column:
        return False
    return parse_type(column.type).kind == "String"


def _beside(source: Datasource, column: Column) -> list[list[str | None]]:
    """The paths of texts that are staged together with a column, its own among them; none if it stays alone."""
    key = column.path[0].lower()
    others = [c for c in source.columns if c.path[0].lower() == key and _is_text(source, c)]
    paths = list({tuple(c.path): c.steps for c in others if not _holds_others(source, c)}.values())
    # The engine matches the keys of such an object without regard to case.
    alike = {tuple(str(step).lower() for step in path) for path in paths}
    return paths if len(alike) == len(paths) else []


def _holds_others(source: Datasource, column: Column) -> bool:
    """Whether a column is a text of an object in which others have values of their own."""
    steps = column.steps
    if column.name == source.tenant_column or parse_type(column.type).kind != "String":
        return False
    return any(len(c.steps) > len(steps) and c.steps[: len(steps)] == steps for c in source.columns)


def _usually(value: str, column: Column, kind: Type, stored: str, staged: str) -> tuple[str | None, str] | None:
    """The short condition of a column, and what is stored of it then."""
    usual = fast_checks_of(kind, staged)
    if usual is None:
        return None
    check = usual.check(value) if usual.check else None
    if usual.taken is None:
        return check, stored
    taken = usual.taken(value)
    return check, taken if usual.type == column.type else f"CAST({taken} AS {column.type})"
