"""`rookery explain`: readable in a terminal of 80 columns, complete as JSON, and for admins only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.commands import for_server
from tests.support.server import Server

pytestmark = pytest.mark.feature

FILES = {
    "datasources/events.yaml": """
tenant: tenant
columns:
  - {name: tenant, type: UInt32}
  - {name: day, type: Date}
  - {name: kind_of_event_that_the_application_sends, type: String}
engine: {sorting_key: [tenant, day]}
""",
    "pipes/usage.yaml": """
sql: >
  SELECT day, count() AS n FROM events WHERE day >= {{ Date(from_day, '2026-01-01') }}
  AND kind_of_event_that_the_application_sends = 'a' GROUP BY day ORDER BY day
""",
}


def test_an_explanation_in_a_terminal_and_as_json(shared_server: Server, tmp_path: Path) -> None:
    server, cli = shared_server, for_server(shared_server, tmp_path)
    server.push(FILES)
    server.tenant("7")
    rows = [{"tenant": 7, "day": "2026-01-02", "kind_of_event_that_the_application_sends": "a"}]
    server.events("events", rows)
    call = ("explain", "usage", "from_day=2026-01-02", "--tenant", "7")
    output = cli(*call, "--json").json
    assert (output["pipe"], output["tenant"], output["result_rows"]) == ("usage", "7", 1)
    assert output["memory_bytes"] > 0
    text = cli.terminal(*call)
    shown = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert max(map(len, shown.splitlines())) <= 80, shown
    for word in (
        "rk_tenant_uint32",
        "2026-01-02",
        "PrimaryKey",
        "1 of 1",
        "serialization",
        "memory",
        "1 row",
        "warning",
        "hint",
    ):
        assert word in text, word
    plain = cli(*call)
    assert output["sql"] in plain.out
    assert "kind_of_event_that_the_application_sends" in plain.err


def test_mistakes(shared_server: Server, tmp_path: Path) -> None:
    server, cli = shared_server, for_server(shared_server, tmp_path)
    assert "RK4008" in cli("explain", "no_such_endpoint", code=7).err
    assert "RK7002" in cli("explain", "usage", "from_day", code=2).err
    token = server.mint("READ:ALL")
    assert "RK4003" in cli("explain", "usage", ROOKERY_TOKEN=token, code=5).err
