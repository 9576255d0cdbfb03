"""Progress of long work: lines over HTTP, and a bar in terminals only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.progress_bar import Bar
from engine.control.doctor.examination import DEEP
from tests.cli.billing import FILES
from tests.cli.commands import for_server
from tests.support.server import Server

pytestmark = pytest.mark.feature
LINES = {"accept": "application/x-ndjson"}


def fill(server: Server) -> None:
    server.push(FILES)
    for tenant in ("1", "2"):
        server.tenant(tenant, "tables")
    server.events("events", [{"tenant_id": t, "event": "a"} for t in (1, 2)])


def watched(server: Server, method: str, path: str, **kwargs: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The progress, and the last line."""
    answer = server.admin(method, path, headers=LINES, **kwargs)
    assert answer.status_code == 200
    *steps, last = map(json.loads, answer.text.splitlines())
    assert all(0 <= s["progress"]["done"] <= s["progress"]["total"] for s in steps)
    return [s["progress"] for s in steps], last


def test_the_doctor_reports_each_check(shared_server: Server) -> None:
    fill(shared_server)
    steps, last = watched(shared_server, "GET", "/v0/doctor", params={"deep": "true"})
    checks = [s for s in steps if s["what"].startswith("check ")]
    assert [s["what"] for s in checks] == [f"check {name}" for name in last["result"]["checks"]]
    assert [s["done"] for s in checks] == list(range(len(checks)))
    assert {s["total"] for s in steps} == {len(checks)}
    done = [s["done"] for s in steps]
    assert done == sorted(done)
    # Checks that read rows also name their tables, of which there may be thousands.
    tables = {s["what"] for s in steps} - {s["what"] for s in checks}
    assert {"rows of main_nest_2.events (3 of 4)", "events of tenant 2 (2 of 2)"} <= tables, tables
    assert any(t.startswith("compare main.kinds (") for t in tables)
    quick, last = watched(shared_server, "GET", "/v0/doctor")
    assert len(quick) == len(last["result"]["checks"]) == len(checks) - len(DEEP)
    repaired, last = watched(shared_server, "POST", "/v0/doctor", json={"allow": []})
    assert last == {"result": {"repaired": []}}
    assert "compare main.kinds" in [s["what"] for s in repaired]
    _, last = watched(shared_server, "POST", "/v0/doctor", json={"allow": ["none"]})
    assert (last["failure"]["code"], last["failure"]["status"]) == ("RK3007", 404)


def test_a_purge_reports_each_table(shared_server: Server) -> None:
    fill(shared_server)
    steps, last = watched(shared_server, "DELETE", "/v0/tenants/1", params={"purge": "true"})
    assert last == {"result": None}
    assert [s["what"] for s in steps if "events" in s["what"]] == [
        "erase quarantine of events",
        "erase rows of events",
    ]
    done = [s["done"] for s in steps]
    assert done == sorted(done)
    _, last = watched(shared_server, "DELETE", "/v0/tenants/unknown")
    assert last["failure"]["status"] in (400, 404)
    assert shared_server.admin("DELETE", "/v0/tenants/2").status_code == 204


def test_ids_of_tenants_are_not_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Bar("doctor") as bar:
        bar("events of tenant [/x]\u202e[red]", 1, 2)
    shown = capsys.readouterr().err
    assert "[/x]" in shown and "\u202e" not in shown


def test_a_bar_is_shown_in_terminals_but_not_with_json(shared_server: Server, tmp_path: Path) -> None:
    fill(shared_server)
    cli = for_server(shared_server, tmp_path)
    assert "check " in cli.terminal("doctor", TERM="xterm")
    assert "check " not in cli("doctor").err
    json.loads(cli.terminal("--json", "doctor", TERM="xterm"))
    assert "recompute shared groups" in cli.terminal("tenant", "rm", "2", "--purge", TERM="xterm")
    assert "erase rows" not in cli("tenant", "rm", "1", "--purge").err
