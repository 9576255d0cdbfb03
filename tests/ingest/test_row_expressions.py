"""Expressions of a table that throw on a value: that row is quarantined with the reason, the others are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from engine.project.datasource import Column, Datasource, Engine, Index
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import paired, sampled

COLUMNS = """
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: day, type: String}
  - {name: n, type: Int64}
  - {name: flag, type: %s}
  - {name: version, type: UInt64}
"""
DAY, ZERO, FLAG = {"day": "nonsense"}, {"n": 0}, {"flag": 5}
KEY = "sorting_key: [tenant_id, id]"


@dataclass(frozen=True)
class Kind:
    """An expression of a datasource's file, what a row has on which it throws, and who is to blame in which words."""

    clause: str
    bad: dict[str, Any]
    column: str
    reason: str
    landing: bool = True
    flag: str = "Int8"


KINDS = {
    "ttl": Kind(
        f'engine: {{{KEY}, ttl: "toDateTime(day) + INTERVAL 10 YEAR"}}', DAY, "day", "the TTL `toDateTime(day)"
    ),
    "sorting key": Kind(
        'engine: {sorting_key: [tenant_id, "toDate(day)"]}', DAY, "day", "the sorting key `toDate(day)`"
    ),
    "key of two columns": Kind(
        'engine: {sorting_key: [tenant_id, "intDiv(id, n)"]}', ZERO, "", "the sorting key `intDiv(id, n)`"
    ),
    "primary key": Kind(
        'engine: {sorting_key: [tenant_id, "toDate(day)", id], primary_key: "(tenant_id, toDate(day))"}',
        DAY,
        "day",
        "the sorting key `toDate(day)`",
    ),
    "partition key": Kind(
        f'engine: {{{KEY}, partition_key: "toYYYYMM(toDate(day))"}}', DAY, "day", "the partition key `toYYYYMM", False
    ),
    "sampling key": Kind(
        'engine: {sorting_key: [tenant_id, "toUInt32(intDiv(9, n))"], sampling_key: "toUInt32(intDiv(9, n))"}',
        ZERO,
        "n",
        "the sorting key `toUInt32(intDiv(9, n))`",
    ),
    **{
        f"{kind} index": Kind(
            f'indexes: [{{name: ix, expression: "toDate(day)", type: {kind}}}]\nengine: {{{KEY}}}',
            DAY,
            "day",
            "the index `ix` on `toDate(day)`",
        )
        for kind in ("minmax", "bloom_filter(0.01)")
    },
    "default": Kind(
        f'  - {{name: given, type: Int64, default: "intDiv(9, n)"}}\nengine: {{{KEY}}}',
        ZERO,
        "given",
        "the default `intDiv",
    ),
    "default deeper": Kind(
        f'  - {{name: given, type: Int64, default: "intDiv(9, n)", json: $.m.x}}\nengine: {{{KEY}}}',
        ZERO,
        "given",
        "the default `intDiv",
    ),
    "sign": Kind(
        f"engine: {{type: CollapsingMergeTree, {KEY}, sign: flag}}", FLAG, "flag", "`5` is not 1 or -1", False
    ),
    "is_deleted": Kind(
        f"engine: {{type: ReplacingMergeTree, {KEY}, version: version, is_deleted: flag}}",
        FLAG,
        "flag",
        "`5` is not 0 or 1",
        False,
        "UInt8",
    ),
}
TIMES = """
columns:
  - {name: tenant_id, type: UInt32}
  - {name: id, type: UInt64}
  - {name: at, type: %s, json: %s}
engine: {sorting_key: [tenant_id, id], ttl: "%s"}
"""
TTLS = {
    "deeper": ("DateTime64(3)", "$.when.at", "toDateTime(at) + INTERVAL 10 YEAR"),
    "rounded": ("DateTime64(3)", "$.at", "toStartOfYear(toDateTime(at)) + INTERVAL 1 DAY"),
    "date": ("Date32", "$.at", "toDate(at) + INTERVAL 3650 DAY"),
    "two_intervals": ("DateTime64(3)", "$.at", "toDateTime(at) + INTERVAL 10 YEAR + INTERVAL 1 DAY"),
    "interval": ("DateTime", "$.at", "at + toIntervalYear(10)"),
}
MODES = ("", "direct", "routed")
CASES = [(kind, mode) for kind, case in KINDS.items() for mode in MODES if case.landing or not mode]
SPREAD = [(kind, mode) for kind, mode in CASES if KINDS[kind].landing]
ALONE = [case for case in CASES if case not in SPREAD]


def _name(kind: str, mode: str) -> str:
    return f"{'_'.join(c for c in kind.split())}_{mode or 'plain'}".replace("(0.01)", "")


def _assert_all_kinds() -> None:
    """Every new key whose expression is evaluated per row belongs in the table above."""
    assert set(Column.model_fields) == {"name", "type", "default", "required", "codec", "description", "json_path"}
    assert set(Index.model_fields) == {"name", "expression", "type", "granularity"}
    clauses = {"type", "sorting_key", "partition_key", "primary_key", "sampling_key", "ttl", "settings", "columns"}
    assert set(Engine.model_fields) == clauses | {"version", "is_deleted", "sign"}
    assert {"columns", "engine", "indexes"} <= set(Datasource.model_fields)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    _assert_all_kinds()
    files = {}
    for kind, mode in CASES:
        case = KINDS[kind]
        head = f"tenant: {{column: tenant_id, fanout: {mode}}}" if mode else ""
        files[f"datasources/{_name(kind, mode)}.yaml"] = head + COLUMNS % case.flag + case.clause.lstrip("\n") + "\n"
    files |= {f"datasources/{name}.yaml": "tenant: tenant_id" + TIMES % values for name, values in TTLS.items()}
    with open_rookery(tmp_path_factory.mktemp("evaluated")) as opened:
        opened.push(files)
        opened.add("1")
        yield opened


def _rows(bad: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"tenant_id": 1, "id": n, "day": f"2026-0{1 + n % 3}-01", "n": 1 + n, "flag": 1, "version": 1}
        for n in range(6)
    ]
    rows[3] |= bad
    return rows


def _assert_put_aside(rookery: Rookery, kind: str, name: str, stored: int) -> None:
    case = KINDS[kind]
    assert rookery.rows(f"SELECT count(), uniqExact(id), countIf(id = 3) FROM main.{name}") == [(stored, stored, 0)]
    ((row, columns, reasons),) = rookery.rows(f"SELECT c__row, c__error_column, c__error FROM main.{name}_quarantine")
    assert (row, columns) == (3, [case.column])
    assert reasons[0].startswith(case.reason), reasons
    rookery.run(f"TRUNCATE TABLE main.{name}_quarantine")
    rookery.run(f"TRUNCATE TABLE main.{name}")


@pytest.mark.parametrize(("kind", "mode"), [*sampled(SPREAD, 2), *ALONE], ids=lambda v: v or "plain")
def test_a_row_that_throws_is_quarantined(rookery: Rookery, kind: str, mode: str) -> None:
    name = _name(kind, mode)
    body = "\n".join(map(json.dumps, _rows(KINDS[kind].bad))).encode()
    outcome = rookery.gateway.append(name, body, Input.NDJSON, key="a key").result(60)
    assert (outcome.rows, outcome.quarantined) == (5, 1)
    assert rookery.gateway.append(name, body, Input.NDJSON, key="a key").result(60).repeated or not mode
    if mode:
        assert outcome.visible is None or outcome.visible.result(60)
        assert rookery.rows(f"SELECT count() FROM {rookery.nest('1')}.{name}") == [(5,)]
    _assert_put_aside(rookery, kind, name, 5)


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        ("default", Input.CSV),
        *((k, f) for k in ("ttl", "partition key", "sign") for f in (Input.CSV, Input.PARQUET)),
    ],
)
def test_rows_of_files_that_throw_are_quarantined(rookery: Rookery, kind: str, format: Input) -> None:
    name, rows = _name(kind, ""), _rows(KINDS[kind].bad)
    body = "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]).encode()
    if format is Input.PARQUET:
        body = _parquet(rows)
    outcome = rookery.gateway.append(name, body, format).result(60)
    assert (outcome.rows, outcome.quarantined) == (5, 1)
    _assert_put_aside(rookery, kind, name, 5)


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return bytes(buffer.getvalue().to_pybytes())


@pytest.mark.parametrize(("name", "format"), paired(TTLS, [Input.NDJSON, Input.CSV, Input.PARQUET]), ids=str)
def test_a_row_whose_ttl_overflows_is_quarantined_and_not_removed(rookery: Rookery, name: str, format: Input) -> None:
    latest = {"interval": "2105-01-01", "date": "2199-01-01"}.get(name, "2111-06-01 00:00:00")
    days = ["2099-12-31", "2030-05-05", latest] if name == "rounded" else ["2030-05-05", "2031-01-01", latest]
    rows: list[dict[str, Any]] = [{"tenant_id": 1, "id": n + 1, "at": day} for n, day in enumerate(days)]
    if format is Input.PARQUET:
        body = _parquet(rows)
    elif format is Input.CSV:
        body = "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]).encode()
    else:
        body = "\n".join(json.dumps(r | {"when": {"at": r["at"]}}) for r in rows).encode()
    outcome = rookery.gateway.append(name, body, format).result(60)
    assert (outcome.rows, outcome.quarantined) == (2, 1)
    assert outcome.first_bad_row is not None
    assert (outcome.first_bad_row.row, list(outcome.first_bad_row.columns)) == (3, ["at"])
    assert "the TTL" in str(outcome.first_bad_row)
    rookery.run(f"OPTIMIZE TABLE main.{name} FINAL")
    assert rookery.rows(f"SELECT id FROM main.{name} ORDER BY id") == [(1,), (2,)]
    rookery.run(f"TRUNCATE TABLE main.{name}")
