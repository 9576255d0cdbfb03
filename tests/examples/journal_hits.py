"""Page hits of readers on several sites, and the numbers that the journal project should give for them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

SITES = ("alpha", "beta", "gamma")
STATUSES = ("undefined", "free", "paid", "comped")
SOURCES = {"": "direct", "https://www.search.example/q?a=1": "search.example", "https://news.example": "news.example"}
START = datetime(2024, 3, 1, tzinfo=UTC)
SERIES_DAYS = 10


@dataclass(frozen=True)
class Hit:
    at: datetime
    site: str
    session: str
    pathname: str
    post: str
    status: str
    device: str
    location: str
    referrer: str
    campaign: str
    extra: Any

    @property
    def source(self) -> str:
        return SOURCES[self.referrer]

    def payload(self) -> dict[str, Any]:
        return {
            "site_uuid": self.site,
            "pathname": self.pathname,
            "post_uuid": self.post,
            "member_status": self.status,
            "location": self.location,
            "utm_source": "mail" if self.campaign else "",
            "utm_campaign": self.campaign,
            "meta": {"device": self.device, "referrer": self.referrer, "extra": self.extra},
        }

    def event(self) -> dict[str, Any]:
        at = self.at.strftime("%Y-%m-%d %H:%M:%S")
        return {
            "timestamp": at,
            "session_id": self.session,
            "action": "page_hit",
            "version": "1",
            "payload": self.payload(),
        }


EXTRAS = (
    None,
    {},
    [],
    {"a.b": 1, "a": {"b": None}},
    9007199254740993,
    12345678901234567890123,
    [1, "x", None, {"é": "\n"}],
)


def hits(random: Random, sessions: int) -> list[Hit]:
    """Hits in sessions; no two hits of one session share a second, and few sessions cross midnight."""
    page_hits: list[Hit] = []
    for number in range(sessions):
        site, at = random.choice(SITES), START + timedelta(minutes=random.randrange(SERIES_DAYS * 1440))
        device, location = random.choice(["desktop", "mobile-ios"]), random.choice(["ES", "DE", "PE"])
        for _ in range(random.choice([1, 1, 2, 3, 5])):
            page_hits.append(
                Hit(
                    at, site, f"s{number}", f"/page-{random.randrange(4)}/", f"post-{random.randrange(3)}",
                    random.choice(STATUSES), device, location, random.choice(list(SOURCES)),
                    random.choice(["", "spring", "launch"]), random.choice(EXTRAS),
                )
            )  # fmt: skip
            at += timedelta(seconds=random.randrange(5, 900))
    return page_hits


def lines(found: list[Hit]) -> str:
    return "\n".join(json.dumps(h.event(), ensure_ascii=False) for h in found)


def _midnight(day: str, zone: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), ZoneInfo(zone))


class Site:
    """What one tenant should see."""

    def __init__(self, found: list[Hit], site: str) -> None:
        self.hits = [h for h in found if h.site == site]
        self.sessions: dict[str, list[Hit]] = defaultdict(list)
        for hit in sorted(self.hits, key=lambda h: h.at):
            self.sessions[hit.session].append(hit)

    def filtered(self, asked: dict[str, Any]) -> set[str]:
        """Sessions with a hit that matches, and with a first hit that matches."""
        zone = asked.get("timezone", "Etc/UTC")
        first, after = _midnight(asked["date_from"], zone), _midnight(asked["date_to"], zone) + timedelta(days=1)
        statuses = asked["member_status"].split(",") if "member_status" in asked else list(STATUSES)
        statuses += ["comped"] if "paid" in statuses else []

        def matches(hit: Hit) -> bool:
            return (
                first <= hit.at < after
                and hit.status in statuses
                and hit.location == asked.get("location", hit.location)
                and hit.pathname == asked.get("pathname", hit.pathname)
                and hit.post == asked.get("post_uuid", hit.post)
            )

        return {
            name
            for name, own in self.sessions.items()
            if any(map(matches, own))
            and own[0].source == asked.get("source", own[0].source)
            and own[0].device == asked.get("device", own[0].device)
            and own[0].campaign == asked.get("utm_campaign", own[0].campaign)
        }

    def kpis(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        zone = ZoneInfo(asked.get("timezone", "Etc/UTC"))
        hourly = asked["date_from"] == asked["date_to"]
        form = "%Y-%m-%d %H:00:00" if hourly else "%Y-%m-%d"
        per_date: dict[str, list[list[Hit]]] = defaultdict(list)
        chosen = self.filtered(asked)
        for name in chosen:
            own = self.sessions[name]
            per_date[own[0].at.astimezone(zone).strftime(form)].append(own)
        of_page: dict[str, int] = defaultdict(int)
        for hit in self.hits:
            if hit.session in chosen and hit.pathname == asked.get("pathname", hit.pathname):
                of_page[hit.at.astimezone(zone).strftime(form)] += 1
        kpi_rows = []
        for at in _series(asked["date_from"], asked["date_to"], hourly):
            key = at.strftime(form)
            sessions = per_date.get(key, [])
            bounces = [len(s) == 1 for s in sessions]
            seconds = [(s[-1].at - s[0].at).total_seconds() for s in sessions]
            views = of_page[key] if "pathname" in asked else sum(map(len, sessions))
            kpi_rows.append(
                {
                    "date": key,
                    "visits": len(sessions),
                    "pageviews": views,
                    "bounce_rate": _truncated(bounces),
                    "avg_session_sec": _truncated(seconds),
                }
            )
        return kpi_rows

    def pages(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Pages of the filtered sessions, most visited first."""
        chosen, visits = self.filtered(asked), defaultdict(set)
        for hit in self.hits:
            if hit.session in chosen and hit.pathname == asked.get("pathname", hit.pathname):
                visits[hit.pathname].add(hit.session)
        return _ranked("pathname", {p: len(s) for p, s in visits.items()})

    def daily_pages(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Pages by days of UTC."""
        visits = defaultdict(set)
        statuses = asked["member_status"].split(",") if "member_status" in asked else list(STATUSES)
        statuses += ["comped"] if "paid" in statuses else []
        for hit in self.hits:
            if asked["date_from"] <= str(hit.at.date()) <= asked["date_to"] and hit.status in statuses:
                visits[hit.pathname].add(hit.session)
        return _ranked("pathname", {p: len(s) for p, s in visits.items()})

    def firsts(self, column: str, attribute: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        counts: dict[str, int] = defaultdict(int)
        for name in self.filtered(asked):
            counts[getattr(self.sessions[name][0], attribute)] += 1
        return _ranked(column, counts)


def _ranked(column: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{column: key, "visits": count} for key, count in ordered]


def _truncated(values: list[Any]) -> float:
    # In this order, as the engine computes in floating point.
    return math.trunc(sum(values) / len(values) * 100) / 100 if values else 0.0


def _series(first: str, last: str, hourly: bool) -> Iterator[datetime]:
    at, end = datetime.fromisoformat(first), datetime.fromisoformat(last) + timedelta(days=1)
    while at < end:
        yield at
        at += timedelta(hours=1) if hourly else timedelta(days=1)
