"""TTLs over several columns that overflow the type of their result: the engine would remove such rows at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from engine.control.doctor import examine
from engine.control.push import PushOptions, push
from engine.warehouse.port import Input
from engine.workspace.snapshot import DeployedFile
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import paired

COLUMNS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: at, type: DateTime}
  - {name: until, type: "DateTime64(3)"}
  - {name: day, type: Date}
  - {name: keep, type: %s, json: $.keep}
  - {name: maybe, type: Nullable(Date)}
engine: {sorting_key: [tenant_id, id], ttl: "%s"}
"""
GOOD = {"at": "2031-05-05 00:00:00", "until": "2032-01-01 00:00:00", "day": "2031-05-05", "keep": 30}
FOREVER = {"keep": 4_294_967_295}
LATE = {"until": "2111-06-01 00:00:00"}


@dataclass(frozen=True)
class Case:
    """A TTL, what a row has for which it overflows, and what another has that must be stored."""

    ttl: str
    bad: dict[str, Any]
    good: dict[str, Any]
    keep: str = "UInt32"


CASES = {
    "days": Case("at + toIntervalDay(keep)", {"keep": 100_000}, {"keep": 20_000}),
    "days_until_2106": Case("at + toIntervalDay(keep)", {"keep": 50_000}, FOREVER),
    "days_of_a_date": Case("day + toIntervalDay(keep)", FOREVER, {"keep": 20_000}),
    "years": Case("addYears(at, keep)", {"keep": 100}, {"keep": 60}),
    "seconds": Case("at + keep", FOREVER, {"keep": 2_000_000_000}),
    "days_added_to_a_date": Case("day + keep", {"keep": 60_000}, {"keep": 40_000}),
    "wide_number": Case("at + toIntervalDay(keep)", {"keep": 18_446_744_073_709_551_615}, {"keep": 9}, "UInt64"),
    "wide_type": Case(
        "until + toIntervalDay(keep)", {"keep": 18_446_744_073_709_551_615}, {"keep": 90_000}, "UInt64"
    ),
    "later_of_two": Case("greatest(at, toDateTime(until)) + INTERVAL 10 YEAR", LATE, {"until": "2090-01-01"}),
    "earlier_of_two": Case(
        "least(toDateTime(until), at + toIntervalDay(keep))", LATE | FOREVER, {"until": "2090-01-01", "keep": 1}
    ),
    "condition": Case(
        "if(keep > 0, at + toIntervalYear(keep), toDateTime('2100-01-01 00:00:00'))", {"keep": 90}, {"keep": 0}
    ),
    "nullable": Case("ifNull(maybe, day) + toIntervalDay(keep)", FOREVER, {"maybe": "2033-01-01"}),
    "rounded": Case("toStartOfMonth(until) + toIntervalMonth(keep)", LATE | {"keep": 900}, {"keep": 400}),
    "cast": Case("CAST(until AS DateTime) + toIntervalDay(keep)", LATE, {"until": "2040-01-01"}),
    "other_cast": Case("until::Date + toIntervalDay(keep)", {"keep": 60_000}, {"until": "2111-06-01"}),
    "saturated": Case("toDateTime(keep) + INTERVAL 1 DAY", {"keep": 4_294_967_295}, {"keep": 4_000_000_000}),
    "kept_as_long_as_possible": Case("toDateTime(keep)", {"keep": 0, "at": "bad"}, {"keep": 2**40}, "UInt64"),
}
FORMATS = (Input.NDJSON, Input.CSV, Input.PARQUET)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("expiry")) as opened:
        opened.push({f"datasources/{name}.yaml": COLUMNS % (case.keep, case.ttl) for name, case in CASES.items()})
        yield opened


def _body(rows: list[dict[str, Any]], format: Input) -> bytes:
    if format is Input.NDJSON:
        return "\n".join(map(json.dumps, rows)).encode()
    if format is Input.CSV:
        return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]).encode()
    import pyarrow
    from pyarrow import parquet

    buffer = pyarrow.BufferOutputStream()
    table = {name: [row[name] for row in rows] for name in rows[0]}
    if max(table["keep"]) > 2**63:
        table["keep"] = pyarrow.array(table["keep"], pyarrow.uint64())
    parquet.write_table(pyarrow.table(table), buffer)
    return bytes(buffer.getvalue().to_pybytes())


@pytest.mark.parametrize(("name", "format"), paired(CASES, FORMATS), ids=str)
def test_a_row_whose_ttl_overflows_is_quarantined(rookery: Rookery, name: str, format: Input) -> None:
    case = CASES[name]
    rows = [{"tenant_id": 1, "id": n + 1} | GOOD | more for n, more in enumerate(({}, case.good, case.bad))]
    if name == "nullable":
        rows = [row | {"maybe": row.get("maybe", "2032-01-01")} for row in rows]
    if name == "saturated" or name.startswith("kept"):
        rows[0]["keep"] = 3_000_000_000
    outcome = rookery.gateway.append(name, _body(rows, format), format).result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 1), outcome.first_bad_row
    assert outcome.first_bad_row is not None
    assert outcome.first_bad_row.row == 3
    if not name.startswith("kept"):
        assert "beyond the last date" in str(outcome.first_bad_row)
    rookery.run(f"OPTIMIZE TABLE main.{name} FINAL")
    assert rookery.rows(f"SELECT id FROM main.{name} ORDER BY id") == [(1,), (2,)]
    rookery.run(f"TRUNCATE TABLE main.{name}")
    rookery.run(f"TRUNCATE TABLE main.{name}_quarantine")


LANDING = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: at, type: DateTime}
  - {name: keep, type: UInt32}
engine: {sorting_key: [tenant_id, id]}
"""
TARGET = """
tenant: {column: tenant_id, landing: false}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: at, type: DateTime}
  - {name: day, type: Date}
  - {name: keep, type: UInt32}
engine: {sorting_key: [tenant_id, id], ttl: "%s"}
"""
TARGET_TTLS = {
    "by_days": "day + toIntervalDay(keep * 400)",
    "by_years": "addYears(day, keep)",
    "by_months": "toStartOfMonth(at) + toIntervalMonth(keep * 9)",
}


@pytest.mark.feature
def test_a_target_keeps_a_row_whose_ttl_overflows(rookery: Rookery) -> None:
    """Nothing checks the rows that pipes store, so the target's TTL does not overflow."""
    files = {"datasources/logged.yaml": LANDING}
    for name, ttl in TARGET_TTLS.items():
        files[f"datasources/{name}.yaml"] = TARGET % ttl
        for fill in ("fill", "refill"):
            sql = (
                f"SELECT tenant_id, id{' + 100' * (fill == 'refill')} AS id, at, toDate(at) AS day, keep FROM logged"
            )
            files[f"pipes/{fill}_{name}.yaml"] = f"sql: {sql}\nmaterialize: {{target: {name}, per_tenant: true}}\n"
    rookery.push(files)
    rookery.add("1", placement="tables")
    rookery.add("2", placement="pooled")
    rows = [
        {"tenant_id": tenant, "id": id, "at": at, "keep": keep}
        for tenant in (1, 2)
        for id, (at, keep) in enumerate([("2031-05-05 00:00:00", 9), ("2090-05-05 00:00:00", 100)])
    ]
    rows += [row | {"id": 9, "at": "2001-01-01 00:00:00", "keep": 1} for row in rows[::2]]
    body = "\n".join(map(json.dumps, rows)).encode()
    assert rookery.gateway.append("logged", body, Input.NDJSON).result(60).rows == len(rows)
    for name in TARGET_TTLS:
        for database in ("main", rookery.nest("1")):
            rookery.run(f"OPTIMIZE TABLE {database}.{name} FINAL")
            kept = rookery.rows(f"SELECT id FROM {database}.{name} ORDER BY id")
            assert kept == [(0,), (1,), (100,), (101,)], name
    assert examine(rookery.workspace, deep=True).findings == ()
    # A table of an earlier version has the declared TTL. This does not count as a change.
    rookery.run(f"ALTER TABLE main.by_days MODIFY TTL {TARGET_TTLS['by_days']}")
    assert examine(rookery.workspace).findings == ()
    changed = TARGET % "day + toIntervalDay(keep + 1)"
    options = PushOptions(dry_run=True)
    plan = push(rookery.workspace, {"by_days": DeployedFile(changed, "datasources/by_days.yaml")}, options).plan
    assert {s.reason for s in plan.steps} == {"TTL day + toIntervalDay(keep + 1)"}
