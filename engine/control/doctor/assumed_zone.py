"""Find out whether the rows of an older program were divided into days in another time zone than was assumed.

Programs of the first layout did not record a zone: they divided rows in the zone of their host. If this program first
opens the directory on a host in another zone, every table by days differs from its source, although it is correct.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from engine.control.doctor.comparison import Comparison
from engine.control.doctor.derived_tables import Derived, derived_tables
from engine.control.doctor.determined_columns import determined_columns
from engine.control.doctor.differences import MORE, SURPLUS, Difference
from engine.control.doctor.findings import Context
from engine.plan.coverage import Coverage
from engine.workspace.time_zone import is_zone_assumed

MAX_COMPARED_ROWS = 1_000_000
"""Rows of sources larger than this are not compared in other zones."""
YEARS = 3
"""Years in which two zones must have the same offsets to count as one candidate."""


def explanation(context: Context, zone: str) -> tuple[str, str]:
    """What a wrongly assumed zone means, and what to do, for findings and errors."""
    return (
        f"an older rookery wrote the rows in a zone with the offsets of {zone}, but {context.workspace.zone} was "
        "assumed, the zone of the host that first opened them: derived tables cannot be compared",
        f"restart with ROOKERY_TIMEZONE={zone}, or a zone with the same offsets; then `rookery doctor --repair` "
        "corrects the days of rows that have arrived since",
    )


def other_zone(context: Context) -> str | None:
    """The zone in which the rows were divided, if it was assumed and is another one; None otherwise.

    Any zone with the same offsets is as good, so only the first of them by name is tried.
    """
    if not is_zone_assumed(context.workspace.registry):
        return None
    zones, any_agree = list(_candidates(context.workspace.zone)), False
    for derived in derived_tables(context):
        comparison = _comparison(context, derived)
        if comparison is None:
            continue
        try:
            differences = comparison.differences()
            if not differences or _has_expired(comparison, differences) or not _is_small(context, comparison):
                continue
            # One table may have so few rows that they agree in several zones. A table that agrees in none is damaged.
            agreeing = [zone for zone in zones if comparison.agrees_in(zone)]
            zones, any_agree = agreeing or zones, any_agree or bool(agreeing)
        finally:
            comparison.close()
    return zones[0] if any_agree else None


def _comparison(context: Context, derived: Derived) -> Comparison | None:
    coverage = Coverage(context.workspace.warehouse, context.workspace.registry, context.live)
    determined = determined_columns(context, derived, coverage)
    return None if isinstance(determined, str) else Comparison(context, derived, determined, coverage)


def _has_expired(comparison: Comparison, differences: Iterable[Difference]) -> bool:
    """Whether a table has only more than its source, which may have lost rows: no zone explains that.

    Rows that were divided into other days are missing on one day and surplus on another.
    """
    kinds = {kind for difference in differences for kind in difference.counts}
    return kinds <= {MORE, SURPLUS} and comparison.why_unproven() is not None


def _is_small(context: Context, comparison: Comparison) -> bool:
    """Whether all sources exist and are small enough to be copied for each candidate."""
    if not {*comparison.heads} <= context.live.tables.keys():
        return False
    counts = (f"SELECT count() FROM {source.sql()}" for source in comparison.heads)
    return all(int(context.workspace.warehouse.query(sql).rows[0][0]) <= MAX_COMPARED_ROWS for sql in counts)


def _candidates(assumed: str) -> Iterator[str]:
    """One zone for each series of offsets of recent years, except that of the assumed zone. Large regions first."""
    now = datetime.now(UTC)
    moments = [now - timedelta(days=14 * n) for n in range(YEARS * 26)]

    def offsets(name: str) -> tuple[timedelta | None, ...]:
        zone = zoneinfo.ZoneInfo(name)
        return tuple(moment.astimezone(zone).utcoffset() for moment in moments)

    seen = {offsets(assumed)}
    names = {n for n in zoneinfo.available_timezones() if "/" in n and not n.startswith("Etc/")}
    for name in ("UTC", *sorted(names, key=lambda n: (n not in _WELL_KNOWN, n))):
        if (series := offsets(name)) not in seen:
            seen.add(series)
            yield name


_WELL_KNOWN = frozenset(
    {
        "America/Chicago",
        "America/Denver",
        "America/Los_Angeles",
        "America/New_York",
        "America/Sao_Paulo",
        "Asia/Kolkata",
        "Asia/Shanghai",
        "Asia/Singapore",
        "Asia/Tokyo",
        "Australia/Sydney",
        "Europe/Berlin",
        "Europe/London",
        "Europe/Moscow",
    }
)
"""Zones that are named rather than others with the same offsets."""
