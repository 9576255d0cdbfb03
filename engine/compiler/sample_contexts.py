"""Chooses sample strings for placeholders by their context, so that the surrounding function can convert them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.sql.tree import Node, members, walk_all

SAMPLE_DATE, SAMPLE_DATETIME, SAMPLE_UUID = (
    "2019-01-01",
    "2019-01-01 00:00:00",
    "00000000-0000-0000-0000-000000000000",
)
_COMPARISONS = frozenset(
    {"equals", "notequals", "less", "lessorequals", "greater", "greaterorequals", "in", "notin", "globalin"}
)
_UNITS = frozenset(
    {"date_trunc", "datetrunc", "date_diff", "datediff", "timestamp_diff", "timestampdiff", "date_add", "dateadd"}
    | {"date_sub", "datesub", "datename", "timestamp_add", "timestampadd", "timestamp_sub", "timestampsub", "age"}
)
_FORMATTED = ("formatdatetime", "parsedatetime", "parsedatetimeorzero", "parsedatetimeornull")
_ZONED = ("to", "from", "now", "today", "yesterday", "format", "parse", "date", "make", "add", "snowflake")

Table = tuple[tuple[tuple[str, ...], str], ...]
"""Pairs of (prefixes, sample). The first pair with a prefix of the word applies."""
_CONVERSIONS: Table = (
    (("todatetime", "parsedatetime", "timestamp", "tounixtimestamp", "tostartof", "torelative"), SAMPLE_DATETIME),
    (("todate", "date", "tomonday", "tolastday", "toyyyymm"), SAMPLE_DATE),
    (("toint", "touint", "tofloat", "todecimal", "tointerval", "fromunixtimestamp"), "1"),
    (("touuid",), SAMPLE_UUID),
    (("toipv4", "ipv4"), "127.0.0.1"),
    (("toipv6", "ipv6"), "::1"),
    (("tobool",), "true"),
)
_RESULTS: Table = (
    (
        ("todatetime", "now", "tostartofh", "tostartofmin", "tostartofs", "totimezone", "datetrunc", "date_trunc"),
        SAMPLE_DATETIME,
    ),
    (("tostartofday", "tostartofint", "tostartoff", "tostartoft"), SAMPLE_DATETIME),
    (("todate", "date", "tomonday", "tostartof", "today", "yesterday"), SAMPLE_DATE),
    (("toint", "touint", "tofloat", "todecimal", "toyyyymm", "toyear", "tomonth", "tohour", "tominute"), "1"),
    (("count", "length", "sum", "uniq"), "1"),
)
_TYPES: Table = (
    (("DateTime",), SAMPLE_DATETIME),
    (("Date",), SAMPLE_DATE),
    (("Int", "UInt", "Float", "Decimal", "BFloat16"), "1"),
    (("UUID",), SAMPLE_UUID),
    (("Bool",), "true"),
    (("IPv4",), "127.0.0.1"),
    (("IPv6",), "::1"),
    (("JSON", "Object"), "{}"),
)
_WRAPPERS = ("Nullable(", "LowCardinality(", "Array(")


def text_for_type(type: str) -> str | None:
    """A string that can be converted to a type; None if any string can be converted, or if no sample is known."""
    # The engine converts a string to the inner type.
    while type.startswith(_WRAPPERS):
        type = type.partition("(")[2].removesuffix(")")
    if type.startswith("Enum"):
        return type.partition("('")[2].partition("'")[0] or None
    return _by_prefix(_TYPES, type)


def fitting_texts(tree: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, str]:
    """Placeholder → a string that fits its context, for the contexts that are known.

    `types` maps columns to their types.
    """
    texts: dict[str, str] = {}
    for function, index, name in _placeholders(tree):
        text = _by_function(function, index, types)
        if text is not None:
            texts.setdefault(name, text)
    return texts


def needs_constant(text: str) -> bool:
    """Whether a sample is for a context in which the engine accepts only constants."""
    return text in ("UTC", "day", "%Y-%m-%d", "$.a", ",")


def _by_function(function: Node, index: int, types: Mapping[str, str]) -> str | None:
    """A string that fits as an argument of a function; `index` counts from 0."""
    name = str(function.get("name", "")).lower()
    arguments = _arguments(function)
    if name == "cast" and index == 0 and len(arguments) > 1:
        return text_for_type(str(arguments[1].get("value", {}).get("value", "")))
    if name in _COMPARISONS:
        return next((t for n, a in enumerate(arguments) if n != index and (t := _comparable(a, types))), None)
    if name in ("json_value", "json_query", "json_exists"):
        return "$.a" if index == 1 else "{}"
    if name == "splitbychar":
        return "," if index == 0 else None
    if name in _UNITS and index == 0:
        return "day"
    if name in _FORMATTED and index == 1:
        return "%Y-%m-%d"
    if index == 0:
        return _by_prefix(_CONVERSIONS, name)
    return "UTC" if name.startswith(_ZONED) else None


def _comparable(node: Node, types: Mapping[str, str]) -> str | None:
    """A string that can be compared with a value."""
    if node.get("type") == "Identifier":
        return text_for_type(types.get(str(node.get("name", "")).rsplit(".", 1)[-1], ""))
    if node.get("type") == "Function":
        if str(node.get("name", "")).lower() == "cast":
            arguments = _arguments(node)
            return text_for_type(str(arguments[1].get("value", {}).get("value", ""))) if len(arguments) > 1 else None
        return _by_prefix(_RESULTS, str(node.get("name", "")).lower())
    return None


def _by_prefix(table: Table, word: str) -> str | None:
    """The sample of the first entry with a prefix of the word; None if no entry has one."""
    return next((text for beginnings, text in table if word.startswith(beginnings)), None)


def _arguments(function: Node) -> list[Node]:
    return [a for a in members(function.get("arguments")) if isinstance(a, dict)]


def _placeholders(tree: Mapping[str, Any]) -> Iterator[tuple[Node, int, str]]:
    """Yield each placeholder that is an argument of a function, as (function, position, name)."""
    for node in walk_all(tree):
        for index, argument in enumerate(_arguments(node) if node.get("type") == "Function" else ()):
            if argument.get("type") == "QueryParameter":
                yield node, index, str(argument.get("name"))
