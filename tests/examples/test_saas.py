"""The example of a SaaS product: its numbers are those that Python computes from the generated events."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.forking import forker
from tests.support.server import Server, running

PROJECT = Path(__file__).resolve().parents[2] / "examples" / "saas"
EVENTS, ACCOUNTS = 3000, 3
PLACEMENTS = {"1": "tables", "2": "pooled", "3": "pooled"}
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Events]]:
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    events = list(generate.events(ACCOUNTS, EVENTS))
    with running(tmp_path_factory.mktemp("saas")) as server:
        assert server.push(PROJECT)["warnings"] == []
        for tenant, placement in PLACEMENTS.items():
            server.tenant(tenant, placement)
        answer = server.post(
            "/v0/events?name=events&wait=visible",
            server.static("collector", "DATASOURCES:APPEND:events"),
            content="\n".join(map(json.dumps, events)),
        ).json()
        assert (answer["successful_rows"], answer["quarantined_rows"]) == (EVENTS, 0)
        users = subprocess.run(
            [sys.executable, PROJECT / "generate.py", "users", "--accounts", str(ACCOUNTS)],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        appended = server.admin("POST", "/v0/datasources?name=users&mode=append&format=csv", content=users)
        assert appended.status_code == 200, appended.text
        assert len(list(csv.DictReader(users.splitlines()))) == 40 * ACCOUNTS
        yield server, events


def _rows(server: Server, endpoint: str, tenant: str, **params: Any) -> list[dict[str, Any]]:
    response = server.get(
        f"/v0/pipes/{endpoint}.json", server.mint(f"PIPES:READ:{endpoint}", tenant=tenant), params=params
    )
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["data"]
    return rows


def _own(events: Events, tenant: str) -> Events:
    return [e for e in events if str(e["account_id"]) == tenant]


@pytest.mark.parametrize("tenant", PLACEMENTS)
def test_activity_per_day_with_gaps_filled(service: tuple[Server, Events], tenant: str) -> None:
    server, events = service
    own = [e for e in _own(events, tenant) if e["event"] == "payment" and e["context"]["country"] == "FR"]
    counts = Counter(e["at"][:10] for e in own)
    users = defaultdict(set)
    for event in own:
        users[event["at"][:10]].add(event["user_id"])
    rows = _rows(
        server, "activity", tenant, events="payment", country="FR", from_day="2026-01-03", to_day="2026-01-20"
    )
    days = [f"2026-01-{day:02}" for day in range(3, 21)]
    assert [(r["period"], r["events"], r["users"]) for r in rows] == [(d, counts[d], len(users[d])) for d in days]
    second_page = _rows(
        server, "activity", tenant, events="payment", country="FR", from_day="2026-01-03", to_day="2026-01-20",
        page=1, page_size=7,
    )  # fmt: skip
    assert second_page == rows[7:14]


@pytest.mark.parametrize("tenant", PLACEMENTS)
def test_a_month_counts_each_user_once(service: tuple[Server, Events], tenant: str) -> None:
    server, events = service
    own = [e for e in _own(events, tenant) if e["event"] in ("login", "export")]
    (month,) = _rows(server, "activity", tenant, granularity="month", events="login,export")
    assert (month["period"], month["events"], month["users"]) == (
        "2026-01-01",
        len(own),
        len({e["user_id"] for e in own}),
    )
    durations = sorted(e["context"]["duration_ms"] for e in own)
    assert durations[0] <= month["p95_ms"] <= durations[-1]


@pytest.mark.parametrize("tenant", PLACEMENTS)
def test_top_users_have_their_own_accounts_names(service: tuple[Server, Events], tenant: str) -> None:
    server, events = service
    counts = Counter(e["user_id"] for e in _own(events, tenant))
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    rows = _rows(server, "top_users", tenant, top=5)
    assert [(r["user_id"], r["events"], r["name"]) for r in rows] == [
        (user, count, f"User {int(user[-2:])} of {tenant}") for user, count in expected
    ]


@pytest.mark.parametrize("tenant", PLACEMENTS)
def test_revenue_is_exact(service: tuple[Server, Events], tenant: str) -> None:
    server, events = service
    amounts: dict[str, Decimal] = defaultdict(Decimal)
    for event in _own(events, tenant):
        if event["event"] == "payment":
            amounts[event["context"]["country"]] += Decimal(event["payment"]["amount"])
    rows = _rows(server, "revenue", tenant)
    assert {r["country"]: Decimal(str(r["amount"])) for r in rows} == amounts


def test_the_alert_compares_one_day(service: tuple[Server, Events]) -> None:
    server, events = service
    today = [e for e in _own(events, "1") if e["at"].startswith("2026-01-15")]
    errors = sum(e["event"] == "error" for e in today)
    (row,) = _rows(server, "error_alert", "1", day="2026-01-15", threshold="0.01")
    assert (row["errors"], row["total"], row["exceeded"]) == (errors, len(today), int(errors / len(today) > 0.01))


def test_the_raw_payment_is_stored_byte_for_byte(service: tuple[Server, Events]) -> None:
    server, events = service
    payment = next(e for e in _own(events, "2") if "payment" in e)
    (row,) = server.sql(f"SELECT payload FROM events WHERE account_id = 2 AND at = '{payment['at']}'")
    assert row["payload"] == json.dumps(payment["payment"])


def test_a_sign_up_needs_no_admin_token(service: tuple[Server, Events]) -> None:
    server, _ = service
    scopes = ["TENANTS:MANAGE", "TOKENS:MINT", "PIPES:READ:activity", "PIPES:READ:top_users"]
    environment = {**os.environ, "ROOKERY_URL": server.url, "ROOKERY_TOKEN": server.static("signup", *scopes)}
    for _ in range(2):
        done = subprocess.run(
            [PROJECT / "sign_up.sh", "17"], env=environment, capture_output=True, text=True, check=True
        )
        token = done.stdout.strip()
    assert server.get("/v0/pipes/activity.json?granularity=month", token).json()["data"] == []
    assert server.get("/v0/pipes/revenue.json", token).status_code in (403, 404)
    assert "17" in {t["id"] for t in server.admin_json("GET", "/v0/tenants")["tenants"]}


def test_the_tests_of_the_project_pass(tmp_path: Path) -> None:
    command = [forker() / "rookery", "-C", PROJECT, "test", "--junit", tmp_path / "report.xml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'failures="0"' in (tmp_path / "report.xml").read_text()
