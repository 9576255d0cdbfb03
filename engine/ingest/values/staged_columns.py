"""Decides how each column of a datasource is staged, for one format and one staging mode."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from engine.ingest.formats.file_columns import OTHER, TEXT, SourceType
from engine.ingest.row_expressions import flag_check
from engine.ingest.values.csv_composites import csv_composite, has_elements
from engine.ingest.values.fast_path import fast_checks_of
from engine.ingest.values.json_paths import stage_nested
from engine.ingest.values.staged_paths import stage_array_values, stage_collected_values, stage_verbatim_text
from engine.ingest.values.staging_mode import StagingMode, is_nested_text
from engine.ingest.values.staging_rules import ColumnRules, StagedColumn, WideType
from engine.ingest.values.wide_types import NULLABLE, unwrapped, wide_type_of
from engine.project.datasource import Column, Datasource
from engine.schema import literal, quote
from engine.tenant_ids import integer_bounds
from engine.warehouse.port import Input
from engine.warehouse.type_names import Type, parse_type

OWN_NAMES = secrets.token_hex(4)
"""Part of the names of the stage's own columns. It is random, so that events cannot have these names as keys."""
_WITH_PARTS = ("list", "map", "struct", "other")
"""The kinds of a typed file's columns that may have values with parts."""
HOLDS_STATE = re.compile(r"(?<!Simple)AggregateFunction\(")
"""Matches a type that is, or contains, an aggregate state."""


@dataclass(frozen=True, slots=True)
class ColumnStager:
    """Stages the columns of one datasource."""

    source: Datasource
    format: Input
    zone: str
    """The workspace's time zone."""
    mode: StagingMode
    source_types: Mapping[str, SourceType]
    """The types of a typed file's columns, by name in lower case."""

    def is_nested(self, column: Column) -> bool:
        """Return whether a column reads a value below the top level of an event. In files, all values are at the top
        level.
        """
        return self.format is Input.NDJSON and len(column.steps) > 1

    def stage(self, column: Column, name: str | None = None) -> StagedColumn:
        """Return how a column is staged. `name` is the stage's column, if it is not named after the key."""
        key = column.path[0] if self.format is Input.NDJSON else column.name
        name = name or key
        if self.format is Input.NDJSON and column.lists:
            return stage_array_values(column, name, self.zone, integers_as_text=self.mode.integers_as_text)
        if self.is_nested(column):
            return self._stage_nested(column, name)
        value = quote(name)
        if column.name == self.source.tenant_column:
            rules = ColumnRules(None, f"CAST(assumeNotNull({value}) AS {column.type})")
            return StagedColumn(column.name, name, "Nullable(String)", "", value, rules, key=key)
        if HOLDS_STATE.search(column.type):
            # It is unsafe to let the engine parse an aggregate state from bytes that a sender chooses.
            rules = ColumnRules(f"isNull({value})", f"defaultValueOfTypeName({literal(column.type)})")
            return StagedColumn(column.name, name, "Nullable(String)", "", value, rules, key=key)
        return self._stage_value(column, name, key)

    def _stage_nested(self, column: Column, name: str) -> StagedColumn:
        if _contains_columns(self.source, column):
            return stage_verbatim_text(column, name)
        if self.mode.texts_verbatim and is_nested_text(self.source, column):
            return stage_verbatim_text(column, name, _sibling_texts(self.source, column))
        return stage_nested(self.source, column, name, self.zone)

    def _source_type(self, column: Column, type: Type) -> SourceType | None:
        if self.format is Input.PARQUET:
            return self.source_types.get(column.name.lower(), TEXT)
        # In CSV, arrays are written as in SQL, where only a value in quotes is a string.
        return OTHER if type.parts and self.format is Input.CSV else None

    def _stage_value(self, column: Column, name: str, key: str) -> StagedColumn:
        """Stage a value at the top level of an event, or in a file's column."""
        type = parse_type(column.type).in_zone(self.zone)
        source_type = self._source_type(column, type)
        has_parts = self.format is Input.PARQUET and source_type and source_type.kind in _WITH_PARTS
        if column.lists and has_parts and source_type:
            return stage_collected_values(column, name, source_type, self.zone)
        if source_type and source_type.kind == "null":
            # The stage's column gets a name that the file does not have, so that its default applies.
            name, source_type = f"_rk_{OWN_NAMES}_{column.name}", TEXT
        value = quote(name)
        is_wide = type.kind.endswith(("128", "256"))
        if self.mode.integers_as_text and self.format is Input.NDJSON and integer_bounds(type.kind) and not is_wide:
            # The engine's number parser reads true and false as 1 and 0, but it does not parse this value.
            value = f"transform({value}, ['true', 'false'], ['1', '0'], {value})"
        wide = csv_composite(type) if type.parts and self.format is Input.CSV else None
        if wide is None:
            wide = wide_type_of(type, integers_as_text=self.mode.integers_as_text, source_type=source_type)
        staging_type, read, required = wide.staging_type, value, ""
        if column.required:
            staging_type, read, required = _required(wide.staging_type, value)
            if type.parts and staging_type == "Nullable(String)":
                required = f"({required} AND {has_elements(read)})"
        if has_parts and type.kind == "Tuple":
            return _stage_struct(column, name, wide)
        extra = " AND ".join(filter(None, [required, flag_check(self.source, column.name, read)]))
        if wide.check is None:
            stored = value if read == value else f"CAST({read} AS {column.type})"
            rules = ColumnRules(extra or None, stored)
            default = column.default if column.required else _typed_default(type, column.default, wide)
            return StagedColumn(column.name, name, staging_type, default, value, rules, key=key)
        converted = wide.convert(read) if wide.convert else read
        unchanged = converted == value and staging_type == column.type
        stored = converted if unchanged else f"CAST({converted} AS {column.type})"
        fast = fast_checks_of(type, wide.staging_type)
        default = "" if column.required else _typed_default(type, column.default, wide)
        full_rules = ColumnRules(f"({extra} AND {wide.check(read)})" if extra else wide.check(read), stored)
        fast_rules = _with_extra(fast.rules_for(read, column.type, stored), extra) if fast else None
        return StagedColumn(column.name, name, staging_type, default, value, full_rules, fast_rules, key=key)


def _with_extra(rules: ColumnRules, extra: str) -> ColumnRules:
    return ColumnRules(" AND ".join(filter(None, [extra, rules.check])), rules.stored) if extra else rules


def _stage_struct(column: Column, name: str, wide: WideType) -> StagedColumn:
    """Stage an object of a typed file. The engine reads null as an object whose parts are all null."""
    value, default = quote(name), column.default or f"defaultValueOfTypeName({literal(column.type)})"
    is_null = _is_empty(value, parse_type(wide.staging_type))
    stored = f"CAST({wide.convert(value) if wide.convert else value} AS {column.type})"
    rules = ColumnRules(
        f"({is_null} OR {wide.check(value)})" if wide.check else None,
        f"if({is_null}, CAST({default} AS {column.type}), {stored})",
    )
    return StagedColumn(column.name, name, wide.staging_type, "", value, rules, key=column.name)


def _is_empty(value: str, type: Type) -> str:
    """Return the condition under which all parts of a staged value are null or empty."""
    if type.kind == "Tuple":
        parts = (_is_empty(f"tupleElement({value}, {n})", part) for n, part in enumerate(type.parts, 1))
        return f"({' AND '.join(parts)})"
    if type.nullable:
        return f"isNull({value})"
    if type.kind == "JSON":
        return f"empty(JSONAllPaths({value}))"
    return f"empty({value})" if type.kind in ("Array", "Map") else "0"


def _required(staging_type: str, value: str) -> tuple[str, str, str]:
    """Return how a required value is staged: its type, its SQL, and the condition under which it is present."""
    type = parse_type(staging_type)
    if type.kind == "JSON":
        return staging_type, value, f"notEmpty(JSONAllPaths({value}))"
    if type.parts or not NULLABLE.fullmatch(type.kind):
        return staging_type, value, f"notEmpty({value})"
    return f"Nullable({unwrapped(staging_type)})", f"assumeNotNull({value})", f"isNotNull({value})"


def _sibling_texts(source: Datasource, column: Column) -> list[list[str | None]]:
    """Return the paths of the string columns under a column's key, including its own; none if it must be staged
    separately.
    """
    key = column.path[0].lower()
    others = [c for c in source.columns if c.path[0].lower() == key and is_nested_text(source, c)]
    paths = list({tuple(c.path): c.steps for c in others if not _contains_columns(source, c)}.values())
    # The engine ignores case when it matches the keys of such an object, so paths must differ in more than case.
    lower_paths = {tuple(str(step).lower() for step in path) for path in paths}
    return paths if len(lower_paths) == len(paths) else []


def _contains_columns(source: Datasource, column: Column) -> bool:
    """Return whether a column stores the text of an object from which other columns read values."""
    steps = column.steps
    if column.name == source.tenant_column or parse_type(column.type).kind != "String":
        return False
    return any(len(c.steps) > len(steps) and c.steps[: len(steps)] == steps for c in source.columns)


def _typed_default(type: Type, default: str, wide: WideType) -> str:
    """Return the DEFAULT of the stage's column as SQL, empty if the staging type's own default is correct."""
    if not default:
        if type.nullable or not wide.has_invalid_default:
            return ""
        value = f"defaultValueOfTypeName({literal(type.text)})"
    elif wide.has_invalid_default or wide.restage:
        value = f"CAST({default} AS {type.text})"
    else:
        return default
    return f"CAST({wide.restage(value) if wide.restage else value} AS {wide.staging_type})"
