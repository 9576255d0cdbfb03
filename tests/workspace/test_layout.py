"""The layout version: older layouts are migrated, even after interruptions; newer ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import LAYOUT_NEWER, LAYOUT_UNREADABLE, MIGRATION_FAILED, RookeryError
from engine.schema import Name
from engine.settings import Settings
from engine.warehouse.layout_version import LAYOUT_VERSION, STOP_NAME, VERSION_FILE
from engine.warehouse.registry import STATE_TABLE, Registry
from engine.workspace import layout
from engine.workspace.layout import Migration, Opening
from engine.workspace.opening import open_warehouse, open_workspace

pytestmark = pytest.mark.feature
TABLE = Name("main", STATE_TABLE).sql()


class Killed(BaseException):
    """Simulates the end of the process."""


def settings(path: Path) -> Settings:
    return Settings(data=path / "data", readers=1, writers=2)


def open_and_close(path: Path) -> None:
    open_workspace(settings(path)).close()


def registry_of(path: Path, work: Callable[[Registry], object]) -> object:
    """What some work on the registry returns, without opening the workspace."""
    warehouse = open_warehouse(settings(path))
    try:
        return work(Registry(warehouse, "main"))
    finally:
        warehouse.close()


def test_a_new_workspace_has_the_current_layout_and_runs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(layout, "MIGRATIONS", (Migration[Opening]("one", lambda _: ran.append("one")),))
    open_and_close(tmp_path)
    open_and_close(tmp_path)
    assert ran == []
    assert json.loads((tmp_path / "data" / VERSION_FILE).read_text()) == {"layout": LAYOUT_VERSION, "timezone": "UTC"}
    assert registry_of(tmp_path, layout.layout_of) == LAYOUT_VERSION
    assert registry_of(tmp_path, lambda r: r.read("resource")) == {}, "what older programs refuse is never read"


def test_steps_run_once_in_order_and_interrupted_ones_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace is one without any mark, as programs of the first layout left it. Every write is cut off once."""
    registry_of(tmp_path, lambda r: r.write("secret", {"static": {"secret": "x" * 32}}))
    ran: list[str] = []
    steps = tuple(Migration[Opening](name, lambda _, name=name: ran.append(name)) for name in ("a", "b", "c"))
    monkeypatch.setattr(layout, "MIGRATIONS", steps)
    insert = Registry._insert
    whole = 4  # the marks, then a record of each step
    for cut in range(2 * whole):
        writes = iter(range(whole))

        def cut_off(self: Registry, rows: list[tuple[str, str, str, int]], n: int = cut, writes=writes) -> None:
            write = next(writes)
            if n % 2 == 0 and write == 0:
                raise Killed
            insert(self, rows)
            if n % 2 and write == 0:
                raise Killed

        monkeypatch.setattr(Registry, "_insert", cut_off)
        with pytest.raises(Killed):
            open_and_close(tmp_path)
    monkeypatch.setattr(Registry, "_insert", insert)
    open_and_close(tmp_path)
    assert ran == ["a", "a", "b", "b", "c", "c"], "each again after the kill before its record, none after that"
    assert sorted(registry_of(tmp_path, lambda r: r.read("migration"))) == ["a", "b", "c"]  # type: ignore[call-overload]


def test_a_failed_step_is_named_and_completed_ones_stay_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry_of(tmp_path, lambda r: r.write("secret", {"static": {"secret": "x" * 32}}))
    ran: list[str] = []
    steps = (
        Migration[Opening]("a", lambda _: ran.append("a")),
        Migration[Opening]("b", lambda o: o.warehouse.execute("DROP TABLE nowhere.t")),
    )
    monkeypatch.setattr(layout, "MIGRATIONS", steps)
    for _ in range(2):
        with pytest.raises(RookeryError) as failure:
            open_and_close(tmp_path)
        assert failure.value.code is MIGRATION_FAILED
        assert "`b`" in failure.value.message
        assert failure.value.hint
    assert ran == ["a"]


def test_a_newer_workspace_is_refused_and_unchanged(tmp_path: Path) -> None:
    open_and_close(tmp_path)
    registry_of(tmp_path, lambda r: r.write("layout", {"version": {"version": LAYOUT_VERSION + 1}}))
    newest = registry_of(tmp_path, lambda r: r._newest("1"))
    with pytest.raises(RookeryError) as refused:
        open_and_close(tmp_path)
    assert refused.value.code is LAYOUT_NEWER
    assert f"layout {LAYOUT_VERSION + 1}" in refused.value.message
    assert refused.value.hint
    assert registry_of(tmp_path, lambda r: r._newest("1")) == newest


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (json.dumps({"layout": LAYOUT_VERSION + 1, "more": {}}), LAYOUT_NEWER),
        ("", LAYOUT_UNREADABLE),
        ("[]", LAYOUT_UNREADABLE),
        ('{"layout": "2"}', LAYOUT_UNREADABLE),
        ("[" * 4_000, LAYOUT_UNREADABLE),
        (json.dumps({"layout": 1, "more": " " * 4096}), LAYOUT_UNREADABLE),
        (json.dumps({"layout": 1, "timezone": "UTC</session_timezone>"}), LAYOUT_UNREADABLE),
        (json.dumps({"layout": 1, "timezone": ""}), LAYOUT_UNREADABLE),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_directory_of_a_newer_program_is_unchanged(tmp_path: Path, text: str, code: object) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / VERSION_FILE).write_text(text)
    for _ in range(2):
        with pytest.raises(RookeryError) as refused:
            open_and_close(tmp_path)
        assert refused.value.code is code
        assert refused.value.hint
    assert sorted(p.name for p in data.iterdir()) == ["rookery.layout", "rookery.lock"]
    assert (data / VERSION_FILE).read_text() == text


def test_no_resource_can_take_the_name_that_stops_older_programs(tmp_path: Path) -> None:
    from engine.project.fields import name_fault

    assert name_fault(STOP_NAME) is not None
