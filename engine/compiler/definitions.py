"""Datasource definitions: every expression and type in them is judged before it becomes part of any DDL."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from engine.compiler.compose import Verifier
from engine.compiler.refused_definitions import Definer as TableDefiner
from engine.compiler.refused_definitions import Shape, refusals
from engine.errors import BAD_TYPE, SQL_REFUSED, Place, RookeryError
from engine.project.model import Column, Datasource
from engine.schema import literal

TYPES = [
    "String",
    "FixedString",
    "UUID",
    "Bool",
    "Date",
    "Date32",
    "DateTime",
    "DateTime64",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Int128",
    "Int256",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "UInt128",
    "UInt256",
    "Float32",
    "Float64",
    "Decimal",
    "Enum8",
    "Enum16",
    "IPv4",
    "IPv6",
    "JSON",
    "Array",
    "Tuple",
    "Map",
    "Nullable",
    "LowCardinality",
    "AggregateFunction",
    "SimpleAggregateFunction",
]


class Definer(TableDefiner, Protocol):
    """What is asked of an engine about a definition."""

    def canonical_type(self, type: str) -> str | None:
        """The engine's own name of a type, None where there is no such type."""
        ...

    def is_true(self, condition: str) -> bool:
        """Whether a SELECT of one condition without tables gives a true one; False also if it cannot be computed."""
        ...


def only_expression(tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """The single expression of `SELECT <expression>`, or None when the text was anything more than that."""
    try:
        (select,) = tree["list_of_selects"]["children"]
        (expression,) = select["select"]["children"]
    except (KeyError, ValueError, TypeError):
        return None
    if tree["type"] != "SelectWithUnionQuery" or set(select) - {"type", "select"} or "alias" in expression:
        return None
    return dict(expression)


def check_definition(
    source: Datasource, shape: Shape, verifier: Verifier, definer: Definer
) -> Iterator[RookeryError]:
    """What is wrong with a datasource's types and expressions; nothing is created unless all of them are judged.

    `shape` makes the table that the engine is asked about.
    """
    bad = False
    names = {column.name for column in source.columns}
    for text, place, what in _expressions(source):
        # `user` and its like are functions only where no column has the name.
        is_column = text.strip().strip("`") in names and not what.startswith("default")
        problem = None if is_column else _judge(text, place, what, verifier)
        if problem:
            bad = True
            yield problem
    for column in source.columns:
        if definer.canonical_type(column.type) is None:
            bad = True
            yield _no_type(column)
    if not bad:
        yield from refusals(source, shape, definer)


def canonical_type(source: Datasource, definer: Definer) -> Datasource:
    """A datasource, which has been checked, with its types as the engine spells them: `INT` is `Int32`."""
    columns = [c.model_copy(update={"type": definer.canonical_type(c.type) or c.type}) for c in source.columns]
    return source.model_copy(update={"columns": type(source.columns)(columns)})


def _expressions(source: Datasource) -> Iterator[tuple[str, Place, str]]:
    for column in source.columns:
        if column.default:
            yield column.default, column.place_of("default"), f"default of `{column.name}`"
    engine = source.engine
    for key in engine.sorting_key:
        yield key, engine.place_of("sorting_key"), "sorting key"
    for name in ("partition_key", "primary_key", "sampling_key", "ttl"):
        text = getattr(engine, name)
        if text:
            yield text, engine.place_of(name), name.replace("_", " ")
    for index in source.indexes:
        yield index.expression, index.place_of("expression"), f"index `{index.name}`"


def _judge(text: str, place: Place, what: str, verifier: Verifier) -> RookeryError | None:
    try:
        verifier(f"SELECT {text}", frozenset())
        if only_expression(verifier.tree(f"SELECT {text}")) is not None:
            return None
    except RookeryError as exc:
        return RookeryError(exc.code, f"{what}: {exc.message}", hint=exc.hint, place=place, detail=exc.detail)
    return RookeryError(SQL_REFUSED, f"{what}: `{text[:80]}` is not one expression", place=place)


def _no_type(column: Column) -> RookeryError:
    near = difflib.get_close_matches(column.type.partition("(")[0], TYPES, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else None
    return RookeryError(
        BAD_TYPE, f"column `{column.name}`: there is no type {column.type}", hint=hint, place=column.place_of("type")
    )


def type_probe(type: str) -> str:
    """A SELECT that the engine can analyse exactly when the type exists."""
    return f"SELECT defaultValueOfTypeName({literal(type)})"
