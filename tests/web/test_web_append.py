"""Files appended over HTTP: CSV, NDJSON and Parquet, whole or not at all."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.server import Server
from tests.web.answers import refused

Send = Callable[..., httpx.Response]
_marks = itertools.count()


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


@pytest.fixture
def mark() -> str:
    return f"file-{next(_marks)}"


@pytest.fixture
def send(server: Server) -> Iterator[Send]:
    """Post to /v0/datasources as admin; whatever was refused must have stored nothing."""

    def post(body: str | bytes, format: str, name: str = "events", **params: str) -> httpx.Response:
        counts = "SELECT (SELECT count() FROM events) + (SELECT count() FROM prices) AS n"
        before = server.sql(counts)
        given = {"mode": "append", "name": name, "format": format, **params}
        response = server.post("/v0/datasources", server.admin_token, params=given, content=body)
        if response.status_code >= 400:
            assert server.sql(counts) == before
        return response

    yield post


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def stored(server: Server, mark: str) -> list[list[Any]]:
    rows = server.sql(f"SELECT tenant_id, units FROM events WHERE note = '{mark}' ORDER BY tenant_id, units")
    return [list(r.values()) for r in rows]


def test_csv(server: Server, send: Send, mark: str) -> None:
    body = f'units,tenant_id,note,unknown\r\n5,1,"{mark}",x\r\n6,2,{mark},\r\n'
    answer = send(body, "csv").json()
    assert answer == {"datasource": "events", "invalid_lines": 0, "quarantine_rows": 0, "rows": 2}
    assert stored(server, mark) == [[1, 5], [2, 6]]
    assert send(f"\ufefftenant_id,note\n1,{mark}\n", "csv").json()["rows"] == 1
    assert send("tenant_id,note\n", "csv").json()["rows"] == 0
    assert send("", "csv").json()["rows"] == 0
    without_format = server.post(
        "/v0/datasources?name=events", server.admin_token, content=f"tenant_id,note\n1,{mark}"
    )
    assert without_format.json()["rows"] == 1
    assert len(stored(server, mark)) == 4


@pytest.mark.parametrize(
    "rows, place",
    [
        (["1,a,1", "01,b,1"], "line 3"),
        (["1,a,1", ",b,1"], "line 3"),
        (["1,a,1", "4294967296,b,1"], "line 3"),
        (["1,a,1", "1,b,99999"], "line 3"),
        (["1,a,1", "1,b,18446744073709551621"], "line 3"),
        (["1,a,1", "1,b,340282366920938463463374607431768211461"], "line 3"),
        (['1,"a\nb\nc",1', "", "01,b,1"], "line 6"),
        (["1,a,1", "1,b,x"], "line 3"),
        (["1,a,1", "1,b"], "line 3"),
        (["1,a,1", "1,b,1,2"], "line 3"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_broken_csv(send: Send, rows: list[str], place: str, ending: str) -> None:
    body = refused(send(ending.join(["tenant_id,note,units", *rows]), "csv"), 400)
    assert body["error"].startswith(f"{place}: "), body


def test_csv_without_a_header(send: Send) -> None:
    for name, body in (
        ("prices", "view,0.5\nsale,2\n"),
        ("events", "1,x\n2,y\n"),
        ("prices", "\n\n"),
        ("prices", '"'),
    ):
        response = send(body, "csv", name)
        assert response.status_code == 400 or response.json()["rows"] == 0
    assert "names" in refused(send("view,0.5\nsale,2\n", "csv", "prices"), 400, "RK5001")["hint"]


def test_csv_headers_that_lie(send: Send) -> None:
    refused(send("tenant_id,tenant_id\n1,2\n", "csv"), 400, "RK5001")
    refused(send("note,units\nx,1\n", "csv"), 400, "RK5002")


def test_ndjson(server: Server, send: Send, mark: str) -> None:
    rows = "\n".join(json.dumps({"tenant_id": t, "note": mark}) for t in (1, 2))
    assert send(rows, "ndjson").json()["rows"] == 2
    assert stored(server, mark) == [[1, 1], [2, 1]]
    refused(send(rows + '\n{"tenant_id": "01"}', "ndjson"), 400, "RK5002")


def test_parquet(server: Server, send: Send, mark: str) -> None:
    body = parquet(tenant_id=[1, 2], note=[mark, mark], units=[5, -6], unknown=[1.5, 2.5])
    assert send(body, "parquet").json()["rows"] == 2
    assert stored(server, mark) == [[1, 5], [2, -6]]
    text = parquet(tenant_id=["1", "2"], note=[mark, mark])
    assert send(text, "parquet").json()["rows"] == 2
    assert send(parquet(tenant_id=pa.array([], pa.int64())), "parquet").json()["rows"] == 0


@pytest.mark.proves("D11")
@pytest.mark.parametrize(
    "columns",
    [
        {"tenant_id": [1, 2**33]},
        {"tenant_id": [1, -1]},
        {"tenant_id": [1, None]},
        {"tenant_id": ["1", "01"]},
        {"tenant_id": ["1", "1.0"]},
        {"tenant_id": [True, True]},
        {"tenant_id": [1.5, 1.0]},
        {"note": ["a", "b"]},
        {"tenant_id": [1, 1], "units": [1, 40_000]},
        {"tenant_id": [1, 1], "units": [1, 2**63 - 1]},
        {"tenant_id": [1, 1], "at": ["x", "y"]},
    ],
    ids=str,
)
def test_broken_parquet(send: Send, columns: dict[str, Any]) -> None:
    refused(send(parquet(**columns), "parquet"), 400)


def test_what_is_no_parquet(send: Send) -> None:
    good = parquet(tenant_id=[1])
    for body in (b"PAR1", b"PAR1nonsensePAR1", good[:-8], good[8:], b"\x00" * 100, b"tenant_id\n1\n"):
        refused(send(body, "parquet"), 400, "RK5001")


def test_requests_that_are_not_understood(server: Server, send: Send) -> None:
    refused(send("x", "xml"), 404, "RK4014")
    refused(send("x", "csv", mode="replace"), 400, "RK4009")
    refused(send("x", "csv", "nonesuch"), 404, "RK5005")
    refused(send("x", "csv", "daily"), 400, "RK5006")
    refused(server.post("/v0/datasources", server.admin_token, content="x"), 400, "RK4009")
    refused(server.post("/v0/datasources?name=events", content="x"), 403, "RK4001")
    token = server.mint("DATASOURCES:READ:events", tenant="1")
    refused(server.post("/v0/datasources?name=events", token, content="tenant_id\n1"), 403, "RK4003")


@pytest.mark.proves("D11")
def test_an_append_token_of_a_tenant(server: Server, mark: str) -> None:
    token = server.static("files of 1", "DATASOURCES:APPEND:events", tenant="1")
    path = "/v0/datasources?name=events&format="
    assert server.post(path + "csv", token, content=f"note\n{mark}\n").json()["rows"] == 1
    assert server.post(path + "parquet", token, content=parquet(note=[mark], tenant_id=[1])).json()["rows"] == 1
    assert stored(server, mark) == [[1, 1], [1, 1]]
    refused(server.post(path + "csv", token, content="tenant_id\n1\n2\n"), 403, "RK5003")
    refused(server.post(path + "parquet", token, content=parquet(tenant_id=[1, 2])), 403, "RK5003")
