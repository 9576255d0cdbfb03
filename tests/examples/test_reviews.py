"""The example over real data: 578,805 reviews of 247 vendors, each vendor a tenant, in both placements.

Everything goes through the product's own path: pushed, appended from the compressed file by the command line,
fanned out, and read back over HTTP with each vendor's own token. What is expected is computed from the file alone.
"""

from __future__ import annotations

import bz2
import csv
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.schema import nest_database
from tests.support.server import Server, running

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "examples" / "reviews"
DATA = ROOT.parent / "shared" / "data" / "anonreviews.csv.bz2"
ROWS, VENDORS = 578_805, 247

pytestmark = pytest.mark.skipif(not DATA.is_file(), reason=f"the reviews are not on this machine: no {DATA}")


@dataclass
class Expected:
    """What the file says of one vendor."""

    ratings: list[int] = field(default_factory=list)
    reviewers: set[str] = field(default_factory=set)
    moments: list[str] = field(default_factory=list)
    months: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> dict[str, Any]:
        return {
            "reviews": len(self.ratings),
            "reviewers": len(self.reviewers),
            "average_rating": sum(self.ratings) / len(self.ratings),
            "first_review": f"{min(self.moments)}:00",
            "last_review": f"{max(self.moments)}:00",
        }

    def per_month(self) -> list[dict[str, Any]]:
        return [
            {"month": f"{month}-01", "reviews": len(sums), "average_rating": sum(sums) / len(sums)}
            for month, sums in sorted(self.months.items())
        ]


@dataclass
class Loaded:
    """A server with all reviews, one token per vendor, and how long the loading took."""

    server: Server
    placement: str
    tokens: dict[str, str]
    appended: float
    provisioned: float


@pytest.fixture(scope="module")
def expected() -> dict[str, Expected]:
    by_vendor: defaultdict[str, Expected] = defaultdict(Expected)
    with bz2.open(DATA, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            vendor = by_vendor[row["vendorId"]]
            vendor.ratings.append(int(row["rating"]))
            vendor.reviewers.add(row["reviewerId"])
            vendor.moments.append(row["date"])
            vendor.months[row["date"][:7]].append(int(row["rating"]))
    return dict(by_vendor)


@pytest.fixture(scope="module", params=["tables", "pooled", pytest.param("requests", marks=pytest.mark.soak_only)])
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, expected: dict[str, Expected]
) -> Iterator[Loaded]:
    """Appended as a file before the tenants exist, or in small requests afterwards (`requests`)."""
    placement = "pooled" if request.param == "pooled" else "tables"
    with running(tmp_path_factory.mktemp(request.param)) as server:
        server.push(PROJECT)
        steps: list[Callable[[], None]] = [
            lambda: _rookery(server, "append", "reviews", str(DATA), "--rename", "vendorId=vendor_id", *_REVIEWER),
            lambda: _rookery(server, "tenant", "add", "-", "--placement", placement, given="\n".join(expected)),
        ]
        if request.param == "requests":
            steps = [lambda: _in_requests(server), steps[1]]
        took = [0.0, 0.0]
        for number in (1, 0) if request.param == "requests" else (0, 1):
            started = time.monotonic()
            steps[number]()
            took[number] = time.monotonic() - started
        appended, provisioned = took
        scopes = ["PIPES:READ:vendor_summary", "PIPES:READ:reviews_per_month", "DATASOURCES:READ:reviews"]
        tokens = {vendor: server.mint(*scopes, tenant=vendor) for vendor in expected}
        yield Loaded(server, placement, tokens, appended, provisioned)


def _in_requests(server: Server) -> None:
    """All reviews as events, in requests of a few hundred rows from several callers; each has a key."""
    with bz2.open(DATA, "rt", encoding="utf-8", newline="") as file:
        rows = [
            {
                "reviewer_id": r["reviewerId"],
                "vendor_id": r["vendorId"],
                "rating": int(r["rating"]),
                "date": r["date"],
            }
            for r in csv.DictReader(file)
        ]

    def send(start: int) -> int:
        body = "\n".join(json.dumps(r) for r in rows[start : start + TOGETHER])
        headers = {"idempotency-key": f"reviews {start}"}
        response = server.admin("POST", "/v0/events?name=reviews", content=body, headers=headers)
        assert response.status_code == 202, response.text
        assert response.json()["quarantined_rows"] == 0
        return int(response.json()["successful_rows"])

    with ThreadPoolExecutor(CALLERS) as callers:
        assert sum(callers.map(send, range(0, len(rows), TOGETHER))) == len(rows)
    last = server.admin("POST", "/v0/events?name=reviews&wait=visible", content="")
    assert last.status_code == 200
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        (behind,) = (d for d in server.admin_json("GET", "/v0/fanout")["datasources"] if d["datasource"] == "reviews")
        if behind["mode"] == "routed" and not behind["rows"] and not behind["strays"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"the nests have not caught up: {behind}")


TOGETHER, CALLERS = 400, 16
_REVIEWER = ("--rename", "reviewerId=reviewer_id")


def _rookery(server: Server, *arguments: str, given: str = "") -> None:
    """The command line, as a user runs it against a server."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ROOKERY_")}
    environment |= {"ROOKERY_URL": server.url, "ROOKERY_TOKEN": server.admin_token, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        input=given,
        cwd=server.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_load_is_complete_and_reported(
    loaded: Loaded, expected: dict[str, Expected], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(expected) == VENDORS
    tenants = loaded.server.admin_json("GET", "/v0/tenants")["tenants"]
    assert {t["id"]: (t["placement"], t["state"], t["rows"]) for t in tenants} == {
        vendor: (loaded.placement, "ready", len(sums.ratings)) for vendor, sums in expected.items()
    }
    assert sum(t["rows"] for t in tenants) == ROWS
    with capsys.disabled():
        print(
            f"\nreviews, {loaded.placement}: {ROWS:,} rows appended in {loaded.appended:.1f} s "
            f"({ROWS / loaded.appended:,.0f} rows/s, start of the command included); "
            f"{VENDORS} tenants with their history in {loaded.provisioned:.1f} s"
        )


@pytest.mark.proves("B6", "B7")
def test_the_nests_together_hold_every_row_once(loaded: Loaded, expected: dict[str, Expected]) -> None:
    """The content of the nests' tables, read without a scope."""
    if loaded.placement == "pooled":
        shared = loaded.server.sql("SELECT sum(reviews) AS reviews, sum(ratings) AS ratings FROM monthly_reviews")
        assert shared == [{"reviews": ROWS, "ratings": sum(sum(v.ratings) for v in expected.values())}]
        return
    nests = [loaded.server.admin_json("GET", f"/v0/tenants/{vendor}") for vendor in expected]
    held = {n["id"]: {t["name"]: t["rows"] for t in n["tables"]} for n in nests}
    assert {vendor: tables["reviews"] for vendor, tables in held.items()} == {
        vendor: len(sums.ratings) for vendor, sums in expected.items()
    }
    assert sum(tables["reviews"] for tables in held.values()) == ROWS
    summed = "SELECT uniqExact(month) AS months, sum(reviews) AS reviews FROM monthly_reviews"
    for vendor, of_file in expected.items():
        answer = loaded.server.admin("POST", "/v0/sql", content=summed, headers={"x-rookery-tenant": vendor})
        assert answer.json()["data"] == [{"months": len(of_file.months), "reviews": len(of_file.ratings)}]


@pytest.mark.proves("A1", "B10")
def test_every_vendor_gets_the_numbers_of_its_file(loaded: Loaded, expected: dict[str, Expected]) -> None:
    for vendor, token in loaded.tokens.items():
        assert _rows(loaded, "vendor_summary", token) == [expected[vendor].summary()], vendor
        assert _rows(loaded, "reviews_per_month", token) == expected[vendor].per_month(), vendor


@pytest.mark.proves("A2", "B3", "B12")
def test_no_token_sees_another_vendor(loaded: Loaded, expected: dict[str, Expected]) -> None:
    """By ad-hoc SQL over the landing name, by another's name, and by claiming to be another."""
    count = "SELECT groupUniqArray(vendor_id) AS vendors, count() AS reviews FROM reviews"
    vendors = list(loaded.tokens)
    for vendor, other in zip(vendors, [*vendors[1:], vendors[0]], strict=True):
        token = loaded.tokens[vendor]
        own = {"vendors": [int(vendor)], "reviews": len(expected[vendor].ratings)}
        assert loaded.server.sql(count, token) == [own]
        foreign = f"SELECT count() AS n FROM reviews WHERE vendor_id = {other}"
        assert loaded.server.sql(foreign, token) == [{"n": 0}]
        _refused(loaded, token, f"SELECT count() FROM {nest_database('main', other)}.reviews")
        claimed = loaded.server.get(
            "/v0/pipes/vendor_summary.json", token, params={"vendor_id": other}, headers={"x-rookery-tenant": other}
        )
        assert claimed.status_code == 403, claimed.text


def test_a_parameter_that_names_another_vendor_changes_nothing(loaded: Loaded, expected: dict[str, Expected]) -> None:
    named = {"vendor_id": "12", "tenant": "12", "rk_tenant_uint32": "12"}
    assert _rows(loaded, "vendor_summary", loaded.tokens["18"], **named) == [expected["18"].summary()]


def test_a_token_for_two_vendors_is_refused(loaded: Loaded) -> None:
    scope = {"type": "DATASOURCES:READ", "resource": "reviews", "filter": "vendor_id = 12"}
    token = loaded.server.mint(scope, tenant="18")
    _refused(loaded, token, "SELECT count() FROM reviews")


@pytest.mark.parametrize("name", ["monthly_reviews", "main.reviews", "main._rk_pool", "system.tables"])
def test_resources_that_a_token_does_not_name_do_not_exist(loaded: Loaded, name: str) -> None:
    _refused(loaded, loaded.tokens["18"], f"SELECT count() FROM {name}")


def _rows(loaded: Loaded, pipe: str, token: str, **params: str) -> Any:
    response = loaded.server.get(f"/v0/pipes/{pipe}.json", token, params=params)
    assert response.status_code == 200, response.text
    return json.loads(response.content)["data"]


def _refused(loaded: Loaded, token: str, text: str) -> None:
    response = loaded.server.post("/v0/sql", token, content=text)
    assert response.status_code in {400, 403, 404}, response.text
    assert "data" not in response.json()
