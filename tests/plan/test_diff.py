"""The pure comparison of schemas."""

from dataclasses import replace

from engine.plan.diff import DiffOptions, diff
from engine.plan.steps import AddColumn, ChangeClause, CreateTable, CreateView, DropColumn, DropTable, DropView
from engine.schema import Column, Mark, Name, Schema, Table, View

LANDING = Table(
    Name("w", "events"),
    (Column("t", "UInt32"), Column("v", "String")),
    sorting_key="t",
    mark=Mark("w", "events", "d"),
)
TARGET = Table(
    Name("w", "sums"),
    (Column("t", "UInt32"), Column("n", "UInt64")),
    "SummingMergeTree",
    "t",
    mark=Mark("w", "sums", "d"),
)
SECOND = replace(TARGET, name=Name("w", "second"), mark=Mark("w", "second", "d"))
VIEW = View(
    Name("w", "_rk_p"),
    TARGET.name,
    LANDING.name,
    "SELECT `w`.`events`",
    mark=Mark("w", "p", "view", fingerprint="a:b"),
)
NEXT = View(Name("w", "_rk_q"), SECOND.name, TARGET.name, "SELECT", mark=Mark("w", "q", "view", fingerprint="c:d"))
WHOLE = Schema.of({"w"}, [LANDING, TARGET, SECOND], [VIEW, NEXT])


def _changed(**tables: Table) -> Schema:
    changed_steps = {t.name: t for t in WHOLE.tables.values()} | {t.name: t for t in tables.values()}
    return Schema(WHOLE.databases, changed_steps, WHOLE.views)


def _actions(steps: object) -> list[str]:
    return [f"{s.action} {s.subject}" for s in steps]  # type: ignore[attr-defined]


def test_equal_schemas_have_an_empty_plan() -> None:
    assert not diff(WHOLE, WHOLE)


def test_an_empty_database_is_filled_in_order_of_data_flow() -> None:
    plan = diff(WHOLE, Schema())
    assert _actions(plan.steps) == [
        "CreateDatabase w", "CreateTable w.events", "CreateTable w.sums", "CreateTable w.second",
        "CreateView w._rk_p", "CreateView w._rk_q",
    ]  # fmt: skip
    assert plan.destructive == ()


def test_an_added_column_is_not_destructive_and_takes_the_insert_lock_on_landing() -> None:
    wider = replace(LANDING, columns=(*LANDING.columns, Column("x", "String")))
    (step,) = diff(_changed(events=wider), WHOLE).steps
    assert isinstance(step, AddColumn) and step.late and not step.destructive


def test_a_changed_key_of_a_target_rebuilds_it_and_derived_targets() -> None:
    plan = diff(_changed(sums=replace(TARGET, sorting_key="n")), WHOLE, DiffOptions(sizes=lambda _: 1234))
    kinds = [type(s) for s in plan.steps]
    assert kinds == [DropView, DropView, DropTable, DropTable, CreateTable, CreateTable, CreateView, CreateView]
    assert plan.destructive == ("sums",)
    assert "1,234 rows" in next(s.cost for s in plan.steps if isinstance(s, DropTable))


def test_a_changed_query_rebuilds_its_target() -> None:
    changed = replace(VIEW, mark=Mark("w", "p", "view", fingerprint="z:b"))
    plan = diff(Schema(WHOLE.databases, WHOLE.tables, {**WHOLE.views, VIEW.name: changed}), WHOLE)
    assert {type(s) for s in plan.steps} == {DropView, DropTable, CreateTable, CreateView}
    assert plan.destructive == ("p",)


def test_added_columns_of_the_same_query_replace_only_the_view() -> None:
    changed = replace(VIEW, mark=Mark("w", "p", "view", fingerprint="a:bb"))
    (step,) = diff(Schema(WHOLE.databases, WHOLE.tables, {**WHOLE.views, VIEW.name: changed}), WHOLE).steps
    assert isinstance(step, CreateView) and step.replaces and not step.destructive


def test_a_dropped_column_of_landing_is_destructive_and_recreates_views_that_list_it() -> None:
    narrower = replace(LANDING, columns=LANDING.columns[:1])
    plan = diff(_changed(events=narrower), WHOLE)
    assert [type(s) for s in plan.steps] == [DropColumn, CreateView]
    assert plan.destructive == ("events",)


def test_undeclared_live_objects_stay_unless_pruned() -> None:
    less = Schema.of({"w"}, [LANDING], [])
    assert not diff(less, WHOLE)
    plan = diff(less, WHOLE, DiffOptions(prune=True))
    assert [type(s) for s in plan.steps] == [DropView, DropView, DropTable, DropTable]
    assert all(s.destructive for s in plan.steps)


def test_a_ttl_is_altered_in_place() -> None:
    (step,) = diff(_changed(events=replace(LANDING, ttl="at + toIntervalDay(9)")), WHOLE).steps
    assert isinstance(step, ChangeClause) and step.destructive
    assert "MODIFY TTL at + toIntervalDay(9)" in step.sql


def test_declared_settings_are_altered_in_place_and_those_of_the_layout_are_not() -> None:
    before = replace(LANDING, settings=(("a", "1"), ("enable_block_number_column", "1")))
    after = replace(LANDING, settings=(("b", "2"), ("non_replicated_deduplication_window", "9")))
    live = Schema(WHOLE.databases, {**WHOLE.tables, LANDING.name: before}, WHOLE.views)
    steps = diff(_changed(events=after), live).steps
    assert [s.sql for s in steps if isinstance(s, ChangeClause)] == [
        "ALTER TABLE `w`.`events` RESET SETTING a",
        "ALTER TABLE `w`.`events` MODIFY SETTING b = 2",
    ]
    assert not any(s.destructive for s in steps)
