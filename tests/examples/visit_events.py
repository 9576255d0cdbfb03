"""Page hits and measurements of several shops, and the numbers that the visits project should give for them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

SHOPS = ("north", "south", "east")
START = datetime(2024, 3, 1, tzinfo=UTC)
DAYS = 8
AGENTS = {
    "Mozilla/5.0 (X11; Linux) Firefox/139": ("desktop", "firefox"),
    "Mozilla/5.0 (Android 15) Chrome/137": ("android", "chrome"),
    "Mozilla/5.0 (iPhone) Safari/605": ("ios", "safari"),
    "curl/8.1": ("bot", "other"),
}
REFERRERS = {"": "", "https://www.find.example/?q=1": "find.example", "https://blog.example/a": "blog.example"}


@dataclass(frozen=True)
class Visit:
    """A page hit, or with `metric` a measurement."""

    at: datetime
    shop: str
    session: str
    domain: str
    agent: str
    location: str
    referrer_url: str
    pathname: str
    metric: str = ""
    value: float = 0.0

    @property
    def device(self) -> str:
        return AGENTS[self.agent][0]

    @property
    def browser(self) -> str:
        return AGENTS[self.agent][1]

    @property
    def referrer(self) -> str:
        return REFERRERS[self.referrer_url]

    @property
    def category(self) -> str:
        scaled = self.value * 1000 if self.metric == "CLS" else self.value
        return "good" if scaled <= 200 else "fair" if scaled <= 500 else "poor"

    def payload(self) -> str:
        """The payload is a text of JSON here, as trackers send it."""
        if self.metric:
            return json.dumps({"name": self.metric, "value": self.value, "pathname": self.pathname})
        return json.dumps(
            {
                "user-agent": self.agent,
                "locale": "en-US",
                "location": self.location,
                "referrer": self.referrer_url,
                "pathname": self.pathname,
                "href": f"https://www.{self.shop}.example{self.pathname}?utm_a=1",
            }
        )

    def event(self) -> dict[str, Any]:
        body = {
            "timestamp": self.at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "session_id": self.session,
            "action": "web_vital" if self.metric else "page_hit",
            "version": "1",
            "payload": self.payload(),
            "tenant_id": self.shop,
        }
        return {**body, "domain": self.domain} if self.domain else body

    @property
    def host(self) -> str:
        """The domain of the hit."""
        return self.domain or f"{self.shop}.example"


def visits(random: Random, sessions: int, start: datetime = START, days: float = DAYS) -> list[Visit]:
    """Sessions with one or several hits, and measurements beside some."""
    made_visits: list[Visit] = []
    for number in range(sessions):
        at = start + timedelta(seconds=random.randrange(int(days * 86_400)))
        shop, agent = random.choice(SHOPS), random.choice(list(AGENTS))
        domain, location = random.choice(["", f"{shop}.shop", "both.example"]), random.choice(["US", "IN", "BR"])
        for _ in range(random.choice([1, 1, 2, 4])):
            page, referrer = f"/p{random.randrange(5)}", random.choice(list(REFERRERS))
            hit = Visit(at, shop, f"v{start:%d%H}{number}", domain, agent, location, referrer, page)
            made_visits.append(hit)
            if random.random() < 0.4:
                metric, value = random.choice([("LCP", 150.0), ("LCP", 450.0), ("INP", 900.5), ("CLS", 0.25)])
                made_visits.append(Visit(at, shop, hit.session, domain, agent, location, "", page, metric, value))
            at += timedelta(seconds=random.randrange(1, 600))
    return made_visits


class Shop:
    """What one tenant should see."""

    def __init__(self, found: Iterable[Visit], shop: str) -> None:
        own = [v for v in found if v.shop == shop]
        self.hits = [v for v in own if not v.metric]
        self.vitals = [v for v in own if v.metric]

    def within(self, first: str, last: str, domain: str | None = None) -> list[Visit]:
        return [h for h in self.hits if first <= str(h.at.date()) <= last and (domain is None or h.host == domain)]

    def top(self, column: str, chosen: list[Visit]) -> list[dict[str, Any]]:
        """Visits and hits by a property, most visits first."""
        groups: dict[str, list[Visit]] = defaultdict(list)
        for hit in chosen:
            groups[getattr(hit, column)].append(hit)
        rows = [{column: k, "visits": len({h.session for h in g}), "hits": len(g)} for k, g in groups.items()]
        return sorted(rows, key=lambda row: (-row["visits"], row[column]))

    def kpis(self, first: str, last: str, domain: str | None = None) -> list[dict[str, Any]]:
        """Per day, or per hour of a single day."""
        hourly = first == last
        form, step = ("%Y-%m-%d %H:00:00", timedelta(hours=1)) if hourly else ("%Y-%m-%d", timedelta(days=1))
        per_date: dict[str, dict[tuple[str, str], list[Visit]]] = defaultdict(lambda: defaultdict(list))
        for hit in self.within(first, last, domain):
            per_date[hit.at.strftime(form)][hit.session, hit.host].append(hit)
        rows, at = [], datetime.fromisoformat(first)
        while at < datetime.fromisoformat(last) + timedelta(days=1):
            groups = list(per_date[at.strftime(form)].values())
            seconds = [(max(h.at for h in g) - min(h.at for h in g)).total_seconds() for g in groups]
            rows.append(
                {
                    "date": at.strftime(form),
                    "visits": len(groups),
                    "pageviews": sum(map(len, groups)),
                    "bounce_rate": seconds.count(0) / len(groups) if groups else 0,
                    "avg_session_sec": sum(seconds) / len(groups) if groups else 0,
                }
            )
            at += step
        return rows

    def counted(
        self, keys: Callable[[Visit], tuple[Any, ...]], chosen: Iterable[Visit]
    ) -> dict[tuple[Any, ...], int]:
        counts: dict[tuple[Any, ...], int] = defaultdict(int)
        for visit in chosen:
            counts[keys(visit)] += 1
        return dict(sorted(counts.items()))
