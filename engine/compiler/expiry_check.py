"""The condition under which a datasource's TTL does not overflow for a row.

A `DateTime` ends in 2106 and a `Date` in 2149. Later results wrap around into the past, and the engine removes such a
row as soon as it is stored. The same expression over `DateTime64` and `Date32` does not wrap around. If its result is
much later than the TTL, the TTL has overflowed, however the expression combines columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from engine.compiler.compose import Verifier
from engine.compiler.definitions import Definer, only_expression
from engine.compiler.ttl_overflow import DATE_OR_TIME
from engine.project.datasource import Datasource
from engine.schema import lasting_ttl, literal, quote
from engine.sql.tree import Node, members

LATE_ENOUGH_S = 4_102_444_800
"""2100-01-01 in Unix seconds. If a TTL means a later time, it is enough that the row is kept until then."""
TOLERANCE_S = 2 * 86_400
"""Seconds by which the results in the two types may differ, for example because of time zones."""
ROUNDING_TOLERANCE_S = 50 * 366 * 86_400
"""The same, if the wide expression does not round like the TTL. An overflow loses at least 136 years."""
MAX_NUMBER = 10**12
"""Greater numbers in columns count as this one. As a number of days or months, they would wrap around themselves."""
_LONG_INTEGER = re.compile(r"(Nullable\(|LowCardinality\()*U?Int(64|128|256)\b")
_DATE_TYPE = re.compile(r"\bDate\b")
_TIME_TYPE = re.compile(r"\bDateTime\b(\()?")

_WIDE_DATES = {
    "date": "toDate32",
    "todate": "toDate32",
    "todateornull": "toDate32OrNull",
    "todateorzero": "toDate32OrZero",
    "todateordefault": "toDate32OrDefault",
    "makedate": "makeDate32",
    "yyyymmddtodate": "YYYYMMDDToDate32",
}
_WIDE_TIMES = {
    "todatetime": "toDateTime64",
    "todatetime32": "toDateTime64",
    "todatetimeornull": "toDateTime64OrNull",
    "todatetimeorzero": "toDateTime64OrZero",
    "todatetimeordefault": "toDateTime64OrDefault",
    "fromunixtimestamp": "toDateTime64",
    "from_unixtime": "toDateTime64",
    **{
        f"parsedatetime{bits}besteffort{suffix}".lower(): f"parseDateTime64BestEffort{suffix}"
        for bits in ("", "32")
        for suffix in ("", "OrNull", "OrZero", "US", "USOrNull", "USOrZero")
    },
}
"""Functions whose counterpart takes the scale as its second argument."""
_NARROW = ("parsedatetime", "makedatetime", "yyyymmddhhmmsstodatetime", "snowflakeidtodatetime", "uuidv7todatetime")
"""Beginnings of the names of other functions with narrow results. What is added to it is computed in wide types."""
_ROUNDING = ("tostartof", "tolastdayof", "tomonday", "timeslot")
_TRUNCATING = frozenset({"date_trunc", "datetrunc"})
_CASTS = frozenset({"cast", "_cast", "accuratecast", "accuratecastornull", "accuratecastordefault"})


@dataclass(frozen=True, slots=True)
class ExpiryCheck:
    """The condition for rows whose TTL does not overflow."""

    ttl: str
    columns: tuple[str, ...]
    """The columns that the condition reads."""
    condition: str
    """SQL over these columns."""

    @property
    def lasting_ttl(self) -> str:
        """The TTL of a table that pipes fill: it keeps rows for which the declared one overflows, because nothing
        checks these rows before they are stored.
        """
        return lasting_ttl(self.condition, self.ttl)


def expiry_check(source: Datasource, verifier: Verifier, definer: Definer) -> ExpiryCheck | None:
    """The check for a datasource's rows; None without a TTL, or if its TTL cannot overflow or be computed otherwise.

    `source` must have been checked, with types as the engine spells them.
    """
    ttl = source.engine.ttl
    tree = only_expression(verifier.parser.parse(f"SELECT {ttl}")[0]) if ttl else None
    if tree is None:
        return None
    types = {c.name: c.type for c in source.columns}
    wide = [_Widening(types, as_times=as_times) for as_times in (False, True)]
    results = [widening.of(tree) for widening in wide]
    if all(result == tree for result in results):
        return None
    limits: dict[str, int] = {}
    for widening, result in zip(wide, results, strict=True):
        rounds = widening.rounds or widening.as_times
        limits.setdefault(_seconds(_formatted(result, verifier)), ROUNDING_TOLERANCE_S if rounds else TOLERANCE_S)
    latest = ", ".join([str(LATE_ENOUGH_S), f"greatest({', '.join(f'{s} - {t}' for s, t in limits.items())})"])
    condition = f"ifNull({_seconds(_formatted(tree, verifier))} >= least({latest}), 1)"
    columns = tuple(c for c in types if c in wide[0].columns)
    return ExpiryCheck(ttl, columns, condition) if _can_be_computed(condition, columns, types, definer) else None


def _formatted(expression: Node, verifier: Verifier) -> str:
    """An expression as SQL."""
    tree, _ = verifier.parser.parse("SELECT 1")
    tree["list_of_selects"]["children"][0]["select"]["children"] = [expression]
    return verifier.parser.format(tree).removeprefix("SELECT ")


def _seconds(sql: str) -> str:
    """A date or time as Unix time."""
    return f"toInt64(toDateTime64({sql}, 0))"


def _can_be_computed(condition: str, columns: tuple[str, ...], types: dict[str, str], definer: Definer) -> bool:
    """Whether the engine accepts the condition: some functions only take the narrow types."""
    row = ", ".join(f"materialize(defaultValueOfTypeName({literal(types[c])})) AS {quote(c)}" for c in columns)
    # Without rows, because some expressions throw on default values.
    return definer.is_true(f"SELECT ifNull(sum(ignore({condition})), 0) = 0 FROM (SELECT {row or 1} LIMIT 0)")


@dataclass(slots=True)
class _Widening:
    """Rewrites an expression so that it is computed in types with a larger range."""

    types: dict[str, str]
    """The type of each column."""
    as_times: bool
    """Whether dates become times. The engine adds at most 2³¹ days to a date, but any number to a time. On the other
    hand, a number without a unit means days if it is added to a date, and seconds if it is added to a time.
    """
    columns: set[str] = field(default_factory=set)
    """The columns in the expression."""
    rounds: bool = False
    """Whether functions that round have been left out. Their results have narrow types."""

    def of(self, node: Any) -> Any:
        """The rewritten tree. The given one is not changed."""
        if isinstance(node, list):
            return [self.of(item) for item in node]
        if not isinstance(node, dict):
            return node
        if node.get("type") == "Identifier" and node["name"] in self.types:
            return self._column(node)
        if node.get("type") == "Function":
            return self._call(node)
        return {key: self.of(value) for key, value in node.items()}

    def _column(self, node: Node) -> Node:
        self.columns.add(node["name"])
        type = self.types[node["name"]]
        if _LONG_INTEGER.match(type):
            return _function("least", node, _number(MAX_NUMBER))
        match = DATE_OR_TIME.match(type)
        if match is None or match[2] == "Time64":
            return node
        if match[2] == "Time":
            return _function("toDateTime64", node, _number(0))
        return self._date(node if match[2] == "32" else _function("toDate32", node))

    def _date(self, node: Node) -> Node:
        return _function("toDateTime64", node, _number(0)) if self.as_times else node

    def _call(self, node: Node) -> Node:
        """A function of a rewritten name or with rewritten arguments."""
        name, arguments = node["name"].lower(), self.of(members(node.get("arguments")))
        if name.startswith(_ROUNDING) or name in _TRUNCATING:
            self.rounds = True
            return dict(arguments[name in _TRUNCATING])
        if name in _WIDE_DATES:
            return self._date(_function(_WIDE_DATES[name], *arguments))
        if name in _WIDE_TIMES:
            return _function(_WIDE_TIMES[name], arguments[0], _number(0), *arguments[1:])
        if name in _CASTS:
            arguments[1] = _wide_type(arguments[1])
        copied = {**node, "arguments": {"type": "ExpressionList", "children": arguments}}
        return _function("toDateTime64", copied, _number(0)) if name.startswith(_NARROW) else copied


def _function(name: str, *arguments: Node) -> Node:
    return {"type": "Function", "name": name, "arguments": {"type": "ExpressionList", "children": list(arguments)}}


def _number(value: int) -> Node:
    return {"type": "Literal", "value": {"field_type": "UInt64", "value": value}}


def _wide_type(node: Node) -> Node:
    """The name of a type, as the second argument of a CAST."""
    name = str(node.get("value", {}).get("value", ""))
    times = _TIME_TYPE.sub(lambda m: "DateTime64(0, " if m[1] else "DateTime64(0)", _DATE_TYPE.sub("Date32", name))
    return {"type": "Literal", "value": {"field_type": "String", "value": times}}
