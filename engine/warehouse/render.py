"""Formats statements: SETTINGS clauses and bindings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from engine import errors
from engine.schema import literal
from engine.warehouse.errors import EngineError
from engine.warehouse.port import Format, Statement, Value

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*:")

_PEAK = re.compile(r" {0,10}Peak memory: {1,10}([0-9]{1,20}(?:\.[0-9]{1,9})?) (B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
QUOTE_SETTING = "output_format_json_quote_64bit_integers"
"""The engine's setting for integers in JSON that JavaScript would round: as strings or as numbers."""


def settings_list(settings: Mapping[str, int | str]) -> str:
    """Format settings as `a = 1, b = 'x'`. Raises ENGINE if a name is not an identifier."""
    return _formatted(tuple(settings.items()))


@lru_cache(maxsize=512)
def _formatted(settings: tuple[tuple[str, int | str], ...]) -> str:
    parts = []
    for name, value in settings:
        if not _SETTING.fullmatch(name):
            raise EngineError(errors.ENGINE, f"`{name}` is not a valid name of a setting")
        parts.append(f"{name} = {literal(value) if isinstance(value, str) else _number(value)}")
    return ", ".join(parts)


def with_settings(sql: str, settings: Mapping[str, int | str] | None) -> str:
    """Append a SETTINGS clause. It is on a separate line, because the statement may end with a comment."""
    return f"{sql}\nSETTINGS {settings_list(settings)}" if settings else sql


def explained(statement: Statement) -> str:
    """The text that asks for the plan of a statement, as JSON with its use of indexes."""
    return with_settings(f"EXPLAIN json = 1, indexes = 1\n{statement.sql}", statement.settings)


def analyzed(statement: Statement) -> str:
    """The text that runs a statement and asks for the engine's summary of the run instead of its rows."""
    return with_settings(f"EXPLAIN ANALYZE\n{statement.sql}", statement.settings)


def peak_memory(lines: Iterable[str]) -> int | None:
    """The bytes that a summary reports as peak memory, with three digits of precision; None if it does not."""
    for line in lines:
        match = _PEAK.fullmatch(line)
        if match is not None:
            return round(float(match[1]) * _UNITS[match[2]])
    return None


def with_quoted_integers(statement: Statement, format: Format) -> Statement:
    """Wrap a statement so that large integers are quoted in its result, if it asks for that and the format is JSON.

    The engine's setting applies to a whole query. It would also change the result of `toString` on an object, and so
    the types in an object that is parsed from that string. The query therefore runs without the setting, and only the
    outer SELECT has it.
    """
    if not statement.quoted or format not in (Format.JSON, Format.NDJSON):
        return statement
    inner = with_settings(statement.sql, {QUOTE_SETTING: 0})
    return replace(statement, sql=f"SELECT * FROM (\n{inner}\n)", settings={**statement.settings, QUOTE_SETTING: 1})


def used_bindings(sql: str, bindings: Mapping[str, Value] | None) -> dict[str, Any] | None:
    """The bindings that occur in the text, or None if none do.

    With bindings but no placeholders, the client would use `%` formatting instead. Raises BAD_PARAMETER if a name is
    not an identifier.
    """
    if not bindings:
        return None
    for name in bindings:
        if not _NAME.fullmatch(name):
            raise EngineError(errors.BAD_PARAMETER, f"`{name}` is not a valid name of a placeholder")
    present = set(_PLACEHOLDER.findall(sql))
    return {name: _value(value) for name, value in bindings.items() if name in present} or None


def _value(value: Value) -> Any:
    """Convert a value so that the client formats it for any type: the client writes booleans as words, which are not
    valid integers.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, Decimal):
        return _Digits(value)
    return value


class _Digits(Decimal):
    """A decimal that is formatted without an exponent, which the engine does not parse inside arrays."""

    def __str__(self) -> str:
        return format(self, "f")


def _number(value: int | float) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def is_insert(sql: str) -> bool:
    """Whether a trusted statement is an INSERT, whose settings must be part of its text."""
    return sql.lstrip()[:6].upper() == "INSERT"
