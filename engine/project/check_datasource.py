"""Rules for one datasource: its columns, its engine, and what a tenant column and a landing datasource ask for."""

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
from engine.project.expressions import is_codec, plain_name, split_list
from engine.project.lifetimes import DAY_SECONDS, shortest_lifetime
from engine.project.model import Column, Datasource, Engine, Tenant

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
"""Settings of tables that the fan-out stands on."""
IMPLICIT_INDEXES = "add_minmax_index_for_"
"""How settings begin by which the engine adds indexes that no file declares."""

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
"""Columns that every table has in the engine."""

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
    """What is wrong with one datasource by itself."""
    if datasource.name.endswith(QUARANTINE):
        message = f"`{datasource.name}` ends like the table of another datasource's bad rows"
        yield RookeryError(BAD_NAME, message, hint="choose another name", place=datasource.place)
    yield from _columns(datasource)
    yield from _paths(datasource)
    yield from _required(datasource)
    yield from check_engine(datasource.engine)
    yield from check_keys(datasource)
    yield from _indexes(datasource)
    if datasource.shared.all and datasource.shared.min_tenants:
        message, hint = "`all` and `min_tenants` contradict each other", "keep one of them"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=datasource.shared.place_of("min_tenants"))
    if datasource.tenant and (datasource.shared.all or datasource.shared.min_tenants):
        message = "a datasource with a tenant column cannot be `shared`: each tenant reads its own rows"
        hint = "remove `shared`, or remove `tenant` and let a pipe fill it"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=datasource.place_of("shared"))
    if datasource.tenant:
        yield from _tenant(datasource, datasource.tenant)
        if datasource.is_landing:
            yield from _landing(datasource)


def check_engine(engine: Engine) -> Iterator[RookeryError]:
    """What is wrong with an engine whatever the columns are."""
    for option in _REQUIRED.get(engine.type, ()):
        if not getattr(engine, option):
            message, hint = f"{engine.type} needs `{option}`", f"name the {option} column"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place)
    for option, engines in _OPTIONS.items():
        if getattr(engine, option) and engine.type not in engines:
            message, hint = f"`{option}` is not for {engine.type}", f"it is for {' and '.join(engines)}"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of(option))
    if engine.is_deleted and not engine.version:
        message, hint = "`is_deleted` needs `version`", "name the version column"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of("is_deleted"))
    if engine.type == "Null":
        for clause in _CLAUSES:
            if getattr(engine, clause):
                message, hint = f"`{clause}` is not for Null", "Null keeps no rows"
                yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of(clause))
    for name, _ in engine.settings:
        if name in OWN_SETTINGS or name.startswith(IMPLICIT_INDEXES):
            message, hint = f"setting `{name}` cannot be chosen", "it is set by the program; remove it"
            if name.startswith(IMPLICIT_INDEXES):
                hint = "list the indexes under `indexes`, with type minmax"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=engine.place_of("settings"))


def check_keys(datasource: Datasource) -> Iterator[RookeryError]:
    """Whether the engine's options and the sorting key name columns that can stand there."""
    yield from _engine_columns(datasource)
    yield from _sorting_key(datasource)


def _columns(datasource: Datasource) -> Iterator[RookeryError]:
    seen: dict[str, str] = {}
    for column in datasource.columns:
        place = column.place_of("name")
        other = seen.setdefault(column.name.lower(), column.name)
        if column.name in VIRTUAL_COLUMNS:
            message, hint = f"`{column.name}` is a column of the engine's own", "choose another name"
            yield RookeryError(BAD_NAME, message, hint=hint, place=place)
        if column is not datasource.column(column.name):
            message = f"column `{column.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="remove one", place=place)
        if column.codec and not is_codec(column.codec):
            message = f"the codec of column `{column.name}` is not a list of codecs: `{column.codec[:80]}`"
            hint = 'such as ZSTD(1), or "Delta, ZSTD(1)"'
            yield RookeryError(BAD_VALUE, message, hint=hint, place=column.place_of("codec"))
        if column is datasource.column(column.name) and other != column.name:
            message = f"column `{column.name}` differs from `{other}` only in upper and lower case"
            hint = "keys of events are matched without regard to case; rename one"
            yield RookeryError(DUPLICATE_NAME, message, hint=hint, place=place)


def _paths(datasource: Datasource) -> Iterator[RookeryError]:
    for column in datasource.columns:
        place = column.place_of("json" if column.json_path else "type")
        if column.type.startswith("Nested("):
            message = f"column `{column.name}` is Nested, which no event can fill"
            yield RookeryError(
                BAD_VALUE, message, hint=f"Array(Tuple({column.type[7:]})", place=column.place_of("type")
            )
        elif column.lists and not "".join(column.type.split()).startswith("Array(" * column.lists):
            message = (
                f"the path of `{column.name}` leads to a value for each element of a list, not to one {column.type}"
            )
            hint = f"its type is Array({column.type})" if column.lists == 1 else f"{column.lists} times Array( … )"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=place)
        elif len(column.steps) > 1 and not column.lists and column.type.startswith(("Map(", "Tuple(")):
            message = f"column `{column.name}` of type {column.type} cannot stand deeper in an event"
            hint = "a path of one key, or type JSON or String, takes the object whole"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=place)
        yield from _whole(datasource, column)


def _whole(datasource: Datasource, column: Column) -> Iterator[RookeryError]:
    """A column that takes a key whole must take what other columns have their values in."""
    if len(column.steps) > 1:
        return
    key = column.path[0]
    inner = next((c for c in datasource.columns if c.path[0] == key and len(c.steps) > 1), None)
    if inner is None or _WHOLE_TEXT.match(column.type):
        return
    listed = inner.steps[1] is None
    if not column.type.startswith(("Array(",) if listed else ("JSON", "Map(", "Tuple(")):
        kind, takes = ("a list", "Array and String") if listed else ("an object", "JSON, Map, Tuple and String")
        message = f"`{key}` is {kind} for `{inner.name}`, and {column.type} for `{column.name}`"
        place = column.place_of("json" if column.json_path else "type")
        yield RookeryError(BAD_VALUE, message, hint=f"only {takes} take {kind} whole", place=place)


def _required(datasource: Datasource) -> Iterator[RookeryError]:
    for column in datasource.columns:
        if column.required and column.default:
            message = f"column `{column.name}` is required and has a default, which it would never take"
            yield RookeryError(BAD_VALUE, message, hint="remove one of them", place=column.place_of("required"))
        elif column.required and column.type.startswith("Tuple("):
            message = f"column `{column.name}` of type {column.type} cannot be required"
            hint = "its parts may be columns of their own, which can be required"
            yield RookeryError(BAD_VALUE, message, hint=hint, place=column.place_of("required"))


def _engine_columns(datasource: Datasource) -> Iterator[RookeryError]:
    engine = datasource.engine
    named = [(option, getattr(engine, option)) for option in ("version", "is_deleted", "sign")]
    named += [("columns", name) for name in engine.columns]
    for option, name in named:
        if name and datasource.column(name) is None:
            message = f"`{option}` names `{name}`, which is not a column"
            yield RookeryError(UNKNOWN_COLUMN, message, hint=_declared(datasource), place=engine.place_of(option))


def _sorting_key(datasource: Datasource) -> Iterator[RookeryError]:
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
            by = f"assumeNotNull({name})" if "Nullable" in column.type else f"toString({name})"
            hint = f"leave it out, or sort by an expression such as {by}"
            yield RookeryError(SORTING_KEY, message, hint=hint, place=place)
    if datasource.sorting_key and len(set(datasource.sorting_key)) < len(datasource.sorting_key):
        message = "the sorting key names an expression twice"
        yield RookeryError(SORTING_KEY, message, hint="remove one", place=place)


def _indexes(datasource: Datasource) -> Iterator[RookeryError]:
    seen: set[str] = set()
    for index in datasource.indexes:
        if index.name in seen:
            message = f"index `{index.name}` is declared twice"
            yield RookeryError(DUPLICATE_NAME, message, hint="remove one", place=index.place_of("name"))
        seen.add(index.name)
        if datasource.tenant and _SET.match(index.type):
            message = "a `set` index is not possible on a datasource with a tenant column"
            hint = "the engine would evaluate queries on the values of other tenants; use bloom_filter or minmax"
            yield RookeryError(TENANT_COLUMN, message, hint=hint, place=index.place_of("type"))


def _tenant(datasource: Datasource, tenant: Tenant) -> Iterator[RookeryError]:
    place = tenant.place_of("column")
    column = datasource.column(tenant.column)
    if column is None:
        message = f"tenant column `{tenant.column}` is not a column of the datasource"
        yield RookeryError(TENANT_COLUMN, message, hint=_declared(datasource), place=place)
        return
    yield from _tenant_type(column)
    if tenant.fanout != "auto" and not tenant.landing:
        message, hint = "`fanout` is for landing datasources", "this one is none; remove it"
        yield RookeryError(BAD_VALUE, message, hint=hint, place=tenant.place_of("fanout"))
    if datasource.engine.type == "Null":
        message, hint = (
            "a datasource with a tenant column must keep its rows",
            "use an engine of the MergeTree family",
        )
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=datasource.engine.place)
        return
    yield from _tenant_first(datasource, tenant.column)


def _tenant_type(column: Column) -> Iterator[RookeryError]:
    if not _TENANT_TYPE.fullmatch("".join(column.type.split())):
        message = f"a tenant column cannot have the type {column.type}"
        hint = f"use {_TENANT_TYPES}"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=column.place_of("type"))
    if column.default:
        message = "a tenant column cannot have a default"
        hint = "an event without a tenant is refused, never given to someone; remove the default"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=column.place_of("default"))


def _tenant_first(datasource: Datasource, tenant: str) -> Iterator[RookeryError]:
    engine = datasource.engine
    key = datasource.sorting_key
    if key[:1] != (tenant,):
        message = f"the sorting key must begin with the tenant column `{tenant}`"
        hint = f"sorting_key: [{', '.join([tenant, *(x for x in key if x != tenant)])}]"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=engine.place_of("sorting_key"))
    if engine.primary_key and _first(engine.primary_key) != tenant:
        message = f"the primary key must begin with the tenant column `{tenant}`"
        hint = "remove it: the sorting key is taken"
        yield RookeryError(TENANT_COLUMN, message, hint=hint, place=engine.place_of("primary_key"))


def _first(key: str) -> str | None:
    try:
        return next(iter(split_list(key)), None)
    except ValueError:
        return None


def _landing(datasource: Datasource) -> Iterator[RookeryError]:
    engine = datasource.engine
    if engine.type != "MergeTree":
        message = f"a landing datasource cannot be a {engine.type}"
        hint = (
            "replacing and aggregating engines remove rows before every tenant has received them; "
            "use MergeTree here and the other engine in a materialized target"
        )
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=engine.place_of("type"))
    if engine.partition_key:
        message = "a landing datasource cannot have a partition key"
        hint = "it is kept by the month in which rows arrive; remove the key, or partition a materialized target"
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=engine.place_of("partition_key"))
    for column in datasource.columns:
        if _STATE.search(column.type):
            message = f"column `{column.name}` of a landing datasource cannot hold an aggregate state"
            hint = "senders could pass off any bytes as a state; keep values here and states in a target"
            yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=column.place_of("type"))
    life = shortest_lifetime(engine.ttl)
    if life is not None and life < DAY_SECONDS:
        message = "a landing datasource cannot have a TTL shorter than a day"
        hint = "rows must be there until every tenant has received them; keep them for a day, or give targets the TTL"
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=engine.place_of("ttl"))
    if datasource.final:
        message, hint = "`final` has no meaning for a landing datasource", "a MergeTree keeps every row; remove it"
        yield RookeryError(LANDING_LAYOUT, message, hint=hint, place=datasource.place_of("final"))


def _declared(datasource: Datasource) -> str:
    names = [column.name for column in datasource.columns]
    return f"columns: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
