"""A push that changes several columns that depend on one another leaves the tables of a new push of the same files."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.control import push as push_module
from engine.control.push import PushOptions, PushResult, push
from engine.errors import Problems, RookeryError
from engine.plan.conversions import failed_conversions
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import PATIENCE, Rookery, open_rookery
from tests.support.soak import soak_rounds

MODES = {
    "none": "",
    "direct": "tenant: {column: k, fanout: direct}\n",
    "routed": "tenant: {column: k, fanout: routed}\n",
}


@dataclass
class Design:
    """A datasource: for each column its type, default and codec."""

    columns: dict[str, tuple[str, str, str]]
    ttl: str = ""
    indexes: dict[str, str] = field(default_factory=dict)

    def text(self, mode: str) -> str:
        lines = [f"{mode}columns:", "  - {name: k, type: UInt32}"]
        for name, (type, default, codec) in self.columns.items():
            more = (f', default: "{default}"' if default else "") + (f", codec: {codec}" if codec else "")
            lines.append(f"  - {{name: {name}, type: {type}{more}}}")
        ttl = f', ttl: "{self.ttl}"' if self.ttl else ""
        lines.append(f"engine: {{sorting_key: [k]{ttl}}}")
        if self.indexes:
            lines.append("indexes:")
        lines += [f'  - {{name: {n}, expression: "{e}", type: minmax}}' for n, e in self.indexes.items()]
        return "\n".join(lines) + "\n"


def designed(chance: random.Random) -> Design:
    """Columns of a random order, in which each may take its default from those before it."""
    names = chance.sample("abcdef", chance.randint(1, 5))
    columns: dict[str, tuple[str, str, str]] = {}
    for name in names:
        type = chance.choice(("Int64", "UInt32", "String"))
        default = chance.choice(("", "7", "use", "use"))
        if default == "use":
            other = chance.choice(("k", *columns))
            is_text = columns.get(other, ("UInt32",))[0] == "String"
            default = (
                (f"length({other})" if is_text else f"{other} + 1") if type != "String" else f"toString({other})"
            )
        elif default and type == "String":
            default = "'7'"
        columns[name] = (type, default, chance.choice(("", "", "ZSTD(1)", "LZ4")))
    numbers = [n for n, (type, *_) in columns.items() if type != "String"]
    ttl = f"toDateTime({chance.choice(numbers)}) + INTERVAL 90 YEAR" if numbers and chance.random() < 0.4 else ""
    indexes = {n: f"({chance.choice(names)}, k)" for n in "ij" if chance.random() < 0.3}
    shuffled = dict(chance.sample(sorted(columns.items()), len(columns)))
    return Design(shuffled, ttl, indexes)


def change(rookery: Rookery, **texts: str) -> PushResult:
    files = {name: DeployedFile(text, f"datasources/{name}.yaml") for name, text in texts.items()}
    return push(
        rookery.workspace,
        files,
        PushOptions(prune=True, allow=frozenset({*texts, *rookery.workspace.current.sources})),
    )


def definition(rookery: Rookery, table: str) -> list[object]:
    where = f"database = 'main' AND table = '{table}'"
    return [
        rookery.rows(
            "SELECT name, type, default_kind, default_expression, compression_codec FROM system.columns "
            f"WHERE {where} ORDER BY name"
        ),
        rookery.rows(f"SELECT name, expr, type FROM system.data_skipping_indices WHERE {where} ORDER BY name"),
        rookery.rows(f"SELECT engine_full FROM system.tables WHERE {where.replace('AND table', 'AND name')}"),
    ]


def values(rookery: Rookery, table: str, columns: Iterable[str]) -> list[tuple[object, ...]]:
    shown = ", ".join(f"toString({c})" for c in columns)
    return rookery.rows(f"SELECT tuple({shown}) FROM {table} ORDER BY ALL")


@pytest.mark.parametrize(("mode", "sample"), [("none", 8), ("direct", 2), ("routed", 2)])
def test_random_changes_lead_to_the_tables_of_a_new_push(tmp_path: Path, mode: str, sample: int) -> None:
    chance = random.Random(f"columns {mode}")
    with open_rookery(tmp_path) as rookery:
        before = designed(chance)
        change(rookery, events=before.text(MODES[mode]))
        tables = ["main.events"]
        if mode != "none":
            rookery.add("1")
            tables.append(f"{rookery.nest('1')}.events")
        for n in range(soak_rounds(sample)):
            rookery.deliver([{"k": 1}, {"k": 2}])
            after = designed(chance)
            kept = sorted(before.columns.keys() & after.columns.keys())
            stored = [values(rookery, t, kept) for t in tables]
            text, what = after.text(MODES[mode]), f"{before}\n{after}"
            texts = {"events": text, **({f"fresh{n}": text} if mode == "none" else {})}
            change(rookery, **texts)
            assert change(rookery, **texts).empty, what
            if mode == "none":
                assert definition(rookery, "events") == definition(rookery, f"fresh{n}"), what
            rookery.wait_until_caught_up()
            assert [values(rookery, t, kept) for t in tables] == stored, what
            for name in after.columns.keys() - before.columns.keys():
                default = after.columns[name][1]
                if default:
                    assert rookery.rows(f"SELECT 1 FROM main.events WHERE {name} != {default}") == [], (name, what)
            before = after


def test_older_rows_keep_the_values_of_a_converted_column(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        first = {"a": ("UInt32", "", "")}
        change(rookery, events=Design(first).text(""))
        rookery.run("INSERT INTO main.events (k, a) VALUES (1, 300)")
        added = {"b": ("UInt32", "", ""), "c": ("UInt32", "", ""), "d": ("UInt8", "a", "")}
        change(rookery, events=Design(first | added).text(""))
        rookery.run("INSERT INTO main.events (k, a) VALUES (2, 300)")
        converted = {"b": ("Nullable(UInt32)", "", ""), "c": ("String", "", ""), "d": ("UInt32", "a", "")}
        change(rookery, events=Design(first | converted).text(""))
        assert rookery.rows("SELECT k, a, b, c, d FROM main.events ORDER BY k") == [
            (n, 300, 0, "0", 44) for n in (1, 2)
        ]


BEFORE = Design(
    {"a": ("String", "'5'", "ZSTD(1)"), "b": ("UInt32", "length(a)", ""), "d": ("UInt32", "b + 1", "")},
    indexes={"i": "(d, k)"},
)
AFTER = Design(
    {"a": ("Int64", "", ""), "b": ("UInt32", "a + n", ""), "n": ("UInt32", "a + 1", "")},
    ttl="toDateTime(n) + INTERVAL 90 YEAR",
    indexes={"i": "(n, k)"},
)


def test_a_push_that_ends_between_two_statements_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_rookery(tmp_path) as rookery:
        warehouse = type(rookery.workspace.warehouse)
        execute = warehouse.execute
        altered: list[str] = []
        allowed = 0

        def interrupted(self: object, sql: str, *more: Any) -> Any:
            if sql.startswith("ALTER TABLE `main`."):
                altered.append(sql)
                if len(altered) > allowed:
                    raise KeyboardInterrupt
            return execute(self, sql, *more)

        for allowed in range(20):
            name = f"t{allowed}"
            change(rookery, **{name: BEFORE.text("")})
            rookery.run(f"INSERT INTO main.{name} (k) VALUES (1)")
            altered.clear()

            with monkeypatch.context() as patch:
                patch.setattr(warehouse, "execute", interrupted)
                with suppress(KeyboardInterrupt):
                    change(rookery, **{name: AFTER.text("")})
            change(rookery, **{name: AFTER.text(""), "fresh": AFTER.text("")})
            assert definition(rookery, name) == definition(rookery, "fresh")
            assert rookery.rows(f"SELECT k, a, b FROM main.{name}") == [(1, 5, 1)]
            if len(altered) <= allowed:
                break
        assert allowed > 2


def test_changes_that_cannot_be_made_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_rookery(tmp_path) as rookery:
        change(rookery, events=BEFORE.text(""))
        rookery.append([{"k": 1, "a": "three"}, {"k": 2, "a": "6"}])
        deployed = definition(rookery, "events")
        stored = values(rookery, "main.events", "ab")
        # No order of changes leads to a cycle of defaults, and the rows decide about the conversion.
        cycle = Design({"a": ("UInt32", "b + 1", ""), "b": ("UInt32", "a + 1", "")})
        for after, code in ((cycle, "RK2007"), (AFTER, "RK2030")):
            with pytest.raises(RookeryError) as raised:
                change(rookery, events=after.text(""))
            assert isinstance(raised.value, Problems)
            assert raised.value.problems[0].code.id == code
            assert definition(rookery, "events") == deployed
        # A row that arrives after the check: the column gets its type back, although other columns need the new one.
        with monkeypatch.context() as patch:
            patch.setattr(push_module, "check_conversions", lambda *_: None)
            with pytest.raises(RookeryError, match="RK3010"):
                change(rookery, events=AFTER.text(""))
        assert failed_conversions(rookery.workspace.warehouse, "main") == []
        # A program that was killed has begun it.
        rookery.run(
            "ALTER TABLE main.events MODIFY COLUMN b UInt32 DEFAULT a + 1, MODIFY COLUMN a Int64 DEFAULT 5 "
            "SETTINGS mutations_sync = 0, alter_sync = 0"
        )
        deadline = time.monotonic() + PATIENCE
        while not failed_conversions(rookery.workspace.warehouse, "main"):
            assert time.monotonic() < deadline
            rookery.run("SYSTEM START MERGES main.events")
        change(rookery, events=BEFORE.text(""))
        assert definition(rookery, "events") == deployed
        assert values(rookery, "main.events", "ab") == stored
