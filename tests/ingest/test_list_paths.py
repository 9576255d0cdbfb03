"""A path through a list (`$.items[:].key`) stores the value at that key of every object in the list."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from engine.errors import Problems, RookeryError
from engine.warehouse.port import Input
from tests.support.in_process import Rookery, open_rookery

pytestmark = pytest.mark.feature
COLUMNS = {
    "id": ("UInt32", ""),
    "sku": ("Array(String)", "$.items[:].sku"),
    "qty": ("Array(UInt16)", "$.items[:].qty"),
    "maybe": ("Array(Nullable(Int64))", "$.items[:].qty"),
    "price": ("Array(Decimal(9, 2))", "$.items[:].cost.price"),
    "at": ("Array(DateTime64(3, 'UTC'))", "$.items[:].at"),
    "seen": ("Array(Nullable(Date))", "$.items[:].seen"),
    "kind": ("Array(LowCardinality(String))", "$.items[:].kind"),
    "label": ("Array(Enum8('a' = 1, 'b' = 2))", "$.items[:].label"),
    "tags": ("Array(Array(String))", "$.items[:].tags[:]"),
    "parts": ("Array(Array(UInt8))", "$.items[:].parts[:].n"),
    "deep": ("Array(Float64)", "$.order.lines[:].x.y"),
    "items": ("String", "$.items"),
    "given": ("Array(String)", "$.other[:].name"),
}
DEFAULTS = {"given": "['none']"}


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("lists")) as opened:
        opened.push({"datasources/orders.yaml": datasource(COLUMNS)})
        yield opened


def datasource(columns: dict[str, tuple[str, str]]) -> str:
    listed = [
        {"name": n, "type": k, **({"json": p} if p else {}), **({"default": DEFAULTS[n]} if n in DEFAULTS else {})}
        for n, (k, p) in columns.items()
    ]
    return json.dumps({"columns": listed, "engine": {"sorting_key": ["id"]}})


def stored(rookery: Rookery, event: dict[str, object] | str, beside: str = "") -> dict[str, object] | list[str]:
    """What is stored of an event, or the columns that are blamed."""
    text = event if isinstance(event, str) else json.dumps({"id": 1, **event})
    rookery.gateway.append("orders", "\n".join(filter(None, [text, beside])).encode(), Input.NDJSON).result(60)
    names = [n for n in COLUMNS if n != "id"]
    rows = rookery.rows(f"SELECT {', '.join(f'toString({n})' for n in names)} FROM main.orders WHERE id = 1")
    bad = rookery.rows("SELECT c__error_column FROM main.orders_quarantine WHERE c__row = 0")
    rookery.run("TRUNCATE TABLE main.orders")
    rookery.run("TRUNCATE TABLE main.orders_quarantine")
    assert len(rows) + len(bad) == 1
    return dict(zip(names, rows[0], strict=True)) if rows else [str(c) for c in bad[0][0]]


FULL = {
    "sku": "a",
    "qty": 65535,
    "cost": {"price": 1.239},
    "at": 1763700000123,
    "seen": "2026-02-28",
    "kind": "k",
    "label": "b",
    "tags": ["x", "y"],
    "parts": [{"n": 1}, {}, {"n": None, "m": 5}],
}


@pytest.mark.parametrize("beside", ["", '{"id": "bad"}', '{"id": 2, "note": "' + "1" * 45 + '"}'])
def test_every_object_of_a_list_gives_an_element(rookery: Rookery, beside: str) -> None:
    stored_row = stored(rookery, {"items": [FULL, {}, {"qty": None, "sku": 5.10, "cost": None}]}, beside)
    assert isinstance(stored_row, dict)
    items = json.dumps([FULL, {}, {"qty": None, "sku": 5.10, "cost": None}])
    assert stored_row == {
        "sku": "['a','','5.1']",
        "qty": "[65535,0,0]",
        "maybe": "[65535,NULL,NULL]",
        "price": "[1.24,0,0]",
        "at": "['2025-11-21 04:40:00.123','1970-01-01 00:00:00.000','1970-01-01 00:00:00.000']",
        "seen": "['2026-02-28',NULL,NULL]",
        "kind": "['k','','']",
        "label": "['b','a','a']",
        "tags": "[['x','y'],[],[]]",
        "parts": "[[1,0,0],[],[]]",
        "deep": "[]",
        "items": items,
        "given": "['none']",
    }


@pytest.mark.parametrize(
    "event", [{}, {"items": None, "order": None}, {"items": [], "order": {"lines": []}}, {"order": {}}]
)
def test_a_list_that_is_absent_null_or_empty_gives_the_default(rookery: Rookery, event: dict[str, object]) -> None:
    stored_row = stored(rookery, event)
    assert isinstance(stored_row, dict)
    assert stored_row.pop("items") == ("[]" if event.get("items") == [] else "")
    assert stored_row.pop("given") == "['none']" and {*stored_row.values()} == {"[]"}


def test_nested_lists(rookery: Rookery) -> None:
    stored_row = stored(
        rookery, {"order": {"lines": [{"x": {"y": 0.5}}, {"x": {}}, {"x": {"y": 2}}]}, "other": [{"name": "n"}]}
    )
    assert isinstance(stored_row, dict) and (stored_row["deep"], stored_row["given"]) == ("[0.5,0,2]", "['n']")


@pytest.mark.parametrize(
    ("event", "blamed"),
    [
        ({"items": [{"qty": 65536}]}, ["qty"]),
        ({"items": [{"qty": 1}, {"qty": -1}]}, ["qty"]),
        ({"items": [{"qty": 1.5}]}, ["qty", "maybe"]),
        ({"items": [{"seen": "2026-02-31"}]}, ["seen"]),
        ({"items": [{"label": "c"}]}, ["label"]),
        ({"items": [{"tags": [None]}]}, ["tags"]),
        ({"items": [{"parts": [{"n": 256}]}]}, ["parts"]),
        ({"order": {"lines": [{"x": 1}]}}, ["deep"]),
        ({"order": {"lines": [5]}}, ["deep"]),
        ({"other": "x"}, ["given"]),
        ({"other": [["x"]]}, ["given"]),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_quarantined_with_its_reason(
    rookery: Rookery, event: dict[str, object], blamed: list[str]
) -> None:
    assert stored(rookery, event) == blamed


@pytest.mark.parametrize(
    ("kind", "path", "hint"),
    [
        ("String", "$.items[:].key", "Array(String)"),
        ("Array(String)", "$.a[:].b[:].c", "2 deep"),
        ("UInt8", "$.a.b[:].c", "Array(UInt8)"),
    ],
)
def test_the_type_of_a_path_through_a_list(rookery: Rookery, kind: str, path: str, hint: str) -> None:
    with pytest.raises((Problems, RookeryError)) as caught:
        rookery.push({"datasources/wrong.yaml": datasource({"id": ("UInt32", ""), "x": (kind, path)})})
    assert hint in str(getattr(caught.value, "errors", [caught.value])[0].hint)
