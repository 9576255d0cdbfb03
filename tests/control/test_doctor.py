"""Every check of `doctor`: a fault is reported under its name, and no longer once it is fixed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from engine.control import fanout_status
from engine.control.doctor import deep_checks, examination, storage_checks
from engine.control.doctor.findings import ERROR, WARNING, Context, Finding
from engine.control.push import push
from engine.fanout.offsets import Offset
from engine.fanout.router import router_of
from engine.plan.backfill import Backfill
from engine.schema import Column, Mark, Name, Schema, Table
from engine.warehouse import ddl
from engine.workspace.journal import RegistryJournal
from tests.control.conftest import OWN, World, rows

WINDOW = "non_replicated_deduplication_window"


def found(world: World, check: str, *, deep: bool = False) -> list[Finding]:
    return [f for f in examination.examine(world.workspace, deep=deep).findings if f.check == check]


def one(world: World, check: str, *, deep: bool = False) -> Finding:
    (finding,) = found(world, check, deep=deep)
    return finding


def assert_healthy(world: World) -> None:
    assert examination.examine(world.workspace, deep=True).findings == ()


@contextmanager
def broken(world: World, harm: str, remedy: str) -> Iterator[None]:
    """Run a statement that damages the workspace; the damage is repaired afterwards."""
    world.execute(harm)
    try:
        yield
    finally:
        world.execute(remedy)
    assert_healthy(world)


def test_a_healthy_workspace_has_no_findings(world: World) -> None:
    shallow = examination.examine(world.workspace)
    deep = examination.examine(world.workspace, deep=True)
    assert shallow.findings == deep.findings == ()
    assert deep.healthy
    assert set(deep.checks) == {*examination.WITHOUT_CHANGES, *examination.AT_ANY_TIME, *examination.DEEP, "drift"}
    assert set(deep.checks) - set(shallow.checks) == set(examination.DEEP)


def test_a_landing_window_that_is_too_small(world: World) -> None:
    with broken(
        world,
        f"ALTER TABLE main.events MODIFY SETTING {WINDOW} = 5",
        f"ALTER TABLE main.events MODIFY SETTING {WINDOW} = 1000",
    ):
        finding = one(world, "landing-layout")
        assert (finding.level, finding.object) == (ERROR, "main.events")
        assert "is 5, and 1000 is needed" in finding.message
        assert not examination.examine(world.workspace).healthy


def seen_as(world: World, change: Callable[[Table], Table]) -> Context:
    """The workspace as if the live table of `events` were another."""
    context = examination.context_of(world.workspace)
    name = Name("main", "events")
    tables = {**context.live.tables, name: change(context.live.tables[name])}
    return replace(context, live=Schema(context.live.databases, tables, context.live.views))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: replace(t, engine="ReplacingMergeTree(timestamp)"), "its engine is ReplacingMergeTree(timestamp)"),
        (
            lambda t: replace(t, settings=tuple(s for s in t.settings if s[0] != "enable_block_number_column")),
            "without enable_block_number_column",
        ),
        (lambda t: replace(t, settings=tuple(s for s in t.settings if s[0] != WINDOW)), "window is 0"),
        (lambda t: replace(t, columns=tuple(c for c in t.columns if c.name != "_rk_at")), "lacks the columns _rk_at"),
    ],
)
def test_a_landing_table_without_the_log_layout(world: World, change: Callable[[Table], Table], words: str) -> None:
    (finding,) = storage_checks.landing_layout(seen_as(world, change))
    assert (finding.level, finding.object) == (ERROR, "main.events")
    assert words in finding.message


def test_a_short_ttl_on_landing(world: World) -> None:
    with broken(
        world,
        "ALTER TABLE main.events MODIFY TTL timestamp + INTERVAL 23 HOUR",
        "ALTER TABLE main.events REMOVE TTL",
    ):
        finding = one(world, "landing-ttl")
        assert (finding.level, finding.object) == (ERROR, "main.events")
        world.execute("ALTER TABLE main.events MODIFY TTL timestamp + INTERVAL 1 DAY")
        assert not found(world, "landing-ttl")


def test_a_nest_without_its_window(world: World) -> None:
    table = world.nest("1", "usage_daily")
    world.execute(f"ALTER TABLE {table.sql()} MODIFY SETTING {WINDOW} = 0")
    finding = one(world, "nest-window")
    assert (finding.level, finding.object) == (ERROR, str(table))
    assert finding.hint
    world.execute(finding.hint)
    assert_healthy(world)


def test_a_nest_without_its_constraint_and_with_a_foreign_row(world: World) -> None:
    table = world.nest("1", "usage_daily")
    world.execute(f"ALTER TABLE {table.sql()} DROP CONSTRAINT own")
    finding = one(world, "nest-constraint")
    assert (finding.level, finding.object) == (ERROR, str(table))
    assert not found(world, "foreign-rows", deep=True)
    world.execute(f"INSERT INTO {table.sql()} (tenant_id, event, events, units) VALUES (2, 'b', 1, 1)")
    assert not found(world, "foreign-rows")
    foreign = one(world, "foreign-rows", deep=True)
    assert (foreign.level, foreign.object) == (ERROR, str(table))
    assert foreign.message.startswith("1 rows")
    world.execute(f"ALTER TABLE {table.sql()} DELETE WHERE tenant_id = 2 SETTINGS mutations_sync = 1")
    assert finding.hint
    world.execute(finding.hint)
    assert_healthy(world)


def test_a_different_copy_is_found_by_count_and_by_content(world: World) -> None:
    table = world.nest("3", "clicks").sql()
    world.execute(f"ALTER TABLE {table} UPDATE units = units + 1000 WHERE 1 SETTINGS mutations_sync = 1")
    differing = one(world, "copy", deep=True)
    assert (differing.level, differing.object) == (ERROR, "main_nest_3.clicks")
    assert "differ" in differing.message
    world.execute(f"ALTER TABLE {table} UPDATE units = units - 1000 WHERE 1 SETTINGS mutations_sync = 1")
    assert_healthy(world)
    world.execute(f"INSERT INTO {table} (tenant_id, event, units) VALUES (3, 'twice', 1)")
    assert "landing has" in one(world, "copy", deep=True).message
    world.execute(f"ALTER TABLE {table} DELETE WHERE event = 'twice' SETTINGS mutations_sync = 1")
    derived = one(world, "derived", deep=True)
    assert (derived.level, derived.object) == (ERROR, "main_nest_3.clicked")
    assert "not in the source" in derived.message
    target = world.nest("3", "clicked").sql()
    world.execute(f"ALTER TABLE {target} DELETE WHERE event = 'twice' SETTINGS mutations_sync = 1")
    assert_healthy(world)


def test_rows_stored_during_the_examination_are_not_a_difference(world: World) -> None:
    stop = threading.Event()
    sent: list[str] = []

    def write() -> None:
        # A pause, so that the writer leaves the processor to the code under test.
        while not stop.wait(0.1):
            for name in ("events", "clicks"):
                world.send(name, rows(3))
                sent.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            before = len(sent)
            assert examination.examine(world.workspace, deep=True).findings == ()
            assert len(sent) > before, "no rows came in meanwhile"
    finally:
        stop.set()
        writer.join()


def test_a_foreign_view_is_reported(world: World) -> None:
    world.execute("CREATE DATABASE elsewhere")
    world.execute("CREATE TABLE elsewhere.kept (units UInt64) ENGINE = MergeTree ORDER BY units")
    with broken(
        world,
        "CREATE MATERIALIZED VIEW elsewhere.listening TO elsewhere.kept AS SELECT units FROM main.events",
        "DROP DATABASE elsewhere SYNC",
    ):
        finding = one(world, "foreign-view")
        assert (finding.level, finding.object) == (WARNING, "elsewhere.listening")
        assert examination.examine(world.workspace).healthy, "a warning"


def test_undeclared_objects_are_reported(world: World) -> None:
    orphan = Table(Name("main", "left_over"), (Column("a", "UInt8"),), mark=Mark("main", "left_over", "datasource"))
    with broken(world, ddl.create_table(orphan), ddl.drop_table(orphan.name)):
        finding = one(world, "orphan")
        assert (finding.level, finding.object) == (WARNING, "main.left_over")
    stranger = Table(world.nest("77", "events"), (Column("a", "UInt8"),), mark=Mark("main", "events", "nest", "77"))
    world.execute(ddl.create_database(stranger.name.database))
    with broken(world, ddl.create_table(stranger), ddl.drop_database(stranger.name.database)):
        finding = one(world, "unknown-nest")
        assert (finding.level, finding.object) == (WARNING, "main_nest_77")
        assert "tenant 77" in finding.message
        assert not found(world, "orphan")


def test_interrupted_changes_are_reported(world: World) -> None:
    registry = world.workspace.registry
    body = {"id": "5", "placement": "pooled", "created_at": "2026-01-01T00:00:00+00:00"}
    for state, remedy in (("adding", "add"), ("removing", "rm")):
        registry.write("tenant", {"5": {**body, "state": state}})
        assert one(world, "unfinished-tenant").hint == f"rookery tenant {remedy} 5"
    registry.remove("tenant", ["5"])
    journal = RegistryJournal(registry)
    note = Backfill("h", "main_nest_1._rk_usage_pipe", "s", "SELECT 1", ("a",), "t", ((0, 10), (10, 20)))
    journal.record([note])
    finding = one(world, "unfinished-history")
    assert (finding.level, finding.object) == (ERROR, note.view)
    assert "2 ranges" in finding.message
    journal.delete([note])
    assert_healthy(world)


def test_a_missing_view_is_drift_until_repaired(world: World) -> None:
    world.execute(ddl.drop_view(world.nest("1", "_rk_usage_pipe")))
    world.send("events", rows(4))
    findings = found(world, "drift")
    assert {f.level for f in findings} == {ERROR}
    assert str(world.nest("1", "_rk_usage_pipe")) in {f.object for f in findings}
    push(world.workspace, {})
    assert_healthy(world)
    world.assert_exact("events", "usage_daily")


def test_cursors_beyond_the_head_and_of_unknown_tenants(world: World) -> None:
    journal = router_of(world.workspace).journal
    main, _ = journal.read("clicks")
    assert main is not None
    journal.write_lagging("clicks", ["99", "1"], Offset.start(1_000_000))
    findings = found(world, "cursor")
    assert [(f.level, f.object) for f in findings] == [(ERROR, "main.clicks")] * 2 + [(WARNING, "main.clicks")]
    assert ["tenant 1 is at block 1000000" in f.message for f in findings] == [True, False, False]
    journal.delete("clicks", ["99", "1"])
    journal.write("clicks", replace(main, at=1_000_000))
    assert "the main group" in one(world, "cursor").message
    journal.write("clicks", main)
    assert_healthy(world)


def test_a_tenant_that_cannot_store_its_rows(world: World) -> None:
    target = world.nest("2", "clicked").sql()
    away = f"{target[:-1]}_away`"
    world.execute(f"RENAME TABLE {target} TO {away}")
    outcome = world.send("clicks", rows(5))
    assert outcome.visible is not None
    assert not outcome.visible.result(30)
    finding = one(world, "stray")
    assert (finding.level, finding.object) == (ERROR, "main.clicks")
    assert "tenant 2" in finding.message
    assert not found(world, "copy", deep=True), "what is known to lack rows is not compared"
    world.execute(f"RENAME TABLE {away} TO {target}")
    fanout_status.retry(world.workspace)
    router_of(world.workspace).wait_for(OWN)
    assert_healthy(world)


@pytest.mark.parametrize(("table", "view"), [("usage_daily", "_rk_usage_pipe"), ("events", "_rk_events")])
def test_a_suspended_view_is_reported(world: World, table: str, view: str) -> None:
    target = world.nest("2", table).sql()
    away = f"{target[:-1]}_away`"
    world.execute(f"RENAME TABLE {target} TO {away}")
    world.send("events", rows(5))
    world.execute(f"RENAME TABLE {away} TO {target}")
    finding = one(world, "suspended-view")
    assert (finding.level, finding.object) == (ERROR, str(world.nest("2", view)))
    assert not found(world, "copy", deep=True), "what is known to lack rows is not compared"
    push(world.workspace, {})
    assert_healthy(world)
    world.assert_exact("events", "usage_daily")


def test_rows_in_quarantine(world: World) -> None:
    assert world.send("events", [{"tenant_id": 1, "units": "many"}]).quarantined == 1
    finding = one(world, "quarantine")
    assert (finding.level, finding.object) == (WARNING, "main.events_quarantine")
    assert finding.message.startswith("1 rows of events")
    world.execute("TRUNCATE TABLE main.events_quarantine")
    assert_healthy(world)


def test_too_many_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_checks, "MAX_PARTS_PER_PARTITION", 2)
    world.execute("SYSTEM STOP MERGES main.events")
    for units in (1, 2):
        world.send("events", rows(units))
    assert "main.events" in {f.object for f in found(world, "many-parts") if f.level == WARNING}
    world.execute("SYSTEM START MERGES main.events")


def test_other_checks_run_during_a_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "CHANGE_TIMEOUT_SECONDS", 0.05)
    begun, over = threading.Event(), threading.Event()

    def change() -> None:
        with world.workspace.changes:
            begun.set()
            over.wait(30)

    changing = threading.Thread(target=change)
    changing.start()
    begun.wait(30)
    try:
        report = examination.examine(world.workspace)
        assert changing.is_alive(), "it has waited for the change"
    finally:
        over.set()
        changing.join()
    assert [(f.check, f.level) for f in report.findings] == [("busy", WARNING)]
    assert set(report.checks) == set(examination.AT_ANY_TIME)


def test_detached_parts_are_reported_until_attached(world: World) -> None:
    """The last test: it damages landing permanently."""
    target = world.nest("3", "clicked").sql()
    (part,) = world.row(
        "SELECT name FROM system.parts WHERE active AND database = 'main_nest_3' AND table = 'clicked' LIMIT 1"
    )
    with broken(world, f"ALTER TABLE {target} DETACH PART '{part}'", f"ALTER TABLE {target} ATTACH PART '{part}'"):
        finding = one(world, "detached-parts")
        assert (finding.level, finding.object) == (WARNING, "main_nest_3.clicked")
    world.execute("OPTIMIZE TABLE main.events FINAL")
    world.execute("OPTIMIZE TABLE main.events FINAL")
    assert_healthy(world)
    (partition,) = world.row("SELECT partition_id FROM system.parts WHERE database = 'main' AND table = 'events'")
    world.execute(f"ALTER TABLE main.events DETACH PARTITION ID '{partition}'")
    assert one(world, "detached-parts").level == ERROR
    assert len(found(world, "copy", deep=True)) == len(OWN)
    world.execute(f"ALTER TABLE main.events ATTACH PARTITION ID '{partition}'")
    finding = one(world, "attached-parts")
    assert (finding.level, finding.object) == (ERROR, "main.events")


def test_a_copy_is_compared_without_expired_rows(world: World) -> None:
    table = world.nest("1", "events").sql()
    world.execute(f"TRUNCATE TABLE {table}")
    for ttl, levels in [
        ("timestamp + toIntervalDay(90)", [ERROR]),
        ("timestamp - toIntervalDay(90)", []),
        ("timestamp + toIntervalDay(90) DELETE WHERE units > 5", [WARNING]),
    ]:
        context = seen_as(world, lambda t, ttl=ttl: replace(t, ttl=ttl))  # type: ignore[misc]
        assert [f.level for f in deep_checks.copies(context)] == levels, ttl
