"""Statements as text: settings clauses and bindings."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

QUOTE_SETTING = "output_format_json_quote_64bit_integers"
"""The engine's setting of how JSON has integers that JavaScript would round."""


def settings_list(settings: Mapping[str, int | str]) -> str:
    """`a = 1, b = 'x'`, with names checked and values as literals. Raises ENGINE on a name that is none."""
    return _spelled(tuple(settings.items()))


@lru_cache(maxsize=512)
def _spelled(settings: tuple[tuple[str, int | str], ...]) -> str:
    parts = []
    for name, value in settings:
        if not _SETTING.fullmatch(name):
            raise EngineError(errors.ENGINE, f"`{name}` is not the name of a setting")
        parts.append(f"{name} = {literal(value) if isinstance(value, str) else _number(value)}")
    return ", ".join(parts)


def with_settings(sql: str, settings: Mapping[str, int | str] | None) -> str:
    """The statement with a SETTINGS clause at its very end, on a line of its own so that no comment swallows it."""
    return f"{sql}\nSETTINGS {settings_list(settings)}" if settings else sql


def with_quoted_integers(statement: Statement, format: Format) -> Statement:
    """The statement whose result has integers as a document of this format is to have them.

    The engine's setting holds for a whole query: it would also decide what `toString` makes of an object, and with it
    the types in an object that is read from that text. So the query runs without it, and only its result is written
    with it.
    """
    if not statement.quoted or format not in (Format.JSON, Format.NDJSON):
        return statement
    inner = with_settings(statement.sql, {QUOTE_SETTING: 0})
    return replace(statement, sql=f"SELECT * FROM (\n{inner}\n)", settings={**statement.settings, QUOTE_SETTING: 1})


def used_bindings(sql: str, bindings: Mapping[str, Value] | None) -> dict[str, Any] | None:
    """The bindings that occur in the text, or None: the client formats text with `%` when none does.

    Raises BAD_PARAMETER for a name that is no plain identifier.
    """
    if not bindings:
        return None
    for name in bindings:
        if not _NAME.fullmatch(name):
            raise EngineError(errors.BAD_PARAMETER, f"`{name}` is not the name of a placeholder")
    present = set(_PLACEHOLDER.findall(sql))
    return {name: _value(value) for name, value in bindings.items() if name in present} or None


def _value(value: Value) -> Any:
    """A value as the client can spell it for every type: it writes booleans as words, which integers refuse."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, Decimal):
        return _Digits(value)
    return value


class _Digits(Decimal):
    """A decimal spelled without an exponent, which the engine does not read inside arrays."""

    def __str__(self) -> str:
        return format(self, "f")


def _number(value: int | float) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def is_insert(sql: str) -> bool:
    """Whether a trusted statement of ours is an INSERT, whose settings belong into its text."""
    return sql.lstrip()[:6].upper() == "INSERT"


def is_select(sql: str) -> bool:
    """Whether a trusted statement of ours is a SELECT."""
    return sql.lstrip("( \n").upper().startswith(("SELECT", "WITH"))
