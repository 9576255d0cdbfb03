"""The values that templates compute with: parameters, typed values, SQL fragments, and the operations on them.

This module does not depend on the template engine. Only `emit` turns a value into SQL, and it emits the placeholder
that the value is bound to, so values from requests never become part of a statement.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from engine.errors import BAD_PARAMETER, CUSTOM, MISSING_PARAMETER, TEMPLATE, RookeryError, shown
from engine.template.date_times import UTC, InvalidValueError
from engine.template.parameters import ParameterType, Value, parameter_type

MAX_LOOP_STEPS = 10_000
"""Maximum number of iterations of all loops in one rendering, and maximum length of a `range`."""
MAX_VALUE_SIZE = 1_000_000
"""Maximum size of a string or list that a template builds, in characters or items."""
MAX_WORK = 5_000_000
"""Maximum number of characters and items that all calls of one rendering process together."""
ABSENT: Any = type("Absent", (), {"__bool__": lambda _: False, "__slots__": ()})()
"""The value of a parameter that the request does not have."""


class PipeError(RookeryError):
    """An error that the pipe's author raised with `custom_error`, with its HTTP status and its body."""

    def __init__(self, status: int, body: Any) -> None:
        message = body.get("error") if isinstance(body, dict) else body
        super().__init__(
            replace(CUSTOM, status=status), message if isinstance(message, str) and message else CUSTOM.title
        )
        self.status = status
        self.body = body


class MissingError(Exception):
    """The rendering cannot continue without a parameter; the message is its name."""


@dataclass(slots=True)
class Binder:
    """Collects the bound values of one statement under generated names `p1`, `p2`, …

    Equal values get different names, so that the SQL depends only on the branches taken and not on the values.
    """

    bindings: dict[str, Value] = field(default_factory=dict)
    """The values by generated name."""
    types: dict[str, str] = field(default_factory=dict)
    """Their ClickHouse types by generated name."""

    def bind(self, value: Value, type: str) -> str:
        """Add a value of a ClickHouse type and return its placeholder, such as `{p1:Int32}`."""
        name = f"p{len(self.bindings) + 1}"
        self.bindings[name] = value
        self.types[name] = type
        return f"{{{name}:{type}}}"

    def mark(self) -> int:
        """Return the number of bindings, for `rewind`."""
        return len(self.bindings)

    def rewind(self, mark: int) -> None:
        """Remove the bindings added since `mark`, and keep those of the statement's other templates."""
        for name in list(self.bindings)[mark:]:
            del self.bindings[name], self.types[name]


@dataclass(slots=True)
class Branches:
    """The outcomes of a template's conditions in dry runs."""

    forced: Mapping[int, bool] = field(default_factory=dict)
    """The outcomes to force, by number of the condition."""
    seen: set[tuple[int, bool]] = field(default_factory=set)
    """The outcomes in dry runs so far, each with the number of the condition."""


class Rendering:
    """The state of one rendering of one template. One thread uses it.

    `request` has the raw values of parameters, and `binder` receives the bound ones. `columns` are the names that the
    template may use; None, in dry runs only, if they are not known. `branches` is None unless this is a dry run.
    `zone` is the workspace's zone, for times without an offset. `missing` has the names of required parameters that
    the request lacks, in order.
    """

    __slots__ = ("binder", "branches", "columns", "is_dry_run", "missing", "request", "steps", "work", "zone")

    def __init__(
        self,
        request: Mapping[str, object],
        binder: Binder,
        columns: frozenset[str] | None,
        branches: Branches | None = None,
        zone: str = UTC,
    ) -> None:
        self.request = request
        self.zone = zone
        self.binder = binder
        self.columns = columns
        self.branches = branches
        self.is_dry_run = branches is not None
        self.missing: dict[str, None] = {}
        self.steps = 0
        self.work = 0

    def step(self) -> None:
        """Count an iteration of a loop. Raises TEMPLATE above MAX_LOOP_STEPS."""
        self.steps += 1
        if self.steps > MAX_LOOP_STEPS:
            raise RookeryError(TEMPLATE, f"the template's loops take more than {MAX_LOOP_STEPS} steps in total")

    def spend(self, *values: Any) -> None:
        """Count the characters and items that a call processes, plus a fixed amount per object.

        Raises TEMPLATE above MAX_WORK.
        """
        for value in values:
            if isinstance(value, str | list | tuple):
                self.work += len(value)
            elif isinstance(value, dict):
                self.work += 100_000
        if self.work > MAX_WORK:
            raise RookeryError(TEMPLATE, "the template processes too much text")


class Parameter:
    """A parameter of the request. If absent, it is false and equals None, and using its value raises MissingError."""

    __slots__ = ("name", "raw")

    def __init__(self, name: str, raw: Any) -> None:
        self.name = name
        self.raw = raw

    def __bool__(self) -> bool:
        return bool(self.raw)

    def __hash__(self) -> int:
        # Equal to its value, and therefore found under it in a dictionary of the template.
        return hash(None if self.raw is ABSENT else self.raw)

    def __eq__(self, other: object) -> bool:
        value = None if self.raw is ABSENT else self.raw
        if isinstance(other, Parameter):
            other = None if other.raw is ABSENT else other.raw
        return bool(value == other)

    def __contains__(self, item: object) -> bool:
        return unwrap(item) in unwrap(self)

    def __lt__(self, other: object) -> bool:
        return bool(unwrap(self) < unwrap(other))

    def __le__(self, other: object) -> bool:
        return bool(unwrap(self) <= unwrap(other))

    def __gt__(self, other: object) -> bool:
        return bool(unwrap(self) > unwrap(other))

    def __ge__(self, other: object) -> bool:
        return bool(unwrap(self) >= unwrap(other))


class Sql:
    """An SQL fragment from a template function: SQL that is safe by construction, and values to bind."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str | tuple[Value, str]) -> None:
        self.parts = parts

    def text(self, binder: Binder) -> str:
        """Bind the values and return the SQL with their placeholders."""
        return "".join(part if isinstance(part, str) else binder.bind(*part) for part in self.parts)


# Typed values behave like values of their Python type, and keep the ClickHouse type with which they are bound.
class TypedInt(int):
    """An integer of a declared type."""

    sql_type: str


class TypedFloat(float):
    """A number of a declared type."""

    sql_type: str


class TypedText(str):
    """A date, time or UUID as a canonical string."""

    sql_type: str


class TypedDecimal(Decimal):
    """A decimal of a declared type."""

    sql_type: str


class TypedList(list[Any]):
    """An array of a declared type."""

    sql_type: str


_BOUND_BY_PYTHON_TYPE = {"String", "Int64", "Float64", "Bool"}
_TYPED: dict[type, Any] = {int: TypedInt, float: TypedFloat, str: TypedText, Decimal: TypedDecimal, list: TypedList}


def typed(type_: ParameterType, value: Value) -> Any:
    """Return a checked value in the form that templates use: parsed JSON, or a value that keeps its ClickHouse
    type.
    """
    if type_.type == "JSON":
        return json.loads(str(value))
    if type_.bind in _BOUND_BY_PYTHON_TYPE:
        return value
    typed_value = _TYPED[type(value)](value)
    typed_value.sql_type = type_.bind
    return typed_value


def unwrap(value: Any) -> Any:
    """Return a parameter's value, and any other value unchanged. Raises MissingError for an absent parameter."""
    if type(value) is not Parameter:
        return value
    if value.raw is ABSENT:
        raise MissingError(value.name)
    return value.raw


def is_present(value: Any) -> bool:
    """Return whether a value is neither None nor an absent parameter."""
    return value is not None and not (type(value) is Parameter and value.raw is ABSENT)


def emit(run: Rendering, value: Any) -> str:
    """Return the output of one `{{ }}`: an SQL fragment unchanged, any other value as its placeholder."""
    if type(value) is Sql:
        return value.text(run.binder)
    if type(value) is Parameter and value.raw is ABSENT:
        run.missing[value.name] = None
        return ""
    return run.binder.bind(*bindable(value))


def bindable(value: Any) -> tuple[Value, str]:
    """Return a value and the type to bind it as: its declared type, or the type that fits its Python type.

    Raises BAD_PARAMETER for a value that cannot be bound.
    """
    name = value.name if type(value) is Parameter else None
    value = unwrap(value)
    declared: str | None = getattr(value, "sql_type", None)
    if declared:
        return value, declared
    # The most frequent case: ASCII is valid Unicode, so there is nothing to check.
    if type(value) is str and value.isascii():
        return value, "String"
    inferred = _inferred_type(value)
    try:
        return inferred.check(_unwrap_all(value)), inferred.bind
    except InvalidValueError:
        subject = f"parameter `{name}`" if name else "value"
        raise RookeryError(BAD_PARAMETER, f"{subject} must be {inferred.type}, got {shown(value)}") from None


def _unwrap_all(value: Any) -> Any:
    """Return a value with the parameters inside it replaced by their values."""
    value = unwrap(value)
    if isinstance(value, dict):
        return {key: _unwrap_all(v) for key, v in value.items()}
    return [_unwrap_all(v) for v in value] if isinstance(value, list | tuple) else value


def _inferred_type(value: Any) -> ParameterType:
    """Return the type to bind a Python value as. Raises BAD_PARAMETER or TEMPLATE if there is none."""
    if isinstance(value, bool):
        return parameter_type("Bool")
    if isinstance(value, int):
        return parameter_type("Int64")
    if isinstance(value, float):
        return parameter_type("Float64")
    if isinstance(value, str):
        return parameter_type("String")
    if isinstance(value, dict):
        return parameter_type("JSON")
    if isinstance(value, list | tuple) and not any(isinstance(x, list | tuple | dict) for x in value):
        inner = {_inferred_type(unwrap(x)).type for x in value} or {"String"}
        if inner == {"Int64", "Float64"}:
            inner = {"Float64"}
        if len(inner) == 1:
            return parameter_type(f"Array({inner.pop()})")
        raise RookeryError(BAD_PARAMETER, f"items of a list must have the same type, got {shown(value)}")
    described = "None" if value is None else f"a {type(value).__name__.lower()}"
    raise RookeryError(TEMPLATE, f"cannot print {described}", hint="print text, numbers, lists or a type function")


def items_of(value: Any) -> list[Any]:
    """Return the items of a list, range or object. Raises TEMPLATE for a string, because a loop over its characters
    is never intended.
    """
    value = unwrap(value)
    if isinstance(value, str):
        message = "cannot loop over text"
        raise RookeryError(TEMPLATE, message, hint="make it a list: split_to_array(x) or Array(x, 'String')")
    if not isinstance(value, list | tuple | range | dict):
        raise TypeError("not a list")
    if isinstance(value, TypedList):
        item_type = parameter_type(value.sql_type[len("Array(") : -1])
        return [typed(item_type, v) for v in value]
    return list(value)


def missing_error(names: Iterable[str]) -> RookeryError:
    """Return one MISSING_PARAMETER error that lists all missing parameters."""

    listed = ", ".join(f"`{n}`" for n in names)
    return RookeryError(MISSING_PARAMETER, f"required parameter{'s' if ',' in listed else ''} missing: {listed}")
