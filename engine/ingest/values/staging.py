"""Builds the stage of a datasource: the types in which rows arrive, and the conditions that they must meet.

Values are staged in types that can hold more than their columns, and the tenant as the string that was sent, so that
values are not wrapped, clamped or guessed. In an event, a value is read at its column's path; in a file, from the
column with its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.compiler.expiry_check import ExpiryCheck
from engine.compiler.scope import tenant_literal
from engine.ingest.formats.file_columns import SourceType
from engine.ingest.row_expressions import names_in
from engine.ingest.values.fast_path import fast_tenant_check
from engine.ingest.values.plain_keys import PathTree, tuple_paths
from engine.ingest.values.shared_keys import KeyReader
from engine.ingest.values.staged_columns import OWN_NAMES, ColumnStager
from engine.ingest.values.staging_mode import DEFAULT_MODE, StagingMode
from engine.ingest.values.staging_rules import StagedColumn
from engine.project.datasource import Column, Datasource
from engine.schema import Name, fingerprint, literal, quote
from engine.tenant_ids import MAX_TENANT_BYTES, base_type
from engine.warehouse.port import Input

ROW_NUMBER_COLUMN = f"_rk_n_{OWN_NAMES}"
"""The stage's column for numbers of rows."""
BOUND_TENANT_COLUMN = f"_rk_bound_{OWN_NAMES}"
"""The stage's column for the tenant that a row's token is bound to, in a batch of several tenants.

It is the first key of each line in such a batch, so the engine refuses a line that has the key itself."""
_NEVER_FILLED = f"_rk_never_{OWN_NAMES}"
"""A column of the stage for which rows never have a value."""
_MAX_EMPTY_TESTS = 2
"""Columns that `maybe_empty_condition` tests."""
COMPOSITES = ("Array(", "Map(", "Tuple(")
"""How the names of types with parts begin."""
NO_SOURCE_TYPES: Mapping[str, SourceType] = {}


@dataclass(frozen=True, slots=True)
class StageSchema:
    """How a datasource's rows are staged. Immutable; batches in several threads share it."""

    source: Datasource
    columns: tuple[StagedColumn, ...]
    """One for each column of the datasource, in its order."""
    tenant: StagedColumn | None
    """The one of `columns` that is the tenant's, if the datasource has a tenant column."""
    identity: str
    """A fingerprint of the stage's table. Stages with the same identity can share tables."""
    repeatable: bool = True
    """Whether reading a staged row twice yields the same values, which is not the case with defaults such as
    `now()`.
    """
    reusable: bool = True
    """Whether the stage's table is kept for later batches, which is not the case if only a particular file needs
    it.
    """
    shared: Mapping[bytes, tuple[KeyReader, ...]] = field(default_factory=dict)
    """The keys of events, in lower case, that several of the stage's columns are filled from."""
    paths: Mapping[bytes, PathTree] = field(default_factory=dict)
    """The paths on which the engine does not read keys with escapes, by the stage's column."""
    expiry: ExpiryCheck | None = None
    """The condition for stored rows whose TTL does not overflow, if it may."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys of events that columns are read from, as they are declared and in lower case."""
        return frozenset(key for c in self.source.columns for key in (c.path[0], c.path[0].lower()))

    @property
    def infers_types(self) -> bool:
        """Whether the engine finds the types of values inside a column, which takes long for deep lists."""
        return any(t in c.type for c in self.columns for t in ("JSON", "Dynamic"))

    def accepts_empty_rows(self, *, is_bound: bool) -> bool:
        """Return whether a row with none of the keys is valid, for a writer whose token may be bound to a tenant."""
        return (self.tenant is None or is_bound) and not any(c.required for c in self.source.columns)


@dataclass(frozen=True, slots=True)
class BoundTenant:
    """The tenant that the rows of a batch must belong to."""

    id: str | None
    """The tenant of all rows; None where each row has its own, in BOUND_TENANT_COLUMN."""

    @property
    def text(self) -> str:
        """The id as SQL text."""
        return quote(BOUND_TENANT_COLUMN) if self.id is None else literal(self.id)

    def value(self, type: str) -> str:
        """Return the id as SQL of the tenant column's type. Raises RK3005 for an id that it cannot hold."""
        return f"CAST({self.text if self.id is None else tenant_literal(type, self.id)} AS {type})"


@dataclass(frozen=True, slots=True)
class Projection:
    """How staged rows become the datasource's rows: full or fast validation, as SQL over the stage's columns."""

    condition: str
    """True for valid rows. A fast condition is true for fewer rows than the full one."""
    values: tuple[str, ...]
    """The values that are stored, in the datasource's order of columns. Fast values throw on some invalid rows."""

    @property
    def sql(self) -> str:
        """The values as a SELECT list."""
        return ", ".join(self.values)


def full_projection(stage: StageSchema, bound: BoundTenant | None) -> Projection:
    """Return the projection that accepts every valid row. `bound` is the tenant that the token is bound to."""
    conditions = [f"ifNull({check}, 1)" for _, check in validity_checks(stage, bound)]
    return Projection(" AND ".join(conditions) or "1", _values(stage, bound, [c.full.stored for c in stage.columns]))


def fast_projection(stage: StageSchema, bound: BoundTenant | None) -> Projection:
    """Return the projection that accepts only rows whose values have the usual spellings.

    It stores the same values as the full projection. Columns without fast rules keep their full ones.
    """
    conditions = []
    for staged, check in validity_checks(stage, bound):
        fast_check = _fast_check(stage, staged, bound)
        conditions.append(f"ifNull({check}, 1)" if fast_check is None else fast_check)
    values = [(c.fast or c.full).stored for c in stage.columns]
    return Projection(" AND ".join(filter(None, conditions)) or "1", _values(stage, bound, values))


def _fast_check(stage: StageSchema, staged: StagedColumn, bound: BoundTenant | None) -> str | None:
    """Return a column's fast condition: empty if no check is needed, None if the column has no fast rules."""
    if is_tenant_column(stage, staged):
        return fast_tenant_check(base_type(tenant_type(stage.source)), staged.value) if bound is None else None
    return None if staged.fast is None else staged.fast.check or ""


def _values(stage: StageSchema, bound: BoundTenant | None, values: list[str]) -> tuple[str, ...]:
    """Replace the tenant's value by the token's tenant, if the token is bound to one."""
    if bound is not None and stage.tenant is not None:
        values[stage.columns.index(stage.tenant)] = bound.value(tenant_type(stage.source))
    return tuple(values)


def stage_of(
    source: Datasource,
    format: Input,
    zone: str,
    mode: StagingMode = DEFAULT_MODE,
    source_types: Mapping[str, SourceType] = NO_SOURCE_TYPES,
) -> StageSchema:
    """Return how a datasource's rows of a format are staged, in a workspace with a time zone. `source_types` are
    those of a typed file's columns.
    """
    stager = ColumnStager(source, format, zone, mode, source_types)
    staged = [(c, stager.stage(c)) for c in source.columns]
    names, shared = _shared_names(staged) if format is Input.NDJSON else ({}, {})
    if shared:
        staged = [(c, stager.stage(c, names.get(c.name))) for c in source.columns]
    stored = {c.name: _as_stored(s, c.type) for c, s in staged}
    # Defaults may name other columns, whose stored values are known only after all columns are staged once.
    with_defaults = [c.model_copy(update={"default": _resolved_default(c.default, stored)}) for c in source.columns]
    columns = tuple(stager.stage(c, names.get(c.name)) for c in with_defaults)
    tenant = next((s for s in columns if s.column == source.tenant_column), None)
    # Defaults of nested columns and of a file's objects are computed only when rows are read from the stage.
    late = [c for c in source.columns if stager.is_nested(c) or (source_types and c.type.startswith("Tuple("))]
    repeatable = not any(c.default for c in late)
    identity = fingerprint([(c.name, c.type, c.default) for c in columns])[:12]
    paths = tuple_paths(columns) if format is Input.NDJSON else {}
    return StageSchema(source, columns, tenant, identity, repeatable, not source_types, shared, paths)


def _shared_names(
    staged_columns: Sequence[tuple[Column, StagedColumn]],
) -> tuple[dict[str, str], dict[bytes, tuple[KeyReader, ...]]]:
    """Return the stage's names for columns whose key is read in several ways, and the readers of these keys."""
    by_key: dict[bytes, dict[tuple[str, str], list[Column]]] = {}
    for column, staged in staged_columns:
        key = column.path[0].encode().lower()
        by_key.setdefault(key, {}).setdefault((staged.type, staged.default), []).append(column)
    names: dict[str, str] = {}
    shared: dict[bytes, tuple[KeyReader, ...]] = {}
    for key, by_type in by_key.items():
        if len(by_type) == 1:
            continue
        any_value = any(len(c.steps) == 1 for columns in by_type.values() for c in columns)
        readers = []
        for columns in by_type.values():
            reader = KeyReader(f"_rk_{OWN_NAMES}_{len(names)}", _opening(columns) if any_value else b"")
            names |= dict.fromkeys((c.name for c in columns), reader.name)
            readers.append(reader)
        shared[key] = tuple(readers)
    return names, shared


def _opening(columns: Sequence[Column]) -> bytes:
    """Return the character that a value must begin with for these columns, if another column reads any value."""
    if any(len(c.steps) == 1 for c in columns):
        return b""
    return b"[" if columns[0].steps[1] is None else b"{"


def _as_stored(staged: StagedColumn, type: str) -> str:
    """Return a column's stored value as the defaults of other columns read it.

    An invalid value becomes the type's default here, so that the default does not throw. The column's own check
    rejects the row.
    """
    stored = staged.full.stored
    if type.startswith(COMPOSITES) and staged.type in ("String", "Nullable(String)") and staged.full.check:
        return f"if({staged.full.check}, {stored}, defaultValueOfTypeName({literal(type)}))"
    if stored == staged.value or "Nullable(" in type:
        return stored
    inner = stored.removeprefix("CAST(").removesuffix(f" AS {type})")
    if inner == stored or staged.type.startswith(COMPOSITES):
        return stored
    return f"CAST(assumeNotNull(accurateCastOrNull({inner}, {literal(base_type(type))})) AS {type})"


def _resolved_default(default: str, stored: Mapping[str, str]) -> str:
    """Wrap a DEFAULT in a lambda, so that names of columns in it mean the stored values, not the staged ones.

    The engine resolves the lambda's parameters, so names in inner scopes of the default keep their meaning.
    """
    named = names_in(default)
    values = {name: sql for name, sql in stored.items() if name in named and sql != quote(name)}
    if not values:
        return default
    arrays = ", ".join(f"[{sql}]" for sql in values.values())
    return f"arrayMap(({', '.join(map(quote, values))}) -> {default}, {arrays})[1]"


def maybe_empty_condition(stage: StageSchema) -> str:
    """Return SQL that is true for every staged row without any of the keys, and possibly for other nearly empty
    rows.
    """
    # Strings come first, because they are cheap to test, and rarely empty in a row with other values.
    empty_tests = {
        "String": "empty({})",
        "Int128": "{} = 0",
        "Float64": "{} = 0",
        "LowCardinality(String)": "empty({})",
        "Nullable": "isNull({})",
        "JSON": "empty(JSONAllPaths({}))",
    }
    kinds = {
        c.name: c.type if c.type in empty_tests else c.type.partition("(")[0] for c in stage.columns if not c.default
    }
    tests = [test.format(quote(n)) for kind, test in empty_tests.items() for n, own in kinds.items() if own == kind]
    return " AND ".join(tests[:_MAX_EMPTY_TESTS]) or "1"


def stage_ddl(stage: StageSchema, table: Name, *, defaults: bool = True) -> str:
    """Return the statement that creates a stage's table. Rows have numbers if they were inserted with numbers."""
    parts = {
        c.name: f"{quote(c.name)} {c.type}" + (f" DEFAULT {c.default}" if c.default and defaults else "")
        for c in stage.columns
    }
    parts[ROW_NUMBER_COLUMN] = f"{ROW_NUMBER_COLUMN} UInt64"
    parts[BOUND_TENANT_COLUMN] = f"{BOUND_TENANT_COLUMN} String"
    # The engine stops reading a row once it has a value for every column, and would then miss a repeated key.
    parts[_NEVER_FILLED] = f"{_NEVER_FILLED} UInt8"
    return f"CREATE TABLE IF NOT EXISTS {table.sql()} ({', '.join(parts.values())}) ENGINE = Memory"


def is_tenant_column(stage: StageSchema, staged: StagedColumn) -> bool:
    """Return whether a column names the tenant that owns the row."""
    return staged is stage.tenant


def tenant_type(source: Datasource) -> str:
    """Return the type of the tenant column."""
    return next(c.type for c in source.columns if c.name == source.tenant_column)


def validity_checks(stage: StageSchema, bound: BoundTenant | None) -> list[tuple[StagedColumn, str]]:
    """Return the conditions that each row must meet, by column. `bound` is the tenant that the token is bound to."""
    conditions = [(c, c.full.check) for c in stage.columns if c.full.check]
    if stage.tenant is None:
        return conditions
    value = stage.tenant.value
    if bound is not None:
        return [*conditions, (stage.tenant, f"ifNull({value} = {bound.text}, 1)")]
    return [*conditions, (stage.tenant, tenant_check(base_type(tenant_type(stage.source)), value))]


def tenant_check(kind: str, value: str) -> str:
    """Return the condition under which a string is a canonical tenant id. `value` is SQL, and NULL if it is
    absent.
    """
    check = f"toString(to{kind}OrNull({value})) = {value}"
    if kind == "String":
        check = (
            f"length({value}) BETWEEN 1 AND {MAX_TENANT_BYTES} AND isValidUTF8({value}) AND "
            f"NOT match({value}, '[\\\\p{{Cc}}\\\\p{{Zl}}\\\\p{{Zp}}]') AND normalizeUTF8NFC({value}) = {value}"
        )
    return f"ifNull({check}, 0)"
