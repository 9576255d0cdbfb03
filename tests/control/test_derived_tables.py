"""Random parts of derived tables are deleted: the doctor names each table, and its repair restores the rows."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from engine.control.doctor import examination, examine, repair
from engine.control.doctor.comparable_columns import ComparableColumns, comparable_columns
from engine.schema import Name
from tests.support.in_process import Rookery, open_rookery

OWN, POOLED = ("1",), ("8", "9")
EVENTS = """
tenant: {column: tenant_id, fanout: %s}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: n, type: UInt32}
  - {name: x, type: Float64, default: "id / 7"}
engine: {type: MergeTree, sorting_key: [tenant_id, id]}
"""
SUMS = """
nodes:
  - name: it
    sql: SELECT tenant_id, toUInt8(id % 4) AS bucket, count() AS events, sum(n) AS total FROM events GROUP BY tenant_id, bucket
materialize:
  target: sums
  per_tenant: true
  engine: {type: SummingMergeTree, sorting_key: [tenant_id, bucket], columns: [events, total]}
"""
STATES = """
nodes:
  - name: it
    sql: |
      SELECT tenant_id, toUInt8(id % 4) AS bucket, uniqState(id) AS ids, avgState(x) AS mean, maxState(n) AS top,
        anyState(n) AS some, quantileState(0.5)(n) AS middle
      FROM events GROUP BY tenant_id, bucket
materialize:
  target: states
  per_tenant: true
  engine: {type: AggregatingMergeTree, sorting_key: [tenant_id, bucket]}
"""
LATEST = """
nodes:
  - {name: it, sql: "SELECT id % 10 AS slot, id AS version, n FROM events WHERE tenant_id = 8"}
materialize: {target: latest, engine: {type: ReplacingMergeTree, sorting_key: [slot], version: version}}
"""
PLAIN = """
nodes:
  - {name: it, sql: "SELECT id, n * 2 AS twice FROM events WHERE tenant_id = 9"}
materialize: {target: plain, engine: {type: MergeTree, sorting_key: [id]}}
"""
STAMPED = """
nodes:
  - {name: it, sql: "SELECT id, now() AS stamp FROM events WHERE tenant_id = 9"}
materialize: {target: stamped, engine: {type: ReplacingMergeTree, sorting_key: [id], version: id}}
"""
PARTS = 25
"""Parts that are deleted together."""
_IDS = itertools.count(1)
Rows = list[dict[str, int]]


def _files(mode: str) -> dict[str, str]:
    pipes = {"sums": SUMS, "states": STATES, "latest": LATEST, "plain": PLAIN, "stamped": STAMPED}
    return {"datasources/events.yaml": EVENTS % mode, **{f"pipes/to_{n}.yaml": t for n, t in pipes.items()}}


@pytest.fixture(scope="module", params=["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rookery, Rows]]:
    sent: Rows = []
    with open_rookery(tmp_path_factory.mktemp(request.param)) as rookery:
        fill(rookery, request.param, sent)
        yield rookery, sent


def fill(rookery: Rookery, mode: str, sent: Rows) -> None:
    """Derived tables of several parts."""
    rookery.push(_files(mode))
    rookery.add(*OWN)
    rookery.add(*POOLED, placement="pooled")
    rookery.run("SYSTEM STOP MERGES")
    for _ in range(8):
        _send(rookery, sent)


def _send(rookery: Rookery, sent: Rows) -> None:
    rows = [
        {"tenant_id": int(t), "id": next(_IDS), "n": random.randrange(100)} for t in (*OWN, *POOLED) for _ in range(6)
    ]
    assert rookery.deliver(rows)
    sent += rows


def _found(rookery: Rookery) -> list[tuple[str, str, str]]:
    rookery.wait_until_caught_up()
    return [(f.level, f.check, f.object) for f in examine(rookery.workspace, deep=True).findings]


def _assert_right(rookery: Rookery, sent: Rows) -> None:
    """Compare every table with numbers computed here."""
    sums: dict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
    ids: dict[tuple[str, int], set[int]] = defaultdict(set)
    for row in sent:
        tenant, bucket = str(row["tenant_id"]), row["id"] % 4
        sums[tenant][bucket, "events"] += 1
        sums[tenant][bucket, "total"] += row["n"]
        ids[tenant, bucket].add(row["id"])
    for tenant in (*OWN, *POOLED):
        database = rookery.nest(tenant) if tenant in OWN else "main"
        mine = f"WHERE tenant_id = {tenant}"
        rows = rookery.rows(f"SELECT bucket, sum(events), sum(total) FROM {database}.sums {mine} GROUP BY bucket")
        assert {(b, e, t) for b, e, t in rows} == {
            (b, sums[tenant][b, "events"], sums[tenant][b, "total"]) for b in range(4)
        }
        uniq = rookery.rows(f"SELECT bucket, uniqMerge(ids) FROM {database}.states {mine} GROUP BY bucket")
        assert dict(uniq) == {b: len(ids[tenant, b]) for b in range(4)}
    for tenant in OWN:
        rows = rookery.rows(f"SELECT id, n FROM {rookery.nest(tenant)}.events ORDER BY id")
        assert rows == sorted((r["id"], r["n"]) for r in sent if str(r["tenant_id"]) == tenant)
    newest = {r["id"] % 10: r["id"] for r in sorted(sent, key=lambda r: r["id"]) if r["tenant_id"] == 8}
    assert dict(rookery.rows("SELECT slot, version FROM main.latest FINAL")) == newest
    plain = rookery.rows("SELECT id, twice FROM main.plain ORDER BY id")
    assert plain == sorted((r["id"], 2 * r["n"]) for r in sent if r["tenant_id"] == 9)


def _parts(rookery: Rookery) -> list[tuple[str, str, str]]:
    rows = rookery.rows(
        "SELECT database, table, name FROM system.parts WHERE active AND rows > 0 AND "
        "((database = 'main' AND table IN ('sums', 'states', 'latest', 'plain')) "
        "OR startsWith(database, 'main_nest')) ORDER BY ALL"
    )
    return [(str(d), str(t), str(p)) for d, t, p in rows]


def test_deleted_parts_are_reported_and_restored(filled: tuple[Rookery, Rows]) -> None:
    """`python -m benchmarks recovery` deletes more of them."""
    rookery, sent = filled
    assert delete_parts(rookery, sent, 1) == PARTS


def delete_parts(rookery: Rookery, sent: Rows, rounds: int) -> int:
    """Delete random parts, check that the doctor finds them, and repair; returns how many."""
    chance = random.Random(7)
    deleted = 0
    for _ in range(rounds):
        _send(rookery, sent)
        rookery.wait_until_caught_up()
        parts = _parts(rookery)
        # Tables of a nest whose copy is damaged are compared when it is repaired, so a nest loses one or the other.
        copies = chance.random() < 0.5
        chosen = [p for p in parts if not p[0].startswith("main_nest") or (p[1] == "events") == copies]
        gone = chance.sample(chosen, min(PARTS, len(chosen)))
        for database, table, part in gone:
            rookery.run(f"ALTER TABLE `{database}`.{table} DROP PART '{part}'")
        deleted += len(gone)
        damaged = {f"{database}.{table}" for database, table, _ in gone}
        named = {o for level, check, o in _found(rookery) if level == "error" and check in ("copy", "derived")}
        # What a ReplacingMergeTree has lost may be what another part replaces anyway.
        assert damaged - named <= {"main.latest"}
        assert named <= damaged
        repaired = repair(rookery.workspace)["repaired"]
        assert {t["table"] for t in repaired} >= named
        assert _found(rookery) == []
        _assert_right(rookery, sent)
    _send(rookery, sent)
    _assert_right(rookery, sent)
    return deleted


def test_duplicated_rows_are_reported(filled: tuple[Rookery, Rows]) -> None:
    """As after a failed write of the engine's own log of what it has stored."""
    rookery, sent = filled
    rookery.wait_until_caught_up()
    rookery.run("CREATE TABLE main.twice AS main.sums")
    try:
        rookery.run("INSERT INTO main.twice SELECT * FROM main.sums WHERE tenant_id = 8 AND bucket = 1")
        rookery.run("ALTER TABLE main.sums ATTACH PARTITION tuple() FROM main.twice")
    finally:
        rookery.run("DROP TABLE main.twice")
    (finding,) = examine(rookery.workspace, deep=True).findings
    assert (finding.check, finding.object, finding.level) == ("derived", "main.sums", "error")
    assert finding.message.startswith("tenant 8: 1 key ") and "above" in finding.message
    assert finding.hint and "stored twice" in finding.hint and "--allow-destructive sums" in finding.hint
    assert [t["table"] for t in repair(rookery.workspace, ["sums"])["repaired"]] == ["main.sums"]
    _assert_right(rookery, sent)


def test_repaired_tables_have_no_findings(filled: tuple[Rookery, Rows]) -> None:
    rookery, sent = filled
    _assert_right(rookery, sent)
    findings = examine(rookery.workspace, deep=True).findings
    assert [(f.check, f.object) for f in findings] == []


def test_rows_lost_by_the_source_are_reported_and_kept(filled: tuple[Rookery, Rows]) -> None:
    """The last test of this file: the source does not get its rows back."""
    rookery, sent = filled
    _send(rookery, sent)
    rookery.wait_until_caught_up()
    ((part,),) = rookery.rows(
        "SELECT argMax(name, max_block_number) FROM system.parts WHERE active AND database = 'main' AND table = 'events' AND rows > 0"
    )
    rookery.run(f"ALTER TABLE main.events DROP PART '{part}'")
    tables = ("sums", "states", "latest", "plain")
    before = {t: sorted(map(str, rookery.rows(f"SELECT * FROM main.{t} FINAL"))) for t in ("sums", "latest")}
    findings = [f for f in examine(rookery.workspace, deep=True).findings if f.check == "derived"]
    assert {f.object for f in findings} & {f"main.{t}" for t in tables}
    assert any("above" in f.message for f in findings)
    repaired = repair(rookery.workspace)["repaired"]
    assert all(t["keys"] == 0 for t in repaired if t["table"].startswith("main."))
    assert before == {t: sorted(map(str, rookery.rows(f"SELECT * FROM main.{t} FINAL"))) for t in before}


def test_columns_that_cannot_be_compared_are_reported(filled: tuple[Rookery, Rows]) -> None:
    rookery, _ = filled
    live = examination.context_of(rookery.workspace).live.tables
    shape = comparable_columns(live[Name("main", "states")])
    assert isinstance(shape, ComparableColumns)
    assert {name for name, _ in shape.skipped} == {"some", "middle"}
    assert {name for name, _ in shape.values} == {"ids", "mean", "top"}
