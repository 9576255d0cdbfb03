"""Backup and restore of a workspace on a ClickHouse server, which chDB imitates: the restored copy continues exactly.

RESTORE numbers blocks again and forgets deduplication tokens, so each test appends to the copy and repeats requests.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.backup import description as descriptions
from engine.backup.embedded import backups_of
from engine.backup.restoring import restore
from engine.errors import NOT_DELIVERED, RESTORE_UNFINISHED, RookeryError
from engine.schema import Mark, literal
from engine.settings import Settings
from engine.warehouse.server import ServerWarehouse
from engine.warehouse.server_backup import Destination, Statement
from engine.workspace.interrupted_backup import end_interrupted_backup
from engine.workspace.opening import open_workspace
from engine.workspace.workspace import Workspace
from tests.cli.backups import fill
from tests.cli.billing import assert_exact, assert_kinds_exact
from tests.cli.commands import Cli, for_server
from tests.support.clickhouse_http import WRITER, serve, server_settings
from tests.support.server import Server, running
from tests.support.soak import soaking
from tests.workspace.backed_up_project import ROUTED, SHARES_PIPE, suspend

pytestmark = pytest.mark.proves("D19")


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
    """The workspace that is backed up, two of its backups, and what it answered at the moment of the first one."""

    url: str
    """Of its ClickHouse server."""
    server: Server
    directory: Path
    """Where the disk `backups` of every ClickHouse server is."""
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
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
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
        yield Saved(url, server, directory / "disk", description, answers(server))


@contextmanager
def empty_server(saved: Saved, directory: Path) -> Iterator[Cli]:
    """The command line with a new ClickHouse server."""
    (directory / "project").mkdir(parents=True)
    with serve(directory / "clickhouse", backups=saved.directory) as url:
        yield Cli(directory / "project", server_settings(url))


@pytest.fixture(scope="module")
def copy(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command line with a server to which the backup has been restored."""
    with empty_server(saved, tmp_path_factory.mktemp("copy")) as cli:
        restored = cli("--json", "restore", "disk:backups/nightly/1").json
        assert restored["tables"] == saved.description["tables"]
        yield cli


def lose_stages(url: str) -> None:
    """Lose the tables in memory, as a ClickHouse server does that is restarted while rookery runs."""
    for table in ask(url, "SELECT name FROM system.tables WHERE database = 'main_stage'").split():
        ask(url, f"DROP TABLE main_stage.{table}")


def test_a_restored_workspace_has_everything_and_continues(saved: Saved, copy: Cli, tmp_path: Path) -> None:
    assert "RK7021" in copy("restore", "disk:backups/nightly/1", code=4).err
    with running(tmp_path / "home", **copy.environment) as server:
        for key, row in KEYS.items():
            assert keyed(server, key, **row)["repeated"] is True
        assert answers(server) == saved.answers
        server.events("events", [{"tenant_id": t, "event": "b", "units": n} for n in range(5) for t in (1, 2, 8)])
        keyed(server, "later", tenant_id=2, event="later", units=1)
        lose_stages(copy.environment["ROOKERY_CLICKHOUSE_URL"])
        append = {"params": {"name": "events"}, "content": '{"tenant_id": 1, "event": "a", "units": 2}'}
        answer = server.admin("POST", "/v0/events", **append)
        assert (answer.status_code, answer.json()["code"]) == (503, "RK6010")
        assert server.admin("POST", "/v0/events", **append).status_code < 300
        assert_intact(server)
    # The next start must not deliver the newest batch again.
    with running(tmp_path / "home", **copy.environment) as server:
        server.tenant("3", "tables")
        server.events("events", [{"tenant_id": 3, "event": "b", "units": 1}])
        assert_exact(server, [1, 2, 3], [8])
        # For the upgrade.
        server.admin_json("POST", "/v0/backup", json={"to": "disk:backups/before"})
        server.events("plans", [{"plan": "free", "price": 0}])


@pytest.fixture(scope="module")
def suspended(saved: Saved) -> Saved:
    """A second backup, in which a view is suspended. Backups that are refused come before it."""
    url = saved.url

    def refused(place: str) -> str:
        answer = saved.server.admin("POST", "/v0/backup", json={"to": place})
        assert answer.status_code >= 400 and "Traceback" not in answer.text
        return str(answer.json()["code"] + answer.json()["error"])

    for place in ("disk:default/x", "s3:nowhere/x"):
        assert "RK6025the ClickHouse server does not" in (err := refused(place)) and place in err
    assert "RK7021disk:backups/nightly/1 " in refused("disk:backups/nightly/1")
    assert "engine code 36" in saved.server.log()
    # BACKUP writes no rows for tables that are not loaded.
    mark = Mark("main", "main_nest_9", "database").text()
    ask(url, f"CREATE DATABASE main_nest_9 ENGINE = Atomic SETTINGS lazy_load_tables = 1 COMMENT '{mark}'")
    assert "RK6025" in refused("disk:backups/refused")
    ask(url, "DROP DATABASE main_nest_9 SYNC")
    # A tenant whose tables refuse its rows: the tokens of the delivery that is repeated would be forgotten.
    ask(url, "ALTER TABLE main_nest_1.events ADD CONSTRAINT broken CHECK units < 300")
    saved.server.events("events", [{"tenant_id": 1, "event": "a", "units": 301}])
    assert "RK6023" in refused("disk:backups/refused")
    ask(url, "ALTER TABLE main_nest_1.events DROP CONSTRAINT broken")
    saved.server.admin_json("POST", "/v0/fanout/retry")
    # A view that fails is suspended. It does not prevent a backup.
    suspend(saved.server)
    done = saved.server.admin_json("POST", "/v0/backup", json={"to": "disk:backups/suspended"})
    ask(url, "BACKUP DATABASE main TO Disk('backups', 'plain')")
    # A description that another program has changed must not lead to another workspace.
    ask(url, "CREATE DATABASE other")
    ask(url, "CREATE TABLE other.foreign (x UInt8) ENGINE = MergeTree ORDER BY x")
    changed = literal(json.dumps({**done, "databases": ["main`, DATABASE `other", *done["databases"]]}))
    ask(url, f"INSERT INTO main._rk_state (kind, name, body) VALUES ('backup', 'description', {changed})")
    databases = ", ".join(f"DATABASE {name}" for name in [*done["databases"], "other"])
    ask(url, f"BACKUP {databases} TO Disk('backups', 'changed')")
    return saved


def killed_restore(url: str, write: int) -> None:
    """Restore in this process, which is killed just before its n-th write."""
    left, seen = write, set[str]()

    def counted(name: str) -> None:
        whole = getattr(ServerWarehouse, name)

        def call(self: ServerWarehouse, sql: str, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            # Of the statements that are repeated for every table or database, only the first of each kind counts.
            kind = " ".join(sql.split(" ")[:2])
            if kind not in seen:
                seen.update({kind} & {"DETACH TABLE", "ATTACH TABLE", "DROP DATABASE", "CREATE TABLE"})
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return whole(self, sql, *args, **kwargs)

        setattr(ServerWarehouse, name, call)

    for name in ("execute", "insert"):
        counted(name)
    restore(settings_of(url), Destination.of("disk:backups/suspended"), lambda *_: None)


def settings_of(url: str, workspace: str = "main") -> Settings:
    user, password = WRITER
    return Settings(
        workspace=workspace,
        clickhouse_url=url,
        clickhouse_user=user,
        clickhouse_password=password,  # type: ignore[arg-type]
    )


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


def test_a_restore_that_is_killed_or_repeated_starts_again(suspended: Saved, tmp_path: Path) -> None:
    with empty_server(suspended, tmp_path) as cli:
        url = cli.environment["ROOKERY_CLICKHOUSE_URL"]
        for place, workspace, code in REFUSED_RESTORES:
            with pytest.raises(RookeryError) as caught:
                restore(settings_of(url, workspace=workspace), Destination.of(place), lambda *_: None)
            assert caught.value.code.id == code
        for write in range(1, 20) if soaking() else (3, 7, 11):
            if not ends_killed(url, write):
                assert write > 11, "the restore has fewer writes"
                drop_workspace(url)
                break
            with open_or_refuse(url) as found:
                assert found == RESTORE_UNFINISHED.id or write < 3
        assert restore_during(url, lambda: restore_twice(url)) is RESTORE_UNFINISHED
        with running(tmp_path / "home", **cli.environment) as server:
            assert_exact(server, [1, 2], [8])
            assert all(keyed(server, key, **row)["repeated"] for key, row in KEYS.items())
            # The rows that the suspended view is missing are unknown, so its target is recomputed.
            repaired = SHARES_PIPE.replace("- 500", "- 600")
            server.push({**ROUTED, "pipes/shares_pipe.yaml": repaired}, allow=["shares_pipe"])
            sums = "SELECT event, sum(abs(intDiv(1000, toInt64(units) - 600))) AS s FROM events GROUP BY 1 ORDER BY 1"
            assert server.sql("SELECT event, sum(shares) AS s FROM shares GROUP BY 1 ORDER BY 1") == server.sql(sums)


REFUSED_RESTORES = [
    ("disk:backups/plain", "main", "RK7020"),
    ("disk:backups/changed", "main", "RK7020"),
    ("disk:backups/suspended", "another", "RK7020"),
    ("disk:backups/missing", "main", "RK1008"),
    ("disk:default/x", "main", "RK6025"),
]


def drop_workspace(url: str) -> None:
    for name in ("main_nest_1", "main_nest_2", "main"):
        ask(url, f"DROP DATABASE {name} SYNC")


def restore_twice(url: str) -> None:
    """Restore, and interrupt it. Then restore again."""
    assert restore_during(url, interrupt) is KeyboardInterrupt
    assert ask(url, "SELECT name FROM system.databases WHERE name LIKE 'main%' AND name != 'main_empty'") == ""
    assert restore_during(url, lambda: None) is None


def interrupt() -> None:
    raise KeyboardInterrupt


def restore_during(url: str, act: Callable[[], Any]) -> Any:
    """Restore, and do something before the tables are loaded again. Returns the kind of the error, or nothing."""
    acts = [act]

    def report(what: str, done: int, total: int) -> None:
        if what == "loading tables" and acts:
            acts.pop()()

    try:
        restore(settings_of(url), Destination.of("disk:backups/suspended"), report)
    except RookeryError as exc:
        return exc.code
    except KeyboardInterrupt:
        return KeyboardInterrupt
    return None


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


def ask(url: str, sql: str) -> str:
    """The answer of the ClickHouse server to another program."""
    answer = httpx.post(url, content=sql, auth=WRITER, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_an_upgrade_relies_on_a_backup_of_this_workspace(copy: Cli) -> None:
    url = copy.environment["ROOKERY_CLICKHOUSE_URL"]
    step = "views that re-encode columns"
    ask(url, f"INSERT INTO main._rk_state (kind, name, body, deleted) VALUES ('migration', '{step}', '{{}}', 1)")
    assert copy("--json", "upgrade", "--dry-run").json["steps"] == [step]
    assert "RK7002" in copy("upgrade", code=2).err
    # The workspace from which this one was restored.
    assert "RK7020" in copy("upgrade", "--backup-to", "disk:backups/nightly/1", code=1).err
    done = copy("--json", "upgrade", "--backup-to", "disk:backups/before").json
    assert (done["steps"], done["backup"]["rows_since"]) == ([step], 1)
    assert ask(url, "SELECT name FROM system.databases WHERE name = 'main_backup'") == ""


@pytest.fixture(scope="module")
def opened(copy: Cli) -> Iterator[Workspace]:
    """The restored workspace, open in this process. No other test may use it any longer."""
    # What an upgrade leaves that is killed while it reads a backup.
    url, mark = copy.environment["ROOKERY_CLICKHOUSE_URL"], Mark("main", "main_backup", "comparison").text()
    ask(url, f"CREATE DATABASE main_backup COMMENT '{mark}'")
    workspace = open_workspace(settings_of(copy.environment["ROOKERY_CLICKHOUSE_URL"]))
    yield workspace
    workspace.close()


@pytest.mark.parametrize("columns", ["events (tenant_id, event)", "kinds (units, event)"])
def test_rows_of_another_program_during_a_backup_are_noticed(
    copy: Cli, opened: Workspace, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    wait = Statement.wait_until_pinned

    def interrupted(self: Statement, timeout_seconds: float) -> None:
        wait(self, timeout_seconds)
        ask(copy.environment["ROOKERY_CLICKHOUSE_URL"], f"INSERT INTO main.{columns} VALUES (1, 'foreign')")

    monkeypatch.setattr(Statement, "wait_until_pinned", interrupted)
    with pytest.raises(RookeryError) as caught:
        backups_of(opened).take(f"disk:backups/{columns[:3]}", lambda: None, lambda *_: None)
    assert caught.value.code.id == NOT_DELIVERED.id
    assert descriptions.KIND not in opened.registry.read_all([descriptions.KIND])


def test_a_disk_for_backups_is_not_that_of_the_tables(saved: Saved, opened: Workspace) -> None:
    """It may be full."""
    space = opened.warehouse.disk_space()
    assert space is not None and str(saved.directory) not in space.path


def test_the_next_start_removes_what_a_killed_backup_or_upgrade_has_left(opened: Workspace) -> None:
    assert not opened.warehouse.query("SELECT 1 FROM system.databases WHERE name = 'main_backup'").rows
    opened.registry.write(descriptions.KIND, {descriptions.NAME: {}})
    end_interrupted_backup(opened.registry, opened.warehouse, "main")
    assert opened.registry.read(descriptions.KIND) == {}
