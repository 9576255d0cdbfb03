"""Rows have expired in a source: the others prove that a derived table lacks some, and detached parts restore them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from engine.control.doctor import examine, repair
from tests.support.in_process import Rookery, open_rookery

OWN, POOLED = "1", "8"
EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: day, type: Date}
  - {name: id, type: UInt64}
  - {name: n, type: UInt32}
engine: {sorting_key: [tenant_id, day]%s}
"""
MONTHS = """
sql: >-
  SELECT tenant_id, toStartOfMonth(day) AS month, count() AS events, sum(n) AS total, sum(toInt64(n)) AS signed
  FROM events GROUP BY tenant_id, month
materialize: {target: months, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, month]}}
"""
STATES = """
sql: >-
  SELECT tenant_id, toStartOfMonth(day) AS month, uniqExactState(id) AS ids, minState(n) AS least, maxState(id) AS last
  FROM events GROUP BY tenant_id, month
materialize:
  target: states
  per_tenant: true
  engine: {type: AggregatingMergeTree, sorting_key: [tenant_id, month], partition_key: toYear(month)}
"""
YEARS = """
sql: >-
  SELECT tenant_id, toYear(month) AS year, sum(events) AS events, sum(total) AS total, count() AS blocks
  FROM months GROUP BY tenant_id, year
materialize: {target: years, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id, year]}}
"""
PLAIN = """
sql: SELECT day, id, n FROM events WHERE tenant_id = 8
materialize: {target: plain, engine: {sorting_key: [day]}}
"""
TTL = ', ttl: "day + INTERVAL 30 YEAR"'
DERIVED = {"months": MONTHS, "states": STATES, "years": YEARS, "plain": PLAIN}
_IDS = itertools.count(1)
Rows = list[dict[str, Any]]


class Sender:
    """The sent rows, to check tables after the rows have expired in landing."""

    def __init__(self, rookery: Rookery, derived: Sequence[str]) -> None:
        self.rookery = rookery
        self.derived = derived
        self.sent: Rows = []

    def send(self) -> None:
        rows = [
            {"tenant_id": int(t), "day": day, "id": next(_IDS), "n": 1 + next(_IDS) % 9}
            for t in (OWN, POOLED)
            for day in ("1990-01-05", "2090-01-05", "2090-02-05")
        ]
        assert self.rookery.deliver(rows)
        self.sent += rows

    def assert_right(self, since: str = "1990") -> None:
        """Compare every table with numbers computed here."""
        for tenant in (OWN, POOLED):
            mine = [r for r in self.sent if r["tenant_id"] == int(tenant) and r["day"] >= since]
            events, total, ids = Counter[str](), Counter[str](), dict[str, set[int]]()
            for row in mine:
                month = row["day"][:8] + "01"
                events[month] += 1
                total[month] += row["n"]
                ids.setdefault(month, set()).add(row["id"])
            database = self.rookery.nest(tenant) if tenant == OWN else "main"
            where = f"WHERE tenant_id = {tenant} AND month >= '{since}-01-01' GROUP BY month"
            months = self.rookery.rows(
                f"SELECT toString(month), sum(events), sum(total), sum(signed) FROM {database}.months {where}"
            )
            assert {(m, e, t, t) for m, e, t, _ in months} == {(m, events[m], total[m], total[m]) for m in events}
            assert all(t == s for _, _, t, s in months)
            if "states" not in self.derived:
                continue
            states = self.rookery.rows(
                f"SELECT toString(month), uniqExactMerge(ids), maxMerge(last) FROM {database}.states {where}"
            )
            assert {(m, n, top) for m, n, top in states} == {(m, len(i), max(i)) for m, i in ids.items()}
            years = self.rookery.rows(
                f"SELECT sum(events), sum(total) FROM {database}.years WHERE tenant_id = {tenant} AND year >= {since}"
            )
            assert years == [(len(mine), sum(r["n"] for r in mine))]
        expected = sorted((r["id"], r["n"]) for r in self.sent if str(r["tenant_id"]) == POOLED and r["day"] >= since)
        assert self.rookery.rows(f"SELECT id, n FROM main.plain WHERE day >= '{since}-01-01' ORDER BY id") == expected

    def expire(self) -> None:
        """Landing and its copy forget the rows of 1990."""
        for table in ("main.events", f"{self.rookery.nest(OWN)}.events"):
            self.rookery.run(f"OPTIMIZE TABLE {table} FINAL")
            assert self.rookery.rows(f"SELECT min(toYear(day)) FROM {table}") == [(2090,)]

    def newest(self, table: str, *, database: str = "main") -> str:
        """The newest part with rows that have not expired."""
        when = {"years": "year", "plain": "toYear(day)"}.get(table, "toYear(month)")
        query = f"SELECT argMax(_part, _block_number) FROM {database}.{table} WHERE {when} > 2000"
        return str(self.rookery.rows(query)[0][0])

    def errors(self) -> dict[str, str]:
        """The errors of the doctor, and their hints."""
        findings = examine(self.rookery.workspace, deep=True).findings
        return {f.object: str(f.hint) for f in findings if f.level == "error" and f.check in ("derived", "copy")}


def _sender(rookery: Rookery, ttl: str) -> Sender:
    derived = DERIVED if ttl else ("months", "plain")
    files = {"datasources/events.yaml": EVENTS % ttl, **{f"pipes/to_{name}.yaml": DERIVED[name] for name in derived}}
    rookery.push(files)
    rookery.add(OWN)
    rookery.add(POOLED, placement="pooled")
    made = Sender(rookery, tuple(derived))
    for database, table in _tables(made):
        rookery.run(f"SYSTEM STOP MERGES {database}.{table}")
    for _ in range(3):
        made.send()
    return made


@pytest.fixture(scope="module")
def sender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    with open_rookery(tmp_path_factory.mktemp("sender")) as rookery:
        yield _sender(rookery, request.param)


SHORT = pytest.mark.parametrize("sender", [pytest.param(TTL, id="ttl")], indirect=True)
WHOLE = pytest.mark.parametrize("sender", [pytest.param("", id="whole")], indirect=True)


def _tables(sender: Sender) -> list[tuple[str, str]]:
    nest = sender.rookery.nest(OWN)
    return [*(("main", t) for t in sender.derived), *((nest, t) for t in sender.derived if t != "plain")]


@SHORT
def test_detached_parts_are_attached_again(sender: Sender) -> None:
    """They also hold rows that have expired in the source."""
    rookery = sender.rookery
    sender.expire()
    sender.assert_right()
    assert sender.errors() == {}
    named = set()
    for database, table in _tables(sender):
        rookery.run(f"ALTER TABLE {database}.{table} DETACH PART '{sender.newest(table, database=database)}'")
        named.add(f"{database.strip('`')}.{table}")
    errors = sender.errors()
    # What is made from `months` is compared with what is there, and again when that is repaired.
    assert errors.keys() == {t for t in named if "years" not in t} and {*errors.values()} == {
        "rookery doctor --repair"
    }
    repaired = {t["table"]: t["detached"] for t in repair(rookery.workspace)["repaired"]}
    assert {t for t, parts in repaired.items() if [p["done"] for p in parts] == ["attached"]} == named
    assert rookery.rows("SELECT count() FROM system.detached_parts") == [(0,)]
    sender.assert_right()


@SHORT
def test_remaining_source_rows_prove_a_shortage(sender: Sender) -> None:
    """The doctor names nothing that the test before this one has repaired."""
    rookery = sender.rookery
    sender.expire()
    named = set()
    for database, table in _tables(sender):
        rookery.run(f"ALTER TABLE {database}.{table} DROP PART '{sender.newest(table, database=database)}'")
        named.add(f"{database.strip('`')}.{table}")
    errors = sender.errors()
    assert errors.keys() == {t for t in named if "years" not in t}
    assert {*errors.values()} == {"rookery doctor --repair"}
    repair(rookery.workspace)
    sender.assert_right(since="2090")
    # Expired rows that the table had are still in it.
    old = "SELECT sum(events) FROM {}.months WHERE month < '2000-01-01' AND tenant_id = {}"
    assert rookery.rows(old.format("main", POOLED)) == rookery.rows(old.format(rookery.nest(OWN), OWN)) == [(2,)]


@SHORT
def test_a_copy_that_lacks_live_rows_is_an_error(sender: Sender) -> None:
    """Rows that a TTL may have taken from one side only do not count; what was repaired has no findings."""
    rookery, copy = sender.rookery, f"{sender.rookery.nest(OWN)}.events"
    rookery.run(f"ALTER TABLE {copy} DELETE WHERE id = {sender.sent[-4]['id']} SETTINGS mutations_sync = 1")
    assert sender.errors() == {copy.replace("`", ""): "rookery doctor --repair"}
    repair(rookery.workspace)
    assert sender.errors() == {}


@WHOLE
def test_detached_parts_whose_rows_are_present_are_dropped(sender: Sender) -> None:
    """As after a repair by an earlier version, which computed the rows again and left the part aside."""
    rookery = sender.rookery
    rookery.run("CREATE TABLE main.kept CLONE AS main.months")
    part = sender.newest("months")
    rookery.run(f"ALTER TABLE main.months DETACH PART '{part}'")
    rookery.run(f"ALTER TABLE main.kept DELETE WHERE _part != '{part}' SETTINGS mutations_sync = 1")
    rookery.run("ALTER TABLE main.months ATTACH PARTITION tuple() FROM main.kept")
    rookery.run("DROP TABLE main.kept")
    sender.assert_right()
    (repaired,) = repair(rookery.workspace)["repaired"]
    assert [(p["part"], p["done"]) for p in repaired["detached"]] == [(part, "dropped")]
    assert rookery.rows("SELECT count() FROM system.detached_parts") == [(0,)]
    sender.assert_right()


@WHOLE
def test_surplus_rows_are_an_error_and_can_be_removed(sender: Sender) -> None:
    rookery = sender.rookery
    for table in ("months", "plain"):
        rookery.run(f"CREATE TABLE main.kept CLONE AS main.{table}")
        rookery.run(f"ALTER TABLE main.{table} ATTACH PARTITION tuple() FROM main.kept")
        rookery.run("DROP TABLE main.kept")
    errors = sender.errors()
    assert errors.keys() == {"main.months", "main.plain"}
    assert all(hint.endswith(f"--repair --allow-destructive {t.split('.')[1]}") for t, hint in errors.items())
    repaired = repair(rookery.workspace)["repaired"]
    assert all(t["keys"] == 0 and "--allow-destructive" in t["not_repaired"] for t in repaired)
    repair(rookery.workspace, ["months", "plain"])
    assert sender.errors() == {}
    sender.assert_right()
