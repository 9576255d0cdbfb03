"""Rules for one datasource: its columns, its engine, its tenant column, and the limits of a landing datasource."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.errors import (
    BAD_NAME,
    BAD_VALUE,
    DUPLICATE_NAME,
    LANDING_LAYOUT,
    SORTING_KEY,
    TENANT_COLUMN,
    UNKNOWN_COLUMN,
    RookeryError,
)
from engine.project.datasource import Column, Datasource, Engine, Tenant
from engine.project.expressions import is_codec, plain_name, split_list
from engine.project.lifetimes import DAY_SECONDS, shortest_lifetime

OWN_SETTINGS = frozenset(
    {
        "add_minmax_index_for_block_number_column",
        "enable_block_number_column",
        "enable_block_offset_column",
        "non_replicated_deduplication_window",
        "part_minmax_index_columns",
        "replicated_deduplication_window",
        "replicated_deduplication_window_seconds",
    }
)
"""Table settings that fan-out depends on, so projects cannot set them."""
IMPLICIT_INDEXES = "add_minmax_index_for_"
"""Prefix of the settings that make the engine add indexes which no file declares."""

VIRTUAL_COLUMNS = frozenset(
    {
        "_block_number",
        "_block_offset",
        "_database",
        "_disk_name",
        "_distance",
        "_part",
        "_part_data_version",
        "_part_granule_offset",
        "_part_index",
        "_part_offset",
        "_part_starting_offset",
        "_part_uuid",
        "_partition_id",
        "_partition_value",
        "_row_exists",
        "_sample_factor",
        "_table",
    }
)
"""Virtual columns that the engine adds to every table."""

_NO_KEY = re.compile(r"\bNullable\s*\(|\b(Simple)?AggregateFunction\s*\(|\bVariant\s*\(|\b(JSON|Dynamic)\b")
_STATE = re.compile(r"(?<!Simple)AggregateFunction\s*\(")
_SET = re.compile(r"set\b", re.IGNORECASE)
_TENANT_TYPE = re.compile(r"String|LowCardinality\(String\)|U?Int(8|16|32|64|128|256)|UUID")
_TENANT_TYPES = "String, LowCardinality(String), Int8 to Int256, UInt8 to UInt256 or UUID"
_WHOLE_TEXT = re.compile(r"((LowCardinality|Nullable)\()*String\b")
QUARANTINE = "_quarantine"
_REQUIRED = {"CollapsingMergeTree": ("sign",), "VersionedCollapsingMergeTree": ("sign", "version")}
_OPTIONS = {
    "version": ("ReplacingMergeTree", "VersionedCollapsingMergeTree"),
    "is_deleted": ("ReplacingMergeTree",),
    "sign": ("CollapsingMergeTree", "VersionedCollapsingMergeTree"),
    "columns": ("SummingMergeTree",),
}
_CLAUSES = ("sorting_key", "partition_key", "primary_key", "sampling_key", "ttl", "settings")


def check_datasource(datasource: Datasource) -> Iterator[RookeryError]:
    """Report what is wrong with a datasource, without regard to other files."""
    if datasource.name.endswith(QUARANTINE):
        message = f"`{datasource.name}` cannot be a name: `{QUARANTINE}` is the ending of quarantine tables"
        yield RookeryError(BAD_NAME, message, hint="choose another name", place=datasource.place)
    yield from _columns(datasource)
    yield from _paths(datasource)
    yield from _required(datasource)
    yield from check_engine(datasource.engine)
    yield from check_keys(datasource)
    yield from _indexes(datasource)
    if datasource.shared.all and datasource.shared.min_tenants:
        message, hint = "`all` and `min_tenants` contradict each other", "keep only one of them"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=datasource.shared.place_of("min_tenants"))
    if datasource.tenant and (datasource.shared.all or datasource.shared.min_tenants):
        message = "a datasource with a tenant column cannot be `shared`: each tenant reads only its own rows"
        hint = "remove `shared`, or remove `tenant` and fill the datasource from a pipe"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=datasource.place_of("shared"))
    if datasource.tenant:
        yield from _tenant(datasource, datasource.tenant)
        if datasource.is_landing:
            yield from _landing(datasource)


def check_engine(engine: Engine) -> Iterator[RookeryError]:
    """Report what is wrong with an engine, without regard to the columns."""
    for option in _REQUIRED.get(engine.type, ()):
        if not getattr(engine, option):
            message, hint = f"{engine.type} needs `{option}`", f"name the {option} column"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place)
    for option, engines in _OPTIONS.items():
        if getattr(engine, option) and engine.type not in engines:
            message = f"{engine.type} does not take `{option}`"
            hint = f"only {' and '.join(engines)} {'take' if len(engines) > 1 else 'takes'} it"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of(option))
    if engine.is_deleted and not engine.version:
        message, hint = "`is_deleted` needs `version`", "name the version column"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of("is_deleted"))
    if engine.type == "Null":
        for clause in _CLAUSES:
            if getattr(engine, clause):
                message, hint = f"the engine Null does not take `{clause}`", "Null stores no rows; remove it"
                yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of(clause))
    for name, _ in engine.settings:
        if name in OWN_SETTINGS or name.startswith(IMPLICIT_INDEXES):
            message, hint = f"setting `{name}` cannot be changed", "rookery sets it itself; remove it"
            if name.startswith(IMPLICIT_INDEXES):
                hint = "declare the indexes under `indexes`, with type minmax"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of("settings"))


def check_keys(datasource: Datasource) -> Iterator[RookeryError]:
    """Report engine options and sorting keys that name missing or unsuitable columns."""
    yield from _engine_columns(datasource)
    yield from _sorting_key(datasource)


def _columns(datasource: Datasource) -> Iterator[RookeryError]:
    """Report names that are reserved or not unique, and codecs that are not valid."""
    seen: dict[str, str] = {}
    names: set[str] = set()
    for column in datasource.columns:
        place = column.place_of("name")
        is_repeated = column.name in names
        names.add(column.name)
        other = seen.setdefault(column.name.lower(), column.name)
        if column.name in VIRTUAL_COLUMNS:
            message, hint = f"`{column.name}` is a virtual column of ClickHouse", "choose another name"
            yield RookeryError(BAD_NAME, message, hint=hint, place=place)
        if is_repeated:
            message = f"column `{column.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="remove one of them", place=place)
        if column.codec and not is_codec(column.codec):
            message = f"`{column.codec[:80]}` is not a valid codec for column `{column.name}`"
            hint = 'write a codec or a list of codecs, such as ZSTD(1) or "Delta, ZSTD(1)"'
            yield RookeryError(BAD_VALUE, message, hint=hint, place=column.place_of("codec"))
        if not is_repeated and other != column.name:
            message = f"column `{column.name}` differs from `{other}` only in upper and lower case"
            hint = "keys of events are matched regardless of case; rename one of them"
            yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=place)


def _paths(datasource: Datasource) -> Iterator[RookeryError]:
    """Report columns whose JSON path leads to values that the column's type cannot hold."""
    # For each top-level key, the first column that reads a value inside it.
    inner: dict[str, Column] = {}
    for column in datasource.columns:
        if len(column.steps) > 1:
            inner.setdefault(column.path[0], column)
    for column in datasource.columns:
        place = column.place_of("json" if column.json_path else "type")
        if column.type.startswith("Nested("):
            message = f"column `{column.name}` has the type Nested, which events cannot fill"
            yield RookeryError(
                BAD_VALUE, message, hint=f"Array(Tuple({column.type[7:]})", place=column.place_of("type")
            )
        elif column.lists and not "".join(column.type.split()).startswith("Array(" * column.lists):
            message = (
                f"the path of `{column.name}` selects one value for each list "
                f"element, which {column.type} cannot hold"
            )
            array = f"Array({column.type})" if column.lists == 1 else f"an Array nested {column.lists} deep"
            hint = f"make its type {array}"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=place)
        elif len(column.steps) > 1 and not column.lists and column.type.startswith(("Map(", "Tuple(")):
            message = f"column `{column.name}` of type {column.type} cannot read a nested key"
            hint = "use a path with a single key, or the type JSON or String, which can hold any object"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=place)
        if len(column.steps) == 1:
            yield from _shared_key(column, inner.get(column.path[0]))


def _shared_key(column: Column, inner: Column | None) -> Iterator[RookeryError]:
    """Check a column that stores a whole top-level key if another one reads a value inside the same key."""
    key = column.path[0]
    if inner is None or _WHOLE_TEXT.match(column.type):
        return
    listed = inner.steps[1] is None
    if not column.type.startswith(("Array(",) if listed else ("JSON", "Map(", "Tuple(")):
        kind, types = ("a list", "Array or String") if listed else ("an object", "JSON, Map, Tuple or String")
        message = f"`{inner.name}` reads `{key}` as {kind}, but `{column.name}` reads it as {column.type}"
        place = column.place_of("json" if column.json_path else "type")
        hint = f"a column that stores {kind} as a whole must be {types}"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=place)


def _required(datasource: Datasource) -> Iterator[RookeryError]:
    """Report required columns that have a default, or whose absence cannot be detected."""
    for column in datasource.columns:
        if column.required and column.default:
            message = f"column `{column.name}` is required, so its default would never be used"
            yield RookeryError(BAD_VALUE, message, hint="remove one of them", place=column.place_of("required"))
        elif column.required and column.type.startswith("Tuple("):
            message = f"column `{column.name}` of type {column.type} cannot be required"
            hint = "declare its elements as separate columns, which can be required"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=column.place_of("required"))


def _engine_columns(datasource: Datasource) -> Iterator[RookeryError]:
    """Report engine options that name a missing column."""
    engine = datasource.engine
    references = [(option, getattr(engine, option)) for option in ("version", "is_deleted", "sign")]
    references += [("columns", name) for name in engine.columns]
    for option, name in references:
        if name and datasource.column(name) is None:
            message = f"`{option}` names `{name}`, which is not a column"
            yield RookeryError(UNKNOWN_COLUMN, message, hint=_declared(datasource), place=engine.place_of(option))


def _sorting_key(datasource: Datasource) -> Iterator[RookeryError]:
    """Report missing, unsuitable and repeated columns in the sorting key."""
    engine = datasource.engine
    place = engine.place_of("sorting_key")
    for expression in datasource.sorting_key:
        name = plain_name(expression)
        if name is None:
            continue
        column = datasource.column(name)
        if column is None:
            message = f"the sorting key names `{name}`, which is not a column"
            yield RookeryError(UNKNOWN_COLUMN, message, hint=_declared(datasource), place=place)
        elif _NO_KEY.search(column.type) and "Simple" not in column.type:
            message = f"column `{name}` of type {column.type} cannot be in the sorting key"
            sortable = f"assumeNotNull({name})" if "Nullable" in column.type else f"toString({name})"
            hint = f"remove it, or sort by an expression such as {sortable}"
            yield RookeryError(SORTING_KEY, message, hint=hint, place=place)
    if datasource.sorting_key and len(set(datasource.sorting_key)) < len(datasource.sorting_key):
        message = "the sorting key contains the same expression twice"
        yield RookeryError(SORTING_KEY, message, hint="remove one of them", place=place)


def _indexes(datasource: Datasource) -> Iterator[RookeryError]:
    """Report repeated indexes, and those that would show other tenants' values."""
    seen: set[str] = set()
    for index in datasource.indexes:
        if index.name in seen:
            message = f"index `{index.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="remove one of them", place=index.place_of("name"))
        seen.add(index.name)
        if datasource.tenant and _SET.match(index.type):
            message = "a datasource with a tenant column cannot have a `set` index"
            # The engine evaluates a query's conditions on the values that a set index holds.
            hint = "a set index would expose other tenants' values to a query; use bloom_filter or minmax"
            yield RookeryError(TENANT_COLUMN, message, hint=hint, place=index.place_of("type"))


def _tenant(datasource: Datasource, tenant: Tenant) -> Iterator[RookeryError]:
    """Report a tenant column that is missing, unsuitable, or not first in the keys."""
    place = tenant.place_of("column")
    column = datasource.column(tenant.column)
    if column is None:
        message = f"tenant column `{tenant.column}` is not a column of the datasource"
        yield RookeryError(TENANT_COLUMN, message, hint=_declared(datasource), place=place)
        return
    yield from _tenant_type(column)
    if tenant.fanout != "auto" and not tenant.landing:
        message, hint = "`fanout` only applies to landing datasources", "remove it: `landing` is false here"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=tenant.place_of("fanout"))
    if datasource.engine.type == "Null":
        message, hint = (
            "a datasource with a tenant column must store its rows",
            "use an engine of the MergeTree family instead of Null",
        )
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=datasource.engine.place)
        return
    # A table without rows has no keys, so this comes after the check of the engine.
    yield from _tenant_first(datasource, tenant.column)


def _tenant_type(column: Column) -> Iterator[RookeryError]:
    """Report a tenant column of a type that ids cannot have, or with a default."""
    if not _TENANT_TYPE.fullmatch("".join(column.type.split())):
        message = f"a tenant column cannot have the type {column.type}"
        hint = f"use {_TENANT_TYPES}"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=column.place_of("type"))
    if column.default:
        message = "a tenant column cannot have a default"
        hint = "an event without a tenant is refused, never assigned to one; remove the default"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=column.place_of("default"))


def _tenant_first(datasource: Datasource, tenant: str) -> Iterator[RookeryError]:
    """Report keys that do not begin with the tenant: reading one tenant would scan all tenants' rows."""
    engine = datasource.engine
    key = datasource.sorting_key
    if key[:1] != (tenant,):
        message = f"the sorting key must begin with the tenant column `{tenant}`"
        hint = f"sorting_key: [{', '.join([tenant, *(x for x in key if x != tenant)])}]"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=engine.place_of("sorting_key"))
    if engine.primary_key and _first(engine.primary_key) != tenant:
        message = f"the primary key must begin with the tenant column `{tenant}`"
        hint = "remove it: the sorting key is then used"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=engine.place_of("primary_key"))


def _first(key: str) -> str | None:
    try:
        return next(iter(split_list(key)), None)
    except ValueError:
        return None


def _landing(datasource: Datasource) -> Iterator[RookeryError]:
    """Report what a landing datasource cannot have because fan-out reads it in the order of its blocks."""
    engine = datasource.engine
    if engine.type != "MergeTree":
        message = f"a landing datasource cannot use the engine {engine.type}"
        hint = (
            "other engines may remove rows before every tenant has received them; "
            f"use MergeTree here and {engine.type} in a materialized target"
        )
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=engine.place_of("type"))
    if engine.partition_key:
        message = "a landing datasource cannot have a partition key"
        hint = "it is partitioned by the month of arrival; remove the key, or partition a materialized target"
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=engine.place_of("partition_key"))
    for column in datasource.columns:
        if _STATE.search(column.type):
            message = f"column `{column.name}` of a landing datasource cannot hold an aggregate state"
            hint = "senders could forge aggregate states; store values here, and states in a materialized target"
            yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=column.place_of("type"))
    life = shortest_lifetime(engine.ttl)
    if life is not None and life < DAY_SECONDS:
        message = "a landing datasource cannot have a TTL shorter than a day"
        hint = "rows must be kept until every tenant has received them; use a day or more, or move the TTL to targets"
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=engine.place_of("ttl"))
    if datasource.final:
        message, hint = "`final` has no effect on a landing datasource", "a MergeTree keeps every row; remove it"
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=datasource.place_of("final"))


def _declared(datasource: Datasource) -> str:
    names = [column.name for column in datasource.columns]
    return f"columns: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
