"""Objects of other programs in the workspace's databases are never changed and never adopted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions
from tests.cli.billing import FILES, KINDS
from tests.cli.commands import Cli, for_server
from tests.support.server import running


def on_the_engine(directory: Path, *statements: str) -> list[Any]:
    """Run statements of another program while no server runs on the directory; returns the rows of the SELECTs."""
    warehouse = EmbeddedWarehouse(directory / ".rookery" / "data", WarehouseOptions(database="main_empty"))
    found: list[Any] = []
    try:
        for sql in statements:
            if sql.startswith("SELECT"):
                found.append([list(row) for row in warehouse.query(sql).rows])
            else:
                warehouse.execute(sql)
    finally:
        warehouse.close()
    return found


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
