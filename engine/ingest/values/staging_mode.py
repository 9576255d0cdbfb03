"""Determines how a batch must be staged, by fast searches in its text.

The default mode is the fastest. Batches with unusual numbers or strings need another mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import orjson

from engine.ingest.values.plain_keys import may_have_escaped_keys
from engine.ingest.values.wide_types import FEWEST_DIGITS
from engine.project.datasource import Column, Datasource
from engine.tenant_ids import integer_bounds
from engine.warehouse.port import Input
from engine.warehouse.type_names import Type, parse_type

WIDE_DIGITS = b"0" * FEWEST_DIGITS
"""Integers are staged as Int128, so that the check can detect values that do not fit. Numbers with this many digits
may not fit into an Int128 either: if a batch has one, integers are staged as text, as are types of at least that
width.
"""
EMPTY_FIELD = re.compile(rb'(?:\A|[,\n])[ \t]*+""[ \t]*+(?=[,\r\n]|\Z)')
"""Matches an empty field in quotes, in CSV."""
_EMPTY_ELEMENT = re.compile(rb'[\[{,:]\s*+""')
"""Matches an empty string in an event."""
_DIGITS_TO_ZERO = bytes(ord("0") if ord("0") <= i <= ord("9") else ord("x") for i in range(256))


@dataclass(frozen=True, slots=True)
class StagingMode:
    """How a batch is staged. Rows that do not need a mode are stored in it as they are without it."""

    integers_as_text: bool = False
    """Whether integers are staged as the strings that were sent."""
    texts_verbatim: bool = False
    """Whether strings below the top level are staged as the JSON text that was sent, whatever its type."""


DEFAULT_MODE = StagingMode()


class ModeSearch:
    """Determines the mode of bodies of one datasource and format. It has no state besides compiled patterns."""

    def __init__(self, source: Datasource, format: Input) -> None:
        self._is_text = format is not Input.PARQUET
        is_json = format is Input.NDJSON
        integers = [re.escape(c.path[0]) for c in source.columns if integer_bounds(parse_type(c.type).kind)]
        self._empty_number = (empty_text_pattern(integers) if is_json else EMPTY_FIELD) if integers else None
        if is_json and any(map(_has_integer_elements, source.columns)):
            self._empty_number = _EMPTY_ELEMENT
        texts = {
            re.escape(orjson.dumps(c.path[-1])[1:-1].decode()) for c in source.columns if is_nested_text(source, c)
        }
        self._non_text = non_text_pattern(sorted(texts)) if is_json and texts else None

    def mode_of(self, body: bytes) -> StagingMode:
        """The mode in which a body must be staged.

        Bodies that need the same mode also need it when they are joined.
        """
        if not self._is_text:
            return DEFAULT_MODE
        integers_as_text = has_long_number(body) or self._has_empty_number(body)
        return StagingMode(integers_as_text, self._has_non_text(body))

    def _has_empty_number(self, body: bytes) -> bool:
        """Whether there may be an empty string for an integer, which the engine reads as 0."""
        pattern = self._empty_number
        return pattern is not None and b'""' in body and pattern.search(body) is not None

    def _has_non_text(self, body: bytes) -> bool:
        """Whether there may be a number, object or array where a string column reads below the top level.

        The engine would rewrite such a value if it were read from an object: without nulls, with other numbers and
        keys.
        """
        if self._non_text is None:
            return False
        # The pattern does not find keys that are written with escapes.
        return self._non_text.search(body) is not None or may_have_escaped_keys(body)


def has_long_number(body: bytes) -> bool:
    """Return whether a batch may contain a number that an Int128 would wrap."""
    # 39 digits in a row always show as four adjacent digits when every eighth byte is sampled. Most batches end here.
    return b"0000" in body[::8].translate(_DIGITS_TO_ZERO) and WIDE_DIGITS in body.translate(_DIGITS_TO_ZERO)


def empty_text_pattern(keys: list[str]) -> re.Pattern[bytes]:
    """Return the pattern of an empty string under one of these keys, which are escaped for patterns."""
    return re.compile(f'"({"|".join(keys)})"\\s*:\\s*""'.encode(), re.IGNORECASE)


@lru_cache(maxsize=256)
def _non_text_pattern(keys: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(f'"(?:{"|".join(keys)})"\\s*+:\\s*+[-0-9{{\\[]'.encode(), re.IGNORECASE)


def non_text_pattern(keys: list[str]) -> re.Pattern[bytes]:
    """Return the pattern of a number, object or array under one of these keys, which are escaped for patterns."""
    return _non_text_pattern(tuple(keys))


def _has_integer_elements(column: Column) -> bool:
    """Return whether a column has integers in arrays, maps or tuples that the engine parses from text."""

    def has_integer(type: Type) -> bool:
        return integer_bounds(type.kind) is not None or any(map(has_integer, type.parts))

    return (len(column.steps) == 1 or bool(column.lists)) and any(map(has_integer, parse_type(column.type).parts))


def is_nested_text(source: Datasource, column: Column) -> bool:
    """Return whether a column reads one string below the top level of an event."""
    if len(column.steps) == 1 or column.lists or column.name == source.tenant_column:
        return False
    return parse_type(column.type).kind == "String"
