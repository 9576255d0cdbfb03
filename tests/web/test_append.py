"""Files appended over HTTP: CSV, NDJSON and Parquet, of any size; bad rows go to quarantine."""

from __future__ import annotations

import io
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.server import Server
from tests.support.soak import paired
from tests.web.inbox import DATASOURCES, count, quarantine
from tests.web.responses import refused

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
    """Post to /v0/datasources as admin; the response's counts are exact, and a refused request stored nothing."""

    def post(body: str | bytes, format: str, name: str = "events", **params: str) -> httpx.Response:
        own = [name] if name in DATASOURCES else []
        before = count(server, *own)
        given = {"mode": "append", "name": name, "format": format, **params}
        response = server.post("/v0/datasources", server.admin_token, params=given, content=body)
        after = count(server, *own)
        if response.status_code >= 400:
            assert after == before
        elif params.get("mode") != "replace":
            counts = response.json()
            assert sum(after[:4]) - sum(before[:4]) == counts["rows"]
            assert sum(after[4:]) - sum(before[4:]) == counts["quarantine_rows"]
        return response

    yield post


def quarantined(server: Server, response: httpx.Response, beside: int) -> dict[str, Any]:
    """The only row of a file that went to quarantine; `beside` others are stored."""
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["rows"], answer["quarantine_rows"]) == (beside, 1)
    assert answer["error"].startswith("1 row ") and "rookery quarantine ls events" in answer["error"]
    row: dict[str, Any] = quarantine(server, "events")["rows"][0]
    assert row["c__error"] and all(row["c__error"])
    return row


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
    assert answer == {
        "datasource": "events",
        "import_id": None,
        "rows": 2,
        "invalid_lines": 0,
        "quarantine_rows": 0,
        "ignored_columns": ["unknown"],
        "repeated": False,
        "error": False,
    }
    assert stored(server, mark) == [[1, 5], [2, 6]]
    assert send(f"\ufefftenant_id,note\n1,{mark}\n", "csv").json()["rows"] == 1
    assert send("tenant_id,note\n", "csv").json()["rows"] == 0
    assert send("", "csv").json()["rows"] == 0
    without_format = server.post(
        "/v0/datasources?name=events", server.admin_token, content=f"tenant_id,note\n1,{mark}"
    )
    assert without_format.json()["rows"] == 1
    assert len(stored(server, mark)) == 4


BROKEN_CSV = (
    ("1,{0},1", "01,b,1", "tenant_id"),
    ("1,{0},1", ",b,1", "tenant_id"),
    ("1,{0},1", "4294967296,b,1", "tenant_id"),
    ("1,{0},1", "1,b,99999", "units"),
    ("1,{0},1", "1,b,18446744073709551621", "units"),
    ("1,{0},1", "1,b,340282366920938463463374607431768211461", "units"),
    ('1,"{0}\nb\nc",1', '01,"b\nc",1', "tenant_id"),
    ("1,{0},1", "1,b,x", "units"),
    ("1,{0},1", "1,b", ""),
    ("1,{0},1", "1,b,1,2", ""),
)
"""A good row, a bad one, and the column at fault."""


@pytest.mark.parametrize(("case", "ending"), paired(BROKEN_CSV, ("\n", "\r\n")))
def test_broken_csv(server: Server, send: Send, mark: str, case: tuple[str, str, str], ending: str) -> None:
    good, bad, column = case
    rows = ["tenant_id,note,units", good.format(mark), "", bad, good.format(mark)]
    row = quarantined(server, send(ending.join(rows), "csv"), 2)
    assert (row["c__text"], row["c__header"]) == (bad, "tenant_id,note,units")
    assert column in row["c__error_column"] or not column
    stored_rows = server.sql(f"SELECT tenant_id, units FROM events WHERE startsWith(note, '{mark}')")
    assert [list(r.values()) for r in stored_rows] == [[1, 1], [1, 1]]


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


def test_csv_with_duplicate_or_missing_columns(server: Server, send: Send) -> None:
    refused(send("tenant_id,tenant_id\n1,2\n", "csv"), 400, "RK5001")
    row = quarantined(server, send("note,units\nx,1\n", "csv"), 0)
    assert row["c__error_column"] == ["tenant_id"] and "missing" in row["c__error"][0]


def test_ndjson(server: Server, send: Send, mark: str) -> None:
    rows = "\n".join(json.dumps({"tenant_id": t, "note": mark}) for t in (1, 2))
    assert send(rows, "ndjson").json()["rows"] == 2
    assert stored(server, mark) == [[1, 1], [2, 1]]
    row = quarantined(server, send(rows + '\n{"tenant_id": "01"}', "ndjson"), 2)
    assert (row["c__text"], row["c__row"]) == ('{"tenant_id": "01"}', 2)
    assert len(stored(server, mark)) == 4


def test_parquet(server: Server, send: Send, mark: str) -> None:
    body = parquet(tenant_id=[1, 2], note=[mark, mark], units=[5, -6], unknown=[1.5, 2.5])
    assert send(body, "parquet").json()["rows"] == 2
    assert stored(server, mark) == [[1, 5], [2, -6]]
    text = parquet(tenant_id=["1", "2"], note=[mark, mark])
    assert send(text, "parquet").json()["rows"] == 2
    assert send(parquet(tenant_id=pa.array([], pa.int64())), "parquet").json()["rows"] == 0


@pytest.mark.proves("D11")
@pytest.mark.parametrize(
    "columns, column",
    [
        ({"tenant_id": [1, 2**33]}, "tenant_id"),
        ({"tenant_id": [1, -1]}, "tenant_id"),
        ({"tenant_id": [1, None]}, "tenant_id"),
        ({"tenant_id": ["1", "01"]}, "tenant_id"),
        ({"tenant_id": ["1", "1.0"]}, "tenant_id"),
        ({"tenant_id": [1, 1], "units": [1, 40_000]}, "units"),
        ({"tenant_id": [1, 1], "units": [1, 2**63 - 1]}, "units"),
    ],
    ids=str,
)
def test_broken_parquet(server: Server, send: Send, mark: str, columns: dict[str, Any], column: str) -> None:
    row = quarantined(server, send(parquet(**columns, note=[mark, mark]), "parquet"), 1)
    assert (row["c__error_column"], row["c__row"], row["note"]) == ([column], 1, mark)
    assert [r[0] for r in stored(server, mark)] == [1]


@pytest.mark.proves("D11")
def test_parquet_without_a_storable_row(server: Server, send: Send) -> None:
    for columns in ({"tenant_id": [True, True]}, {"tenant_id": [1.5, 2.5]}, {"note": ["a", "b"]}):
        answer = send(parquet(**columns), "parquet").json()
        assert (answer["rows"], answer["quarantine_rows"]) == (0, 2)
        assert quarantine(server, "events")["rows"][0]["c__error_column"] == ["tenant_id"]
    answer = send(parquet(tenant_id=[1, 1], at=["x", None]), "parquet").json()
    assert (answer["rows"], answer["quarantine_rows"]) == (1, 1)
    assert quarantine(server, "events")["rows"][0]["c__error_column"] == ["at"]


def test_invalid_parquet_is_refused(send: Send) -> None:
    good = parquet(tenant_id=[1])
    for body in (b"PAR1", b"PAR1nonsensePAR1", good[:-8], good[8:], b"\x00" * 100, b"tenant_id\n1\n"):
        refused(send(body, "parquet"), 400, "RK5001")


def test_invalid_requests_are_refused(server: Server, send: Send) -> None:
    refused(send("x", "xml"), 404, "RK4014")
    refused(send("x", "csv", mode="upsert"), 400, "RK4009")
    refused(send("tenant_id\n1\n", "csv", mode="replace"), 409, "RK5012")
    refused(send("x", "csv", "nonesuch"), 404, "RK5005")
    refused(send("x", "csv", "daily"), 400, "RK5006")
    refused(server.post("/v0/datasources", server.admin_token, content="x"), 400, "RK4009")
    refused(server.post("/v0/datasources?name=events", content="x"), 403, "RK4001")
    token = server.mint("DATASOURCES:READ:events", tenant="1")
    refused(server.post("/v0/datasources?name=events", token, content="tenant_id\n1"), 403, "RK4003")


def test_a_slow_replacement_delays_no_other_datasource(server: Server) -> None:
    address = httpx.URL(server.url)
    head = (
        "POST /v0/datasources?mode=replace&name=prices&format=csv HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
        f"expect: 100-continue\r\nauthorization: Bearer {server.admin_token}\r\n\r\n"
    )
    with socket.create_connection((address.host, address.port or 0), timeout=30) as slow:
        slow.sendall(head.encode())
        assert b" 100 " in slow.recv(100), "the server waits for the body"
        given = {"mode": "replace", "name": "payroll", "format": "csv"}
        rows = "employee_secret_column\nsalary-4711\n"
        assert server.post("/v0/datasources", server.admin_token, params=given, content=rows).json()["rows"] == 1
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)


@pytest.mark.proves("D11")
def test_an_append_token_is_limited_to_its_tenant(server: Server, mark: str) -> None:
    token = server.static("files of 1", "DATASOURCES:APPEND:events", tenant="1")
    path = "/v0/datasources?name=events&format="
    assert server.post(path + "csv", token, content=f"note\n{mark}\n").json()["rows"] == 1
    assert server.post(path + "parquet", token, content=parquet(note=[mark], tenant_id=[1])).json()["rows"] == 1
    assert stored(server, mark) == [[1, 1], [1, 1]]
    before = count(server)
    refused(server.post(path + "csv", token, content="tenant_id\n1\n2\n"), 403, "RK5003")
    refused(server.post(path + "parquet", token, content=parquet(tenant_id=[1, 2])), 403, "RK5003")
    assert count(server) == before


def test_an_open_quote_affects_only_its_own_line(server: Server, send: Send, mark: str) -> None:
    lines = [f'{n % 2 + 1},"{mark}' if n == 2 else f"{n % 2 + 1},{mark}" for n in range(5)]
    row = quarantined(server, send("\n".join(["tenant_id,note", *lines]), "csv"), beside=4)
    assert (row["c__text"], row["c__error_column"]) == (lines[2], ["note"])
    (reason,) = row["c__error"]
    assert f'`"{mark}`' in reason and "quote" in reason


def test_a_broken_parquet_file_is_refused(send: Send) -> None:
    body = parquet(tenant_id=pa.array([1], pa.uint32()))
    for broken in (body[:-1], body[: len(body) // 2], b"XXXX" + body[4:], parquet()):
        refused(send(broken, "parquet"), 400, "RK5001")


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"tenant_id,event\r1,a\r1,b\r", "LF or CRLF"),
        (b"tenant_id,event\r\r\n1,a\r\r\n", "LF or CRLF"),
        (b"\xef\xbb\xbfevent,tenant_id\r1,a", "LF or CRLF"),
        (b'{"tenant_id": 1, "event": "a"}\n', "format=ndjson"),
        (b'{"tenant_id": 1, "event": "a"}', "format=ndjson"),
        (b"tenant_id;event\n1;a\n", "';'"),
        (b"tenant_id\tevent\n1\ta\n", "'\\t'"),
        ("\ufefftenant_id,event\n1,a\n".encode("utf-16-le"), "UTF-16"),
        (b"nothing,of,this\n", "names of its columns"),
        (b"nothing,of,this", "names of its columns"),
    ],
)
def test_a_file_of_another_format_is_refused_with_its_format(send: Send, body: bytes, hint: str) -> None:
    response = send(body, "csv")
    assert refused(response, 400, "RK5001")
    assert hint in response.json()["hint"]


@pytest.mark.guard
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
def test_a_file_with_only_a_header_has_no_rows(send: Send, end: bytes) -> None:
    response = send(b"tenant_id,event" + end, "csv")
    assert (response.status_code, response.json()["rows"], response.json()["error"]) == (200, 0, False)


@pytest.mark.guard
def test_line_breaks_in_quoted_column_names(send: Send, mark: str) -> None:
    response = send(f'tenant_id,event,"two\r\nlines"\r\n1,{mark},x\r\n'.encode(), "csv")
    assert (response.json()["rows"], response.json()["quarantine_rows"]) == (1, 0)
