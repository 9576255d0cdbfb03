"""How long the rows of a table are kept, as far as the text of its TTL tells."""

from __future__ import annotations

import re

from engine.project.expressions import split_list

DAY_SECONDS = 86_400
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
"""Characters of a TTL that are looked at."""
# Each run of blanks is one space here.
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
    """Seconds after which the first rows go, by the intervals in a TTL; None when it names none, or removes none."""
    try:
        rules = split_list(" ".join(ttl[:MAX_TTL_CHARACTERS].split()))
    except ValueError:
        return None
    found = [_life(rule) for rule in rules if not _KEEPS.search(rule)]
    return min((life for life in found if life is not None), default=None)


def _life(rule: str) -> int | None:
    text = _CONDITION.sub("", rule)
    spans = []
    for pattern in _SPANS:
        for match in pattern.finditer(text):
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
    """The text from inside a bracket to where it closes."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return ""


def expiry_expressions(ttl: str) -> list[str]:
    """The expressions in a TTL that say when rows are removed, without their conditions."""
    try:
        rules = split_list(" ".join(ttl[:MAX_TTL_CHARACTERS].split()))
    except ValueError:
        return []
    found = [_CONDITION.sub("", rule).strip() for rule in rules if not _KEEPS.search(rule)]
    return [expression for expression in found if expression]
