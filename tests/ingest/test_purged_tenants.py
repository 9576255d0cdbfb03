"""After a purge, senders whose tokens have no tenant cannot store anything of the tenant until it is added again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.control import tenants
from engine.ingest.batch import Append, AppendResult
from engine.ingest.replay import replay
from engine.warehouse.port import Input
from tests.support.in_process import PATIENCE, Rookery, open_rookery
from tests.support.soak import paired

SOURCE = """
tenant: {column: account, fanout: %s}
columns:
  - {name: account, type: %s}
  - {name: units, type: UInt64}
engine: {sorting_key: [account, units]}
"""
KINDS = {
    "numbers": ("routed", "UInt32", 17, 18, 19),
    "direct numbers": ("direct", "UInt32", 17, 18, 19),
    "texts": ("direct", "LowCardinality(String)", "a b", "18", "never added"),
    "uuids": (
        "direct", "UUID", "0191a8d0-0000-7000-8000-000000000001", "0191a8d0-0000-7000-8000-000000000002",
        "0191a8d0-0000-7000-8000-000000000003",
    ),
}  # fmt: skip
FORMATS = (Input.NDJSON, Input.CSV, Input.PARQUET)
SECRET = 123_454_321


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=[pytest.mark.soak_only] if k == "direct numbers" else []) for k in KINDS],
)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rookery, Any]]:
    mode, type, purged, kept, unknown = KINDS[request.param]
    directory = tmp_path_factory.mktemp("purged")
    with open_rookery(directory) as rookery:
        rookery.push({"datasources/events.yaml": SOURCE % (mode, type)})
        rookery.add(str(purged), placement="pooled")
        rookery.add(str(kept))
        rookery.append([{"account": purged, "units": 1}, {"account": kept, "units": 2}])
        tenants.remove(rookery.workspace, str(purged), purge=True)
    # A purge is remembered.
    with open_rookery(directory) as rookery:
        yield rookery, (purged, kept, unknown)


def _body(rows: list[dict[str, Any]], format: Input) -> bytes:
    if format is Input.NDJSON:
        return "\n".join(map(json.dumps, rows)).encode()
    if format is Input.CSV:
        return "\n".join(["account,units", *(f"{row['account']},{row['units']}" for row in rows)]).encode()
    import pyarrow
    from pyarrow import parquet

    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return bytes(buffer.getvalue().to_pybytes())


def _send(rookery: Rookery, body: bytes, format: Input = Input.NDJSON, key: str | None = None) -> AppendResult:
    return rookery.gateway.append("events", body, format, key=key).result(PATIENCE)


def _nothing_is_left(rookery: Rookery, purged: Any, quarantined: int) -> None:
    assert rookery.rows(f"SELECT count() FROM main.events WHERE toString(account) = '{purged}'") == [(0,)]
    rows = rookery.rows("SELECT account, units, c__text, c__header, c__error FROM main.events_quarantine")
    assert len(rows) == quarantined
    for account, units, text, header, (reason,) in rows:
        assert (account, units, text, header) == (str(purged), None, "", "")
        assert "purged" in reason
    receipts = rookery.rows("SELECT tenants FROM main._rk_receipts")
    assert str(SECRET) not in str(rows) + str(receipts)
    rookery.run("TRUNCATE TABLE main.events_quarantine")
    rookery.run("TRUNCATE TABLE main.events")


# First, because the engine allows one directory at a time.
def test_a_tenant_that_is_added_again_receives_rows(tmp_path: Path) -> None:
    with open_rookery(tmp_path) as rookery:
        rookery.push({"datasources/events.yaml": SOURCE % ("direct", "UInt32")})
        rookery.add("17")
        tenants.remove(rookery.workspace, "17", purge=True)
        # Removing a tenant without a purge keeps its rows, including those that arrive later.
        rookery.add("18")
        tenants.remove(rookery.workspace, "18")
        body = _body([{"account": 17, "units": 1}, {"account": 18, "units": 1}], Input.NDJSON)
        assert (_send(rookery, body).rows, rookery.workspace.current.purged) == (1, {"17"})
        rookery.add("17", "18")
        assert (_send(rookery, body).rows, rookery.workspace.current.purged) == (2, set())
        assert rookery.rows("SELECT account, count() FROM main.events GROUP BY account ORDER BY account") == [
            (17, 1),
            (18, 2),
        ]


@pytest.mark.parametrize(("format", "key"), paired(FORMATS, [None, "key"]), ids=str)
def test_rows_of_a_purged_tenant_are_not_stored(kind: tuple[Rookery, Any], format: Input, key: str | None) -> None:
    rookery, (purged, kept, unknown) = kind
    rows = [{"account": a, "units": SECRET} for a in (kept, purged, unknown, purged)]
    result = _send(rookery, _body(rows, format), format, f"{key} {format.name}" if key else None)
    assert (result.rows, result.quarantined) == (2, 2)
    assert result.first_bad_row is not None
    assert (result.first_bad_row.row, result.first_bad_row.columns) == (2, ("account",))
    assert "purged" in result.first_bad_row.reasons[0]
    _nothing_is_left(rookery, purged, 2)


def test_bad_rows_of_a_purged_tenant_leave_no_value_in_quarantine(kind: tuple[Rookery, Any]) -> None:
    rookery, (purged, _, _) = kind
    rows = [{"account": purged, "units": f"not {SECRET}"}, {"account": purged, "units": SECRET, "more": SECRET}]
    assert _send(rookery, _body(rows, Input.NDJSON), key="bad").quarantined == 2
    _nothing_is_left(rookery, purged, 2)


def test_an_escaped_id_is_recognized(kind: tuple[Rookery, Any]) -> None:
    rookery, (purged, _, _) = kind
    spelled = "".join(f"\\u{ord(c):04x}" for c in str(purged))
    result = _send(rookery, f'{{"\\u0061ccount": "{spelled}", "units": {SECRET}}}'.encode())
    assert (result.rows, result.quarantined) == (0, 1)
    _nothing_is_left(rookery, purged, 1)


def test_other_appends_of_the_batch_are_not_affected(kind: tuple[Rookery, Any]) -> None:
    rookery, (purged, kept, _) = kind
    appends = [
        Append("events", _body([{"account": account, "units": SECRET}], Input.NDJSON), Input.NDJSON)
        for account in (kept, purged, kept)
    ]
    results = [rookery.gateway.submit(append).result(PATIENCE) for append in appends]
    assert [(r.rows, r.quarantined) for r in results] == [(1, 0), (0, 1), (1, 0)]
    _nothing_is_left(rookery, purged, 1)


def test_an_emptied_row_is_not_replayed_and_can_be_sent_corrected(kind: tuple[Rookery, Any]) -> None:
    rookery, (purged, kept, _) = kind
    _send(rookery, _body([{"account": purged, "units": SECRET}], Input.CSV), Input.CSV)
    ((id,),) = rookery.rows("SELECT c__id FROM main.events_quarantine")
    result = replay(rookery.workspace, rookery.gateway, "events", None, {})
    assert (result.rows, [r["code"] for r in result.refused]) == (0, ["RK5001"])
    corrected = json.dumps({"account": kept, "units": 5})
    assert replay(rookery.workspace, rookery.gateway, "events", [id], {id: corrected}).rows == 1
    _nothing_is_left(rookery, purged, 0)
