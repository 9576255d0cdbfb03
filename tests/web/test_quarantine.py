"""Quarantine over HTTP: access, listed fields, and replay of each row exactly once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.support.server import Server
from tests.web.responses import refused

PATH = "/v0/datasources/events/quarantine"
_marks = itertools.count()


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


@pytest.fixture
def mark(server: Server) -> str:
    """A text that only one test's rows have; quarantine is empty before."""
    for name in ("events", "prices"):
        server.admin_json("DELETE", f"/v0/datasources/{name}/quarantine", json={"all": True})
    return f"quarantined-{next(_marks)}"


def bad(mark: str, **values: Any) -> str:
    return json.dumps({"tenant_id": 1, "note": mark, "units": "many"} | values)


def send(server: Server, body: str, token: str | None = None, name: str = "events", **headers: str) -> Any:
    params = {"name": name, "wait": "true"}
    response = server.post("/v0/events", token or server.admin_token, params=params, content=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def listed(server: Server, **params: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = server.admin_json("GET", PATH, params=params)["rows"]
    return rows


def replay(server: Server, body: Any = None) -> Any:
    return server.admin_json("POST", f"{PATH}/replay", **({} if body is None else {"json": body}))


def stored(server: Server, mark: str) -> list[list[Any]]:
    rows = server.sql(f"SELECT tenant_id, units FROM events WHERE note = '{mark}' ORDER BY tenant_id, units")
    return [list(r.values()) for r in rows]


@pytest.mark.proves("D11", "D12")
def test_only_an_admin_can_reach_the_quarantine(server: Server, mark: str) -> None:
    """It holds rows of all tenants as text, so no token of a tenant or for one datasource has access."""
    send(server, bad(mark))
    kept = listed(server)
    append, read = "DATASOURCES:APPEND:events", "DATASOURCES:READ:events"
    tokens = [
        None,
        "garbage",
        server.static("quarantine appends", append),
        server.static("quarantine reads", read),
        server.static("quarantine appends for 1", append, tenant="1"),
        server.mint(append, read, "PIPES:READ:raw", tenant="1"),
        server.mint(append, read, "PIPES:READ:raw", tenant="2"),
        server.mint(append, {"type": "DATASOURCES:READ", "resource": "events", "filter": "tenant_id = 1"}),
    ]
    for token in tokens:
        for method, path in (("GET", PATH), ("POST", f"{PATH}/replay"), ("DELETE", PATH)):
            for body in (b"", json.dumps({"ids": [kept[0]["c__id"]]}).encode(), b'{"all": true}'):
                refused(server.request(method, path, token, content=body), 403)
                looking = server.request(method, path, token, content=body, headers={"x-rookery-tenant": "1"})
                assert looking.status_code == 403
        for text in (
            "SELECT * FROM events_quarantine",
            "SELECT * FROM main.events_quarantine",
            "SELECT c__text FROM events",
            "SELECT * FROM merge('main', 'events_quarantine')",
        ):
            if token and token != "garbage":
                answer = server.post("/v0/sql", token, content=text)
                assert answer.status_code in (400, 403), answer.text
                assert mark not in answer.text
    assert listed(server) == kept


@pytest.mark.proves("D11")
def test_a_row_is_replayed_under_the_tenant_of_its_sender(server: Server, mark: str) -> None:
    """A row sent with a token of one tenant never reaches another tenant, even if an admin corrects it."""
    token = server.mint("DATASOURCES:APPEND:events", tenant="2")
    send(server, bad(mark, tenant_id=1), token)
    (row,) = listed(server)
    assert row["c__writer"] == "2"
    answer = replay(server, {"rows": [{"id": row["c__id"], "text": bad(mark, tenant_id=1, units=5)}]})
    assert (answer["successful_rows"], [r["code"] for r in answer["refused"]]) == (0, ["RK5003"])
    assert stored(server, mark) == []
    assert [r["c__id"] for r in listed(server)] == [row["c__id"]], "it stays where it is"
    mended = json.dumps({"note": mark, "units": 5})
    assert replay(server, {"rows": [{"id": row["c__id"], "text": mended}]})["successful_rows"] == 1
    assert stored(server, mark) == [[2, 5]]


@pytest.mark.proves("D11")
def test_rows_of_a_removed_tenant_are_not_replayed_for_it(server: Server, mark: str) -> None:
    server.tenant("77", "pooled")
    send(server, bad(mark, tenant_id=None), server.mint("DATASOURCES:APPEND:events", tenant="77"))
    server.admin_json("DELETE", "/v0/tenants/77")
    (row,) = listed(server)
    answer = replay(server, {"rows": [{"id": row["c__id"], "text": json.dumps({"note": mark})}]})
    assert [r["code"] for r in answer["refused"]] == ["RK3004"]
    assert stored(server, mark) == []


def test_fields_of_a_row_in_quarantine(server: Server, mark: str) -> None:
    assert server.admin_json("GET", PATH) == {"datasource": "events", "total": 0, "rows": []}
    first = bad(mark, tenant_id="01")
    send(server, "\n".join([json.dumps({"tenant_id": 1, "note": mark}), first, '{"note": "\u0007']))
    rows = listed(server)
    assert [r["c__row"] for r in rows] == [2, 1], "the newest first"
    assert rows[1]["c__text"] == first and rows[1]["c__format"] == "JSONEachRow"
    assert (rows[1]["tenant_id"], rows[1]["note"], rows[1]["units"]) == ("01", mark, "many")
    assert rows[1]["c__error_column"] == ["units"] and '`"many"` is not of type Int16' in rows[1]["c__error"][0]
    assert rows[0]["c__error_column"] == [""] and "note" not in rows[0] and "c__writer" not in rows[0]
    assert len({r["c__id"] for r in rows}) == 2 and len({r["c__import_id"] for r in rows}) == 1
    assert stored(server, mark) == [[1, 1]]


def test_listing_is_paged(server: Server, mark: str) -> None:
    send(server, "\n".join(bad(mark, n=n) for n in range(25)))
    everything = [r["c__id"] for r in listed(server)]
    assert len(set(everything)) == 25
    assert [r["c__id"] for o in (0, 10, 20) for r in listed(server, limit=10, offset=o)] == everything
    assert server.admin_json("GET", PATH, params={"limit": 0})["total"] == 25
    for params in ({"limit": -1}, {"limit": "x"}, {"limit": 10_001}, {"offset": "²"}, {"offset": 10**30}):
        refused(server.admin("GET", PATH, params=params), 400, "RK4009")


def test_rows_are_dropped_by_id(server: Server, mark: str) -> None:
    send(server, "\n".join(bad(mark, n=n) for n in range(4)))
    ids = [r["c__id"] for r in listed(server)]
    for body in ({}, {"all": False}, {"ids": "x"}, {"ids": [1]}, {"ids": ids, "all": True}):
        refused(server.admin("DELETE", PATH, json=body), 400, "RK4009")
    refused(server.admin("DELETE", PATH, json={"id": ids}), 400, "RK4029")
    assert server.admin_json("DELETE", PATH, json={"ids": []}) == {"removed": 0}
    assert server.admin_json("DELETE", PATH, json={"ids": [ids[0], "nonesuch", "' OR 1 = 1"]}) == {"removed": 1}
    assert [r["c__id"] for r in listed(server)] == ids[1:]
    assert server.admin_json("DELETE", PATH, json={"all": True}) == {"removed": 3}
    assert listed(server) == []


@pytest.mark.parametrize("method, path", [("GET", ""), ("DELETE", ""), ("POST", "/replay")])
def test_datasources_without_a_quarantine(server: Server, method: str, path: str) -> None:
    body = {"ids": ["x"]} if method != "GET" else None
    for name, status, code in (("nonesuch", 404, "RK5005"), ("daily", 400, "RK5006"), ("raw", 404, "RK5005")):
        answer = server.admin(method, f"/v0/datasources/{name}/quarantine{path}", json=body)
        refused(answer, status, code)


def test_corrected_rows_leave_quarantine_when_they_are_stored(server: Server, mark: str) -> None:
    send(server, "\n".join(bad(mark, at=f"2026-01-01 00:00:0{n}") for n in range(3)))
    first, second, third = (r["c__id"] for r in listed(server))
    good = json.dumps({"tenant_id": 1, "note": mark, "units": 7})
    answer = replay(server, {"rows": [{"id": first, "text": good}, {"id": second, "text": bad(mark, units="few")}]})
    assert answer == {
        "successful_rows": 1, "quarantined_rows": 1, "repeated": [], "refused": [], "unknown": []
    }  # fmt: skip
    assert stored(server, mark) == [[1, 7]]
    left = {r["c__id"]: r["units"] for r in listed(server)}
    assert len(left) == 2 and left.pop(third) == "many"
    assert set(left.values()) == {"few"} and second not in left, "bad again: a new row with its new text"
    token = server.mint("PIPES:READ:raw", tenant="1")
    rows = server.get("/v0/pipes/raw.json", token).json()["data"]
    assert sum(r["note"] == mark for r in rows) == 1, "it arrived in the tenant's own table too"
    again = replay(server, {"rows": [{"id": first, "text": good}]})
    assert (again["successful_rows"], again["unknown"]) == (0, [first])
    assert stored(server, mark) == [[1, 7]]


def test_corrections_that_are_not_one_row_stay_in_quarantine(server: Server, mark: str) -> None:
    send(server, "\n".join([bad(mark), "no json"]))
    worst, row = (r["c__id"] for r in listed(server))
    good = json.dumps({"tenant_id": 1, "note": mark})
    for text in (
        f"[{good},{good}]",
        f"{good}\n{good}",
        f"{good}{good}",
        "",
        "null",
        good[:-1],
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ):
        answer = replay(server, {"rows": [{"id": row, "text": text}]})
        assert [r["code"] for r in answer["refused"]] == ["RK5001"], text
    answer = replay(server, {"ids": [worst]})
    assert [r["id"] for r in answer["refused"]] == [worst]
    assert {r["c__id"] for r in listed(server)} == {worst, row}
    assert stored(server, mark) == []
    for body in ({"ids": [row], "rows": []}, {"rows": {}}, {"rows": [{"id": row}]}, {"rows": [["x"]]}):
        refused(server.admin("POST", f"{PATH}/replay", json=body), 400, "RK4009")
    refused(server.admin("POST", f"{PATH}/replay", json={"all": True}), 400, "RK4029")
    twice = {"rows": [{"id": row, "text": good}, {"id": row, "text": good}]}
    refused(server.admin("POST", f"{PATH}/replay", json=twice), 400, "RK4009")


def test_all_rows_are_replayed_after_the_datasource_changed(server: Server, mark: str) -> None:
    """NDJSON and CSV are replayed as they were sent, CSV with its header; nothing is lost and nothing doubled."""
    path = "datasources/guests.yaml"
    narrow = {
        path: "columns: [{name: name, type: String}, {name: age, type: UInt8}]\nengine: {sorting_key: [name]}\n"
    }
    server.push(narrow)
    send(server, "\n".join(json.dumps({"name": f"n{n}", "age": 300 + n}) for n in range(6)), name="guests")
    body = 'age,name,other\n400,"x,\n""y""",1\n1,young,1\n401,,1\n402,\\N,1\n'
    params = {"name": "guests", "format": "csv"}
    answer = server.admin_json("POST", "/v0/datasources", params=params, content=body)
    assert (answer["rows"], answer["quarantine_rows"]) == (1, 3)
    quarantine = "/v0/datasources/guests/quarantine"
    assert server.admin_json("POST", f"{quarantine}/replay")["quarantined_rows"] == 9, "they are as bad as before"
    assert server.admin_json("GET", quarantine)["total"] == 9
    server.push({path: narrow[path].replace("UInt8", "UInt16")}, allow=["guests"])
    assert server.admin_json("POST", f"{quarantine}/replay")["successful_rows"] == 9
    assert server.admin_json("GET", quarantine)["total"] == 0
    rows = server.sql("SELECT name, age FROM guests ORDER BY age")
    assert [(r["name"], r["age"]) for r in rows] == [
        ("young", 1), *((f"n{n}", 300 + n) for n in range(6)), ('x,\n"y"', 400), ("", 401), ("", 402)
    ]  # fmt: skip
    server.admin_json("DELETE", "/v0/datasources/guests", params={"force": "true"})


@pytest.mark.proves("D11")
def test_purging_a_tenant_removes_quarantined_rows_that_it_sent_or_that_name_it(server: Server, mark: str) -> None:
    server.tenant("78", "pooled")
    send(server, bad(mark, tenant_id=None), server.mint("DATASOURCES:APPEND:events", tenant="78"))
    send(server, "\n".join([bad(mark, tenant_id=78), bad(mark, tenant_id=1)]))
    server.admin_json("DELETE", "/v0/tenants/78", params={"purge": "true"})
    assert [r["tenant_id"] for r in listed(server)] == ["1"]
