"""The summary of a plan: one effect per object, added up over nests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.plan.steps import (
    AddColumn,
    ChangeColumn,
    CreateDatabase,
    CreateTable,
    CreateView,
    DropColumn,
    DropTable,
    DropView,
    Plan,
    Step,
    with_rows,
)
from engine.plan.summary import effects
from engine.schema import Column, Name, Table, View

DROPS = "drops and recomputes {rows}"


def rebuild(database: str, tenant: str | None, rows: int, **loss: object) -> list[Step]:
    name, view = Name(database, "daily"), Name(database, "_rk_daily_mv")
    dropped = DropTable("daily_mv", "its query changed", True, DROPS, tenant, name, loss="recomputed", rows=rows)
    return [
        DropView("daily_mv", "its query changed", True, tenant=tenant, name=view),
        replace(dropped, **loss),  # type: ignore[arg-type]
        CreateTable("daily_mv", "rebuilt", tenant=tenant, table=Table(name, ())),
        CreateView("daily_mv", "rebuilt, with a backfill", tenant=tenant, view=View(view, name, name, "")),
    ]


def test_a_rebuild_is_one_effect_over_all_nests() -> None:
    steps = rebuild("main", None, 1)
    for number in range(247):
        steps += rebuild(f"main_nest_{number}", str(number), 10)
    summary = effects(Plan(tuple(steps)))
    assert [e.text for e in summary] == [
        "table daily: rebuilt: its query changed; drops and recomputes 1 row",
        "table daily in 247 nests: rebuilt: its query changed; drops and recomputes 2,470 rows",
    ]
    assert {e.section for e in summary} == {"changed"}


def test_losses_are_apart_from_what_is_recomputed() -> None:
    steps = rebuild("main_nest_1", "1", 2) + rebuild("main_nest_2", "2", 3, loss="lost", effect="loses {rows}")
    assert [(e.section, e.text) for e in effects(Plan(tuple(steps)))] == [
        ("changed", "table daily in 1 nest: rebuilt: its query changed; drops and recomputes 2 rows"),
        ("lost", "table daily in 1 nest: rebuilt: its query changed; loses 3 rows"),
    ]


@pytest.mark.parametrize(
    ("step", "section", "text"),
    [
        (CreateDatabase("w", "does not exist", database="w"), "created", "database w"),
        (CreateDatabase("n", "does not exist", tenant="1", database="n"), "created", "1 nest"),
        (CreateTable("a", "does not exist", table=Table(Name("w", "a"), ())), "created", "table a"),
        (
            CreateView("a", "does not exist; existing rows are delivered", view=View(Name("w", "v"), Name("w", "a"), Name("w", "b"), "")),
            "created",
            "view v: existing rows are delivered",
        ),
        (
            CreateView("a", "delivers added columns", view=View(Name("w", "v"), Name("w", "a"), Name("w", "b"), ""), replaces=True),
            "changed",
            "view v: delivers added columns",
        ),
        (AddColumn("a", "new column", name=Name("w", "a"), column=Column("x", "String")), "created", "column a.x: new column"),
        (
            ChangeColumn("a", "type", True, "converts {rows}", None, Name("w", "a"), Column("x", "String"), rows=1),
            "changed",
            "column a.x: type; converts 1 row",
        ),
        (
            DropColumn("a", "column is gone", True, "loses its values in {rows}", None, Name("w", "a"), "x", loss="lost", rows=2),
            "lost",
            "column a.x: column is gone; loses its values in 2 rows",
        ),
        (DropTable("a", "is no longer declared", True, "", None, Name("w", "a")), "removed", "table a: is no longer declared"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)  # fmt: skip
def test_sections(step: Step, section: str, text: str) -> None:
    (effect,) = effects(Plan((step,)))
    assert (effect.section, effect.text) == (section, text)


def test_numbers_agree_with_their_nouns() -> None:
    assert [with_rows("drops {rows}", n) for n in (0, 1, 2, 1000)] == [
        "drops 0 rows",
        "drops 1 row",
        "drops 2 rows",
        "drops 1,000 rows",
    ]
