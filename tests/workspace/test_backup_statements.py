"""The statements and destinations of backups on a ClickHouse server, and the descriptions in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from engine.backup import description as descriptions
from engine.errors import BACKUP_RUNNING, UNREACHABLE, USAGE, RookeryError
from engine.warehouse import server_backup
from engine.warehouse.port import Rows, Value, Warehouse
from engine.warehouse.server_backup import Destination, Statement, new_destination, started, wait_for_beginnings

pytestmark = pytest.mark.proves("D19")

DESTINATION = Destination.of("disk:backups/a")


class FakeServer:
    """Answers the queries of a statement, in this order; the last answer is repeated. After KILL, it ends soon."""

    def __init__(self, *answers: str | RookeryError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def query(self, sql: str, bindings: Mapping[str, Value] | None = None) -> Rows:
        self.asked.append(sql.split(" ")[0])
        if sql.startswith("KILL"):
            self.answers = ["CREATING_BACKUP", "BACKUP_CANCELLED"]
            return Rows((), (), [])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RookeryError):
            raise answer
        files = int(not sql.startswith("SELECT count()"))
        return Rows((), (), [(answer, files, 0, "")] if sql.startswith("SELECT") else [])

    def execute(self, sql: str, settings: Mapping[str, int]) -> None:
        assert sql.index(" */ BACKUP") < 100, "the list of processes has the beginning of a statement"
        assert len(sql) < settings["max_query_size"]
        self.query(sql.partition(" */ ")[2])

    def as_warehouse(self) -> Warehouse:
        return cast(Warehouse, self)


LOST = RookeryError(UNREACHABLE, "lost")


def test_a_statement_that_is_not_wanted_anymore_ends_first() -> None:
    fake = FakeServer("CREATING_BACKUP")
    # With thousands of tenants.
    sql = "BACKUP " + "DATABASE x, " * 50_000
    with pytest.raises(ZeroDivisionError), started(fake.as_warehouse(), sql, DESTINATION, "main"):
        raise ZeroDivisionError
    assert fake.asked == ["BACKUP", "KILL", "SELECT", "SELECT"]
    assert fake.answers == ["BACKUP_CANCELLED"]


def test_a_statement_whose_start_is_uncertain_is_stopped() -> None:
    fake = FakeServer(LOST, "CREATING_BACKUP")
    with pytest.raises(RookeryError), started(fake.as_warehouse(), "BACKUP", DESTINATION, "main"):
        raise AssertionError
    assert fake.answers == ["BACKUP_CANCELLED"]


def test_a_statement_continues_while_its_server_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_backup, "RETRY_SECONDS", 0)
    fake = FakeServer("", LOST, LOST, "CREATING_BACKUP", LOST, "BACKUP_CREATED")
    with started(fake.as_warehouse(), "BACKUP", DESTINATION, "main") as statement:
        assert statement.wait("backing up", lambda *_: None).status == "BACKUP_CREATED"
    monkeypatch.setattr(server_backup, "GRACE_SECONDS", -1)
    with pytest.raises(RookeryError, match="lost"):
        statement = Statement(FakeServer(LOST).as_warehouse(), "BACKUP", DESTINATION, "main")
        statement.wait("backing up", lambda *_: None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            "Code: 497. DB::Exception: writer: Not enough privileges: grant BACKUP ON main.*. (ACCESS_DENIED)",
            "RK6025",
        ),
        (
            "Code: 598. DB::Exception: Backup x is being written already. (BACKUP_ALREADY_EXISTS), Stack trace",
            "RK7021",
        ),
        ("std::exception. Code: 1001, type: filesystem_error, e.what() = filesystem error: File exists", "RK6009"),
        ("Code: 243. DB::Exception: Cannot reserve 1 GiB, not enough space. (NOT_ENOUGH_SPACE)", "RK6008"),
    ],
)
def test_errors_of_a_statement_name_the_destination(text: str, code: str) -> None:
    class Failing(FakeServer):
        def query(self, sql: str, bindings: Mapping[str, Value] | None = None) -> Rows:
            return Rows((), (), [("BACKUP_FAILED", 0, 0, text)])

    with pytest.raises(RookeryError, match="disk:backups/a") as caught:
        Statement(Failing("").as_warehouse(), "BACKUP", DESTINATION, "main").state()
    assert caught.value.code.id == code
    assert "Stack trace" not in caught.value.message


def test_the_next_start_waits_for_a_backup_that_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServer("1", "1", "0")
    wait_for_beginnings(fake.as_warehouse(), "main")
    assert fake.answers == ["0"]
    monkeypatch.setattr(server_backup, "STOP_SECONDS", -1)
    with pytest.raises(RookeryError) as caught:
        wait_for_beginnings(FakeServer("1").as_warehouse(), "main")
    assert caught.value.code.id == BACKUP_RUNNING.id


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


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "b/a.tar.zst", "a.tzst", "a.txz"])
def test_files_that_are_restored_too_slowly_are_not_written(name: str) -> None:
    with pytest.raises(RookeryError, match="slowly") as caught:
        new_destination(f"disk:backups/{name}")
    assert caught.value.code.id == USAGE.id
    assert Destination.of(f"disk:backups/{name}").path == name
    for good in ("a.tar", "a.zip", "a.2026", "a", "a.test"):
        assert new_destination(f"disk:backups/{good}").path == good


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


TABLE = {"uuid": "0", "rows": 1, "newest_block": 1, "keeps_rows": True}
DESCRIPTION: dict[str, Any] = {
    "created_at": "",
    "rookery": "",
    "engine": "",
    "layout": 2,
    "timezone": "UTC",
    "workspace": "main",
    "databases": ["main", "main_nest_1"],
    "tables": {"main._rk_state": TABLE, "main_nest_1.events": TABLE},
    "logs": {},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"workspace": "other"},
        {"databases": ["main", "main_nest_1", "other"]},
        {"databases": ["main", "main_nest_1", "main2"]},
        {"databases": ["main", "main_nest_1", "main_nest`, DATABASE `other"]},
        {"databases": ["main_nest_1"]},
        {"databases": []},
        {"tables": {}},
        {"tables": {"main._rk_state": TABLE, "other._rk_state": TABLE}},
        {"tables": {"main._rk_state": {**TABLE, "rows": -1}}},
        {"tables": {"main._rk_state": {**TABLE, "rows": float("inf")}}},
        {"tables": []},
        {"logs": {"main.view": ["main"]}},
        {"layout": float("inf")},
    ],
    ids=str,
)
def test_a_description_that_another_program_has_changed_is_refused(changed: dict[str, Any]) -> None:
    descriptions.Description.of(DESCRIPTION).require("main")
    with pytest.raises(RookeryError) as caught:
        descriptions.Description.of({**DESCRIPTION, **changed}).require("main")
    assert caught.value.code.id == "RK7020"
