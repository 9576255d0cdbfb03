"""The time zone of a workspace: results do not depend on the host's zone, and another zone is refused."""

from __future__ import annotations

import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import errors
from engine.errors import SETTING, RookeryError
from engine.settings import Settings, load
from engine.workspace.opening import open_workspace
from tests.cli.commands import Cli
from tests.support.clickhouse_http import WRITER, serve
from tests.support.server import Server, running

HOSTS = ("America/New_York", "Asia/Kathmandu")
EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt32}
  - {name: at, type: DateTime}
  - {name: fine, type: DateTime64(3)}
  - {name: day, type: Date, default: toDate(at)}
  - {name: hour, type: DateTime, default: toStartOfHour(fine)}
  - {name: perhaps, type: Nullable(DateTime)}
engine: {sorting_key: [tenant_id, at], ttl: toDate(at) + INTERVAL 40 YEAR}
"""
DAILY = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
  - {name: start, type: DateTime}
  - {name: events, type: UInt64}
engine: {type: SummingMergeTree, sorting_key: [tenant_id, day, start], columns: [events]}
"""
FILES = {
    "datasources/events.yaml": EVENTS,
    "datasources/daily.yaml": DAILY,
    "pipes/fill_daily.yaml": """
nodes:
  - name: day_rows
    sql: SELECT tenant_id, toDate(at) AS day, toStartOfDay(fine) AS start, count() AS events FROM events GROUP BY tenant_id, day, start
materialize: {target: daily, per_tenant: true}
""",
    "endpoints/rows.yaml": """
sql: |
  SELECT id, at, fine, day, hour, perhaps, toHour(at) AS h, toString(fine) AS text, toUnixTimestamp(at) AS epoch,
    toDate(perhaps) AS perhaps_day, formatDateTime(at, '%F %H') AS shown FROM events ORDER BY id
""",
    "endpoints/days.yaml": "sql: SELECT day, start, sum(events) AS n FROM daily GROUP BY day, start ORDER BY day\n",
    "endpoints/since.yaml": """
sql: |
  SELECT groupArray(id) AS ids FROM (SELECT id FROM events WHERE at >= {{DateTime(since, '2024-11-05 04:30:00')}}
  AND toDate(fine) >= '2024-11-05' AND at != '2024-11-05 23:59:59' ORDER BY id)
""",
}
FILES["endpoints/moments.yaml"] = """
sql: |
  SELECT toUnixTimestamp({{DateTime(t, '2024-11-05T04:30:00Z')}}) AS t,
    toUnixTimestamp64Milli({{DateTime64(m, '2024-11-05 06:30:00.250+02:00', precision=3)}}) AS m,
    arrayMap(x -> toUnixTimestamp(x), {{Array(a, 'DateTime', '2024-11-05T04:30:00Z')}}) AS a,
    toString({{Date(d, '2024-11-05')}}) AS d, toUnixTimestamp(toDateTime({{bare}})) AS b,
    {{date_diff_in_minutes(DateTime(t, '2024-11-05T04:30:00Z'), '2024-11-05T05:00:00Z')}} AS apart
parameters:
  - {name: bare, type: DateTime, default: "2024-11-05 04:30:00"}
"""
FORMS = {
    "2024-11-05T04:30:00.000Z": 0,
    "2024-11-05t04:30:00z": 0,
    "2024-11-05 04:30:00+00:00": 0,
    "2024-11-05T10:15:00+05:45": 0,
    "2024-11-04T23:30:00-0500": 0,
    "2024-11-05 04:30 UTC": 0,
    "2024/11/5 4:30:00,9Z": 0,
    "1730781000": 0,
    "1730781000.75": 0,
    "1730781000000": 0,
    "1730781000999": 0,
    "1730781000000000": 0,
    "1730781000000000000": 0,
    "2024-11-05T04:30:01Z": 1,
}
"""Moments with an offset, or as a number, by their distance in seconds from `AT`."""
AT = 1730781000
TENANTS = {"1": "tables", "2": "pooled"}
CLOCKS = """
columns:
  - {name: id, type: UInt32}
  - {name: at, type: DateTime}
  - {name: fine, type: DateTime64(3)}
  - {name: perhaps, type: Nullable(DateTime)}
  - {name: berlin, type: DateTime('Europe/Berlin')}
  - {name: many, type: Array(DateTime)}
  - {name: deep, type: DateTime, json: $.a.b}
  - {name: each, type: Array(DateTime), json: "$.items[:].at"}
engine: {sorting_key: [id]}
"""
KEPT = {
    "2024-03-10 01:59:59": 1710053999,
    "2024-03-10T02:30:00-05:00": 1710055800,
    "2024-03-10 03:00:00": 1710054000,
    "2024-11-03 01:30:00": 1730611800,
    "2024-11-03 01:30:00-05:00": 1730615400,
}
"""Times around changes of clocks in New York, with the seconds since 1970; that without an offset is the first one."""
SKIPPED: dict[str, Any] = {
    "at": "2024-03-10 02:30:00",
    "fine": "2024-03-10T02:00:00.250",
    "perhaps": "2024-03-10 02:59:59",
    "berlin": "2024-03-31 02:30:00",
    "many": ["2024-03-10 02:30:00"],
    "deep": "2024-03-10 02:30:00",
    "each": ["2024-03-10 02:30:00"],
}
"""By column: a time that does not exist in its zone."""
FIRST = datetime(2024, 11, 4, 18, 30, tzinfo=UTC)


def sent(number: int) -> dict[str, Any]:
    """An event every 75 minutes; a moment is written in another form each time."""
    moment = FIRST + timedelta(minutes=75 * number)
    forms = (
        moment.strftime("%Y-%m-%d %H:%M:%S"),
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.strftime("%Y-%m-%dt%H:%M:%S.000z"),
        moment.astimezone(ZoneInfo("Asia/Tokyo")).isoformat(),
        int(moment.timestamp()),
        str(int(moment.timestamp()) * 1000),
    )
    at = forms[number % len(forms)]
    return {"tenant_id": number % 2 + 1, "id": number, "at": at, "fine": at, "perhaps": at if number % 3 else None}


def asked(server: Server, **given: str) -> dict[str, Any]:
    """The answer of the endpoint that shows what it was given."""
    response = server.get("/v0/pipes/moments.json", server.admin_token, params=given)
    assert response.status_code == 200, response.text
    row: dict[str, Any] = response.json()["data"][0]
    return row


def misread(server: Server) -> list[str]:
    """Moments that are not taken for what they are, in any of the types."""
    wrong = []
    for text, later in FORMS.items():
        values = asked(server, t=text, m=text, a=text.replace(",", "."), bare=text)
        expected = {"t": AT + later, "a": [AT + later], "b": AT + later, "apart": 30 - (later > 0)}
        if {k: values[k] for k in expected} != expected or int(values["m"]) // 1000 != AT + later:
            wrong.append(f"{text}: {values}")
    return wrong


def adrift(server: Server, key: str) -> list[str]:
    """Times that rookery itself records, in UTC: of a receipt, of a quarantined row and of a tenant."""
    headers = {"Idempotency-Key": key}
    for _ in range(2):
        body = json.dumps({"tenant_id": 1, "id": "none", "at": 0})
        server.admin_json("POST", "/v0/events", params={"name": "events"}, content=body, headers=headers)
    rows = server.admin_json("GET", "/v0/datasources/events/quarantine", params={"limit": 1})["rows"]
    receipts = server.admin_json("GET", f"/v0/events/{quote(key)}")["receipts"]
    tenants = server.admin_json("GET", "/v0/tenants")["tenants"]
    times = [rows[0]["insertion_date"], receipts[0]["received_at"], next(t["created_at"] for t in tenants)]
    now = datetime.now(UTC)
    moments = [t if t.tzinfo else t.replace(tzinfo=UTC) for t in map(datetime.fromisoformat, times)]
    return [t for t, m in zip(times, moments, strict=True) if abs(m - now) > timedelta(minutes=30)]


def answers(server: Server) -> dict[str, Any]:
    data = {}
    for tenant in TENANTS:
        token = server.mint("PIPES:READ:rows", "PIPES:READ:days", "PIPES:READ:since", tenant=tenant)
        for endpoint in ("rows", "days", "since"):
            response = server.get(f"/v0/pipes/{endpoint}.json", token)
            assert response.status_code == 200, response.text
            data[f"{endpoint} of {tenant}"] = response.json()["data"]
    return data


def expected(numbers: range, zone: str) -> dict[str, Any]:
    """The same answers, computed here."""
    data: dict[str, Any] = {}
    for tenant in TENANTS:
        own = [n for n in numbers if str(n % 2 + 1) == tenant]
        local = {n: (FIRST + timedelta(minutes=75 * n)).astimezone(ZoneInfo(zone)) for n in own}
        data[f"rows of {tenant}"] = [
            {
                "id": n,
                "at": f"{t:%F %T}",
                "fine": f"{t:%F %T}.000",
                "day": f"{t:%F}",
                "hour": f"{t:%F %H}:00:00",
                "perhaps": f"{t:%F %T}" if n % 3 else None,
                "h": t.hour,
                "text": f"{t:%F %T}.000",
                "epoch": int(t.timestamp()),
                "perhaps_day": f"{t:%F}" if n % 3 else None,
                "shown": f"{t:%F %H}",
            }
            for n, t in local.items()
        ]
        days = Counter(f"{t:%F}" for t in local.values())
        data[f"days of {tenant}"] = [{"day": d, "start": f"{d} 00:00:00", "n": n} for d, n in sorted(days.items())]
        ids = [n for n, t in local.items() if f"{t:%F %T}" >= "2024-11-05 04:30:00" and f"{t:%F}" >= "2024-11-05"]
        data[f"since of {tenant}"] = [{"ids": ids}]
    return data


def test_numbers_do_not_depend_on_the_zone_of_the_host(tmp_path: Path) -> None:
    """Two hosts in turn, with rows on both; then a different zone."""
    for round, host in enumerate(HOSTS):
        with running(tmp_path, TZ=host) as server:
            if not round:
                server.push(FILES)
                for tenant, placement in TENANTS.items():
                    server.tenant(tenant, placement)
            server.events("events", [sent(n) for n in range(40 * round, 40 * round + 40)])
            actual, computed = answers(server), expected(range(40 * round + 40), "UTC")
            assert {k: v for k, v in actual.items() if v != computed[k]} == {}
            assert server.push(FILES, dry_run=True)["steps"] == []
            assert misread(server) == []
            assert adrift(server, f"{host} {round}") == []
            assert asked(server, t="2024-11-05 04:30:00", bare="2024-11-05", d="2024-11-05T23:59:59Z") == {
                "t": AT,
                "m": AT * 1000 + 250,
                "a": [AT],
                "d": "2024-11-05",
                "b": AT - 4 * 3600 - 1800,
                "apart": 30,
            }
    refused = Cli(tmp_path)("tenant", "ls", code=4, ROOKERY_TIMEZONE="Europe/Berlin")
    assert "RK7010" in refused.err and "UTC" in refused.err and "hint" in refused.err


@pytest.mark.feature
def test_a_workspace_keeps_the_zone_of_its_settings(tmp_path: Path) -> None:
    zone = "America/New_York"
    with running(tmp_path, ROOKERY_TIMEZONE=zone) as server:
        server.push(FILES)
        for tenant, placement in TENANTS.items():
            server.tenant(tenant, placement)
        rows = [sent(n) | ({"at": local, "fine": local} if n % 6 == 0 else {}) for n, local in _in(zone, 40)]
        server.events("events", [r if r["perhaps"] is None else r | {"perhaps": r["at"]} for r in rows])
    with running(tmp_path, TZ="Asia/Kathmandu") as server:
        actual, computed = answers(server), expected(range(40), zone)
        assert {k: v for k, v in actual.items() if v != computed[k]} == {}
        assert misread(server) == []
        local = asked(server, t="2024-11-04 23:30:00", a="2024-11-04 23:30:00,1730781000", d="2024-11-05T04:30:00Z")
        assert (local["t"], local["a"], local["d"], local["apart"]) == (AT, [AT, AT], "2024-11-04", 30)
        # Clocks are put back at 06:00 UTC and forward at 07:00 UTC: an hour occurs twice, and another one never.
        for moment in range(1730610000, 1730610000 + 3 * 3600, 1800):
            actual = asked(server, t=str(moment), m=f"{datetime.fromtimestamp(moment, UTC):%FT%TZ}", a=str(moment))
            assert (actual["t"], int(actual["m"]), actual["a"]) == (moment, moment * 1000, [moment])
        assert asked(server, t="2024-11-03 01:30:00")["t"] == 1730611800, "the first of the two"
        for name in ("t", "m", "a"):
            skipped = server.get("/v0/pipes/moments.json", server.admin_token, params={name: "2024-03-10 02:30:00"})
            assert skipped.status_code == 400 and "clocks are set forward" in skipped.json()["hint"]
        server.push({"datasources/clocks.yaml": CLOCKS})
        for format, body in _bodies_of_clocks().items():
            path = f"/v0/datasources?name=clocks&format={format}&mode=replace"
            response = server.post(path, server.admin_token, content=body).json()
            assert (response["rows"], response["quarantine_rows"]) == (len(KEPT), len(SKIPPED)), response
            shown = server.sql("SELECT toUnixTimestamp(at) AS t FROM clocks ORDER BY id")
            assert [row["t"] for row in shown] == [*KEPT.values()], format
            rows = server.admin_json("GET", "/v0/datasources/clocks/quarantine")["rows"]
            assert {name for row in rows for name in row["c__error_column"]} == {*SKIPPED}
            hints = ["clocks are set forward" in reason for row in rows for reason in row["c__error"]]
            assert sum(hints) == len(SKIPPED) - 2, "all but the lists"
            server.admin_json("DELETE", "/v0/datasources/clocks/quarantine", json={"all": True})


def _bodies_of_clocks() -> dict[str, bytes]:
    """The same rows in each format: times that exist, and one in each column that does not."""
    names = ["id", "at", *(name for name in SKIPPED if name != "at")]
    rows: list[dict[str, Any]] = [{"id": n, "at": text} for n, text in enumerate(KEPT)]
    rows += [{"id": 10 + n, name: text} for n, (name, text) in enumerate(SKIPPED.items())]
    lines = [",".join(names), *(",".join(f'"{r[n]}"' if n in r else "" for n in names) for r in rows)]
    texts = {
        name: pa.list_(pa.string()) if name in ("many", "each") else pa.string() for name in names if name != "id"
    }
    file = io.BytesIO()
    schema = pa.schema([("id", pa.int64()), *texts.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    events = [
        {**row, "a": {"b": row["deep"]}} if "deep" in row else
        {**row, "items": [{"at": text} for text in row["each"]]} if "each" in row else row
        for row in rows
    ]  # fmt: skip
    return {
        "ndjson": "\n".join(map(json.dumps, events)).encode(),
        "csv": "\n".join(lines).encode(),
        "parquet": file.getvalue(),
    }


def _in(zone: str, count: int) -> list[tuple[int, str]]:
    moments = [(FIRST + timedelta(minutes=75 * n)).astimezone(ZoneInfo(zone)) for n in range(count)]
    return [(n, f"{t:%F %T}") for n, t in enumerate(moments)]


@pytest.mark.feature
def test_the_registry_detects_a_lost_zone_mark(tmp_path: Path) -> None:
    def opened(zone: str | None) -> str:
        workspace = open_workspace(Settings(data=tmp_path / "data", readers=1, writers=2, timezone=zone))
        try:
            return workspace.zone
        finally:
            workspace.close()

    assert opened("Asia/Kathmandu") == "Asia/Kathmandu"
    (tmp_path / "data" / "rookery.layout").unlink()
    with pytest.raises(RookeryError) as refused:
        opened("Europe/Berlin")
    assert refused.value.code is errors.ZONE
    assert refused.value.hint == "set ROOKERY_TIMEZONE=Asia/Kathmandu"
    assert opened("Asia/Kathmandu") == opened(None) == "Asia/Kathmandu"
    assert json.loads((tmp_path / "data" / "rookery.layout").read_text())["timezone"] == "Asia/Kathmandu"


@pytest.mark.feature
def test_a_clickhouse_server_runs_in_the_zone_of_its_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(url: str, zone: str | None = None) -> str:
        user, password = WRITER
        given = {"clickhouse_url": url, "clickhouse_user": user, "clickhouse_password": password}
        workspace = open_workspace(Settings(data=tmp_path / "data", readers=1, writers=2, timezone=zone, **given))  # type: ignore[arg-type]
        try:
            return workspace.zone
        finally:
            workspace.close()

    monkeypatch.setenv("TZ", "Europe/Berlin")
    with serve(tmp_path / "server") as url:
        for zone in (None, "UTC"):
            with pytest.raises(RookeryError) as refused:
                opened(url, zone)
            assert refused.value.code is errors.ZONE and "ROOKERY_TIMEZONE=Europe/Berlin" in str(refused.value.hint)
        assert opened(url, "Europe/Berlin") == opened(url) == "Europe/Berlin"
    monkeypatch.setenv("TZ", "UTC")
    with serve(tmp_path / "server") as url:
        with pytest.raises(RookeryError) as refused:
            opened(url)
        assert refused.value.code is errors.ZONE and "<timezone>Europe/Berlin</timezone>" in str(refused.value.hint)


@pytest.mark.feature
@pytest.mark.parametrize(
    "name", ["Mars/Base", "Europe", "localtime", "right/UTC", "../../etc/passwd", "UTC'", "", " UTC", "+02:00"]
)
def test_an_unknown_zone_is_refused(name: str) -> None:
    if not name:
        assert load(timezone=name or None).timezone is None
        return
    with pytest.raises(RookeryError) as refused:
        load(timezone=name)
    assert refused.value.code is SETTING and "timezone" in refused.value.message


@pytest.mark.feature
@pytest.mark.parametrize("name", ["UTC", "Etc/UTC", "Zulu", "GMT", "Etc/Universal"])
def test_all_names_of_utc_are_equal(name: str) -> None:
    assert load(timezone=name).timezone == "UTC"
