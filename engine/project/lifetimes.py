"""How long a table keeps its rows, according to the text of its TTL."""

from __future__ import annotations

import re

from engine.project.expressions import split_list

DAY_SECONDS = 86_400
# The shortest span of each unit, because rows must not be expected to stay longer than they do.
_SECONDS = {
    "SECOND": 1,
    "MINUTE": 60,
    "HOUR": 3600,
    "DAY": DAY_SECONDS,
    "WEEK": 7 * DAY_SECONDS,
    "MONTH": 28 * DAY_SECONDS,
    "QUARTER": 90 * DAY_SECONDS,
    "YEAR": 365 * DAY_SECONDS,
}
_UNIT = "|".join(_SECONDS)
MAX_TTL_CHARACTERS = 10_000
"""Longest part of a TTL that is examined, in characters."""
# The patterns expect that each run of white space has been replaced by one space.
_NUMBER = r"'? ?(\d{1,9}) ?'?"
_SPANS = (
    re.compile(rf"(-?) ?\bINTERVAL {_NUMBER} ?({_UNIT})S?\b", re.IGNORECASE),
    re.compile(rf"(-?) ?\btoInterval({_UNIT})\( ?{_NUMBER} ?\)", re.IGNORECASE),
)
_ADDING = re.compile(rf"\b(add|subtract)({_UNIT})s ?\(", re.IGNORECASE)
_LAST = re.compile(r".*, ?(\d{1,9}) ?")
_KEEPS = re.compile(r"\b(TO (DISK|VOLUME)|RECOMPRESS)\b", re.IGNORECASE)
_CONDITION = re.compile(r"\b(WHERE|DELETE|GROUP BY)\b.*", re.IGNORECASE)


def shortest_lifetime(ttl: str) -> int | None:
    """Seconds until a TTL removes the first rows, from the intervals in its text.

    None if no rule with an interval removes rows.
    """
    lifetimes = [_lifetime(rule) for rule in _removing_rules(ttl)]
    return min((lifetime for lifetime in lifetimes if lifetime is not None), default=None)


def expiry_expressions(ttl: str) -> list[str]:
    """The expressions in a TTL that compute when a row is removed, without their conditions."""
    expressions = [_CONDITION.sub("", rule).strip() for rule in _removing_rules(ttl)]
    return [expression for expression in expressions if expression]


def _removing_rules(ttl: str) -> list[str]:
    """The rules of a TTL that remove rows; those that only move or recompress data are left out."""
    try:
        rules = split_list(" ".join(ttl[:MAX_TTL_CHARACTERS].split()))
    except ValueError:
        # Reported when the expression is verified.
        return []
    return [rule for rule in rules if not _KEEPS.search(rule)]


def _lifetime(rule: str) -> int | None:
    """The sum of the intervals in a rule, in seconds; None if it contains none."""
    text = _CONDITION.sub("", rule)
    spans = []
    for pattern in _SPANS:
        for match in pattern.finditer(text):
            # The two patterns have number and unit in different orders.
            sign, *parts = match.groups()
            number = next(p for p in parts if p.isdigit())
            unit = next(p for p in parts if not p.isdigit())
            spans.append((-1 if sign else 1) * int(number) * _SECONDS[unit.upper()])
    for match in _ADDING.finditer(text):
        verb, unit = match.groups()
        number = _LAST.fullmatch(_until_closed(text, match.end()))
        if number:
            spans.append((1 if verb.lower() == "add" else -1) * int(number[1]) * _SECONDS[unit.upper()])
    return sum(spans) if spans else None


def _until_closed(text: str, start: int) -> str:
    """The text from `start`, just after an opening bracket, up to the matching closing bracket."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return text[start:position]
    return ""
