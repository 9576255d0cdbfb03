"""Rows from which an expression of the datasource or a view makes far more data than they contain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import RookeryError
from engine.ingest.batch import AppendResult
from engine.settings import COLUMN_BUFFER_BYTES
from engine.warehouse.port import Input
from tests.ingest.waiting_appends import appends, results
from tests.support.in_process import Rookery, open_rookery

MIB = 1 << 20
LIMIT = 128 * MIB
"""Of a batch while it is read; it may take four times as much while it is stored."""
HUGE = 120_000_000
"""The numbers up to this one take 916 MiB."""

WIDE = 250
"""The columns of a datasource for which the engine reserves far more memory than its rows take."""

COLUMNS = """
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: n, type: UInt64}
"""
KEY = "sorting_key: [tenant_id, id]"
PLACES = {
    "default_deeper": f'  - {{name: x, type: UInt64, default: "length(range(n))", json: $.m.x}}\nengine: {{{KEY}}}\n',
    "sorting_key": 'engine: {sorting_key: [tenant_id, "length(range(n))"]}\n',
    "ttl": f'engine: {{{KEY}, ttl: "toDateTime(4000000000) + toIntervalSecond(length(range(n)))"}}\n',
    "index": f'indexes: [{{name: ix, expression: "length(range(n))", type: minmax}}]\nengine: {{{KEY}}}\n',
}
KINDS = {"landing": "tenant: tenant_id", "ordinary": "tenant: {column: tenant_id, landing: false}"}
FED = ("default_deeper", "sorting_key")
COPIES = """
nodes:
  - {name: it, sql: "SELECT tenant_id, count() AS c FROM %s_fed GROUP BY tenant_id"}
materialize: {target: %s_counts, per_tenant: true, engine: {type: SummingMergeTree, sorting_key: [tenant_id]}}
"""


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    columns = "".join(f"  - {{name: c{n}, type: UInt64}}\n" for n in range(WIDE))
    files = {
        f"datasources/{place}_{kind}.yaml": tenant + COLUMNS + clause
        for place, clause in PLACES.items()
        for kind, tenant in KINDS.items()
    }
    files["datasources/wide.yaml"] = f"columns:\n{columns}engine: {{sorting_key: [c0]}}\n"
    for place in FED:
        files[f"datasources/{place}_fed.yaml"] = KINDS["ordinary"] + COLUMNS + PLACES[place]
        files[f"pipes/{place}_pipe.yaml"] = COPIES % (place, place)
    with open_rookery(tmp_path_factory.mktemp("amplifying"), max_insert_memory=LIMIT) as opened:
        opened.push(files)
        yield opened


def _body(*values: int) -> bytes:
    return b"\n".join(json.dumps({"tenant_id": 1, "id": i, "n": n}).encode() for i, n in enumerate(values))


def _append(rookery: Rookery, datasource: str, body: bytes, **more: Any) -> AppendResult:
    return rookery.gateway.append(datasource, body, Input.NDJSON, **more).result(60)


NAMES = [*(f"{place}_{kind}" for place in PLACES for kind in KINDS), *(f"{place}_fed" for place in FED)]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_takes_too_much_memory_is_quarantined(rookery: Rookery, name: str, key: str | None) -> None:
    result = _append(rookery, name, _body(1, HUGE, 2), key=key)
    assert (result.rows, result.quarantined) == (2, 1)
    ((row, reasons),) = rookery.rows(f"SELECT c__row, c__error FROM main.{name}_quarantine")
    assert row == 1
    columns = len(rookery.workspace.current.build.datasources[name].columns)
    assert f"more than {4 * LIMIT + columns * COLUMN_BUFFER_BYTES:,} bytes of memory" in reasons[0]
    assert rookery.rows(f"SELECT count() FROM main.{name}") == [(2,)]
    rookery.run(f"TRUNCATE TABLE main.{name}_quarantine")
    rookery.run(f"TRUNCATE TABLE main.{name}")


def test_a_refused_row_leaves_no_copy(rookery: Rookery) -> None:
    """Otherwise the next start could store it, even for a tenant that has been purged."""
    assert _append(rookery, "sorting_key_fed", _body(HUGE)).quarantined == 1
    copies = rookery.rows("SELECT name FROM system.tables WHERE startsWith(name, '_rk_held_') AND database = 'main'")
    assert copies
    assert [rookery.rows(f"SELECT count() FROM main.{name}") for (name,) in copies] == [[(0,)]] * len(copies)


def test_rows_that_take_too_much_memory_together_are_refused(rookery: Rookery) -> None:
    values = [HUGE // 4] * 6
    with pytest.raises(RookeryError) as refused:
        _append(rookery, "default_deeper_landing", _body(*values))
    assert refused.value.code.id == "RK5004"
    assert rookery.rows("SELECT count() FROM main.default_deeper_landing") == [(0,)]
    assert _append(rookery, "default_deeper_landing", _body(*values[:2])).rows == 2


def test_a_row_that_takes_too_much_memory_does_not_concern_others_in_its_batch(rookery: Rookery) -> None:
    sent = appends("default_deeper_ordinary", [("1", _body(1)), ("1", _body(HUGE)), ("1", _body(2))])
    outcomes = [r if isinstance(r, RookeryError) else (r.rows, r.quarantined) for r in results(rookery, sent)]
    assert outcomes == [(1, 0), (0, 1), (1, 0)]


def test_rows_with_many_columns_are_stored(rookery: Rookery) -> None:
    row = json.dumps({f"c{n}": n for n in range(WIDE)}).encode()
    assert _append(rookery, "wide", b"\n".join([row] * 6000)).rows == 6000
