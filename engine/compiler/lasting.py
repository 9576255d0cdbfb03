"""TTLs that end beyond the calendar of their type.

A `DateTime` holds moments until 2106 and a `Date` days until 2149. Adding an interval that leads beyond wraps around
into the past, and the engine removes rows that were to be kept for a century.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.compiler.definitions import Definer
from engine.errors import SHORT_LIFE, RookeryError
from engine.project.lifetimes import DAY_SECONDS, expiry_expressions, shortest_lifetime
from engine.project.model import Datasource
from engine.schema import literal, quote

LONG = 3650 * DAY_SECONDS
"""Seconds from which on the end of a life is looked at: no calendar of the engine ends within ten years."""
_MOMENT = re.compile(r"(Nullable\(|LowCardinality\()*Date(32|Time|Time64)?\b")


def short_lived(source: Datasource, definer: Definer) -> Iterator[RookeryError]:
    """A warning for each moment in a TTL that is over, or cannot be computed, for a row of now.

    `source` has been judged, and its types are spelled by the engine.
    """
    engine = source.engine
    for moment in expiry_expressions(engine.ttl):
        life = shortest_lifetime(moment)
        if life is not None and life >= LONG and not definer.is_true(_outlives(source, moment)):
            yield RookeryError(
                SHORT_LIFE,
                f"the TTL `{moment[:80]}` ends beyond the calendar of its type: rows of today are removed or refused",
                hint="DateTime ends in 2106, Date in 2149: compute with toDate32(…), or keep rows without a TTL",
                place=engine.place_of("ttl"),
            )


def _outlives(source: Datasource, moment: str) -> str:
    """A SELECT of whether the moment is still to come for a row whose dates and times are now."""
    row = ", ".join(f"{_now(c.type)} AS {quote(c.name)}" for c in source.columns)
    # A DateTime64 holds later moments, but the engine keeps the end of a row's life as a DateTime and throws on them.
    fits = f"(NOT startsWith(toTypeName({moment}), 'DateTime64') OR toDate32({moment}) < '2106-02-07')"
    return f"SELECT toDate32({moment}) > toDate32(now()) AND {fits} FROM (SELECT {row})"


def _now(type: str) -> str:
    return f"CAST(now() AS {type})" if _MOMENT.match(type) else f"defaultValueOfTypeName({literal(type)})"
