"""A column whose rows cannot be converted keeps its type, and later pushes, plans and the doctor agree about it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.control import push as push_module
from engine.control.doctor import examine, repair
from engine.control.push import PushOptions, PushResult, push
from engine.errors import Problems, RookeryError
from engine.plan.steps import ChangeColumn
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import PATIENCE, Rookery, open_copy, open_rookery

TENANT = {"direct": "tenant: {column: tenant_id, fanout: direct}\n", "routed": "tenant: tenant_id\n", "none": ""}
GOOD = [{"tenant_id": t, "id": n, "v": f"0{n}"} for t in (1, 8) for n in (1, 2)]
BAD = [{"tenant_id": 1, "id": 3, "v": "three"}]


def files(type: str, mode: str) -> dict[str, DeployedFile]:
    text = TENANT[mode] + (
        "columns:\n  - {name: tenant_id, type: UInt32}\n  - {name: id, type: UInt32}\n"
        f"  - {{name: v, type: {type}}}\nengine: {{sorting_key: [tenant_id, id]}}\n"
    )
    return {"events": DeployedFile(text, "datasources/events.yaml")}


def change(rookery: Rookery, type: str, mode: str, *, dry_run: bool = False) -> PushResult:
    options = PushOptions(allow=frozenset({"events"}), dry_run=dry_run)
    return push(rookery.workspace, files(type, mode), options)


def refusal(rookery: Rookery, type: str, mode: str) -> str:
    """The code of the error with which a push is refused."""
    with pytest.raises(RookeryError) as raised:
        change(rookery, type, mode)
    error = raised.value
    return (error.problems[0] if isinstance(error, Problems) else error).code.id


def fill(rookery: Rookery, mode: str) -> None:
    change(rookery, "String", mode)
    if mode != "none":
        rookery.add("1")
        rookery.add("8", placement="pooled")
    for rows in (GOOD, BAD):
        assert rookery.deliver(rows)


def found(rookery: Rookery) -> dict[str, str]:
    return {f.check: str(f.object) for f in examine(rookery.workspace).findings if f.level == "error"}


def unfinished(rookery: Rookery) -> int:
    return len(rookery.rows("SELECT 1 FROM system.mutations WHERE NOT is_done"))


def tables(rookery: Rookery, mode: str) -> list[str]:
    """Landing, and the copy of tenant 1."""
    return ["main.events", *([] if mode == "none" else [f"{rookery.nest('1')}.events"])]


def values(rookery: Rookery, mode: str) -> list[list[object]]:
    """The values in each of the tables."""
    return [[v for (v,) in rookery.rows(f"SELECT v FROM {t} ORDER BY tenant_id, id")] for t in tables(rookery, mode)]


@pytest.mark.parametrize("mode", ["routed", "none", pytest.param("direct", marks=pytest.mark.soak_only)])
def test_rows_that_cannot_be_converted_leave_the_type(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_rookery(tmp_path) as rookery:
        fill(rookery, mode)
        before = values(rookery, mode)
        # They stop a push before it begins.
        for _ in range(2):
            assert refusal(rookery, "Int64", mode) == "RK2030"
            assert values(rookery, mode) == before
            assert found(rookery) == {}
            assert change(rookery, "String", mode, dry_run=True).plan.steps == ()
        assert unfinished(rookery) == 0
        # One that arrives after the check.
        with monkeypatch.context() as patch:
            patch.setattr(push_module, "check_conversions", lambda *_: None)
            assert refusal(rookery, "Int64", mode) == "RK3010"
        assert unfinished(rookery) == 0
        assert "failed-conversion" not in found(rookery)
        assert refusal(rookery, "Int64", mode) == "RK2030"
        change(rookery, "String", mode)
        rookery.wait_until_caught_up()
        assert [len(column) for column in values(rookery, mode)] == [5, 3][: len(before)]
        assert found(rookery) == {}
        for table in tables(rookery, mode):
            rookery.run(f"ALTER TABLE {table} DELETE WHERE v = 'three' SETTINGS mutations_sync = 1")
        change(rookery, "Int64", mode)
        assert values(rookery, mode) == [[1, 2, 1, 2], [1, 2]][: len(before)]
        assert change(rookery, "Int64", mode, dry_run=True).plan.steps == ()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a program that was killed after it had begun a conversion."""
    directory = tmp_path_factory.mktemp("killed")
    with open_rookery(directory) as rookery:
        fill(rookery, "direct")
        rookery.run("ALTER TABLE main.events MODIFY COLUMN v Int64 SETTINGS mutations_sync = 0, alter_sync = 0")
    return directory


@pytest.mark.parametrize("way", ["push", "repair"])
def test_a_conversion_that_failed_after_a_kill_is_undone(killed: Path, tmp_path: Path, way: str) -> None:
    with open_copy(killed, tmp_path) as rookery:
        deadline = time.monotonic() + PATIENCE
        while not rookery.rows("SELECT 1 FROM system.mutations WHERE NOT is_done AND latest_fail_reason != ''"):
            assert time.monotonic() < deadline
            rookery.run("SYSTEM START MERGES main.events")
            time.sleep(0.05)
        assert found(rookery)["failed-conversion"] == "main.events"
        steps = change(rookery, "Int64", "direct", dry_run=True).plan.steps
        assert any(isinstance(s, ChangeColumn) and s.previous is not None for s in steps)
        if way == "push":
            change(rookery, "String", "direct")
        else:
            repair(rookery.workspace)
        assert found(rookery) == {}
        assert [len(column) for column in values(rookery, "direct")] == [5, 3]
        assert rookery.deliver(BAD)
