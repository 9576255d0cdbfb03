"""How times are staged, checked and converted: those of types with a date and a time of day."""

from __future__ import annotations

import re

from engine.ingest.values.staging_rules import WideType
from engine.schema import literal
from engine.warehouse.type_names import Type

DATETIME_PATTERN = (
    r"^(\\d{1,7}|\\d{9,10}([.]\\d+)?|\\d{13}([.]\\d+)?|\\d{16}|\\d{19}"
    r"|\\d{4}[-/](0?[1-9]|1[0-2])[-/](0?[1-9]|[12]\\d|3[01])([Tt ]([01]?\\d|2[0-3]):[0-5]\\d(:[0-5]\\d([.,]\\d+)?)?"
    r" ?([Zz]|UTC|GMT|[+-](0\\d|1[0-4])(:?[0-5]\\d)?)?)?)$"
)
"""Matches a time: ISO 8601, or a number. Up to 10 digits are seconds since 1970 (8 digits are refused, because they
could be a date), 13 digits milliseconds, 16 microseconds and 19 nanoseconds.
"""
LOCAL_PATTERN = "^[0-9]{4}[-/][0-9]+[-/][0-9]+([Tt ][0-9:.,]+)?$"
"""Matches a time without an offset, among those that DATETIME_PATTERN matches."""
DATETIME_RANGE = "toDateTime64(0, 0, 'UTC') AND toDateTime64(4294967295, 0, 'UTC')"
"""The range of `DateTime`, for BETWEEN."""
ZONE_PATTERN = re.compile(r"'([^']*)'")


def zone_of(type: Type) -> tuple[str, bool]:
    """Return the zone of a type's times as the last argument of a parser's SQL, which is empty for the workspace's
    zone; and whether local times may be skipped there because clocks are set forward.
    """
    match = ZONE_PATTERN.search(type.text)
    return (f", {literal(match[1])}", match[1] != "UTC") if match else ("", type.zone != "UTC")


def moment(type: Type) -> WideType:
    """Return how a time is staged: as text. The engine's own parser accepts any text with digits, hours after
    23:59:59, and local times that are skipped when clocks are set forward.
    """
    zone, may_skip = zone_of(type)

    def parsed(v: str) -> str:
        # The engine recognizes seconds only by their ten digits, and accepts neither `t` and `z` nor a decimal comma.
        text = f"if(length({v}) < 8, leftPad({v}, 10, '0'), replaceOne(upper({v}), ',', '.'))"
        return f"parseDateTime64BestEffortOrNull({text}, {type.scale}{zone})"

    def exists(v: str, value: str) -> str:
        written = ", ':', ".join(f"leftPad(extract({v}, '{p}'), 2, '0')" for p in ("[Tt ]([0-9]+)", ":([0-9]+)"))
        return f"(NOT match({v}, '{LOCAL_PATTERN}') OR substring(toString({value}), 12, 5) = concat({written}))"

    def check(v: str) -> str:
        value = parsed(v)
        in_range = f"isNotNull({value})"
        if type.kind == "DateTime":
            in_range = f"ifNull({value} BETWEEN {DATETIME_RANGE}, 0)"
        is_time = f"match({v}, '{DATETIME_PATTERN}') AND {in_range}"
        return f"({is_time} AND {exists(v, value)})" if may_skip else f"({is_time})"

    # In the column's zone, the text of a time would be ambiguous when clocks are set back.
    return WideType("String", check, parsed, True, lambda v: f"concat(toString(toTimeZone({v}, 'UTC')), 'Z')")
