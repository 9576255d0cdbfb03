"""Objects of other programs in the workspace's databases are never changed and never adopted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli.billing import FILES, KINDS
from tests.cli.commands import ROOT, Cli, for_server
from tests.support.server import running

ENGINE = """
import json, sys
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions
from pathlib import Path
warehouse = EmbeddedWarehouse(Path(sys.argv[1]), WarehouseOptions(database="main_empty"))
found = []
for sql in json.load(sys.stdin):
    if sql.startswith("SELECT"):
        found.append([list(r) for r in warehouse.query(sql).rows])
    else:
        warehouse.execute(sql)
print(json.dumps(found, default=str))
warehouse.close()
"""


def on_the_engine(directory: Path, *statements: str) -> list[Any]:
    """Run statements of another program while no server runs on the directory; returns the rows of the SELECTs."""
    completed = subprocess.run(
        [sys.executable, "-c", ENGINE, str(directory / ".rookery" / "data")],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return list(json.loads(completed.stdout))


def test_foreign_tables_are_refused_and_survive_prune_and_tenant_rm(tmp_path: Path) -> None:
    home = tmp_path / "home"
    cli = Cli(home)
    cli.write(FILES)
    cli("push")
    cli("tenant", "add", "1", "--placement", "tables")
    tables = ("main.theirs", "main_nest_1.theirs", "main_other.theirs")
    on_the_engine(
        home,
        "CREATE DATABASE main_other",
        *(f"CREATE TABLE {t} (a String) ENGINE = MergeTree ORDER BY a COMMENT 'mine'" for t in tables),
        *(f"INSERT INTO {t} VALUES ('kept')" for t in tables),
        "CREATE MATERIALIZED VIEW main.theirs_view TO main.theirs AS SELECT event AS a FROM main.events",
    )
    with running(home) as server:
        here = for_server(server, tmp_path / "checkout")
        here.write({**FILES, "datasources/theirs.yaml": KINDS})
        for command in (["push"], ["push", "--allow-destructive", "theirs"], ["push", "--prune"]):
            refusal = here(*command, code=4).err
            assert "RK3002" in refusal
            assert "main.theirs" in refusal
        assert "theirs" not in {d["name"] for d in server.admin_json("GET", "/v0/datasources")["datasources"]}
        (here.directory / "datasources/theirs.yaml").unlink()
        here("plan")
        (here.directory / "pipes/kinds_pipe.yaml").unlink()
        (here.directory / "datasources/kinds.yaml").unlink()
        here("push", "--prune", "--allow-destructive", "kinds", "--allow-destructive", "kinds_pipe")
        here("tenant", "rm", "1")
        server.events("events", [{"tenant_id": 1, "event": "for their view"}])
        here("tenant", "add", "1", "--placement", "tables")
        assert "theirs" not in [d["name"] for d in server.admin_json("GET", "/v0/datasources")["datasources"]]
    rows = on_the_engine(home, *(f"SELECT groupArray(a) FROM (SELECT a FROM {t} ORDER BY a)" for t in tables))
    assert rows == [[[["for their view", "kept"]]], [[["kept"]]], [[["kept"]]]]
