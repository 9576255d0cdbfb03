"""Checks datasource definitions: every type and expression is verified before it becomes part of DDL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from engine.compiler.compose import Verifier
from engine.compiler.refused_definitions import Definer as TableDefiner
from engine.compiler.refused_definitions import TableFactory, refused_parts
from engine.errors import BAD_NAME, BAD_TYPE, SQL_REFUSED, SQL_SEMANTICS, Place, RookeryError, did_you_mean
from engine.project.datasource import Column, Datasource
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


NEVER_NAMES = frozenset({"not", "null", "true", "false", "nan", "inf", "infinity"})
"""Names of columns, in lower case, that mean something else in expressions, in some of them even in quotes."""
KEYWORD_NAMES = frozenset({"all", "distinct", "top"})
"""Names of columns, in lower case, that must be quoted in expressions. Other keywords need no quotes."""


class Definer(TableDefiner, Protocol):
    """What these checks need from an engine."""

    def canonical_type(self, type: str) -> str | None:
        """The engine's name of a type; None if there is no such type."""
        ...

    def is_true(self, condition: str) -> bool:
        """Whether a SELECT of one condition without tables returns true. False if it fails."""
        ...


def only_expression(tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """The expression of `SELECT <expression>`; None if the query has anything else in it."""
    try:
        (select,) = tree["list_of_selects"]["children"]
        (expression,) = select["select"]["children"]
    except (KeyError, ValueError, TypeError):
        return None
    if tree["type"] != "SelectWithUnionQuery" or set(select) - {"type", "select"} or "alias" in expression:
        return None
    return dict(expression)


def check_definition(
    source: Datasource, make_table: TableFactory, verifier: Verifier, definer: Definer
) -> Iterator[RookeryError]:
    """Yield the problems of a datasource's types and expressions.

    The engine creates the table only after all expressions have been verified. `make_table` returns that table.
    """
    has_problems = False
    names = {column.name for column in source.columns}
    for text, place, part in _expressions(source):
        # Names such as `user` mean a function only if no column has the name.
        is_column = text.strip().strip("`") in names and not part.startswith("default")
        problem = None if is_column else _expression_problem(text, place, part, verifier)
        if problem:
            quoted = sorted(n for n in names if n.lower() in KEYWORD_NAMES and n in text and f"`{n}`" not in text)
            problem.hint = problem.hint or (f"write the column as `{quoted[0]}`, in backquotes" if quoted else None)
            has_problems = True
            yield problem
    for column in source.columns:
        if definer.canonical_type(column.type) is None:
            has_problems = True
            yield _unknown_type(column)
    if not has_problems:
        yield from refused_parts(source, make_table, definer)


def unusable_columns(source: Datasource, definer: Definer) -> Iterator[RookeryError]:
    """Yield the problems of columns that the engine creates and then cannot fill or read.

    Deployed datasources may have them: programs of earlier versions accepted them.
    """
    for column in source.columns:
        if column.name.lower() in NEVER_NAMES:
            message = f"`{column.name}` cannot be the name of a column: SQL reads it as a constant or an operator"
            hint = f"choose another name; to keep the key of events, add `json: $.{column.path[0]}`"
            yield RookeryError(BAD_NAME, message, hint=hint, place=column.place_of("name"))
        is_null = column.default.strip(" ()").lower() == "null"
        if is_null and not definer.is_true(f"SELECT isNull(defaultValueOfTypeName({literal(column.type)}))"):
            message = f"the default NULL of column `{column.name}` does not fit {column.type}"
            hint = "make its type Nullable(…), or remove the default"
            yield RookeryError(SQL_SEMANTICS, message, hint=hint, place=column.place_of("default"))


def canonical_types(source: Datasource, definer: Definer) -> Datasource:
    """A checked datasource, with its types as the engine spells them: `INT` becomes `Int32`."""
    columns = [c.model_copy(update={"type": definer.canonical_type(c.type) or c.type}) for c in source.columns]
    return source.model_copy(update={"columns": type(source.columns)(columns)})


def _expressions(source: Datasource) -> Iterator[tuple[str, Place, str]]:
    """Yield each SQL expression with its place and a name for messages."""
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


def _expression_problem(text: str, place: Place, part: str, verifier: Verifier) -> RookeryError | None:
    """The problem with an expression, if there is one."""
    try:
        # Without bound names, so that an expression in DDL cannot read a table.
        verifier(f"SELECT {text}", frozenset())
        if only_expression(verifier.tree(f"SELECT {text}")) is not None:
            return None
    except RookeryError as exc:
        return RookeryError(exc.code, f"{part}: {exc.message}", hint=exc.hint, place=place, detail=exc.detail)
    return RookeryError(SQL_REFUSED, f"{part}: `{text[:80]}` is not a single expression", place=place)


def _unknown_type(column: Column) -> RookeryError:
    name = column.type.partition("(")[0]
    hint = did_you_mean(name, TYPES)
    return RookeryError(
        BAD_TYPE, f"column `{column.name}`: unknown type {column.type}", hint=hint, place=column.place_of("type")
    )


def type_probe(type: str) -> str:
    """A SELECT that the engine can analyze if and only if the type exists."""
    return f"SELECT defaultValueOfTypeName({literal(type)})"
