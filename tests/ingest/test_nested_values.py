"""Nested values of an event are stored exactly or not at all: nothing is truncated and nothing wraps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery
from tests.support.soak import sampled

KINDS = {
    "price": "Decimal(18,2)",
    "exact": "Decimal(38,10)",
    "prices": "Array(Decimal(9,2))",
    "numbers": "Array(Int32)",
    "bytes": "Array(UInt8)",
    "maybe": "Array(Nullable(Int64))",
    "lists": "Array(Array(Int64))",
    "day": "Date",
    "moment": "DateTime('UTC')",
}
EVENTS = "tenant: tenant_id\ncolumns:\n  - {name: tenant_id, type: UInt32}\n" + "".join(
    f'  - {{name: {name}, type: "{kind}", json: "$.m.{name}{"[:]" if "Array" in kind else ""}"}}\n'
    for name, kind in KINDS.items()
)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("nested")) as opened:
        opened.push({"datasources/events.yaml": EVENTS + "engine: {sorting_key: [tenant_id]}\n"})
        yield opened


CASES = [
    *(("price", v, str(v)) for v in (0.29, 19.99, 4.35, 1.15, 5, -0.07)),
    ("price", "4.35", "4.35"),
    ("price", 12345678901234567890, None),
    ("price", "x", None),
    ("exact", "12345678901234567890.1234567891", "12345678901234567890.1234567891"),
    ("exact", 12345678901234567890.1234567891, None),
    ("prices", [0.29, "19.99"], "[0.29,19.99]"),
    ("prices", ["x"], None),
    ("numbers", [1, -2147483648], "[1,-2147483648]"),
    ("numbers", [2147483648], None),
    ("numbers", [1.5], None),
    ("numbers", [None], None),
    ("bytes", [256], None),
    ("bytes", [-1], None),
    ("bytes", [255, 0], "[255,0]"),
    ("maybe", [1.5], None),
    ("maybe", [None, 2**63 - 1, "7"], f"[NULL,{2**63 - 1},7]"),
    ("maybe", [2**63], None),
    ("maybe", [True, False], "[1,0]"),
    ("lists", [[1.5]], None),
    ("lists", [[2**53 + 1], [], [-1]], f"[[{2**53 + 1}],[],[-1]]"),
    ("lists", [[None]], None),
    ("lists", [None], None),
    ("day", "2026-01-31", "2026-01-31"),
    ("day", "2200-01-01", None),
    ("day", "1969-12-31", None),
    ("day", 99999, None),
    ("moment", "2026-01-31 10:00:00", "2026-01-31 10:00:00"),
    ("moment", "2026-01-31T10:00:00Z", "2026-01-31 10:00:00"),
    ("moment", "2200-01-01 00:00:00", None),
]
"""A column, a value, and how it is stored as text; None if it is not."""


def test_values_of_a_batch_are_stored_as_they_were_sent_or_not_at_all(rookery: Rookery) -> None:
    events = [{"tenant_id": 1_000 + n, "m": {name: value}} for n, (name, value, _) in enumerate(CASES)]
    outcome = rookery.gateway.append("events", "\n".join(map(json.dumps, events)).encode(), Input.NDJSON).result(30)
    shown = ", ".join(f"toString({name})" for name in KINDS)
    rows = rookery.rows(f"SELECT tenant_id - 1000, [{shown}] FROM main.events WHERE tenant_id >= 1000")
    stored = {n: dict(zip(KINDS, texts, strict=True)) for n, texts in rows}
    assert (outcome.rows, outcome.quarantined) == (len(rows), len(CASES) - len(rows))
    expected = {n: text for n, (_, _, text) in enumerate(CASES) if text is not None}
    assert {n: texts[CASES[n][0]] for n, texts in stored.items()} == expected


def _sent(rookery: Rookery, name: str, value: Any) -> str | None:
    """What is stored, as text; None if the row is in quarantine."""
    body = json.dumps({"tenant_id": 1, "m": {name: value}}).encode()
    outcome = rookery.gateway.append("events", body, Input.NDJSON).result(30)
    assert outcome.rows + outcome.quarantined == 1
    if outcome.quarantined:
        return None
    newest = f"SELECT toString({name}) FROM main.events ORDER BY _block_number DESC LIMIT 1"
    return str(rookery.rows(newest)[0][0])


@pytest.mark.parametrize(("name", "value", "stored"), sampled(CASES, 4))
def test_a_value_is_stored_as_it_was_sent_or_not_at_all(
    rookery: Rookery, name: str, value: Any, stored: str | None
) -> None:
    assert _sent(rookery, name, value) == stored


def test_decimals_are_exact(rookery: Rookery) -> None:
    body = "\n".join(json.dumps({"tenant_id": 2, "m": {"price": n / 100}}) for n in range(10_000)).encode()
    assert rookery.gateway.append("events", body, Input.NDJSON).result(60).rows == 10_000
    assert rookery.rows("SELECT toString(sum(price)), uniqExact(price) FROM main.events WHERE tenant_id = 2") == [
        ("499950", 10_000)
    ]
