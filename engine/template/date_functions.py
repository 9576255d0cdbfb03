"""Template functions that count the time between two dates, such as `date_diff_in_days(a, b)`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from engine.errors import BAD_PARAMETER, RookeryError, shown
from engine.template.date_times import InvalidValueError, parse_moment
from engine.template.values import Rendering, unwrap

DAY_SECONDS = 86_400


def _difference(seconds: int) -> Callable[..., Any]:
    """Return the function that counts units of `seconds` between two dates."""

    def difference(
        run: Rendering,
        date_1: Any,
        date_2: Any,
        date_format: Any = None,
        backup_date_format: Any = None,
        none_if_error: Any = False,
    ) -> int | None:
        try:
            formats = [f for f in (date_format, backup_date_format) if f is not None]
            first, second = (_parse_date(unwrap(d), formats, run.zone) for d in (date_1, date_2))
        except InvalidValueError as exc:
            if none_if_error:
                return None
            if run.is_dry_run:
                return 0
            raise RookeryError(BAD_PARAMETER, f"not a date: {exc}") from None
        if seconds == DAY_SECONDS:
            # Days are calendar days: when clocks change, a day with 23 or 25 hours still counts as one day.
            first, second = (x.replace(tzinfo=None) for x in (first, second))
        else:
            first, second = (x.astimezone(UTC) for x in (first, second))
        return int(abs((first - second).total_seconds()) // seconds)

    return difference


def _parse_date(value: Any, formats: list[str], zone: str) -> datetime:
    """Parse a string as a time in `zone`. It has one of the author's `formats` or, if there are none, a format that
    requests accept.

    Raises InvalidValueError.
    """
    if not isinstance(value, str):
        raise InvalidValueError(shown(value))
    zone_info = ZoneInfo(zone)
    for format in formats:
        try:
            parsed = datetime.strptime(value, format)
        except ValueError:
            continue
        return parsed.astimezone(zone_info) if parsed.tzinfo else parsed.replace(tzinfo=zone_info)
    if formats:
        raise InvalidValueError(shown(value))
    try:
        timestamp = parse_moment(value, zone)
    except InvalidValueError as exc:
        raise InvalidValueError(f"{shown(value)}: {exc}") from None
    return (timestamp.at + timedelta(microseconds=int(f"{timestamp.fraction:0<6}"[:6]))).astimezone(zone_info)


DATE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "day_diff": _difference(DAY_SECONDS),
    "date_diff_in_seconds": _difference(1),
    "date_diff_in_minutes": _difference(60),
    "date_diff_in_hours": _difference(3_600),
    "date_diff_in_days": _difference(DAY_SECONDS),
}
