"""A request under a key happens once, even if its rows have left landing before it is repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cache import DEFAULT_MAX_BYTES
from engine.control import resources, tenants
from engine.ingest.batch import AppendResult, Input
from engine.ingest.idempotency.receipt import Receipt
from tests.support.in_process import PATIENCE, Rookery, open_copy, open_rookery

EVENTS = """
tenant: tenant_id
columns:
  - {name: tenant_id, type: UInt32}
  - {name: at, type: DateTime}
engine: {sorting_key: [tenant_id, at]}
"""
COUNTS = """
sql: SELECT tenant_id, count() AS events FROM events GROUP BY tenant_id
materialize: {target: counts, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""
FILES = {"datasources/events.yaml": EVENTS, "pipes/fill_counts.yaml": COUNTS}
ROWS = [{"tenant_id": 1, "at": "2100-01-01 00:00:00"}, {"tenant_id": 1, "at": "yesterday"}]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("receipts")
    with open_rookery(directory) as opened:
        opened.push(FILES)
        opened.add("1", placement="pooled")
    return directory


def _send(rookery: Rookery, key: str) -> AppendResult:
    body = "\n".join(map(json.dumps, ROWS)).encode()
    return rookery.gateway.append("events", body, Input.NDJSON, key=key).result(PATIENCE)


def _counted(rookery: Rookery) -> int:
    return int(rookery.rows("SELECT sum(events) FROM main.counts")[0][0])


@pytest.mark.parametrize("killed", [False, True])
def test_a_repeated_request_is_not_stored_after_its_rows_expired(
    prepared: Path, tmp_path: Path, killed: bool
) -> None:
    with open_copy(prepared, tmp_path) as rookery:
        first = _send(rookery, "a")
        assert (first.rows, first.quarantined, _counted(rookery)) == (1, 1, 1)
        if killed:
            rookery.gateway.receipts._stored._unrecorded.clear()
    with open_rookery(tmp_path) as rookery:
        rookery.run("TRUNCATE TABLE main.events")
        assert rookery.gateway.receipts.show(None, "a")["receipts"][0]["successful_rows"] == 1
    with open_rookery(tmp_path) as rookery:
        again = _send(rookery, "a")
        assert again.repeated and (again.rows, again.quarantined) == (1, 1)
        assert _counted(rookery) == 1
        assert rookery.rows("SELECT count() FROM main.events_quarantine") == [(1,)]


def _receipt(number: int) -> Receipt:
    """One of a sender that adds rows for very many tenants with long ids."""
    return Receipt(("", "events", f"{number}"), "", "batch", 0, 0, {f"{number}-{k:0200}": 1 for k in range(1000)})


def test_a_repeated_request_is_not_stored_after_its_tenant_was_erased(prepared: Path, tmp_path: Path) -> None:
    with open_copy(prepared, tmp_path) as rookery:
        receipts = rookery.gateway.receipts
        receipts.mark_stored(map(_receipt, range(300)))
        assert 50 < len(receipts._confirmed) < 300 and receipts._confirmed.bytes <= DEFAULT_MAX_BYTES
        _send(rookery, "a")
        tenants.remove(rookery.workspace, "1", purge=True)
    with open_rookery(tmp_path) as rookery:
        assert _send(rookery, "a").repeated
        assert rookery.rows("SELECT count() FROM main.events") == [(0,)]


def test_keys_are_removed_with_their_datasource(prepared: Path, tmp_path: Path) -> None:
    with open_copy(prepared, tmp_path) as rookery:
        _send(rookery, "a")
        resources.remove(rookery.workspace, "datasource", "events", force=True)
        rookery.push(FILES)
        assert not _send(rookery, "a").repeated
        assert _counted(rookery) == 1
