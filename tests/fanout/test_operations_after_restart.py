"""Every operation on nests directly after a restart, when their tables are not loaded, by the values that they hold then.

The engine refuses some statements on tables that are not loaded, and does not list their parts. So each test starts a
server over a copy of the same directory, and first of all does one operation.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.billing import EVENTS, FILES, USAGE, USAGE_PIPE, assert_exact, assert_kinds_exact, rows_as_tenant
from tests.cli.commands import Cli, for_server
from tests.cli.test_foreign_objects import on_the_engine
from tests.support.server import Server, running

OWN, POOLED = (1, 2), (8, 9)
EVERYONE = (*OWN, *POOLED)
OLD = "2020-01-01 00:00:00"
pytestmark = pytest.mark.feature


def project(mode: str, events: str = EVENTS, **files: str) -> dict[str, str]:
    events = events.replace("tenant: tenant_id", f"tenant: {{column: tenant_id, fanout: {mode}}}")
    return {**FILES, "datasources/events.yaml": events, **files}


def send(server: Server, first: int, tenants: tuple[int, ...] = EVERYONE) -> None:
    """Six rows for each tenant, two of them old; returns when every nest has them."""
    rows = [
        {"tenant_id": t, "event": "abc"[n % 3], "units": first * 100 + n + t} | ({"timestamp": OLD} if n < 2 else {})
        for n in range(6)
        for t in tenants
    ]
    server.events("events", rows)
    settle(server)


def settle(server: Server) -> None:
    until(lambda: not any(d["rows"] for d in server.admin_json("GET", "/v0/fanout")["datasources"]))


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)


def healthy(server: Server, *, deep: bool = False) -> None:
    """`deep` compares all rows again, as `exact` does, in the doctor's own way."""
    report = server.admin_json("GET", "/v0/doctor", params={"deep": "true"} if deep else {})
    # A row is in quarantine from the beginning.
    assert [f for f in report["findings"] if f["check"] != "quarantine"] == []


# With views on landing, completing the newest insert at the start loads the tables of nests.
@pytest.fixture(scope="module", params=["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def prepared(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp(mode) / "home"
    with running(home) as server:
        server.push(project(mode))
        for ids, placement in ((OWN, "tables"), (POOLED, "pooled")):
            server.admin_json("POST", "/v0/tenants", json={"ids": [*map(str, ids)], "placement": placement})
        send(server, 1)
        send(server, 2)
        bad = {"tenant_id": 1, "event": "a", "units": "bad"}
        server.admin_json("POST", "/v0/events", params={"name": "events", "wait": "true"}, json=bad)
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


@contextmanager
def restarted(home: Path, own: tuple[int, ...] = OWN, pooled: tuple[int, ...] = POOLED) -> Iterator[Server]:
    """A server just after its start. At the end, all values are checked, and again after further rows."""
    with running(home) as server:
        yield server
        exact(server, own, pooled)
        send(server, 3)
        exact(server, own, pooled)
        healthy(server)


def exact(server: Server, own: tuple[int, ...], pooled: tuple[int, ...]) -> None:
    assert_exact(server, own, pooled)
    assert_kinds_exact(server)


@pytest.mark.soak_only
def test_doctor(home: Path) -> None:
    """As in `test_unloaded_nests.py`, over HTTP."""
    with restarted(home) as server:
        healthy(server, deep=True)


def test_purge(home: Path) -> None:
    """Of a tenant with tables, which are not loaded, and of a pooled one."""
    own, pooled = OWN[1:], POOLED[1:]
    with running(home) as server:
        for tenant in (OWN[0], POOLED[0]):
            server.admin_json("DELETE", f"/v0/tenants/{tenant}", params={"purge": "true"})
            assert server.sql(f"SELECT count() AS n FROM events WHERE tenant_id = {tenant}") == [{"n": 0}]
        assert server.sql("SELECT count() AS n FROM events") == [{"n": 12 * (len(EVERYONE) - 2)}]
        # A purge does not change `kinds`, whose rows have no tenant.
        for _ in range(2):
            assert_exact(server, own, pooled)
            send(server, 3, (*own, *pooled))


def test_tenants_change(home: Path) -> None:
    """Each change is the first use of its tenant's nest."""
    own, pooled = (1, 4, 9), (2, 8)
    with restarted(home, own, pooled) as server:
        path = "/v0/datasources/events/quarantine"
        (row,) = server.admin_json("GET", path)["rows"]
        corrected = {"id": row["c__id"], "text": '{"tenant_id": 1, "event": "a", "units": 11}'}
        assert server.admin_json("POST", f"{path}/replay", json={"rows": [corrected]})["successful_rows"] == 1
        for tenant in (2, 9):
            server.admin_json("DELETE", f"/v0/tenants/{tenant}")
            assert server.sql(f"SELECT count() AS n FROM events WHERE tenant_id = {tenant}") == [{"n": 12}]
            server.tenant(str(tenant), "tables" if tenant in own else "pooled")
        server.events("events", [{"tenant_id": 4, "event": "a", "units": 5}])
        server.tenant("4", "tables")
        assert rows_as_tenant(server, 4, "SELECT sum(units) AS u FROM usage_daily") == [{"u": 5}]
        settle(server)


@pytest.mark.soak_only
def test_another_fanout_mode(home: Path, mode: str) -> None:
    """As in `test_unloaded_nests.py`, over HTTP and back again."""
    with restarted(home) as server:
        server.push(project("direct" if mode == "routed" else "routed"))
        send(server, 7)
        server.push(project(mode))


CHANGES = {
    "a column": ("engine:", "  - {name: place, type: String, default: \"'here'\"}\nengine:"),
    "a default": ('default: "1"', 'default: "2"'),
    "a wider type": ("type: UInt64", "type: UInt128"),
    "another encoding": ("{name: event, type: LowCardinality(String)}", "{name: event, type: String}"),
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param([*CHANGES], id="all at once"),
        *(pytest.param([c], id=c, marks=pytest.mark.soak_only) for c in CHANGES),
    ],
)
def test_a_push_alters_landing_and_its_copies(home: Path, mode: str, changes: list[str]) -> None:
    events = EVENTS
    for change in changes:
        events = events.replace(*CHANGES[change])
    files = project(mode, events)
    with restarted(home) as server:
        server.push(files, allow=["events", "usage_daily", "kinds"])
        if "a column" in changes:
            assert rows_as_tenant(server, 2, "SELECT DISTINCT place FROM events") == [{"place": "here"}]
        if "a default" in changes:
            server.events("events", [{"tenant_id": t, "event": "d"} for t in EVERYONE])
            settle(server)
            assert rows_as_tenant(server, 2, "SELECT sum(units) AS u FROM events WHERE event = 'd'") == [{"u": 2}]
        assert server.push(files, dry_run=True)["steps"] == []


def test_a_push_rebuilds_a_derived_table_and_adds_another(home: Path, mode: str) -> None:
    more = {
        "pipes/usage_pipe.yaml": USAGE_PIPE.replace("FROM events", "FROM events WHERE event != 'c'"),
        "datasources/usage_twice.yaml": USAGE,
        "pipes/twice_pipe.yaml": USAGE_PIPE.replace("usage_sums", "twice_sums").replace("usage_daily", "usage_twice"),
    }
    with running(home) as server:
        server.push(project(mode, **more), allow=["usage_pipe"])
        for tenant in EVERYONE:
            rows = rows_as_tenant(server, tenant, "SELECT sum(events) AS n FROM usage_twice")
            assert rows == [{"n": 12}]
        for _ in range(2):
            assert_exact(server, OWN, POOLED, also=" AND event != 'c'")
            send(server, 4)
        assert_kinds_exact(server)
        healthy(server, deep=True)


def test_a_ttl_removes_old_rows_everywhere(home: Path, mode: str) -> None:
    """Rows expire in landing and in all copies; the sums keep what they counted."""
    files = project(mode, EVENTS.replace("engine: {", "engine: {ttl: timestamp + INTERVAL 1 YEAR, "))
    old = f"SELECT countIf(timestamp = '{OLD}') AS old, count() AS n FROM events"

    def expired(server: Server) -> bool:
        return server.sql(old) == [{"old": 0, "n": 8 * len(EVERYONE)}] and all(
            rows_as_tenant(server, t, old) == [{"old": 0, "n": 8}] for t in OWN
        )

    with running(home) as server:
        server.push(files, allow=["events"])
        until(lambda: expired(server))
        for tenant in EVERYONE:
            assert rows_as_tenant(server, tenant, "SELECT sum(events) AS n FROM usage_daily") == [{"n": 12}]
    with running(home) as server:
        assert expired(server)
        report = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})
        assert report["healthy"], report["findings"]


def test_repair_of_a_table_that_lost_its_rows(home: Path) -> None:
    on_the_engine(home, "TRUNCATE TABLE main_nest_1.usage_daily", "TRUNCATE TABLE main_nest_2.events")
    with restarted(home) as server:
        report = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})
        assert {f["object"] for f in report["findings"]} >= {"main_nest_1.usage_daily", "main_nest_2.events"}
        server.admin_json("POST", "/v0/doctor", json={})
        healthy(server, deep=True)


def fails(server: Server) -> bool:
    """Whether a view is suspended, or a tenant has fallen behind."""
    fanout = server.admin_json("GET", "/v0/fanout")
    return bool(fanout["suspended"]) or any(d["lagging"] for d in fanout["datasources"])


@pytest.mark.soak_only
def test_a_failing_nest_is_repaired(home: Path) -> None:
    table, away = "main_nest_2.usage_daily", "main_nest_2.usage_away"
    on_the_engine(home, f"RENAME TABLE {table} TO {away}")
    with running(home) as server:
        server.events("events", [{"tenant_id": t, "event": "a", "units": 3} for t in EVERYONE])
        until(lambda: fails(server))
    on_the_engine(home, f"RENAME TABLE {away} TO {table}")
    with restarted(home) as server:
        for command in ("repair", "retry"):
            for_server(server, home.parent / "cli")("fanout", command)
        settle(server)


def test_a_backup_has_the_rows_of_all_nests(home: Path, tmp_path: Path) -> None:
    def values(server: Server) -> list[Any]:
        sums = "SELECT event, sum(events) AS e, sum(units) AS u FROM usage_daily GROUP BY event ORDER BY event"
        copies = "SELECT count() AS n, sum(units) AS u, groupBitXor(units) AS x FROM events"
        return [rows_as_tenant(server, t, sql) for t in EVERYONE for sql in (sums, copies)]

    with running(home) as server:
        for_server(server, tmp_path / "backups")("backup", "b.tar", "--no-verify")
        expected = values(server)
    Cli(tmp_path)("restore", "backups/b.tar", "copy/.rookery/data")
    with restarted(tmp_path / "copy") as server:
        assert values(server) == expected
