"""Parses the dates and times of requests and formats them as the strings that are bound.

Requests accept the same formats as events. A time with an offset, or a number of seconds, is absolute; a time without
an offset is local time in the workspace's zone. Both are formatted as local time, `YYYY-MM-DD hh:mm:ss` with
decimals, which the engine reads in the same zone. When clocks are set back, a local time occurs twice: the string
means the first occurrence, so the second one is bound as seconds since 1970.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC as UNIVERSAL
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

UTC = "UTC"
"""The zone of a workspace whose settings do not name one."""

_NUMBER = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,18}))?")
_DAY = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2}))")
_COMPACT_DAY = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_CLOCK = re.compile(
    r"[Tt ]([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,18}))?)?"
    r"( ?(?:[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)
_LOST_PLUS = re.compile(r" [0-9]{2}:?[0-9]{2}")
"""Matches the end of a string whose offset had a plus sign that URL decoding turned into a space."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UNIVERSAL)
_DECIMALS_BY_LENGTH = {13: 3, 16: 6, 19: 9}
"""For a number with this many digits, how many of them are the fraction of a second."""
_FORMATS_HINT = "YYYY-MM-DD hh:mm:ss, optionally with an offset or Z; a date; or seconds since 1970"
_NO_SUCH_TIME = "no such day or time"


class InvalidValueError(Exception):
    """A value is not valid for its type. The message gives the reason, or is empty."""


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A point in time."""

    at: datetime
    """The time, in whole seconds of UTC."""
    fraction: str = ""
    """The digits of the second's fraction, as they were written."""

    def text(self, zone: str, digits: int) -> str:
        """Return the string to bind, with `digits` decimals; further decimals are cut off."""
        local = self.at.astimezone(ZoneInfo(zone))
        fraction = f"{self.fraction[:digits]:0<{digits}}" if digits else ""
        if local.fold:
            return _seconds(int(self.at.timestamp()), fraction)
        return f"{local:%Y-%m-%d %H:%M:%S}" + (f".{fraction}" if digits else "")


def parse_moment(raw: object, zone: str) -> Timestamp:
    """Parse a string or number as a time. A string without an offset is local time in `zone`.

    Raises InvalidValueError.
    """
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise InvalidValueError(_FORMATS_HINT)
    if isinstance(raw, int) and raw.bit_length() > 64:
        raise InvalidValueError(_FORMATS_HINT)
    text = raw if isinstance(raw, str) else repr(raw)
    number = _NUMBER.fullmatch(text)
    if number:
        return _since_1970(number[1], number[2], number[3] or "")
    date = _DAY.match(text)
    if not date:
        raise InvalidValueError(_FORMATS_HINT)
    clock, after_date = None, text[date.end() :]
    if after_date:
        clock = _CLOCK.fullmatch(after_date)
        if not clock:
            plus = "; in a URL, a plus sign is written %2B" if _LOST_PLUS.fullmatch(after_date[-6:]) else ""
            raise InvalidValueError(_FORMATS_HINT + plus)
    hour, minute, second, fraction, offset = clock.groups() if clock else ("0", "0", None, None, None)
    local = _local(date, int(hour), int(minute), int(second or 0))
    return Timestamp(_instant(local, offset, zone), fraction or "")


def parse_day(raw: object, zone: str) -> str:
    """Parse a string as a date and return it as `YYYY-MM-DD`. A time is converted to its date in `zone`.

    Raises InvalidValueError.
    """
    date = (_DAY.fullmatch(raw) or _COMPACT_DAY.fullmatch(raw)) if isinstance(raw, str) else None
    if date:
        return f"{_local(date):%Y-%m-%d}"
    if not isinstance(raw, str) or not _DAY.match(raw):
        raise InvalidValueError("YYYY-MM-DD")
    return f"{parse_moment(raw, zone).at.astimezone(ZoneInfo(zone)):%Y-%m-%d}"


def _seconds(whole: int, fraction: str) -> str:
    """Format seconds since 1970 as a number. The fraction is added to `whole`, even before 1970."""
    count = whole * 10 ** len(fraction) + int(fraction or 0)
    sign, digits = "-" if count < 0 else "", str(abs(count)).rjust(len(fraction) + 1, "0")
    return f"{sign}{digits[: -len(fraction)]}.{digits[-len(fraction) :]}" if fraction else sign + digits


def _since_1970(sign: str, digits: str, fraction: str) -> Timestamp:
    """Convert a number since 1970; its unit follows from the number of its digits."""
    if len(digits) in _DECIMALS_BY_LENGTH:
        places = _DECIMALS_BY_LENGTH[len(digits)]
        digits, fraction = digits[:-places], digits[-places:] + fraction
    elif len(digits) > 10 or len(digits) == 8:
        raise InvalidValueError(
            "10 digits are seconds, 13 milliseconds, 16 microseconds, 19 nanoseconds; 8 digits could be a date"
        )
    seconds = int(digits)
    if sign:
        # A Timestamp's fraction counts forward: -1.25 s is second -2 and .75 of it.
        part = int(fraction or 0)
        seconds = -seconds - (part > 0)
        fraction = str(10 ** len(fraction) - part).rjust(len(fraction), "0") if part else ""
    return Timestamp(_EPOCH + timedelta(seconds=seconds), fraction)


def _local(date: re.Match[str], hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    """Build a local time without a zone from a match of `_DAY` or `_COMPACT_DAY`."""
    year, month, day_of_month = (int(g) for g in date.groups() if g is not None)
    if not 1800 < year < 2400:
        raise InvalidValueError("the year is out of range")
    try:
        return datetime(year, month, day_of_month, hour, minute, second)
    except ValueError:
        raise InvalidValueError(_NO_SUCH_TIME) from None


def _instant(local: datetime, offset: str | None, zone: str) -> datetime:
    """Convert a local time to UTC. Raises InvalidValueError for a time that does not exist because clocks are set
    forward.
    """
    try:
        if offset is not None:
            return (local - _utc_offset(offset.strip())).replace(tzinfo=UNIVERSAL)
        zone_info = ZoneInfo(zone)
        instant = local.replace(tzinfo=zone_info).astimezone(UNIVERSAL)
        # A time that does not exist is converted back to a different one.
        round_trip = instant.astimezone(zone_info).replace(tzinfo=None)
    except OverflowError:
        raise InvalidValueError(_NO_SUCH_TIME) from None
    if round_trip != local:
        raise InvalidValueError(
            f"this local time does not exist in {zone}, because clocks are set forward then; add an offset"
        )
    return instant


def _utc_offset(offset: str) -> timedelta:
    """Parse an offset from UTC. As in events, it is at most 14 hours."""
    if offset[0] not in "+-":
        return timedelta()
    hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    if hours > 14 or minutes > 59:
        raise InvalidValueError("no such offset")
    ahead = timedelta(hours=hours, minutes=minutes)
    return -ahead if offset[0] == "-" else ahead


@lru_cache(maxsize=1024)
def day_check(zone: str) -> Callable[[object], str]:
    """Return the check of a `Date` parameter."""

    def check(raw: object) -> str:
        text = parse_day(raw, zone)
        if not "1970-01-01" <= text <= "2149-06-06":
            raise InvalidValueError("Date holds 1970-01-01 to 2149-06-06")
        return text

    return check


@lru_cache(maxsize=1024)
def moment_check(zone: str, digits: int | None) -> Callable[[object], str]:
    """Return the check of a `DateTime` parameter (`digits` is None) or a `DateTime64(digits)` parameter."""
    first, last = ("1970-01-01 00:00:00", "2106-02-07 06:28:15")
    if digits is not None:
        # With nine decimals, 64 bits cannot represent all dates of the calendar.
        first, last = "1900-01-01 00:00:00", "2262-04-11 23:47:15" if digits == 9 else "2299-12-31 23:59:59"
    low, high = (datetime.fromisoformat(x).replace(tzinfo=UNIVERSAL) for x in (first, last))
    type = "DateTime" if digits is None else f"DateTime64({digits})"

    def check(raw: object) -> str:
        timestamp = parse_moment(raw, zone)
        if not low <= timestamp.at <= high:
            raise InvalidValueError(f"{type} holds {first} to {last} (UTC)")
        return timestamp.text(zone, digits or 0)

    return check
