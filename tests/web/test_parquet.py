"""Structs and lists of structs in Parquet files, as pandas and pyarrow write them: at paths, and as maps."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.web.parquet_reader import PROCESSES_PER_WRITER
from tests.support.server import Server
from tests.support.soak import soaking
from tests.web.responses import refused

ORDERS = """
tenant: org
columns:
  - {name: org, type: UInt32, json: $.meta.org}
  - {name: id, type: UInt32}
  - {name: mark, type: UInt32}
  - {name: skus, type: "Array(String)", json: "$.items[:].sku"}
  - {name: amounts, type: "Array(Nullable(Int8))", json: "$.items[:].qty"}
  - {name: costs, type: "Array(Decimal(9, 2))", json: "$.items[:].cost.net"}
  - {name: days, type: "Array(Date)", json: "$.items[:].day", default: "['2026-01-01']"}
  - {name: tags, type: "Array(Array(String))", json: "$.items[:].tags[:]"}
  - {name: leaves, type: "Array(Array(UInt8))", json: "$.a[:].b[:].c"}
  - {name: city, type: LowCardinality(String), json: $.to.city, default: "'-'"}
  - {name: geo, type: "Nullable(Float64)", json: $.to.geo.lat}
  - {name: attrs, type: "Map(String, String)"}
  - {name: counts, type: "Map(LowCardinality(String), UInt8)"}
  - {name: shares, type: "Map(String, Float64)"}
  - {name: nested, type: "Map(String, Map(String, Int64))"}
  - {name: listed, type: "Array(Map(String, Nullable(Int64)))"}
engine: {sorting_key: [org, id]}
"""


@dataclass
class Orders:
    """The datasource. Each file has a mark of its own, and `stored` shows the rows of the last one."""

    server: Server
    mark: int = 0

    def send(self, rows: list[dict[str, Any]], schema: pa.Schema | None = None, token: str = "") -> httpx.Response:
        self.mark += 1
        sink = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table.append_column("mark", pa.array([self.mark] * len(rows), pa.uint32())), sink)
        given = {"mode": "append", "name": "orders", "format": "parquet"}
        return self.server.post(
            "/v0/datasources", token or self.server.admin_token, params=given, content=sink.getvalue()
        )

    def stored(self, columns: str) -> list[Any]:
        rows = self.server.sql(f"SELECT {columns} FROM orders WHERE mark = {self.mark} ORDER BY id")
        return [list(r.values()) for r in rows]


@pytest.fixture(scope="module")
def orders(inbox: Server) -> Orders:
    inbox.push({"datasources/orders.yaml": ORDERS})
    return Orders(inbox)


def row(id: int, **values: Any) -> dict[str, Any]:
    return {"meta": {"org": 1}, "id": id, **values}


def test_values_in_lists_of_structs(orders: Orders) -> None:
    items = [
        [{"sku": "a", "qty": 2, "cost": {"net": 1.5}, "day": "2026-02-03", "tags": ["x", "y"]}, {"sku": None}],
        [],
        None,
        [{"sku": "b", "qty": -3, "cost": None, "day": "2026-03-01", "tags": None}],
    ]
    answer = orders.send([row(n, items=value) for n, value in enumerate(items)])
    assert answer.status_code == 200, answer.text
    assert answer.json()["rows"] == 4, answer.text
    assert answer.json()["ignored_columns"] == []
    assert orders.stored("id, skus, amounts, costs, days, tags") == [
        [0, ["a", ""], [2, None], [1.5, 0], ["2026-02-03", "1970-01-01"], [["x", "y"], []]],
        [1, [], [], [], ["2026-01-01"], []],
        [2, [], [], [], ["2026-01-01"], []],
        [3, ["b"], [-3], [0], ["2026-03-01"], [[]]],
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are listed by /proc")
def test_few_processes_read_the_files_of_one_writer(orders: Orders) -> None:
    tasks = Path(f"/proc/{orders.server.process.pid}/task")
    seen, rows = set[int](), [row(1, items=[{"sku": "a"}])]
    with ThreadPoolExecutor(6) as pool:
        sent = [pool.submit(orders.send, rows) for _ in range(6)]
        while not all(s.done() for s in sent):
            with suppress(FileNotFoundError):
                seen.add(sum(len((task / "children").read_text().split()) for task in tasks.iterdir()))
    assert [s.result().json()["rows"] for s in sent] == [1] * 6
    assert 0 < max(seen) <= PROCESSES_PER_WRITER


def test_nulls_in_lists_of_structs(orders: Orders) -> None:
    items = [[{"sku": "a", "qty": None}, {"sku": None, "qty": 5}, None]]
    assert orders.send([row(1, items=items[0])]).json()["rows"] == 1
    assert orders.stored("skus, amounts, costs") == [[["a", "", ""], [None, 5, None], []]]


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [("qty", 300, "amounts"), ("qty", "x", "amounts"), ("day", "2026-02-31", "days"), ("day", "soon", "days")],
)
def test_values_in_lists_are_checked(orders: Orders, key: str, value: Any, column: str) -> None:
    answer = orders.send([row(1, items=[{"sku": "a", key: value}]), row(2, items=[])])
    assert (answer.json()["rows"], answer.json()["quarantine_rows"]) == (1, 1), answer.text
    assert answer.json()["first_bad_row"]["columns"] == [column]


@pytest.mark.parametrize(("value", "good"), [("7", True), ("x", False), ("300", False)])
def test_texts_in_lists_of_the_own_name_are_checked(orders: Orders, value: str, good: bool) -> None:
    answer = orders.send([row(1, amounts=[value, None])])
    assert (answer.json()["rows"], answer.json()["quarantine_rows"]) == ((1, 0) if good else (0, 1)), answer.text


def test_lists_in_lists(orders: Orders) -> None:
    rows = [row(1, a=[{"b": [{"c": 1}, {"c": 2}]}, {"b": []}]), row(2, a=[{"b": None}, None]), row(3, a=None)]
    assert orders.send(rows).json()["rows"] == 3
    assert orders.stored("leaves") == [[[[1, 2], []]], [[[], []]], [[]]]


def test_values_in_structs(orders: Orders) -> None:
    rows = [row(1, to={"city": "Bern", "geo": {"lat": 1.5}}), row(2, to={"city": None, "geo": None}), row(3, to=None)]
    assert orders.send(rows).json()["rows"] == 3
    assert orders.stored("city, geo") == [["Bern", 1.5], ["-", None], ["-", None]]


def test_a_column_of_the_own_name_comes_first(orders: Orders) -> None:
    answer = orders.send([row(1, to={"city": "inside"}, city="outside", skus=["own"], items=[{"sku": "inside"}])])
    assert answer.json()["rows"] == 1, answer.text
    assert orders.stored("city, skus") == [["outside", ["own"]]]
    assert set(answer.json()["ignored_columns"]) == {"to", "items"}


def test_the_tenant_in_a_struct_is_checked_like_any_other(orders: Orders) -> None:
    """A writer that is bound to one tenant writes no rows of another, wherever the file names it."""
    token = orders.server.mint("DATASOURCES:APPEND:orders", tenant="1")
    refused(orders.send([row(1), {"meta": {"org": 2}, "id": 2}], token=token), 403, "RK5003")
    assert orders.stored("org, id") == []
    assert orders.send([row(1), {"meta": None, "id": 3}], token=token).json()["rows"] == 2
    assert orders.stored("org, id") == [[1, 1], [1, 3]]


MAPS: dict[str, tuple[str, pa.DataType, Any, Any]] = {
    "texts": ("attrs", pa.struct([("a", pa.string()), ("b", pa.string())]), {"a": "x", "b": "y"}, {"a": "x", "b": "y"}),
    "absent keys": ("attrs", pa.struct([("a", pa.string()), ("b", pa.string())]), {"b": "y"}, {"b": "y"}),
    "no keys": ("attrs", pa.struct([("a", pa.string())]), {}, {}),
    "no dictionary": ("attrs", pa.struct([("a", pa.string())]), None, {}),
    "mixed as texts": (
        "attrs",
        pa.struct([("n", pa.int64()), ("t", pa.string()), ("b", pa.bool_())]),
        {"n": 7, "t": "x", "b": True},
        {"n": "7", "t": "x", "b": "true"},
    ),
    "integers": ("counts", pa.struct([("a", pa.int64()), ("b", pa.int32())]), {"a": 7, "b": 8}, {"a": 7, "b": 8}),
    "too large": ("counts", pa.struct([("a", pa.int64())]), {"a": 300}, None),
    "wide integers": ("counts", pa.struct([("a", pa.uint64()), ("b", pa.int8())]), {"a": 7, "b": 1}, {"a": 7, "b": 1}),
    "numbers": ("counts", pa.struct([("a", pa.null()), ("b", pa.int8())]), {"b": 1}, {"b": 1}),
    "floats": ("shares", pa.struct([("a", pa.float64()), ("b", pa.int64())]), {"a": 0.5, "b": 2}, {"a": 0.5, "b": 2}),
    "maps of maps": (
        "nested",
        pa.struct([("p", pa.struct([("a", pa.int64())])), ("q", pa.struct([("b", pa.int64())]))]),
        {"p": {"a": 1}, "q": {"b": 2}},
        {"p": {"a": 1}, "q": {"b": 2}},
    ),
    "maps of structs": (
        "nested", pa.map_(pa.string(), pa.struct([("a", pa.int64())])), [("p", {"a": 1})], {"p": {"a": 1}}
    ),
    "lists": (
        "listed", pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64())])),
        [{"a": 1}, {"b": 2}, None, {}], [{"a": 1}, {"b": 2}, {}, {}]
    ),
    "a map": ("attrs", pa.map_(pa.string(), pa.string()), [("a", "x")], {"a": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("case", MAPS)
def test_structs_become_maps(orders: Orders, case: str) -> None:
    column, type, value, expected = MAPS[case]
    schema = pa.schema([("meta", pa.struct([("org", pa.uint32())])), ("id", pa.uint32()), (column, type)])
    answer = orders.send([row(1, **{column: value}), row(2, **{column: value})], schema)
    assert answer.status_code == 200, answer.text
    if expected is None:
        assert (answer.json()["quarantine_rows"], answer.json()["first_bad_row"]["columns"]) == (2, [column])
    else:
        assert answer.json()["rows"] == 2, answer.text
        assert orders.stored(column) == [[expected], [expected]]


def test_structs_that_no_map_can_hold_are_refused(orders: Orders) -> None:
    answer = orders.send([row(1, counts={"a": 1, "b": "x"})])
    refused(answer, 400, "RK5001")
    assert "counts" in answer.json()["error"]


@pytest.mark.parametrize(("size", "status", "code"), [(17 << 20, 413, "RK5030"), (15 << 20, 400, "RK5001")])
def test_metadata_are_limited_before_they_are_read(orders: Orders, size: int, status: int, code: str) -> None:
    body = gzip.compress(b"PAR1" + bytes(size) + size.to_bytes(4, "little") + b"PAR1", 1)
    given = {"name": "orders", "format": "parquet"}
    headers = {"content-encoding": "gzip"}
    answer = orders.server.admin("POST", "/v0/datasources", params=given, content=body, headers=headers)
    refused(answer, status, code)


def test_many_rows_in_several_parts(orders: Orders) -> None:
    """The engine reads a file in blocks of 65,409 rows."""
    rows = [
        row(n, items=[{"sku": f"s{n}"}] * (n % 3), attrs={"k": f"{n}"} if n % 2 else {"l": None})
        for n in range(70_000)
    ]
    assert orders.send(rows).json()["rows"] == len(rows)
    stored_rows = orders.stored("id, length(skus), attrs['k'] = toString(id)")
    assert stored_rows == [[n, n % 3, n % 2] for n in range(len(rows))]


TYPES = {
    "id": "UInt8",
    "address": "IPv4",
    "sometimes": "Nullable(IPv4)",
    "addresses": "Array(IPv4)",
    "address6": "IPv6",
    "huge": "UInt256",
    "negative": "Int128",
    "some_huge": "Nullable(Int256)",
    "huges": "Array(UInt128)",
    "nested": "Array(Array(Nullable(UInt256)))",
    "label": "Enum8('a' = 1, 'b' = 2)",
    "uid": "UUID",
    "fixed": "FixedString(16)",
    "exact": "Decimal(76, 9)",
    "moment": "DateTime64(9)",
}
EXTREMES = {
    "id": 1,
    "address": "255.255.255.255",
    "sometimes": "10.0.0.1",
    "addresses": ["1.2.3.4", "0.0.0.0"],
    "address6": "2001:db8::1",
    "huge": str(2**256 - 1),
    "negative": str(-(2**127)),
    "some_huge": -2,
    "huges": [str(2**128 - 1), 0],
    "nested": [[str(2**255), None], []],
    "label": "b",
    "uid": "0b0e7c5a-1111-4222-8333-0123456789ab",
    "fixed": "1234567890123456",
    "exact": "-1234567890123456789.123456789",
    "moment": "2026-01-01 00:00:00.123456789",
}


def test_rows_of_an_endpoint_can_be_appended_again(inbox: Server) -> None:
    columns = "".join(f'  - {{name: {name}, type: "{type}"}}\n' for name, type in TYPES.items())
    table = f"columns:\n{columns}engine: {{sorting_key: [id]}}\n"
    pipe = "sql: SELECT * FROM exported ORDER BY id\n"
    inbox.push(
        {"datasources/exported.yaml": table, "datasources/imported.yaml": table, "pipes/rows_of_exported.yaml": pipe}
    )
    inbox.events("exported", [EXTREMES, {"id": 2}])
    file = inbox.admin("GET", "/v0/pipes/rows_of_exported.parquet").content
    given = {"mode": "append", "name": "imported", "format": "parquet"}
    answer = inbox.admin("POST", "/v0/datasources", params=given, content=file).json()
    assert (answer["rows"], answer["quarantine_rows"]) == (2, 0), answer
    texts = "SELECT " + ", ".join(f"toString({name}) AS {name}" for name in TYPES) + " FROM {} ORDER BY id"
    assert inbox.sql(texts.format("imported")) == inbox.sql(texts.format("exported"))


@pytest.fixture(scope="module")
def addressed(inbox: Server) -> Server:
    """The inbox with a datasource of addresses."""
    table = "columns:\n  - {name: a, type: IPv4}\nengine: {sorting_key: [a]}\n"
    inbox.push({"datasources/addressed.yaml": table})
    return inbox


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (pa.array([16909060], pa.int64()), "1.2.3.4"),
        (pa.array([2**32 - 1], pa.uint64()), "255.255.255.255"),
        (pa.array(["1.2.3.4"]), "1.2.3.4"),
        (pa.array([2**32], pa.int64()), None),
        (pa.array([-1], pa.int32()), None),
        (pa.array([1.5]), None),
    ],
)
def test_addresses_as_numbers(addressed: Server, values: pa.Array, stored: str | None) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": values}), sink)
    given = {"mode": "append", "name": "addressed", "format": "parquet"}
    before = addressed.sql("SELECT a FROM addressed")
    answer = addressed.admin("POST", "/v0/datasources", params=given, content=sink.getvalue()).json()
    assert answer["quarantine_rows"] == (0 if stored else 1), answer
    rows = addressed.sql("SELECT a FROM addressed")
    assert sorted(r["a"] for r in rows) == sorted([r["a"] for r in before] + ([stored] if stored else []))


WIDE = {"wide_128": "UInt128", "wide_256": "Int256", "wide_list": "Array(UInt256)"}


@pytest.fixture(scope="module")
def wide(inbox: Server) -> Server:
    """The inbox with the datasources above."""
    text = 'columns:\n  - {{name: a, type: "{}"}}\nengine: {{sorting_key: [a]}}\n'
    inbox.push({f"datasources/{name}.yaml": text.format(type) for name, type in WIDE.items()})
    return inbox


@pytest.mark.parametrize(
    ("name", "width"),
    [
        pytest.param(name, width, marks=[] if width in widths else [pytest.mark.soak_only])
        for name, widths in {"wide_128": (16, 32), "wide_256": (32, 4), "wide_list": (32, 20)}.items()
        for width in (4, 16, 20, 32)
    ],
)
def test_binary_values_of_another_length_go_to_quarantine(wide: Server, name: str, width: int) -> None:
    type = WIDE[name]
    values = pa.array([b"\1" * width], pa.binary(width))
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": pa.ListArray.from_arrays([0, 1], values) if "Array" in type else values}), sink)
    given = {"mode": "append", "name": name, "format": "parquet"}
    answer = wide.admin("POST", "/v0/datasources", params=given, content=sink.getvalue())
    assert answer.status_code == 200, answer.text
    fits = str(width * 8) in type
    assert (answer.json()["rows"], answer.json()["quarantine_rows"]) == ((1, 0) if fits else (0, 1)), answer.text


PARTS: dict[str, tuple[str, pa.DataType, Any, Any, str]] = {
    "signed": ("Int128", pa.binary(16), (-(2**100)).to_bytes(16, "little", signed=True), None, str(-(2**100))),
    "unsigned": ("Nullable(UInt256)", pa.binary(32), (2**200).to_bytes(32, "little"), None, str(2**200)),
    "large": ("UInt128", pa.string(), str(2**100), str(2**128), str(2**100)),
    "number": ("IPv4", pa.int64(), 16909060, 2**32, "1.2.3.4"),
    "exported": ("Nullable(IPv4)", pa.uint32(), 16909060, None, "1.2.3.4"),
    "label": ("Enum8('a' = 1, 'b' = 2)", pa.string(), "b", "c", "b"),
    "labels": ("LowCardinality(String)", pa.dictionary(pa.int32(), pa.string()), "c", None, "c"),
    "numbered": ("Nullable(Enum8('a' = 1, 'b' = 2))", pa.int8(), 2, 7, "b"),
    **{
        type.lower(): (f"Nullable({type})", pa.string(), good, "zz", good)
        for type, good in {
            "IPv4": "1.2.3.4", "IPv6": "::1", "UUID": "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "Bool": "true",
            "Int32": "-7", "Float64": "1.5", "Date": "2026-02-03", "DateTime": "2026-02-03 04:05:06",
        }.items()
    },
    "decimal": ("Decimal(9, 2)", pa.decimal128(30, 2), Decimal("1.25"), Decimal("12345678901.00"), "1.25"),
}  # fmt: skip
"""By name: the type of a part, its type in the file, a good and a bad value, and the good one as text."""
SHAPES: dict[str, tuple[str, Callable[[pa.DataType], pa.DataType], Callable[[Any], Any], str]] = {
    "list": ("Array({})", pa.list_, lambda v: [v], "{}[1]"),
    "map": ("Map(String, {})", lambda t: pa.map_(pa.string(), t), lambda v: [("k", v)], "{}['k']"),
    "tuple": (
        "Tuple(n UInt8, v {})", lambda t: pa.struct([("v", t), ("n", pa.uint8())]), lambda v: {"v": v, "n": 1}, "{}.v"
    ),
    "maps": (
        "Array(Map(String, {}))", lambda t: pa.list_(pa.map_(pa.string(), t)), lambda v: [[("k", v)]], "{}[1]['k']"
    ),
    "lists": (
        "Tuple(v Map(String, Array({})))", lambda t: pa.struct([("v", pa.map_(pa.string(), pa.list_(t)))]),
        lambda v: {"v": [("k", [v])]}, "{}.v['k'][1]"
    ),
}  # fmt: skip


def test_parts_of_lists_maps_and_tuples_are_checked_like_columns(inbox: Server) -> None:
    """Each row has one bad value, and only this row goes to quarantine."""
    shapes = SHAPES if soaking() else [s for s in SHAPES if s != "maps"]
    cells = {f"{part}_{shape}": (PARTS[part], SHAPES[shape]) for part in PARTS for shape in shapes}
    columns = [f'  - {{name: {n}, type: "{shape[0].format(p[0])}"}}\n' for n, (p, shape) in cells.items()]
    inbox.push({"datasources/parts.yaml": "columns:\n  - {name: id, type: UInt32}\n" + "".join(columns)})
    bad = [name for name, (part, _) in cells.items() if part[3] is not None]
    arrays = {"id": pa.array(range(len(bad) + 1), pa.uint32())}
    for name, (part, shape) in cells.items():
        values = [shape[2](part[3] if wrong == name else part[2]) for wrong in ["", *bad]]
        arrays[name] = pa.array(values, shape[1](part[1]))
    pq.write_table(pa.table(arrays), sink := io.BytesIO())
    given = {"mode": "append", "name": "parts", "format": "parquet"}
    answer = inbox.admin("POST", "/v0/datasources", params=given, content=sink.getvalue())
    assert (answer.json()["rows"], answer.json()["quarantine_rows"]) == (1, len(bad)), answer.text
    found = inbox.admin_json("GET", "/v0/datasources/parts/quarantine", params={"limit": 1000})["rows"]
    assert {row["c__row"]: row["c__error_column"] for row in found} == {n: [name] for n, name in enumerate(bad, 1)}
    texts = ", ".join(f"toString({shape[3].format(name)}) AS {name}" for name, (_, shape) in cells.items())
    assert inbox.sql(f"SELECT {texts} FROM parts") == [{name: part[4] for name, (part, _) in cells.items()}]
