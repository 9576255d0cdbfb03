"""Tables are compared and repaired whatever their columns are named."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from tests.support.in_process import House, house

NAMES = ("one", "k", "h", "t", "v0", "e", "a", "u")
"""Short names that a statement of the comparison could use itself."""
EVENTS = "tenant: tenant_id\ncolumns:\n  - {name: tenant_id, type: UInt32}\n" + "".join(
    f"  - {{name: {n}, type: UInt32}}\n" for n in NAMES
)


def _pipe(name: str) -> str:
    sums = ", ".join(f"sum(events.{n}) AS {n}" for n in NAMES if n != name)
    return (
        f"sql: SELECT tenant_id, {name}, {sums} FROM events GROUP BY tenant_id, {name}\n"
        f"materialize:\n  target: by_{name}\n  per_tenant: true\n"
        f"  engine: {{type: SummingMergeTree, sorting_key: [tenant_id, {name}]}}\n"
    )


def _wrong(home: House) -> set[str]:
    return {str(f.object) for f in examine(home.workspace, deep=True).findings}


def test_columns_can_have_any_name(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        key = ", ".join(NAMES)
        files = {"datasources/events.yaml": f"{EVENTS}engine: {{sorting_key: [tenant_id, {key}]}}\n"}
        home.push({**files, **{f"pipes/to_{n}.yaml": _pipe(n) for n in NAMES}})
        home.add("8", placement="pooled")
        tables = [f"main.by_{n}" for n in NAMES]
        for table in tables:
            home.run(f"SYSTEM STOP MERGES {table}")
        for value in (1, 2, 3):
            assert home.visible([{"tenant_id": 8, **dict.fromkeys(NAMES, value)}])
        assert _wrong(home) == set()
        before = [home.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in tables]
        for table, name in zip(tables, NAMES, strict=True):
            ((part,),) = home.rows(f"SELECT _part FROM {table} WHERE {name} = 2")
            home.run(f"ALTER TABLE {table} DROP PART '{part}'")
        assert _wrong(home) == set(tables)
        repair(home.workspace)
        assert [home.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in tables] == before
        home.add("1")
        copy = f"{home.nest('1')}.events"
        assert home.visible([{"tenant_id": 1, **dict.fromkeys(NAMES, 4)}])
        home.run(f"TRUNCATE TABLE {copy}")
        repair(home.workspace)
        assert home.rows(f"SELECT t FROM {copy}") == [(4,)]
        assert _wrong(home) == set()
