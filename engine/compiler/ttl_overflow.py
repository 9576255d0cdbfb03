"""Warns of TTLs that overflow the range of their type.

A `DateTime` ends in 2106 and a `Date` in 2149. A TTL beyond the end wraps around into the past, and the engine then
removes rows that should have been kept for a century.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.compiler.definitions import Definer
from engine.errors import SHORT_LIFE, RookeryError
from engine.project.datasource import Datasource
from engine.project.lifetimes import DAY_SECONDS, expiry_expressions, shortest_lifetime
from engine.schema import literal, quote

MIN_CHECKED_TTL_S = 3650 * DAY_SECONDS
"""Shorter TTLs, in seconds, are not checked: no type of the engine ends within the next ten years."""
DATE_OR_TIME = re.compile(r"(Nullable\(|LowCardinality\()*Date(32|Time|Time64)?\b")
"""The start of a type of dates or times."""


def overflowing_ttls(source: Datasource, definer: Definer) -> Iterator[RookeryError]:
    """Yield a warning for each TTL expression that is in the past, or cannot be computed, for a row written now.

    `source` must have been checked, with types as the engine spells them.
    """
    engine = source.engine
    for expression in expiry_expressions(engine.ttl):
        seconds = shortest_lifetime(expression)
        if (
            seconds is not None
            and seconds >= MIN_CHECKED_TTL_S
            and not definer.is_true(_is_in_future(source, expression))
        ):
            yield RookeryError(
                SHORT_LIFE,
                f"the TTL `{expression[:80]}` ends after the last date of its type: new rows are removed or refused",
                hint="DateTime ends in 2106, Date in 2149: compute with toDate32(…), or keep rows without a TTL",
                place=engine.place_of("ttl"),
            )


def _is_in_future(source: Datasource, expression: str) -> str:
    """A SELECT that returns whether the TTL expression is in the future for a row whose dates and times are now."""
    row = ", ".join(f"{_now(c.type)} AS {quote(c.name)}" for c in source.columns)
    # DateTime64 has a larger range, but the engine stores the end of a TTL as DateTime and throws if it is later.
    fits = f"(NOT startsWith(toTypeName({expression}), 'DateTime64') OR toDate32({expression}) < '2106-02-07')"
    return f"SELECT toDate32({expression}) > toDate32(now()) AND {fits} FROM (SELECT {row})"


def _now(type: str) -> str:
    return f"CAST(now() AS {type})" if DATE_OR_TIME.match(type) else f"defaultValueOfTypeName({literal(type)})"
