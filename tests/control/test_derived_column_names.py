"""Tables are compared and repaired whatever their columns are named."""

from __future__ import annotations

from pathlib import Path

from engine.control.doctor import examine, repair
from tests.support.in_process import Rookery, open_rookery

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


def _wrong(rookery: Rookery) -> set[str]:
    return {str(f.object) for f in examine(rookery.workspace, deep=True).findings}


def test_columns_can_have_any_name(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        key = ", ".join(NAMES)
        files = {"datasources/events.yaml": f"{EVENTS}engine: {{sorting_key: [tenant_id, {key}]}}\n"}
        rookery.push({**files, **{f"pipes/to_{n}.yaml": _pipe(n) for n in NAMES}})
        rookery.add("8", placement="pooled")
        tables = [f"main.by_{n}" for n in NAMES]
        for table in tables:
            rookery.run(f"SYSTEM STOP MERGES {table}")
        for value in (1, 2, 3):
            assert rookery.deliver([{"tenant_id": 8, **dict.fromkeys(NAMES, value)}])
        before = [rookery.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in tables]
        for table, name in zip(tables, NAMES, strict=True):
            ((part,),) = rookery.rows(f"SELECT _part FROM {table} WHERE {name} = 2")
            rookery.run(f"ALTER TABLE {table} DROP PART '{part}'")
        assert _wrong(rookery) == set(tables)
        repair(rookery.workspace)
        assert [rookery.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in tables] == before
        rookery.add("1")
        copy = f"{rookery.nest('1')}.events"
        assert rookery.deliver([{"tenant_id": 1, **dict.fromkeys(NAMES, 4)}])
        rookery.run(f"TRUNCATE TABLE {copy}")
        repair(rookery.workspace)
        assert rookery.rows(f"SELECT t FROM {copy}") == [(4,)]
        assert _wrong(rookery) == set()
