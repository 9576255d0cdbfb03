"""Dates and times of requests: what events accept, as the text by which a value is bound.

A moment with an offset, or as a number of seconds, is one point in time; without, it is local time in the workspace's
zone. Either becomes local text, `YYYY-MM-DD hh:mm:ss` with its decimals, which the engine reads in the same zone.
Where clocks are put back, a local time occurs twice. Its text means the first, so the second is seconds since 1970.
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
"""The zone of a workspace whose settings name none."""

_NUMBER = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,18}))?")
_DAY = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|/([0-9]{1,2})/([0-9]{1,2}))")
_COMPACT_DAY = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_CLOCK = re.compile(
    r"[Tt ]([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,18}))?)?"
    r"( ?(?:[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)
_LOST_PLUS = re.compile(r" [0-9]{2}:?[0-9]{2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UNIVERSAL)
_DIGITS = {13: 3, 16: 6, 19: 9}
_FORMS = "YYYY-MM-DD hh:mm:ss, with an offset or Z, a day, or seconds since 1970"
_NO_TIME = "no such day or time"


class UnfitError(Exception):
    """A value does not fit its type; the text says why, or is empty."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time: whole seconds, and the digits of their fraction as they were written."""

    at: datetime
    fraction: str = ""

    def text(self, zone: str, digits: int) -> str:
        """The text by which it is bound, with so many decimals; more are dropped."""
        local = self.at.astimezone(ZoneInfo(zone))
        fraction = f"{self.fraction[:digits]:0<{digits}}" if digits else ""
        if local.fold:
            return _seconds(int(self.at.timestamp()), fraction)
        return f"{local:%Y-%m-%d %H:%M:%S}" + (f".{fraction}" if digits else "")


def moment(raw: object, zone: str) -> Moment:
    """The point in time that a text or number means. Raises UnfitError."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise UnfitError(_FORMS)
    if isinstance(raw, int) and raw.bit_length() > 64:
        raise UnfitError(_FORMS)
    text = raw if isinstance(raw, str) else repr(raw)
    number = _NUMBER.fullmatch(text)
    if number:
        return _since_1970(number[1], number[2], number[3] or "")
    found = _DAY.match(text)
    if not found:
        raise UnfitError(_FORMS)
    clock, rest = None, text[found.end() :]
    if rest:
        clock = _CLOCK.fullmatch(rest)
        if not clock:
            plus = "; in a URL, a plus sign is written %2B" if _LOST_PLUS.fullmatch(rest[-6:]) else ""
            raise UnfitError(_FORMS + plus)
    hour, minute, second, fraction, offset = clock.groups() if clock else ("0", "0", None, None, None)
    local = _local(found, int(hour), int(minute), int(second or 0))
    return Moment(_instant(local, offset, zone), fraction or "")


def day(raw: object, zone: str) -> str:
    """The day that a text means, `YYYY-MM-DD`; that of a moment is the one in the zone. Raises UnfitError."""
    found = (_DAY.fullmatch(raw) or _COMPACT_DAY.fullmatch(raw)) if isinstance(raw, str) else None
    if found:
        return f"{_local(found):%Y-%m-%d}"
    if not isinstance(raw, str) or not _DAY.match(raw):
        raise UnfitError("YYYY-MM-DD")
    return f"{moment(raw, zone).at.astimezone(ZoneInfo(zone)):%Y-%m-%d}"


def _seconds(whole: int, fraction: str) -> str:
    """Seconds since 1970 as a number; `fraction` counts forward, also before 1970."""
    count = whole * 10 ** len(fraction) + int(fraction or 0)
    sign, digits = "-" if count < 0 else "", str(abs(count)).rjust(len(fraction) + 1, "0")
    return f"{sign}{digits[: -len(fraction)]}.{digits[-len(fraction) :]}" if fraction else sign + digits


def _since_1970(sign: str, digits: str, fraction: str) -> Moment:
    if len(digits) in _DIGITS:
        places = _DIGITS[len(digits)]
        digits, fraction = digits[:-places], digits[-places:] + fraction
    elif len(digits) > 10 or len(digits) == 8:
        raise UnfitError("10 digits are seconds, 13 milliseconds, 16 microseconds, 19 nanoseconds; 8 could be a day")
    seconds = int(digits)
    if sign:
        part = int(fraction or 0)
        seconds = -seconds - (part > 0)
        fraction = str(10 ** len(fraction) - part).rjust(len(fraction), "0") if part else ""
    return Moment(_EPOCH + timedelta(seconds=seconds), fraction)


def _local(found: re.Match[str], hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    year, month, of_month = (int(g) for g in found.groups() if g is not None)
    if not 1800 < year < 2400:
        raise UnfitError("the year is out of range")
    try:
        return datetime(year, month, of_month, hour, minute, second)
    except ValueError:
        raise UnfitError(_NO_TIME) from None


def _instant(local: datetime, offset: str | None, zone: str) -> datetime:
    try:
        if offset is not None:
            return (local - _ahead(offset.strip())).replace(tzinfo=UNIVERSAL)
        there = ZoneInfo(zone)
        found = local.replace(tzinfo=there).astimezone(UNIVERSAL)
        back = found.astimezone(there).replace(tzinfo=None)
    except OverflowError:
        raise UnfitError(_NO_TIME) from None
    if back != local:
        raise UnfitError(f"no such time in {zone}, where the clocks are put forward then: give an offset")
    return found


def _ahead(offset: str) -> timedelta:
    """How far an offset is ahead of UTC; as for events, at most 14 hours."""
    if offset[0] not in "+-":
        return timedelta()
    hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    if hours > 14 or minutes > 59:
        raise UnfitError("no such offset")
    ahead = timedelta(hours=hours, minutes=minutes)
    return -ahead if offset[0] == "-" else ahead


@lru_cache(maxsize=1024)
def day_check(zone: str) -> Callable[[object], str]:
    """The check of a `Date`."""

    def check(raw: object) -> str:
        text = day(raw, zone)
        if not "1970-01-01" <= text <= "2149-06-06":
            raise UnfitError("Date holds 1970-01-01 to 2149-06-06")
        return text

    return check


@lru_cache(maxsize=1024)
def moment_check(zone: str, digits: int | None) -> Callable[[object], str]:
    """The check of a `DateTime` (None), or of a `DateTime64` with so many decimals."""
    first, last = ("1970-01-01 00:00:00", "2106-02-07 06:28:15")
    if digits is not None:
        # Nine decimals of a second exhaust 64 bits earlier than the calendar does.
        first, last = "1900-01-01 00:00:00", "2262-04-11 23:47:15" if digits == 9 else "2299-12-31 23:59:59"
    low, high = (datetime.fromisoformat(x).replace(tzinfo=UNIVERSAL) for x in (first, last))
    type = "DateTime" if digits is None else f"DateTime64({digits})"

    def check(raw: object) -> str:
        found = moment(raw, zone)
        if not low <= found.at <= high:
            raise UnfitError(f"{type} holds {first} to {last} (UTC)")
        return found.text(zone, digits or 0)

    return check
