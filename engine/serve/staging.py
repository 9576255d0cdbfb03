"""How rows are staged before they are stored: the types in which they arrive, and the conditions that they must meet.

Nothing is wrapped, clamped or guessed on the way: integers arrive wider than they are stored, or as text, and the
tenant arrives as the text that was sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.compiler.params import integer_bounds
from engine.compiler.scope import base_type
from engine.project.model import Column, Datasource
from engine.schema import Name, fingerprint, literal, quote

WIDE_DIGITS = b"0" * 39
"""Integers are staged as Int128: the engine's parser wraps what does not fit, and the check then sees it. A batch
with a number of this many digits has its integers staged as text, as are integers that are wide themselves."""

NUMBER = "_rk_n"
"""The stage's column for numbers of rows, which no datasource can have."""

_TO_ZEROS = bytes(ord("0") if ord("0") <= i <= ord("9") else ord("x") for i in range(256))
_INTEGER = re.compile(r"(?:(Nullable|Array|LowCardinality)\()?(U?Int(?:8|16|32|64|128|256))\)?")
_EXACT_ARRAY = re.compile(r"Array\(((?:U?Int\d+)|(?:Decimal\d*\([\d, ]+\)))\)")
_STEP = re.compile(r"\.([^\s.\[\]'\"]+)|\['([^']+)'\]")


@dataclass(frozen=True, slots=True)
class Staged:
    """One column on its way.

    `column` is its name in the datasource, `name` and `type` those in the stage; `value` is the SQL of what arrived,
    `taken` of what is stored, `check` of the condition under which it can be.
    """

    column: str
    name: str
    type: str
    default: str
    value: str
    taken: str
    check: str | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """How a datasource's rows are staged. If it is `repeatable`, taking rows twice gives the same values."""

    source: Datasource
    columns: tuple[Staged, ...]
    tenant: Staged | None
    identity: str
    repeatable: bool = True


def has_long_number(body: bytes) -> bool:
    """Whether a text batch may hold a number that the wide stage would wrap."""
    # So many digits cover four places in a row of which every eighth is looked at: most batches are told by that.
    return b"0000" in body[::8].translate(_TO_ZEROS) and WIDE_DIGITS in body.translate(_TO_ZEROS)


def stage_of(source: Datasource, exact: bool = False) -> Stage:
    """How a datasource's rows are staged; with `exact`, integers as the text that was sent."""
    columns = tuple(_staged(source, c, exact) for c in source.columns)
    tenant = next((s for s in columns if s.column == source.tenant_column), None)
    return Stage(
        source, columns, tenant, fingerprint([(c.name, c.type, c.default) for c in columns])[:12], _repeatable(source)
    )


def _repeatable(source: Datasource) -> bool:
    """Whether no default is computed when rows are taken: those of columns deeper in an event are."""
    return not any(c.default and len(_steps(c)) > 1 for c in source.columns)


def stage_ddl(stage: Stage, table: Name) -> str:
    """The statement that makes a stage's table; rows have a number there where they were given one."""
    parts = {
        c.name: f"{quote(c.name)} {c.type}" + (f" DEFAULT {c.default}" if c.default else "") for c in stage.columns
    }
    parts[NUMBER] = f"{NUMBER} UInt64"
    return f"CREATE TABLE IF NOT EXISTS {table.sql()} ({', '.join(parts.values())}) ENGINE = Memory"


def is_tenant(stage: Stage, staged: Staged) -> bool:
    """Whether a column says whose the row is."""
    return staged is stage.tenant


def tenant_kind(source: Datasource) -> str:
    """The tenant column's type."""
    return next(c.type for c in source.columns if c.name == source.tenant_column)


def checks(stage: Stage, bound: str | None) -> list[tuple[Staged, str]]:
    """What every row must meet, in the engine's words; `bound` is the tenant that the token writes for."""
    found = [(c, c.check) for c in stage.columns if c.check]
    if stage.tenant is None:
        return found
    value = stage.tenant.value
    if bound is not None:
        return [*found, (stage.tenant, f"ifNull({value} = {literal(bound)}, 1)")]
    kind = base_type(tenant_kind(stage.source))
    check = f"toString(to{kind}OrNull({value})) = {value}"
    if kind == "String":
        check = (
            f"length({value}) BETWEEN 1 AND 256 AND isValidUTF8({value}) AND "
            f"NOT match({value}, '[\\\\p{{Cc}}\\\\p{{Zl}}\\\\p{{Zp}}]') AND normalizeUTF8NFC({value}) = {value}"
        )
    return [*found, (stage.tenant, f"ifNull({check}, 0)")]


def _staged(source: Datasource, column: Column, exact: bool) -> Staged:
    steps = _steps(column)
    if len(steps) > 1:
        return _nested(source, column, steps)
    name, value = steps[0], quote(steps[0])
    if column.name == source.tenant_column:
        taken = f"CAST(assumeNotNull({value}) AS {column.type})"
        return Staged(column.name, name, "Nullable(String)", "", value, taken)
    integer = _INTEGER.fullmatch(column.type)
    if integer is None:
        return Staged(column.name, name, column.type, column.default, value, value)
    return _integer(column, name, integer[1] or "", integer[2], exact or integer[2].endswith(("128", "256")))


def _integer(column: Column, name: str, wrapper: str, kind: str, as_text: bool) -> Staged:
    value, default = quote(name), column.default
    staged = "String" if as_text else "Int128"
    check = _fits(value, kind, as_text)
    if wrapper == "Nullable":
        check = f"(isNull({value}) OR {_fits(f'assumeNotNull({value})', kind, as_text)})"
        staged = f"Nullable({staged})"
    elif wrapper == "Array":
        staged, check = f"Array({staged})", f"arrayAll(_rk_x -> {_fits('_rk_x', kind, as_text)}, {value})"
    elif as_text:
        default = f"toString(CAST({default or 0} AS {kind}))"
    return Staged(column.name, name, staged, default, value, f"CAST({value} AS {column.type})", check)


def _fits(value: str, kind: str, as_text: bool) -> str:
    """The condition under which a staged integer is one of its type."""
    if as_text:
        return f"ifNull(toString(to{kind}OrNull({value})) = {value}, 0)"
    low, high = integer_bounds(kind) or (0, 0)
    return f"({value} BETWEEN {low} AND {high})"


def _nested(source: Datasource, column: Column, steps: list[str]) -> Staged:
    """A column that stands deeper in the event, whose outermost object is staged whole."""
    inner = ".".join(quote(s) for s in steps)
    if column.name == source.tenant_column:
        # As a number, 1.0 is told from 1 by its type only; so whatever else is no tenant at all.
        value = f"if(dynamicType({inner}) IN ('Int64', 'UInt64', 'String'), toString({inner}), NULL)"
        return Staged(column.name, steps[0], "JSON", "", value, f"CAST(assumeNotNull({value}) AS {column.type})")
    kind = column.type
    value, check = f"CAST({inner} AS {kind})", None
    exact = _EXACT_ARRAY.fullmatch(kind)
    if exact is not None:
        # By way of text: a number with a point is cut off otherwise, and one that is too large wraps.
        texts = f"CAST({inner} AS Array(Nullable(String)))"
        found = f"arrayMap(_rk_x -> accurateCastOrNull(_rk_x, {literal(exact[1])}), {texts})"
        value = f"CAST(arrayMap(_rk_x -> assumeNotNull(_rk_x), {found}) AS {kind})"
        check = f"(isNull({inner}) OR arrayAll(_rk_x -> isNotNull(_rk_x), {found}))"
    elif not kind.startswith("Array("):
        value = _scalar(inner, base_type(kind[9:-1] if kind.startswith("Nullable(") else kind))
        check = f"(isNull({inner}) OR isNotNull({value}))"
    if kind.startswith("Nullable("):
        return Staged(column.name, steps[0], "JSON", "", inner, f"CAST({value} AS {kind})", check)
    fallback = column.default or f"defaultValueOfTypeName({literal(kind)})"
    taken = f"CAST(if(isNull({inner}), {fallback}, {value}) AS {kind})"
    if not kind.startswith("Array("):
        taken = f"CAST(ifNull({value}, {fallback}) AS {kind})"
    return Staged(column.name, steps[0], "JSON", "", inner, taken, check)


def _scalar(inner: str, kind: str) -> str:
    """A value deeper in an event as one of a type, null if it is none; as far as the engine can say so at all."""
    if kind.startswith("Enum"):
        return f"CAST(dynamicElement({inner}, 'String') AS Nullable({kind}))"
    if kind.startswith(("Float", "BFloat")):
        # The nearest number will do.
        return f"CAST({inner} AS Nullable({kind}))"
    if kind.startswith("Decimal"):
        # A number with a point has become a float: its shortest text is what was sent, as far as 15 digits go.
        large = f"(dynamicType({inner}) = 'Float64' AND abs(ifNull(dynamicElement({inner}, 'Float64'), 0)) >= 1e15)"
        return f"if({large}, NULL, accurateCastOrNull(toString({inner}), {literal(kind)}))"
    value = f"accurateCastOrNull({inner}, {literal(kind)})"
    if kind == "Date" or re.match(r"DateTime(\(|$)", kind):
        # A day or a moment out of range would wrap; as one of the wider type it does not.
        wide, last = ("Date32", "2149-06-06") if kind == "Date" else ("DateTime64(0, 'UTC')", "2106-02-07 06:28:15")
        moment = f"accurateCastOrNull({inner}, {literal(wide)})"
        return f"if(ifNull({moment} BETWEEN '1970-01-01' AND '{last}', 1), {value}, NULL)"
    return value


def _steps(column: Column) -> list[str]:
    """Keys from the event down to a column's value; `[:]` at the end, a whole list, is no step."""
    if not column.json_path:
        return [column.name]
    return [plain or odd for plain, odd in _STEP.findall(column.json_path)] or [column.name]
