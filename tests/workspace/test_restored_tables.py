"""Workspaces in a ClickHouse server: files as backups are refused, and so are tables that RESTORE has copied."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.billing import FILES
from tests.cli.commands import Cli
from tests.support.clickhouse_http import serve, server_settings

COPY = """
import json, sys
import chdb

engine = chdb.connect(sys.argv[1])
def rows(sql):
    return json.loads(engine.query(sql, "JSONCompact").bytes())["data"]

engine.query("SYSTEM START MERGES main.events")
engine.query("OPTIMIZE TABLE main.events FINAL")
before = rows("SELECT units, _block_number FROM main.events ORDER BY units")
engine.query("BACKUP DATABASE main TO Memory('copy')")
engine.query("DROP DATABASE main SYNC")
engine.query("RESTORE DATABASE main FROM Memory('copy')")
print(json.dumps([before, rows("SELECT units, _block_number FROM main.events ORDER BY units")]))
engine.close()
"""


def copied_by_the_server(path: Path) -> Any:
    """Replace the workspace's tables by copies that RESTORE makes. Returns rows with block numbers before and after."""
    done = subprocess.run([sys.executable, "-c", COPY, str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def over_a_server(directory: Path, url: str) -> Cli:
    directory.mkdir(exist_ok=True)
    return Cli(directory, server_settings(url))


@pytest.mark.feature
def test_files_as_backups_and_restored_tables_of_a_server_are_refused(tmp_path: Path) -> None:
    with serve(tmp_path / "clickhouse") as url:
        cli = over_a_server(tmp_path / "project", url)
        cli.write(FILES)
        cli("push")
        assert "nothing to migrate" in cli("upgrade").err
        for command in (("backup", "b.tar"), ("restore", "b.tar", "data")):
            refused = cli(*command, code=1)
            assert "RK6021" in refused.err, command
            assert "hint" in refused.err, command
            assert "disk:" in refused.err or command[0] != "backup", "the way to make one"
        assert not list((tmp_path / "project").glob("b.tar"))
        assert not list((tmp_path / "project").glob(".rookery-*"))
        for units in (1, 2, 3):
            row = json.dumps({"tenant_id": 1, "event": "a", "units": units})
            cli("append", "events", "-", "--format", "ndjson", input=row)
        # The workspace is the same at every other start.
        assert len(cli("--json", "sql", "SELECT units FROM events").json) >= 1
    before, after = copied_by_the_server(tmp_path / "clickhouse")
    assert [row[0] for row in before] == [row[0] for row in after]
    assert before != after, "the engine keeps block numbers now: its BACKUP could be used"
    with serve(tmp_path / "clickhouse") as url:
        refused = over_a_server(tmp_path / "project", url)("sql", "SELECT units FROM events", code=6)
        assert "RK6022" in refused.err
        assert "docs/backup.md" in refused.err
