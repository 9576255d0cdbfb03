"""How long rows are kept, read from the text of a TTL."""

from __future__ import annotations

import pytest

from engine.project.lifetimes import DAY_SECONDS, shortest_lifetime

HOUR = 3600


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        ("", None),
        ("expires", None),
        ("at + INTERVAL 1 HOUR", HOUR),
        ("(at + interval 3 months)", 3 * 28 * DAY_SECONDS),
        ("at + INTERVAL '2' DAY", 2 * DAY_SECONDS),
        ("at + INTERVAL '12 hours'", 12 * HOUR),
        ("toDateTime(at) + toIntervalMinute(30)", HOUR // 2),
        ("at + toIntervalWeek(1) + toIntervalHour(1)", 7 * DAY_SECONDS + HOUR),
        ("at + INTERVAL 2 DAY - INTERVAL 36 HOUR", 12 * HOUR),
        ("addDays(at, 30)", 30 * DAY_SECONDS),
        ("subtractHours(addDays(at, 1), 2)", 22 * HOUR),
        ("at + INTERVAL 90 DAY, at + INTERVAL 1 HOUR DELETE WHERE kind = 'x'", HOUR),
        ("at + INTERVAL 90 DAY DELETE WHERE at > now() - INTERVAL 1 HOUR", 90 * DAY_SECONDS),
        ("at + INTERVAL 1 HOUR TO VOLUME 'cold', at + INTERVAL 90 DAY", 90 * DAY_SECONDS),
        ("at + INTERVAL 1 HOUR RECOMPRESS CODEC(ZSTD(9))", None),
        ("at + INTERVAL 1 HOUR, 'unclosed", None),
    ],
)
def test_the_shortest_lifetime_of_a_row(ttl: str, seconds: int | None) -> None:
    assert shortest_lifetime(ttl) == seconds
