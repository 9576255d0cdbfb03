"""What templates compute with: parameters, typed values, pieces of SQL, and the operations on them.

Nothing here knows the template engine. A value becomes text only in `emit`, which binds it, so no value of a request
is ever part of a statement.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from engine.errors import BAD_PARAMETER, CUSTOM, MISSING_PARAMETER, TEMPLATE, RookeryError, shown
from engine.template.date_times import UTC, UnfitError
from engine.template.parameters import Kind, Value, kind

MAX_LOOP_STEPS = 10_000
"""Most loop iterations of one rendering, all loops together; also the longest `range`."""
MAX_VALUE_SIZE = 1_000_000
"""Longest text or list that a template may build, in characters or items."""
MAX_WORK = 5_000_000
"""Most characters and items that the calls of one rendering may work through, all together."""
ABSENT: Any = type("Absent", (), {"__bool__": lambda _: False, "__slots__": ()})()


class PipeError(RookeryError):
    """An error that the pipe's author raised with `custom_error`: its HTTP status and its body."""

    def __init__(self, status: int, body: Any) -> None:
        told = body.get("error") if isinstance(body, dict) else body
        super().__init__(replace(CUSTOM, status=status), told if isinstance(told, str) and told else CUSTOM.title)
        self.status = status
        self.body = body


class MissingError(Exception):
    """The rendering cannot go on without the parameter it names."""


@dataclass(slots=True)
class Binder:
    """Collects the bound values of one statement under generated names `p1`, `p2`, …

    Equal values keep different names, so that the text depends on the branches taken and never on values.
    """

    bindings: dict[str, Value] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def bind(self, value: Value, type: str) -> str:
        """Keep a value of a ClickHouse type and return its placeholder, such as `{p1:Int32}`."""
        name = f"p{len(self.bindings) + 1}"
        self.bindings[name] = value
        self.types[name] = type
        return f"{{{name}:{type}}}"

    def mark(self) -> int:
        """How much is bound so far, for `rewind`."""
        return len(self.bindings)

    def rewind(self, mark: int) -> None:
        """Forget what was bound since `mark`; what other templates of the statement have bound stays."""
        for name in list(self.bindings)[mark:]:
            del self.bindings[name], self.types[name]


@dataclass(slots=True)
class Arms:
    """The conditions of a dry run, by number: which are forced to an outcome, and which outcomes were seen."""

    forced: Mapping[int, bool] = field(default_factory=dict)
    seen: set[tuple[int, bool]] = field(default_factory=set)


class Rendering:
    """One rendering of one template: the request, where values go, what is missing, how much was done.

    `columns` are the identifiers that it may name; None, in dry runs only, when they are not known yet. `arms` are
    the conditions of a dry run, None when a request is rendered. Moments without an offset are in `zone`.
    """

    __slots__ = ("arms", "binder", "columns", "missing", "request", "sample", "steps", "work", "zone")

    def __init__(
        self,
        request: Mapping[str, object],
        binder: Binder,
        columns: frozenset[str] | None,
        arms: Arms | None = None,
        zone: str = UTC,
    ) -> None:
        self.request = request
        self.zone = zone
        self.binder = binder
        self.columns = columns
        self.arms = arms
        self.sample = arms is not None
        self.missing: dict[str, None] = {}
        self.steps = 0
        self.work = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_LOOP_STEPS:
            raise RookeryError(TEMPLATE, f"loops of the template take more than {MAX_LOOP_STEPS} steps together")

    def spend(self, *values: Any) -> None:
        """Count what a call works through: characters, items, and objects at a flat rate."""
        for value in values:
            if isinstance(value, str | list | tuple):
                self.work += len(value)
            elif isinstance(value, dict):
                self.work += 100_000
        if self.work > MAX_WORK:
            raise RookeryError(TEMPLATE, "the template works through too much text")


class Parameter:
    """A parameter of the request by name. Absent: false, equal to None, and an error where a value is needed."""

    __slots__ = ("name", "raw")

    def __init__(self, name: str, raw: Any) -> None:
        self.name = name
        self.raw = raw

    def __bool__(self) -> bool:
        return bool(self.raw)

    def __hash__(self) -> int:
        return hash(None if self.raw is ABSENT else self.raw)

    def __eq__(self, other: object) -> bool:
        mine = None if self.raw is ABSENT else self.raw
        if isinstance(other, Parameter):
            other = None if other.raw is ABSENT else other.raw
        return bool(mine == other)

    def __contains__(self, item: object) -> bool:
        return plain(item) in plain(self)

    def __lt__(self, other: object) -> bool:
        return bool(plain(self) < plain(other))

    def __le__(self, other: object) -> bool:
        return bool(plain(self) <= plain(other))

    def __gt__(self, other: object) -> bool:
        return bool(plain(self) > plain(other))

    def __ge__(self, other: object) -> bool:
        return bool(plain(self) >= plain(other))


class Sql:
    """A piece of SQL made by a function: text that is safe by construction, and values still to be bound."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str | tuple[Value, str]) -> None:
        self.parts = parts

    def text(self, binder: Binder) -> str:
        return "".join(part if isinstance(part, str) else binder.bind(*part) for part in self.parts)


# Typed values behave like what they are and remember the type they are bound as.
class TypedInt(int):
    """An integer of a declared type."""

    sql_type: str


class TypedFloat(float):
    """A number of a declared type."""

    sql_type: str


class TypedText(str):
    """A date, time or UUID as canonical text."""

    sql_type: str


class TypedDecimal(Decimal):
    """A decimal of a declared type."""

    sql_type: str


class TypedList(list[Any]):
    """An array of a declared type."""

    sql_type: str


_NATURAL = {"String", "Int64", "Float64", "Bool"}
_TYPED: dict[type, Any] = {int: TypedInt, float: TypedFloat, str: TypedText, Decimal: TypedDecimal, list: TypedList}


def typed(found: Kind, value: Value) -> Any:
    """A checked value as the template sees it."""
    if found.type == "JSON":
        return json.loads(str(value))
    if found.bind in _NATURAL:
        return value
    made = _TYPED[type(value)](value)
    made.sql_type = found.bind
    return made


def plain(value: Any) -> Any:
    """A value without its parameter. Raises MissingError for an absent one."""
    if type(value) is not Parameter:
        return value
    if value.raw is ABSENT:
        raise MissingError(value.name)
    return value.raw


def present(value: Any) -> bool:
    """Whether there is a value: neither None nor an absent parameter."""
    return value is not None and not (type(value) is Parameter and value.raw is ABSENT)


def emit(run: Rendering, value: Any) -> str:
    """The text of one output: a piece of SQL as it is, anything else as a placeholder for its bound value."""
    if type(value) is Sql:
        return value.text(run.binder)
    if type(value) is Parameter and value.raw is ABSENT:
        run.missing[value.name] = None
        return ""
    return run.binder.bind(*bindable(value))


def bindable(value: Any) -> tuple[Value, str]:
    """A value and the type to bind it as: the declared one, or the one of its Python type."""
    name = value.name if type(value) is Parameter else None
    value = plain(value)
    declared: str | None = getattr(value, "sql_type", None)
    if declared:
        return value, declared
    if type(value) is str and value.isascii():
        return value, "String"
    found = _python_kind(value)
    try:
        return found.check(_deep(value)), found.bind
    except UnfitError:
        what = f"parameter `{name}`" if name else "value"
        raise RookeryError(BAD_PARAMETER, f"{what} must be {found.type}, got {shown(value)}") from None


def _deep(value: Any) -> Any:
    """A value without the parameters inside it."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: _deep(v) for key, v in value.items()}
    return [_deep(v) for v in value] if isinstance(value, list | tuple) else value


def _python_kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return kind("Bool")
    if isinstance(value, int):
        return kind("Int64")
    if isinstance(value, float):
        return kind("Float64")
    if isinstance(value, str):
        return kind("String")
    if isinstance(value, dict):
        return kind("JSON")
    if isinstance(value, list | tuple) and not any(isinstance(x, list | tuple | dict) for x in value):
        inner = {_python_kind(plain(x)).type for x in value} or {"String"}
        if inner == {"Int64", "Float64"}:
            inner = {"Float64"}
        if len(inner) == 1:
            return kind(f"Array({inner.pop()})")
        raise RookeryError(BAD_PARAMETER, f"items of a list must be of one type, got {shown(value)}")
    what = "None" if value is None else f"a {type(value).__name__.lower()}"
    raise RookeryError(TEMPLATE, f"cannot print {what}", hint="print text, numbers, lists or a type function")


def items_of(value: Any) -> list[Any]:
    """The items of a list, range or object; text is refused, since looping over letters is never meant."""
    value = plain(value)
    if isinstance(value, str):
        message = "cannot loop over text"
        raise RookeryError(TEMPLATE, message, hint="make a list of it: split_to_array(x) or Array(x, 'String')")
    if not isinstance(value, list | tuple | range | dict):
        raise TypeError("not a list")
    if isinstance(value, TypedList):
        one = kind(value.sql_type[len("Array(") : -1])
        return [typed(one, v) for v in value]
    return list(value)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, for hints; None when nothing is close."""
    found = difflib.get_close_matches(word[:100], sorted(known), 1, 0.6)
    return found[0] if found else None


def missing_error(names: Iterable[str]) -> RookeryError:
    """One MISSING_PARAMETER error that lists all missing parameters."""
    listed = ", ".join(f"`{n}`" for n in names)
    return RookeryError(MISSING_PARAMETER, f"required parameter{'s' if ',' in listed else ''} missing: {listed}")
