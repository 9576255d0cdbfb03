"""Backup and restore of a workspace on a ClickHouse server, which chDB imitates: the restored copy continues exactly.

RESTORE numbers blocks again and forgets deduplication tokens, so each test appends to the copy and repeats requests.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.backup import description as descriptions
from engine.backup.embedded import backups_of
from engine.errors import NOT_DELIVERED, RESTORE_UNFINISHED, USAGE, RookeryError
from engine.schema import Mark
from engine.settings import Settings
from engine.warehouse.server import ServerWarehouse
from engine.warehouse.server_backup import Destination, Statement
from engine.workspace.opening import open_workspace
from tests.cli.backups import fill
from tests.cli.billing import EVENTS, FILES, assert_exact, assert_kinds_exact
from tests.cli.commands import Cli, for_server
from tests.support.clickhouse_http import WRITER, serve, server_settings
from tests.support.server import Server, running
from tests.support.soak import soaking

pytestmark = pytest.mark.proves("D19")

PLANS = """
shared: true
columns:
  - {name: plan, type: String}
  - {name: price, type: UInt64}
engine: {type: MergeTree, sorting_key: [plan]}
"""
ROUTED = {
    **FILES,
    "datasources/events.yaml": EVENTS.replace("tenant: tenant_id", "tenant: {column: tenant_id, fanout: routed}"),
    "datasources/plans.yaml": PLANS,
}


def keyed(server: Server, key: str, datasource: str = "events", **row: Any) -> dict[str, Any]:
    """Append one good row, and one bad row to landing, under a key."""
    rows = [row, {**row, "units": "no number"}] if datasource == "events" else [row]
    options: dict[str, Any] = {
        "params": {"name": datasource, "wait": "visible"},
        "headers": {"idempotency-key": key},
        "content": "\n".join(map(json.dumps, rows)),
    }
    answer: dict[str, Any] = server.admin_json("POST", "/v0/events", **options)
    return answer


KEYS = {
    "old": {"tenant_id": 1, "event": "old", "units": 5},
    "plan": {"datasource": "plans", "plan": "pro", "price": 7},
    "new": {"tenant_id": 8, "event": "new", "units": 6},
}


def assert_intact(server: Server) -> None:
    assert_exact(server, [1, 2], [8])
    assert_kinds_exact(server)
    report = server.admin_json("GET", "/v0/doctor", params={"deep": "true"})
    assert [f for f in report["findings"] if f["level"] == "error"] == []


@dataclass
class Saved:
    """A backup, and what the workspace answered at its moment."""

    directory: Path
    """Where the disk `backups` of every server is."""
    description: dict[str, Any]
    answers: dict[str, Any]


def answers(server: Server) -> dict[str, Any]:
    sums = "SELECT tenant_id, event, sum(events) AS e, sum(units) AS u FROM usage_daily GROUP BY ALL ORDER BY ALL"
    return {
        "events": server.sql("SELECT tenant_id, event, units FROM events ORDER BY ALL"),
        "sums": server.sql(sums),
        "plans": server.sql("SELECT * FROM plans ORDER BY ALL"),
        "quarantine": sorted(
            r["c__text"] for r in server.admin_json("GET", "/v0/datasources/events/quarantine")["rows"]
        ),
        "token": server.admin_json("GET", "/v0/tokens/reader")["token"],
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A backup made after the ClickHouse server and rookery have been started again."""
    directory = tmp_path_factory.mktemp("backed_up")
    (directory / "disk").mkdir()
    with serve(directory / "clickhouse") as url, running(directory / "home", **server_settings(url)) as server:
        server.push(ROUTED)
        fill(server)
        server.static("reader", "PIPES:READ:usage", tenant="1")
        for key, row in KEYS.items():
            assert "repeated" not in keyed(server, key, **row)
        # A restored part is one block. This one has the rows of several batches, and later ones follow it.
        ask(url, "OPTIMIZE TABLE main.events FINAL")
        server.events("events", [{"tenant_id": t, "event": "b", "units": 1} for t in (1, 2, 8)])
    with (
        serve(directory / "clickhouse", backups=directory / "disk") as url,
        running(directory / "home", **server_settings(url)) as server,
    ):
        cli = for_server(server, directory / "project")
        description = cli("--json", "backup", "disk:backups/nightly/1").json
        assert "RK7021" in cli("backup", "disk:backups/nightly/1", code=4).err
        assert_intact(server)
        return Saved(directory / "disk", description, answers(server))


@contextmanager
def empty_server(saved: Saved, directory: Path) -> Iterator[Cli]:
    """The command line with a new ClickHouse server."""
    (directory / "project").mkdir(parents=True)
    with serve(directory / "clickhouse", backups=saved.directory) as url:
        yield Cli(directory / "project", server_settings(url))


def test_a_restored_workspace_has_everything_and_continues(saved: Saved, tmp_path: Path) -> None:
    with empty_server(saved, tmp_path) as cli:
        restored = cli("--json", "restore", "disk:backups/nightly/1").json
        assert restored["tables"] == saved.description["tables"]
        assert "RK7021" in cli("restore", "disk:backups/nightly/1", code=4).err
        with running(tmp_path / "home", **cli.environment) as server:
            assert answers(server) == saved.answers
            assert_intact(server)
            for key, row in KEYS.items():
                assert keyed(server, key, **row)["repeated"] is True
            assert answers(server) == saved.answers
            server.events("events", [{"tenant_id": t, "event": "b", "units": n} for n in range(5) for t in (1, 2, 8)])
            keyed(server, "later", tenant_id=2, event="later", units=1)
            assert_intact(server)
        # The next start must not deliver the newest batch again.
        with running(tmp_path / "home", **cli.environment) as server:
            assert_intact(server)
            server.tenant("3", "tables")
            server.events("events", [{"tenant_id": 3, "event": "b", "units": 1}])
            assert_exact(server, [1, 2, 3], [8])


def killed_restore(url: str, write: int) -> None:
    """Restore in this process, which is killed just before its n-th write."""
    from engine.backup.restoring import restore

    left, seen = write, set[str]()

    def counted(name: str) -> None:
        whole = getattr(ServerWarehouse, name)

        def call(self: ServerWarehouse, sql: str, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            # Of the statements that are repeated for every table or database, only the first of each kind counts.
            kind = " ".join(sql.split(" ")[:2])
            if kind not in seen and (name != "query" or kind.startswith("RESTORE ")):
                seen.update({kind} & {"DETACH TABLE", "ATTACH TABLE", "DROP DATABASE", "CREATE TABLE"})
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return whole(self, sql, *args, **kwargs)

        setattr(ServerWarehouse, name, call)

    for name in ("execute", "insert", "query"):
        counted(name)
    restore(settings_of(url), Destination.of("disk:backups/nightly/1"), lambda *_: None)


def settings_of(url: str) -> Settings:
    user, password = WRITER
    return Settings(clickhouse_url=url, clickhouse_user=user, clickhouse_password=password)  # type: ignore[arg-type]


def ends_killed(url: str, write: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            killed_restore(url, write)
        except BaseException as exc:
            sys.stderr.write(f"{exc!r}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the restore failed"
    return False


def test_a_restore_that_is_killed_at_any_write_starts_again(saved: Saved, tmp_path: Path) -> None:
    with empty_server(saved, tmp_path) as cli:
        url = cli.environment["ROOKERY_CLICKHOUSE_URL"]
        write, refused = 1, 0
        while ends_killed(url, write):
            # Outside of `make soak`, every second write.
            write += 1 if soaking() else 2
            assert write < 20
            with open_or_refuse(url) as code:
                refused += code == RESTORE_UNFINISHED.id
        assert refused > 2, "between its first and its last write, nothing opens the workspace"
        with running(tmp_path / "home", **cli.environment) as server:
            assert answers(server) == saved.answers
            assert_intact(server)
            assert all(keyed(server, key, **row)["repeated"] for key, row in KEYS.items())


@contextmanager
def open_or_refuse(url: str) -> Iterator[str]:
    """The code with which opening the workspace is refused, or nothing; what it created is dropped."""
    try:
        workspace = open_workspace(settings_of(url))
    except RookeryError as exc:
        yield exc.code.id
        return
    yield ""
    workspace.warehouse.execute("DROP DATABASE main SYNC")
    workspace.close()


VIEW = """
nodes:
  - name: shares_of
    sql: SELECT event, sum(intDiv(100, events.units)) AS events, sum(events.units) AS units FROM events GROUP BY event
materialize: {target: kinds}
"""


def ask(url: str, sql: str) -> str:
    """The answer of the ClickHouse server to another program."""
    answer = httpx.post(url, content=sql, auth=WRITER, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_what_a_restore_could_not_continue_is_refused(saved: Saved, tmp_path: Path) -> None:
    with (
        serve(tmp_path / "clickhouse", backups=saved.directory) as url,
        running(tmp_path / "home", **server_settings(url)) as server,
    ):
        server.push({**ROUTED, "pipes/kinds_pipe.yaml": VIEW})
        server.tenant("1", "tables")
        server.events("events", [{"tenant_id": 1, "event": "a", "units": 1}])
        cli = for_server(server, tmp_path / "project")
        assert "allowed" in cli("backup", "disk:default/x", code=1).err
        # BACKUP writes no rows for tables that are not loaded.
        mark = Mark("main", "main_nest_9", "database").text()
        ask(url, f"CREATE DATABASE main_nest_9 ENGINE = Atomic SETTINGS lazy_load_tables = 1 COMMENT '{mark}'")
        assert "RK6025" in cli("backup", "disk:backups/refused", code=1).err
        ask(url, "DROP DATABASE main_nest_9 SYNC")
        # A tenant whose tables refuse its rows: the tokens of the delivery that is repeated would be forgotten.
        ask(url, "ALTER TABLE main_nest_1.events ADD CONSTRAINT broken CHECK units < 5")
        server.events("events", [{"tenant_id": 1, "event": "a", "units": 7}])
        assert "RK6023" in cli("backup", "disk:backups/refused", code=6).err
        ask(url, "ALTER TABLE main_nest_1.events DROP CONSTRAINT broken")
        cli("fanout", "retry")
        # A view that fails is suspended. It does not prevent a backup.
        suspend(server)
        done = cli("--json", "backup", "disk:backups/suspended").json
        assert done["tables"]["main.events"]["rows"] == 3
        ask(url, "BACKUP DATABASE main TO Disk('backups', 'plain')")
    with empty_server(saved, tmp_path / "other") as cli:
        assert "RK7020" in cli("restore", "disk:backups/plain", code=1).err
        assert "RK7020" in cli("restore", "disk:backups/suspended", code=1, ROOKERY_WORKSPACE="another").err
        assert "RK1008" in cli("restore", "disk:backups/missing", code=1).err
        url = cli.environment["ROOKERY_CLICKHOUSE_URL"]
        assert ask(url, "SELECT name FROM system.databases WHERE name LIKE 'main%' AND name != 'main_empty'") == ""
        cli("restore", "disk:backups/suspended")
        with running(tmp_path / "restored", **cli.environment) as server:
            repaired = VIEW.replace("100, events.units", "100, events.units + 1")
            server.push({**ROUTED, "pipes/kinds_pipe.yaml": repaired}, allow=["kinds_pipe"])
            sums = server.sql("SELECT event, sum(events) AS e, sum(units) AS u FROM kinds GROUP BY event")
            assert sums == [{"event": "a", "e": 50 + 12 + 100, "u": 8}]


def suspend(server: Server) -> None:
    """Append a row on which a view fails, until the view is suspended."""
    deadline = time.monotonic() + 60
    while not server.admin_json("GET", "/v0/fanout")["suspended"]:
        assert time.monotonic() < deadline
        server.admin(
            "POST", "/v0/events", params={"name": "events"}, content='{"tenant_id": 1, "event": "a", "units": 0}'
        )
        time.sleep(0.1)


@pytest.fixture(scope="module")
def copy(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command line with a server to which the backup has been restored."""
    with empty_server(saved, tmp_path_factory.mktemp("copy")) as cli:
        cli("restore", "disk:backups/nightly/1")
        yield cli


def test_rows_of_another_program_during_a_backup_are_noticed(copy: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    url = copy.environment["ROOKERY_CLICKHOUSE_URL"]
    workspace = open_workspace(settings_of(url))
    try:
        wait = Statement.wait_until_pinned

        def interrupted(self: Statement, timeout_seconds: float) -> None:
            wait(self, timeout_seconds)
            ask(url, "INSERT INTO main.events (tenant_id, event) VALUES (1, 'foreign')")

        monkeypatch.setattr(Statement, "wait_until_pinned", interrupted)
        with pytest.raises(RookeryError) as caught:
            backups_of(workspace).take("disk:backups/foreign", lambda: None, lambda *_: None)
        assert caught.value.code.id == NOT_DELIVERED.id
        assert descriptions.KIND not in workspace.registry.read_all([descriptions.KIND])
    finally:
        workspace.close()


def test_an_upgrade_relies_on_a_backup_of_this_workspace(copy: Cli) -> None:
    url = copy.environment["ROOKERY_CLICKHOUSE_URL"]
    copy("backup", "disk:backups/before")
    copy("append", "plans", "-", "--format", "ndjson", input='{"plan": "free", "price": 0}')
    step = "views that re-encode columns"
    ask(url, f"INSERT INTO main._rk_state (kind, name, body, deleted) VALUES ('migration', '{step}', '{{}}', 1)")
    assert copy("--json", "upgrade", "--dry-run").json["steps"] == [step]
    assert "RK7002" in copy("upgrade", code=2).err
    # The workspace from which this one was restored.
    assert "RK7020" in copy("upgrade", "--backup-to", "disk:backups/nightly/1", code=1).err
    done = copy("--json", "upgrade", "--backup-to", "disk:backups/before").json
    assert (done["steps"], done["backup"]["rows_since"]) == ([step], 1)
    assert "nothing to migrate" in copy("upgrade").err
    assert ask(url, "SELECT name FROM system.databases WHERE name = 'main_backup'") == ""


@pytest.mark.parametrize(
    "text",
    [
        "S3('https://bucket/x', 'key', 'top-secret')",
        "s3:https://key:top-secret@bucket/x",
        "disk:backups",
        "disk:backups/../../etc/passwd",
        "disk:backups/./x",
        "disk:backups//x",
        "file:/etc/passwd",
        "file:../x",
        "disk:back`ups/x",
        "disk:backups/x') SETTINGS async='1",
        "disk:backups/" + "x" * 2_000,
        "disk:backups/\u0661",
        "disk:backups/x\n",
        "ftp:host/x",
    ],
)
def test_other_destinations_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(RookeryError) as caught:
        Destination.of(text)
    assert caught.value.code.id == USAGE.id
    assert "top-secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("disk:backups/a/b.zip", "Disk('backups', 'a/b.zip')"),
        ("s3:offsite/a", "S3(`offsite`, 'a')"),
        ("file:a", "File('a')"),
    ],
)
def test_destinations(text: str, sql: str) -> None:
    assert Destination.of(text).sql() == sql
    assert str(Destination.of(text)) == text
    assert Destination.of(text.rpartition("/")[0] + "/" if "/" in text else "file:").path.startswith(
        ("a/rookery-", "rookery-")
    )
