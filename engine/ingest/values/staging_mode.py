"""Determines how a batch must be staged, by fast searches in its text.

The default mode is the fastest. Batches with unusual numbers or strings need another mode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import orjson

from engine.ingest.values.wide_types import FEWEST_DIGITS
from engine.project.datasource import Column, Datasource
from engine.tenant_ids import integer_bounds
from engine.warehouse.port import Input
from engine.warehouse.type_names import parse_type

WIDE_DIGITS = b"0" * FEWEST_DIGITS
"""Integers are staged as Int128, so that the check can detect values that do not fit. Numbers with this many digits
may not fit into an Int128 either: if a batch has one, integers are staged as text, as are types of at least that
width.
"""
_ESCAPED_KEY = re.compile(rb'"[^"\\]*+\\u[^"]*+"\s*+:')
"""Matches a key that contains an escape."""
_DIGITS_TO_ZERO = bytes(ord("0") if ord("0") <= i <= ord("9") else ord("x") for i in range(256))


@dataclass(frozen=True, slots=True)
class StagingMode:
    """The staging mode that a batch needs."""

    integers_as_text: bool = False
    """Whether integers are staged as the strings that were sent."""
    texts_verbatim: bool = False
    """Whether strings below the top level are staged as the JSON text that was sent, whatever its type."""


DEFAULT_MODE = StagingMode()


def staging_mode_of(source: Datasource, format: Input, texts: Sequence[bytes]) -> StagingMode:
    """Return the mode in which a batch must be staged."""
    if format is Input.PARQUET:
        return DEFAULT_MODE
    integers_as_text = any(map(has_long_number, texts))
    if format is not Input.NDJSON:
        return StagingMode(integers_as_text)
    integers_as_text = integers_as_text or any(has_empty_number(source, t) for t in texts)
    return StagingMode(integers_as_text, any(has_non_text(source, t) for t in texts))


def has_long_number(body: bytes) -> bool:
    """Return whether a batch may contain a number that an Int128 would wrap."""
    # 39 digits in a row always show as four adjacent digits when every eighth byte is sampled. Most batches end here.
    return b"0000" in body[::8].translate(_DIGITS_TO_ZERO) and WIDE_DIGITS in body.translate(_DIGITS_TO_ZERO)


def has_empty_number(source: Datasource, body: bytes) -> bool:
    """Return whether a JSON batch may have an empty string for an integer, which the engine reads as 0."""
    if b'""' not in body:
        return False
    keys = [re.escape(c.path[0]) for c in source.columns if integer_bounds(parse_type(c.type).kind)]
    return bool(keys) and empty_text_pattern(keys).search(body) is not None


def empty_text_pattern(keys: list[str]) -> re.Pattern[bytes]:
    """Return the pattern of an empty string under one of these keys, which are escaped for patterns."""
    return re.compile(f'"({"|".join(keys)})"\\s*:\\s*""'.encode(), re.IGNORECASE)


def has_non_text(source: Datasource, body: bytes) -> bool:
    """Return whether a JSON batch may have a number, object or array where a string column reads below the top level.

    The engine would rewrite such a value if it were read from an object: without nulls, with other numbers and keys.
    """
    keys = {re.escape(orjson.dumps(c.path[-1])[1:-1].decode()) for c in source.columns if is_nested_text(source, c)}
    if not keys:
        return False
    # In a verbatim stage, the engine would not recognize keys with escapes.
    escaped = b"\\u" in body and _ESCAPED_KEY.search(body) is not None
    return not escaped and non_text_pattern(sorted(keys)).search(body) is not None


@lru_cache(maxsize=256)
def _non_text_pattern(keys: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(f'"(?:{"|".join(keys)})"\\s*+:\\s*+[-0-9{{\\[]'.encode(), re.IGNORECASE)


def non_text_pattern(keys: list[str]) -> re.Pattern[bytes]:
    """Return the pattern of a number, object or array under one of these keys, which are escaped for patterns."""
    return _non_text_pattern(tuple(keys))


def is_nested_text(source: Datasource, column: Column) -> bool:
    """Return whether a column reads one string below the top level of an event."""
    if len(column.steps) == 1 or column.lists or column.name == source.tenant_column:
        return False
    return parse_type(column.type).kind == "String"
