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


KEYS = {"main.by_first": NAMES[:4], "main.by_last": NAMES[4:]}
"""Each name is a part of the key of one table, and a value of the other."""


def _pipe(table: str) -> str:
    key = ", ".join(KEYS[table])
    sums = ", ".join(f"sum(events.{n}) AS {n}" for n in NAMES if n not in KEYS[table])
    return (
        f"sql: SELECT tenant_id, {key}, {sums} FROM events GROUP BY tenant_id, {key}\n"
        f"materialize:\n  target: {table.removeprefix('main.')}\n  per_tenant: true\n"
        f"  engine: {{type: SummingMergeTree, sorting_key: [tenant_id, {key}]}}\n"
    )


def _wrong(rookery: Rookery) -> set[str]:
    return {str(f.object) for f in examine(rookery.workspace, deep=True).findings}


def test_columns_can_have_any_name(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        key = ", ".join(NAMES)
        files = {"datasources/events.yaml": f"{EVENTS}engine: {{sorting_key: [tenant_id, {key}]}}\n"}
        rookery.push({**files, **{f"pipes/to_{t.removeprefix('main.')}.yaml": _pipe(t) for t in KEYS}})
        rookery.add("8", placement="pooled")
        for table in KEYS:
            rookery.run(f"SYSTEM STOP MERGES {table}")
        for value in (1, 2, 3):
            assert rookery.deliver([{"tenant_id": 8, **dict.fromkeys(NAMES, value)}])
        before = [rookery.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in KEYS]
        for table, names in KEYS.items():
            ((part,),) = rookery.rows(f"SELECT _part FROM {table} WHERE {names[0]} = 2")
            rookery.run(f"ALTER TABLE {table} DROP PART '{part}'")
        assert _wrong(rookery) == set(KEYS)
        repair(rookery.workspace)
        assert [rookery.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in KEYS] == before
        rookery.add("1")
        copy = f"{rookery.nest('1')}.events"
        assert rookery.deliver([{"tenant_id": 1, **dict.fromkeys(NAMES, 4)}])
        rookery.run(f"TRUNCATE TABLE {copy}")
        repair(rookery.workspace)
        assert rookery.rows(f"SELECT t FROM {copy}") == [(4,)]
        assert _wrong(rookery) == set()
