"""How each format writes values, as docs/http.md says."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tests.support.server import Server
from tests.web.responses import refused

VALUES = {
    "CAST(NULL AS Nullable(Int8))": (None, r"\N", None),
    "1 / 0": (None, "inf", float("inf")),
    "-1 / 0": (None, "-inf", float("-inf")),
    "toDecimal128('12345678901234567890.123456789', 9)": (
        Decimal("12345678901234567890.123456789"),
        "12345678901234567890.123456789",
        Decimal("12345678901234567890.123456789"),
    ),
    "toUInt256(258)": (258, "258", bytes([2, 1]) + bytes(30)),
    "CAST('b' AS Enum8('a' = 1, 'b' = 2))": ("b", '"b"', b"b"),
    "toIPv4('1.2.3.4')": ("1.2.3.4", '"1.2.3.4"', 16909060),
    "toIPv6('::1')": ("::1", '"::1"', bytes(15) + b"\1"),
    "CAST((1, 'x'), 'Tuple(n UInt8, t String)')": ({"n": 1, "t": "x"}, '1,"x"', {"n": 1, "t": "x"}),
    "(1, 'x')": ([1, "x"], '1,"x"', {"1": 1, "2": "x"}),
    "[1, NULL]": ([1, None], '"[1,NULL]"', [1, None]),
    "toDateTime64('2026-01-01 00:00:00.5', 3)": (
        "2026-01-01 00:00:00.500",
        '"2026-01-01 00:00:00.500"',
        datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC),
    ),
}


def asked(server: Server, sql: str, format: str) -> httpx.Response:
    answer = server.admin("POST", "/v0/sql", content=f"SELECT {sql} FORMAT {format}")
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("sql", VALUES)
def test_values(server: Server, sql: str) -> None:
    in_json, in_csv, in_parquet = VALUES[sql]
    column = f"{sql} AS v"
    read: Any = {"parse_float": Decimal}
    assert json.loads(asked(server, column, "JSON").text, **read)["data"] == [{"v": in_json}]
    assert json.loads(asked(server, column, "JSONEachRow").text, **read) == {"v": in_json}
    assert asked(server, column, "CSV").text == f"{in_csv}\n"
    assert pq.read_table(io.BytesIO(asked(server, column, "Parquet").content)).to_pylist() == [{"v": in_parquet}]


def test_the_elements_of_a_tuple_have_names_in_csv(server: Server) -> None:
    sql = "1 AS a, CAST((2, 'x'), 'Tuple(n UInt8, t String)') AS b, (3, 4) AS c"
    assert asked(server, sql, "CSVWithNames").text.splitlines() == ['"a","b.n","b.t","c.1","c.2"', '1,2,"x",3,4']


def test_bytes_that_are_not_utf_8(server: Server) -> None:
    assert asked(server, "unhex('ff41') AS v", "JSON").json()["data"] == [{"v": "\ufffdA"}]
    assert asked(server, "unhex('ff41') AS v", "CSV").content == b'"\xffA"\n'


@pytest.mark.parametrize("sql", ["NULL", "toIntervalDay(3)", "toTime('12:34:56')", "42::Dynamic", "toBFloat16(1.5)"])
def test_types_that_parquet_cannot_contain(server: Server, sql: str) -> None:
    answer = server.admin("POST", "/v0/sql", content=f"SELECT {sql} AS odd FORMAT Parquet")
    assert "odd" in refused(answer, 400, "RK6004")["error"]


def test_totals(server: Server) -> None:
    sql = "number % 2 AS k, count() AS n FROM numbers(5) GROUP BY k WITH TOTALS ORDER BY k"
    assert asked(server, sql, "JSON").json()["totals"] == {"k": 0, "n": 5}
    assert asked(server, sql, "CSV").text == "0,3\n1,2\n\n0,5\n"
    assert len(asked(server, sql, "JSONEachRow").text.splitlines()) == 2
    assert pq.read_table(io.BytesIO(asked(server, sql, "Parquet").content)).num_rows == 2
