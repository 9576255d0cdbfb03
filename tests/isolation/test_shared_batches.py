"""Requests that share a batch do not affect each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.control import tenants
from engine.control.erasure import delete_rows
from engine.control.push import push
from engine.errors import RookeryError
from engine.fanout.handover import EVERYWHERE, CommittedBatch
from engine.ingest.batch import Append, AppendResult
from engine.ingest.formats.body_rows import strict_ndjson_lines
from engine.ingest.idempotency.receipts import Receipts
from engine.ingest.stage_schemas import schema_for
from engine.ingest.staging_pool import StagingPool
from engine.ingest.writer import BatchWriter
from engine.schema import Name, nest_database
from engine.settings import load
from engine.warehouse.port import Input
from engine.workspace.opening import open_workspace
from engine.workspace.snapshot import DeployedFile
from engine.workspace.workspace import Workspace
from tests.support.soak import paired

EVENTS = """\
tenant: {column: tenant_id, fanout: routed}
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: String}
  - {name: n, type: Int64, default: "0"}
  - {name: at, type: DateTime, default: now()}
  - {name: arr, type: Array(Int64), json: "$.p.arr[:]"}
  - {name: kind, type: "Enum8('a' = 1, 'b' = 2)", json: "$.p.kind", default: "'a'"}
  - {name: moment, type: DateTime, json: "$.p.moment", default: now()}
  - {name: uid, type: UUID, json: "$.p.uid", default: generateUUIDv4()}
engine: {sorting_key: [tenant_id, id]}
"""
SECRET = "SECRET-VALUE"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    opened = open_workspace(load(data=tmp_path_factory.mktemp("neighbours") / "data"))
    push(opened, {"events": DeployedFile(EVENTS, "datasources/events.yaml")})
    tenants.add(opened, ["1", "2"], "tables")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def ingestion(workspace: Workspace) -> BatchWriter:
    return BatchWriter(workspace, StagingPool(workspace), Receipts(workspace))


def append(*rows: dict[str, Any], key: str | None = None) -> Append:
    body = "\n".join(json.dumps(r) for r in rows).encode()
    return Append("events", body, Input.NDJSON, key=key, lines=strict_ndjson_lines(body), digest=key or "")


def ids(workspace: Workspace, table: str = "main.events") -> set[str]:
    return {str(r[0]) for r in workspace.warehouse.query(f"SELECT id FROM {table}").rows}


def quarantined(workspace: Workspace, mark: str) -> int:
    result = workspace.warehouse.query(f"SELECT count() FROM main.events_quarantine WHERE c__text LIKE '%{mark}%'")
    return int(result.rows[0][0])


POISON: dict[str, dict[str, Any]] = {
    "an array of text": {"p": {"arr": [SECRET]}},
    "nested arrays": {"p": {"arr": [[1]]}},
    "no element of an enum": {"p": {"kind": SECRET}},
    "a time that is none": {"p": {"moment": SECRET}},
    "no uuid": {"p": {"uid": SECRET}},
    "a list for a uuid": {"p": {"uid": [1]}},
    "a time out of range": {"at": "9999-01-01 00:00:00"},
    "text for a number": {"n": SECRET},
    "no tenant": {"tenant_id": None},
}


@pytest.mark.proves("D11")
@pytest.mark.parametrize(("name", "keyed"), paired(POISON, (False, True)))
def test_only_the_bad_row_of_a_batch_is_quarantined(
    ingestion: BatchWriter, workspace: Workspace, name: str, keyed: bool
) -> None:
    mark = f"{name} {keyed}"
    keys = [f"{mark} {n}" if keyed else None for n in range(5)]
    good = [append({"tenant_id": 1, "id": f"{mark} {n}"}, key=keys[n]) for n in range(4)]
    bad = append({"tenant_id": 1, "id": f"{mark} bad", **POISON[name]}, key=keys[4])
    outcomes = ingestion.store([good[0], good[1], bad, good[2], good[3]])
    counts = [o if isinstance(o, RookeryError) else (o.rows, o.quarantined) for o in outcomes]
    assert counts == [(1, 0), (1, 0), (0, 1), (1, 0), (1, 0)], counts
    assert {f"{mark} {n}" for n in range(4)} <= ids(workspace)
    assert f"{mark} bad" not in ids(workspace)
    assert quarantined(workspace, f"{mark} bad") == 1


def test_good_requests_are_stored_beside_many_bad_rows(ingestion: BatchWriter, workspace: Workspace) -> None:
    """More bad rows than a search checks one by one."""
    many = append(*({"tenant_id": 1, "id": f"many {n}", "at": "9999-01-01 00:00:00"} for n in range(300)))
    few = append(*({"tenant_id": 2, "id": f"few {n}"} for n in range(5)))
    first, second = ingestion.store([many, few])
    assert isinstance(first, AppendResult)
    assert isinstance(second, AppendResult)
    assert (first.rows, first.quarantined, second.rows, second.quarantined) == (0, 300, 5, 0)


def test_a_long_number_in_one_request_does_not_affect_another(ingestion: BatchWriter) -> None:
    outcomes = ingestion.store(
        [append({"tenant_id": 1, "id": "1" * 40}), append({"tenant_id": 1, "id": "seven", "n": True})]
    )
    assert [(o.rows, o.quarantined) for o in outcomes if isinstance(o, AppendResult)] == [(1, 0), (1, 0)]


def test_an_event_with_too_many_values_is_refused_alone(ingestion: BatchWriter, workspace: Workspace) -> None:
    """Parsing it would stop all other requests, so it can be stored, but is not examined."""
    values = "[" + "[]," * (1 << 18) + "[]]"
    bodies = {
        "valid": f'{{"tenant_id":1,"id":"vast","other":{values}}}',
        "bad": f'{{"tenant_id":1,"id":"vast bad","n":"{SECRET}","other":{values}}}',
        "strings": '{"n":"x","other":[' + '"",' * (1 << 18) + "1]}",
        "small": '{"tenant_id":1,"id":"beside vast"}',
    }
    appends = [Append("events", body.encode(), Input.NDJSON) for body in bodies.values()]
    for each in appends:
        ingestion.examine(each)
    stored, *refused, small = ingestion.store(appends)
    assert isinstance(stored, AppendResult) and isinstance(small, AppendResult)
    assert (stored.rows, stored.unknown_keys.count, small.rows) == (1, 0, 1)
    assert [(e.code.id, "262,144" in e.message) for e in refused if isinstance(e, RookeryError)] == [
        ("RK5004", True)
    ] * 2
    assert {"vast", "beside vast"} <= ids(workspace) and "vast bad" not in ids(workspace)


def test_reading_a_receipt_changes_nothing(ingestion: BatchWriter, workspace: Workspace) -> None:
    receipts = Receipts(workspace)
    (outcome,) = ingestion.store(
        [append({"tenant_id": "x", "id": "kept bad"}, {"tenant_id": 1, "id": "kept"}, key="r")]
    )
    assert isinstance(outcome, AppendResult)
    delete_rows(workspace, Name("main", "events"), "id = 'kept'")
    with pytest.raises(RookeryError):
        receipts.show(None, "r")
    assert quarantined(workspace, "kept bad") == 1


@pytest.mark.proves("B3")
def test_computed_columns_are_equal_in_landing_and_nest(ingestion: BatchWriter, workspace: Workspace) -> None:
    (outcome,) = ingestion.store([append(*({"tenant_id": 1, "id": f"same {n}"} for n in range(20)))])
    assert isinstance(outcome, AppendResult)
    assert outcome.visible is not None
    assert outcome.visible.result(30)
    expected, copied = (
        workspace.warehouse.query(f"SELECT id, uid, at, moment FROM {t} WHERE id LIKE 'same%' ORDER BY id").rows
        for t in ("main.events", f"`{nest_database('main', '1')}`.events")
    )
    assert expected == copied
    assert len({row[1] for row in expected}) == 20


def test_the_search_over_multiline_csv_records_is_bounded(ingestion: BatchWriter, workspace: Workspace) -> None:
    body = "tenant_id,id\n" + "".join(f'1,"csv {n}\nmore"\n' for n in range(1000)) + "x,csv bad\n"
    (outcome,) = ingestion.store([Append("events", body.encode(), Input.CSV)])
    assert isinstance(outcome, AppendResult)
    assert outcome.rows + outcome.quarantined == 1001
    assert outcome.rows >= 100


class GoneRouter:
    """A router whose worker is stopped while a batch is committed: it releases what it gets."""

    def begin_commit(self, datasource: str, batch: str) -> bool:
        return True

    def committed(self, batch: CommittedBatch) -> None:
        batch.reach.set_result(EVERYWHERE)
        batch.release()

    def abort_commit(self, datasource: str, batch: str) -> None: ...


def test_a_stage_serves_one_batch_at_a_time(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no worker takes the batch: a table returned twice would mix two senders' rows."""
    stages = StagingPool(workspace)
    monkeypatch.setitem(workspace.attached, "router", GoneRouter())
    ingestion = BatchWriter(workspace, stages, Receipts(workspace))
    (outcome,) = ingestion.store([append({"tenant_id": 1, "id": "lent"})])
    assert isinstance(outcome, AppendResult) and outcome.rows == 1
    stage = schema_for(workspace.current, "events", Input.NDJSON)
    assert stages.borrow(stage) != stages.borrow(stage)
