"""A good batch with unusual values is stored once, with the full checks; a bad row is found in any batch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import RookeryError
from engine.ingest import validity
from engine.ingest.stage_schemas import schema_for
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import sampled

EVENTS = """tenant: {column: tenant_id, fanout: FANOUT}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt32}
  - {name: at, type: DateTime('UTC')}
  - {name: price, type: "Decimal(9, 2)"}
engine: {sorting_key: [tenant_id, id]}
"""
USUAL = {"at": "2026-11-21 10:00:00", "price": "1.50"}
UNUSUAL: list[tuple[dict[str, Any], str]] = [
    ({"at": 1763700000}, "2025-11-21 04:40:00 1.5"),
    ({"at": "2026-11-21T10:00+02:00"}, "2026-11-21 08:00:00 1.5"),
    ({"price": "1.006"}, "2026-11-21 10:00:00 1.01"),
    ({"price": 1e3}, "2026-11-21 10:00:00 1000"),
]
BAD: list[dict[str, Any]] = [
    {"at": "2026-02-31 10:00:00"},
    {"at": "10:00"},
    {"price": "1.5.5"},
    {"tenant_id": "01"},
    {"id": "x"},
]


@pytest.fixture(scope="module", params=["routed", pytest.param("direct", marks=pytest.mark.soak_only)])
def rookery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp(str(request.param))) as made:
        made.push({"datasources/events.yaml": EVENTS.replace("FANOUT", str(request.param))})
        made.add("1", "2")
        yield made


@pytest.fixture
def lines(rookery: Rookery, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Rows of two tenants that pass the fast checks; batches after an unusual one use them again."""
    monkeypatch.setattr(validity, "FULL_CHECK_BATCHES", 0)
    rookery.run("TRUNCATE TABLE main.events")
    yield [{"tenant_id": 1 + n % 2, "id": n, **USUAL} for n in range(20)]
    rookery.run("TRUNCATE TABLE main.events_quarantine")


def stored(rookery: Rookery) -> list[int]:
    return [int(n) for (n,) in rookery.rows("SELECT id FROM main.events ORDER BY id")]


def seventh(rookery: Rookery) -> str:
    ((shown,),) = rookery.rows("SELECT concat(toString(at), ' ', toString(price)) FROM main.events WHERE id = 7")
    return str(shown)


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(("odd", "made"), UNUSUAL, ids=str)
def test_an_unusual_value_is_stored_with_its_neighbors(
    rookery: Rookery, lines: list[dict[str, Any]], odd: dict[str, Any], made: str, key: str | None
) -> None:
    lines[7] |= odd
    given = f"{key}-{odd}" if key else None
    outcome = rookery.append(lines, key=given)
    assert (outcome.rows, outcome.quarantined) == (20, 0)
    assert outcome.visible is None or outcome.visible.result(30)
    assert stored(rookery) == [*range(20)] and seventh(rookery) == made
    for tenant in ("1", "2"):
        copies = rookery.rows(
            f"SELECT id, at, price FROM {rookery.nest(tenant)}.events WHERE _rk_batch = '{outcome.batch}'"
        )
        assert sorted(copies) == rookery.rows(
            f"SELECT id, at, price FROM main.events WHERE tenant_id = {tenant} ORDER BY id, at, price"
        )
    if given:
        again = rookery.append(lines, key=given)
        assert again.repeated and stored(rookery) == [*range(20)]


@pytest.mark.parametrize(
    ("bad", "odd", "made", "key"),
    sampled(((bad, *unusual, key) for bad, unusual, key in product(BAD, UNUSUAL, [None, "k"])), 3),
    ids=str,
)
def test_a_bad_value_is_found_among_good_ones(
    rookery: Rookery,
    lines: list[dict[str, Any]],
    bad: dict[str, Any],
    odd: dict[str, Any],
    made: str,
    key: str | None,
) -> None:
    lines[7] |= odd
    lines[9] |= bad
    outcome = rookery.append(lines, key=f"{key}-{bad}-{odd}" if key else None)
    assert (outcome.rows, outcome.quarantined) == (19, 1)
    assert stored(rookery) == [n for n in range(20) if n != 9] and seventh(rookery) == made


def test_usual_batches_return_to_the_fast_checks(rookery: Rookery) -> None:
    checks = rookery.gateway._writer._validity
    stage = schema_for(rookery.workspace.current, "events", Input.NDJSON)
    checks._fast_checks_skipped.clear()
    rookery.append([{"tenant_id": 1, "id": 1, "at": 1763700000}])
    assert checks._fast_checks_skipped[stage.identity] == validity.FULL_CHECK_BATCHES
    rookery.append([{"tenant_id": 1, "id": 2, **USUAL}])
    assert checks._fast_checks_skipped[stage.identity] == validity.FULL_CHECK_BATCHES - 1
    rookery.append([{"tenant_id": 1, "id": 3, **USUAL, "at": "no"}])
    assert checks._fast_checks_skipped[stage.identity] == validity.FULL_CHECK_BATCHES - 2


@pytest.mark.parametrize("format", [Input.NDJSON, Input.CSV, Input.PARQUET])
def test_an_unknown_constraint_is_an_error(rookery: Rookery, format: Input) -> None:
    """A constraint that the operator added and rookery does not know."""
    rows = pa.table({"tenant_id": pa.array([1], pa.uint32()), "id": pa.array([666], pa.uint32())})
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    texts = {Input.NDJSON: b'{"tenant_id": 1, "id": 666}', Input.CSV: b"tenant_id,id\n1,666\n"}
    rookery.run("ALTER TABLE main.events ADD CONSTRAINT own CHECK id != 666")
    try:
        with pytest.raises(RookeryError):
            rookery.gateway.append("events", texts.get(format, sink.getvalue()), format).result(10)
    finally:
        rookery.run("ALTER TABLE main.events DROP CONSTRAINT own")
