"""Every check of `doctor`: a fault is reported under its name, and no longer once it is fixed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.control import fanout_status
from engine.control.doctor import assumed_zone, deep_checks, examination, storage_checks
from engine.control.doctor.comparison import Comparison
from engine.control.doctor.derived_tables import derived_tables
from engine.control.doctor.findings import ERROR, WARNING, Context
from engine.control.push import push
from engine.fanout.offsets import Offset
from engine.fanout.router import router_of
from engine.plan.backfill import Backfill
from engine.plan.coverage import COVERAGE_KIND
from engine.schema import Column, Mark, Name, Schema, Table
from engine.warehouse import ddl
from engine.warehouse.registry import Registry
from engine.workspace.journal import RegistryJournal
from tests.control.conftest import OWN, Billing, rows
from tests.control.doctor_checks import assert_healthy, broken, found, one
from tests.support.soak import soak_rounds

WINDOW = "non_replicated_deduplication_window"


def test_a_healthy_workspace_has_no_findings(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = examination.examine(billing.workspace)
    warehouse, sums = billing.workspace.warehouse, Counter[str]()
    query = warehouse.query

    def counting(sql: str, *more: Any, **named: Any) -> Any:
        sums[sql] += "groupBitXor" in sql
        return query(sql, *more, **named)

    coverage: list[str] = []
    read = Registry.read

    def noting(self: Registry, kind: str) -> Any:
        coverage.extend([kind] if kind == COVERAGE_KIND else [])
        return read(self, kind)

    with monkeypatch.context() as patched:
        patched.setattr(warehouse, "query", counting)
        patched.setattr(Registry, "read", noting)
        deep = examination.examine(billing.workspace, deep=True)
    assert set(sums.values()) == {0, 1}, "copies are read once"
    assert len(coverage) <= 2, "once for the drift and once for all derived tables"
    assert shallow.findings == deep.findings == ()
    assert deep.healthy
    assert set(deep.checks) == {*examination.WITHOUT_CHANGES, *examination.AT_ANY_TIME, *examination.DEEP, "drift"}
    assert set(deep.checks) - set(shallow.checks) == set(examination.DEEP)


def test_a_landing_window_that_is_too_small(billing: Billing) -> None:
    with broken(
        billing,
        f"ALTER TABLE main.events MODIFY SETTING {WINDOW} = 5",
        f"ALTER TABLE main.events MODIFY SETTING {WINDOW} = 1000",
    ):
        finding = one(billing, "landing-layout")
        assert (finding.level, finding.object) == (ERROR, "main.events")
        assert "is 5, and 1000 is needed" in finding.message
        assert not examination.examine(billing.workspace).healthy


def seen_as(billing: Billing, change: Callable[[Table], Table]) -> Context:
    """The workspace as if the live table of `events` were another."""
    context = examination.context_of(billing.workspace)
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
def test_a_landing_table_without_the_log_layout(
    billing: Billing, change: Callable[[Table], Table], words: str
) -> None:
    (finding,) = storage_checks.landing_layout(seen_as(billing, change))
    assert (finding.level, finding.object) == (ERROR, "main.events")
    assert words in finding.message


def test_a_short_ttl_on_landing(billing: Billing) -> None:
    with broken(
        billing,
        "ALTER TABLE main.events MODIFY TTL timestamp + INTERVAL 23 HOUR",
        "ALTER TABLE main.events REMOVE TTL",
    ):
        finding = one(billing, "landing-ttl")
        assert (finding.level, finding.object) == (ERROR, "main.events")
        billing.execute("ALTER TABLE main.events MODIFY TTL timestamp + INTERVAL 1 DAY")
        assert not found(billing, "landing-ttl")


def test_a_nest_without_its_window(billing: Billing) -> None:
    table = billing.nest("1", "usage_daily")
    billing.execute(f"ALTER TABLE {table.sql()} MODIFY SETTING {WINDOW} = 0")
    finding = one(billing, "nest-window")
    assert (finding.level, finding.object) == (ERROR, str(table))
    assert finding.hint
    billing.execute(finding.hint)
    assert_healthy(billing)


def test_a_nest_without_its_constraint_and_with_a_foreign_row(billing: Billing) -> None:
    table = billing.nest("1", "usage_daily")
    billing.execute(f"ALTER TABLE {table.sql()} DROP CONSTRAINT own")
    finding = one(billing, "nest-constraint")
    assert (finding.level, finding.object) == (ERROR, str(table))
    assert not found(billing, "foreign-rows", deep=True)
    billing.execute(f"INSERT INTO {table.sql()} (tenant_id, event, events, units) VALUES (2, 'b', 1, 1)")
    assert not found(billing, "foreign-rows")
    foreign = one(billing, "foreign-rows", deep=True)
    assert (foreign.level, foreign.object) == (ERROR, str(table))
    assert foreign.message.startswith("1 row")
    billing.execute(f"ALTER TABLE {table.sql()} DELETE WHERE tenant_id = 2 SETTINGS mutations_sync = 1")
    assert not found(billing, "foreign-rows", deep=True)
    assert finding.hint
    billing.execute(finding.hint)
    assert_healthy(billing)


def zones_tried(billing: Billing, monkeypatch: pytest.MonkeyPatch, *, unproven: str | None) -> list[str]:
    """In which zones the doctor compares tables, as if the workspace's zone had only been assumed."""
    tried: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(assumed_zone, "is_zone_assumed", lambda _registry: True)
        patched.setattr(Comparison, "agrees_in", lambda _self, zone: tried.append(zone))
        patched.setattr(Comparison, "why_unproven", lambda _self: unproven)
        context = examination.context_of(billing.workspace)
        damaged = [d for d in derived_tables(context) if d.table.name == billing.nest("3", "clicked")]
        patched.setattr(assumed_zone, "derived_tables", lambda _context: damaged)
        assert assumed_zone.other_zone(context) is None
    return tried


def test_a_different_copy_is_found_by_count_and_by_content(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    table = billing.nest("3", "clicks").sql()
    billing.execute(f"ALTER TABLE {table} UPDATE units = units + 1000 WHERE 1 SETTINGS mutations_sync = 1")
    differing = one(billing, "copy", deep=True)
    assert (differing.level, differing.object) == (ERROR, "main_nest_3.clicks")
    assert "differ" in differing.message
    billing.execute(f"ALTER TABLE {table} UPDATE units = units - 1000 WHERE 1 SETTINGS mutations_sync = 1")
    assert not found(billing, "copy", deep=True)
    billing.execute(f"INSERT INTO {table} (tenant_id, event, units) VALUES (3, 'twice', 1)")
    assert "landing has" in one(billing, "copy", deep=True).message
    billing.execute(f"ALTER TABLE {table} DELETE WHERE event = 'twice' SETTINGS mutations_sync = 1")
    derived = one(billing, "derived", deep=True)
    assert (derived.level, derived.object) == (ERROR, "main_nest_3.clicked")
    assert "not in the source" in derived.message
    assert zones_tried(billing, monkeypatch, unproven=None)
    assert not zones_tried(billing, monkeypatch, unproven="rows may have expired")
    target = billing.nest("3", "clicked").sql()
    billing.execute(f"ALTER TABLE {target} DELETE WHERE event = 'twice' SETTINGS mutations_sync = 1")
    assert_healthy(billing, deep=True)


@pytest.mark.soak
def test_rows_stored_during_the_examination_are_not_a_difference(billing: Billing) -> None:
    stop = threading.Event()
    sent: list[str] = []

    def write() -> None:
        # A pause, so that the writer leaves the processor to the code under test.
        while not stop.wait(0.1):
            for name in ("events", "clicks"):
                billing.send(name, rows(3))
                sent.append(name)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(soak_rounds(1)):
            before = len(sent)
            assert examination.examine(billing.workspace, deep=True).findings == ()
            assert len(sent) > before, "no rows came in meanwhile"
    finally:
        stop.set()
        writer.join()


def test_a_foreign_view_is_reported(billing: Billing) -> None:
    billing.execute("CREATE DATABASE elsewhere")
    billing.execute("CREATE TABLE elsewhere.kept (units UInt64) ENGINE = MergeTree ORDER BY units")
    with broken(
        billing,
        "CREATE MATERIALIZED VIEW elsewhere.listening TO elsewhere.kept AS SELECT units FROM main.events",
        "DROP DATABASE elsewhere SYNC",
    ):
        finding = one(billing, "foreign-view")
        assert (finding.level, finding.object) == (WARNING, "elsewhere.listening")
        assert examination.examine(billing.workspace).healthy, "a warning"


def test_undeclared_objects_are_reported(billing: Billing) -> None:
    orphan = Table(Name("main", "left_over"), (Column("a", "UInt8"),), mark=Mark("main", "left_over", "datasource"))
    with broken(billing, ddl.create_table(orphan), ddl.drop_table(orphan.name)):
        finding = one(billing, "orphan")
        assert (finding.level, finding.object) == (WARNING, "main.left_over")
    stranger = Table(billing.nest("77", "events"), (Column("a", "UInt8"),), mark=Mark("main", "events", "nest", "77"))
    billing.execute(ddl.create_database(stranger.name.database))
    with broken(billing, ddl.create_table(stranger), ddl.drop_database(stranger.name.database)):
        finding = one(billing, "unknown-nest")
        assert (finding.level, finding.object) == (WARNING, "main_nest_77")
        assert "tenant 77" in finding.message
        assert not found(billing, "orphan")


def test_interrupted_changes_are_reported(billing: Billing) -> None:
    registry = billing.workspace.registry
    body = {"id": "5", "placement": "pooled", "created_at": "2026-01-01T00:00:00+00:00"}
    for state, remedy in (("adding", "add"), ("removing", "rm")):
        registry.write("tenant", {"5": {**body, "state": state}})
        assert one(billing, "unfinished-tenant").hint == f"rookery tenant {remedy} 5"
    registry.remove("tenant", ["5"])
    own = registry.read("tenant")[str(OWN[0])]
    registry.write("tenant", {str(OWN[0]): {**own, "state": "removing"}})
    checks = [f.check for f in examination.examine(billing.workspace).findings]
    assert "unfinished-tenant" in checks
    assert not {"orphan", "unknown-nest"} & {*checks}, "the tables that the removal left need no other remedy"
    registry.write("tenant", {str(OWN[0]): own})
    journal = RegistryJournal(registry)
    note = Backfill("h", "main_nest_1._rk_usage_pipe", "s", "SELECT 1", ("a",), "t", ((0, 10), (10, 20)))
    journal.record([note])
    finding = one(billing, "unfinished-history")
    assert (finding.level, finding.object) == (ERROR, note.view)
    assert "2 ranges" in finding.message
    journal.delete([note])
    assert_healthy(billing)


def test_a_missing_view_is_drift_until_repaired(billing: Billing) -> None:
    billing.execute(ddl.drop_view(billing.nest("1", "_rk_usage_pipe")))
    billing.send("events", rows(4))
    findings = found(billing, "drift")
    assert {f.level for f in findings} == {ERROR}
    assert str(billing.nest("1", "_rk_usage_pipe")) in {f.object for f in findings}
    push(billing.workspace, {})
    assert_healthy(billing)
    billing.assert_exact("events", "usage_daily")


def test_cursors_beyond_the_head_and_of_unknown_tenants(billing: Billing) -> None:
    journal = router_of(billing.workspace).offsets
    main, _ = journal.read("clicks")
    assert main is not None
    journal.write_lagging("clicks", ["99", "1"], Offset.start(1_000_000))
    findings = found(billing, "cursor")
    assert [(f.level, f.object) for f in findings] == [(ERROR, "main.clicks")] * 2 + [(WARNING, "main.clicks")]
    assert ["tenant 1 is at block 1000000" in f.message for f in findings] == [True, False, False]
    journal.delete("clicks", ["99", "1"])
    journal.write("clicks", replace(main, at=1_000_000))
    assert "the main group" in one(billing, "cursor").message
    journal.write("clicks", main)
    assert_healthy(billing)


def test_a_tenant_that_cannot_store_its_rows(billing: Billing) -> None:
    target = billing.nest("2", "clicked").sql()
    away = f"{target[:-1]}_away`"
    billing.execute(f"RENAME TABLE {target} TO {away}")
    outcome = billing.send("clicks", rows(5))
    assert outcome.visible is not None
    assert not outcome.visible.result(30)
    finding = one(billing, "stray")
    assert (finding.level, finding.object) == (ERROR, "main.clicks")
    assert "tenant 2" in finding.message
    assert not found(billing, "copy", deep=True), "what is known to lack rows is not compared"
    billing.execute(f"RENAME TABLE {away} TO {target}")
    fanout_status.retry(billing.workspace)
    router_of(billing.workspace).wait_for(OWN)
    assert_healthy(billing)
    billing.assert_exact("clicks", "clicked")


@pytest.mark.parametrize(("table", "view"), [("usage_daily", "_rk_usage_pipe"), ("events", "_rk_events")])
def test_a_suspended_view_is_reported(billing: Billing, table: str, view: str) -> None:
    target = billing.nest("2", table).sql()
    away = f"{target[:-1]}_away`"
    billing.execute(f"RENAME TABLE {target} TO {away}")
    billing.send("events", rows(5))
    billing.execute(f"RENAME TABLE {away} TO {target}")
    finding = one(billing, "suspended-view")
    assert (finding.level, finding.object) == (ERROR, str(billing.nest("2", view)))
    assert not found(billing, "copy", deep=True), "what is known to lack rows is not compared"
    push(billing.workspace, {})
    assert_healthy(billing)
    billing.assert_exact("events", "usage_daily")


def test_rows_in_quarantine(billing: Billing) -> None:
    assert billing.send("events", [{"tenant_id": 1, "units": "many"}]).quarantined == 1
    finding = one(billing, "quarantine")
    assert (finding.level, finding.object) == (WARNING, "main.events_quarantine")
    assert finding.message.startswith("1 row of events")
    billing.execute("TRUNCATE TABLE main.events_quarantine")
    assert_healthy(billing)


def test_too_many_parts(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_checks, "MAX_PARTS_PER_PARTITION", 2)
    billing.execute("SYSTEM STOP MERGES main.events")
    for units in (1, 2):
        billing.send("events", rows(units))
    assert "main.events" in {f.object for f in found(billing, "many-parts") if f.level == WARNING}
    billing.execute("SYSTEM START MERGES main.events")


def test_other_checks_run_during_a_change(billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "CHANGE_TIMEOUT_SECONDS", 0.05)
    begun, over = threading.Event(), threading.Event()

    def change() -> None:
        with billing.workspace.changes:
            begun.set()
            over.wait(30)

    changing = threading.Thread(target=change)
    changing.start()
    begun.wait(30)
    try:
        report = examination.examine(billing.workspace)
        assert changing.is_alive(), "it has waited for the change"
    finally:
        over.set()
        changing.join()
    assert [(f.check, f.level) for f in report.findings] == [("busy", WARNING)]
    assert set(report.checks) == set(examination.AT_ANY_TIME)


def test_detached_parts_are_reported_until_attached(billing: Billing) -> None:
    """The last test: it damages landing permanently."""
    target = billing.nest("3", "clicked").sql()
    (part,) = billing.row(
        "SELECT name FROM system.parts WHERE active AND database = 'main_nest_3' AND table = 'clicked' LIMIT 1"
    )
    with broken(billing, f"ALTER TABLE {target} DETACH PART '{part}'", f"ALTER TABLE {target} ATTACH PART '{part}'"):
        finding = one(billing, "detached-parts")
        assert (finding.level, finding.object) == (WARNING, "main_nest_3.clicked")
    billing.execute("OPTIMIZE TABLE main.events FINAL")
    billing.execute("OPTIMIZE TABLE main.events FINAL")
    assert_healthy(billing, deep=True)
    (partition,) = billing.row("SELECT partition_id FROM system.parts WHERE database = 'main' AND table = 'events'")
    billing.execute(f"ALTER TABLE main.events DETACH PARTITION ID '{partition}'")
    assert one(billing, "detached-parts").level == ERROR
    assert len(found(billing, "copy", deep=True)) == len(OWN)
    billing.execute(f"ALTER TABLE main.events ATTACH PARTITION ID '{partition}'")
    finding = one(billing, "attached-parts")
    assert (finding.level, finding.object) == (ERROR, "main.events")


def test_a_copy_is_compared_without_expired_rows(billing: Billing) -> None:
    table = billing.nest("1", "events").sql()
    billing.execute(f"TRUNCATE TABLE {table}")
    for ttl, levels in [
        ("timestamp + toIntervalDay(90)", [ERROR]),
        ("timestamp - toIntervalDay(90)", []),
        ("timestamp + toIntervalDay(90) DELETE WHERE units > 5", [WARNING]),
    ]:
        context = seen_as(billing, lambda t, ttl=ttl: replace(t, ttl=ttl))  # type: ignore[misc]
        assert [f.level for f in deep_checks.copies(context)] == levels, ttl
