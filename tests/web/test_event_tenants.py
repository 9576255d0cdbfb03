"""The tenant of an event: which values are accepted, and that a bad one is quarantined and reaches no tenant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.server import Server
from tests.support.soak import sampled, soaking
from tests.web.inbox import Send, count, delivered, mark, quarantined, stored
from tests.web.responses import refused


@pytest.fixture(scope="module")
def server(inbox: Server) -> Server:
    return inbox


TENANTS = [
    '{"note": "no tenant"}',
    "{}",
    '{"tenant_id": null}',
    '{"tenant_id": "01"}',
    '{"tenant_id": 01}',
    '{"tenant_id": 1.0}',
    '{"tenant_id": "1.0"}',
    '{"tenant_id": 1e0}',
    '{"tenant_id": true}',
    '{"tenant_id": "true"}',
    '{"tenant_id": -1}',
    '{"tenant_id": -0}',
    '{"tenant_id": "+1"}',
    '{"tenant_id": " 1"}',
    '{"tenant_id": "1 "}',
    '{"tenant_id": "1\\u0000"}',
    '{"tenant_id": ""}',
    '{"tenant_id": "\uff11"}',
    '{"tenant_id": "\\u00b9"}',
    '{"tenant_id": 4294967296}',
    '{"tenant_id": 4294967297}',
    '{"tenant_id": 18446744073709551617}',
    '{"tenant_id": 340282366920938463463374607431768211457}',
    '{"tenant_id": [1]}',
    '{"tenant_id": {"id": 1}}',
    '{"tenant_id": "nan"}',
    '{"tenant": 1}',
    '{"tenant_id ": 1}',
]


@pytest.mark.proves("D11")
def test_no_tenant_id_of_a_batch_that_is_not_canonical_is_accepted(server: Server, send: Send) -> None:
    m = mark()
    good = json.dumps({"tenant_id": 1, "note": m})
    before = tenants(server)
    answer = send("\n".join(f"{good}\n{bad}" for bad in TENANTS)).json()
    assert (answer["successful_rows"], answer["quarantined_rows"]) == (len(TENANTS), len(TENANTS))
    path, newest = "/v0/datasources/events/quarantine", {"limit": len(TENANTS)}
    rows = server.admin_json("GET", path, params=newest)["rows"]
    assert {(r["c__text"], r["c__row"]) for r in rows} == {(bad, 2 * n + 1) for n, bad in enumerate(TENANTS)}
    for row in rows:
        assert row["c__error_column"] == ["tenant_id"] or not is_json(row["c__text"])
    assert tenants(server) == before, "a row without a tenant reached a tenant"
    assert len(stored(server, m)) == delivered(server, m) == len(TENANTS)


@pytest.mark.proves("D11")
@pytest.mark.parametrize("bad", sampled(TENANTS, 7))
def test_a_tenant_id_that_is_not_canonical(server: Server, send: Send, bad: str) -> None:
    m = mark()
    good = json.dumps({"tenant_id": 1, "note": m})
    before = tenants(server)
    for body, number in ((f"{good}\n{bad}\n{good}", 1), (bad, 0)):
        row = quarantined(server, send(body), beside=2 * number)
        assert (row["c__text"], row["c__row"]) == (bad, number)
        assert row["c__error_column"] in (["tenant_id"], [""])
        assert row["c__error_column"] == ["tenant_id"] or not is_json(bad)
    assert tenants(server) == before, "a row without a tenant reached a tenant"
    assert len(stored(server, m)) == delivered(server, m) == 2


def tenants(server: Server) -> list[Any]:
    return server.sql("SELECT tenant_id FROM events GROUP BY tenant_id ORDER BY tenant_id")


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.proves("D11")
@pytest.mark.parametrize(
    "bad",
    [
        '{"tenant_id": 1, "tenant_id": 2}',
        '{"tenant_id": 1, "tenant_id": 1}',
        '{"tenant_id": 1, "TENANT_ID": 2}',
        '{"TENANT_ID": 2, "tenant_id": 1}',
        '{"tenant_id": 1, "tenant\\u005fid": 2}',
    ],
)
def test_a_duplicate_tenant_key_is_quarantined(server: Server, send: Send, bad: str) -> None:
    assert quarantined(server, send(bad))["c__text"] == bad


FINE_TEXTS = ("a b", "\u00e9", "x" * 256)
BAD_TEXTS = (
    "x" * 257, "\u00e9" * 129, "", "a\nb", "a\tb", "a\x7fb", "a\u0085b", "a\u2028b", "a\u2029b", "e\u0301",
)  # fmt: skip


def test_text_tenants_follow_the_rules_for_tenant_ids(server: Server, send: Send) -> None:
    fine, bad = ([json.dumps({"owner": owner, "text": "x"}) for owner in texts] for texts in (FINE_TEXTS, BAD_TEXTS))
    assert send("\n".join(fine), "notes").json()["successful_rows"] == len(fine)
    assert send("\n".join(bad), "notes").json()["quarantined_rows"] == len(bad)
    newest = server.admin_json("GET", "/v0/datasources/notes/quarantine", params={"limit": len(bad)})["rows"]
    assert {(row["c__text"], *row["c__error_column"]) for row in newest} == {(text, "owner") for text in bad}


def test_text_tenants_are_utf8(server: Server, send: Send) -> None:
    before = count(server)
    row = quarantined(server, send(b'{"owner": "\xff", "text": "x"}', "notes"), "notes")
    assert row["c__text"] == '{"owner": "\ufffd", "text": "x"}'
    added = [after - previous for previous, after in zip(before, count(server), strict=True)]
    assert added == [0, 0, 0, 0, 0, 1, 0, 0], "only the datasource's own quarantine has it"


@pytest.mark.proves("D11")
def test_a_tenant_deep_in_the_event(server: Server, send: Send) -> None:
    good = [json.dumps({"who": {"org": org}}) for org in ("1", 1, 4294967295)]
    assert send("\n".join(good), "clicks").json()["successful_rows"] == len(good)
    values = ('"01"', "1.0", "true", "null", "-1", "4294967296", "18446744073709551617", "[1]", '{"a": 1}', '""')
    bad = [f'{{"who": {{"org": {org}}}}}' for org in values]
    bad += ["{}", '{"who": {}}', '{"org": 1}', '{"who": 1}', '{"who": {"org": 1, "org": 2}}', '{"who.org": 1}']
    assert send("\n".join(bad), "clicks").json()["quarantined_rows"] == len(bad)
    for body in bad[::4]:
        assert quarantined(server, send(body, "clicks"), "clicks")["c__text"] == body
    assert {r["org"] for r in server.sql("SELECT org FROM clicks")} <= {1, 77, 4294967295}


@pytest.mark.proves("D11")
@pytest.mark.parametrize("other", ["2", '"2"', "1.0", "true", "[1]", '{"a": 1}', '"01"'])
def test_a_tenant_of_a_wrong_type_is_not_treated_as_absent(server: Server, other: str) -> None:
    token = server.mint("DATASOURCES:APPEND:clicks", tenant="1")
    before = server.sql("SELECT count() AS n FROM clicks")
    answer = server.post("/v0/events?name=clicks", token, content=f'{{"who": {{"org": {other}}}}}')
    assert answer.status_code == 403 and answer.json()["code"] == "RK5003"
    assert server.sql("SELECT count() AS n FROM clicks") == before
    assert server.post("/v0/events?name=clicks", token, content='{"who": {"org": 1}}\n{"who": {}}').status_code == 202


@pytest.mark.proves("D11")
def test_append_tokens(server: Server, send: Send) -> None:
    token = server.static("appends", "DATASOURCES:APPEND:events")
    m = mark()
    assert send("\n".join(json.dumps({"tenant_id": t, "note": m}) for t in (1, 2, 3)), token=token).is_success
    refused(send('{"owner": "1", "text": "x"}', "notes", token=token), 403, "RK4003")
    refused(send("{}", "nonesuch", token=token), 403, "RK4003")
    reader = server.mint("DATASOURCES:READ:events", "PIPES:READ:raw", tenant="1")
    refused(send('{"tenant_id": 1}', token=reader), 403, "RK4003")
    refused(server.post("/v0/events?name=events", content="{}"), 403, "RK4001")
    refused(server.post("/v0/events?name=events&token=bad", content="{}"), 403, "RK4002")


FOREIGN = ("1", '"1"', '"02"', "2.0", "true", '""', "-2", '"2 "', "4294967298", '{"a": 2}')


@pytest.mark.proves("D11")
@pytest.mark.parametrize("kind", [pytest.param("static", marks=pytest.mark.soak_only), "jwt"])
def test_an_append_token_of_a_tenant_writes_only_for_it(server: Server, send: Send, kind: str) -> None:
    scope = "DATASOURCES:APPEND:events"
    static, jwt = server.static("appends for 2", scope, tenant="2"), server.mint(scope, tenant="2")
    token, other_token = (jwt, static) if kind == "jwt" else (static, jwt)
    m = mark()
    for fine in (
        {"note": m},
        {"tenant_id": 2, "note": m},
        {"tenant_id": "2", "note": m},
        {"tenant_id": None, "note": m},
    ):
        assert send(json.dumps(fine), token=token).status_code == 200
    assert [r[0] for r in stored(server, m)] == [2, 2, 2, 2]
    own = json.dumps({"note": f"beside a foreign row of {m}"})
    for foreign in FOREIGN if soaking() else FOREIGN[::2]:
        body = refused(send(f'{own}\n{{"tenant_id": {foreign}}}', token=token), 403, "RK5003")
        assert body["error"].startswith("row 2: ")
    for used in (token, other_token):
        refused(send('{"TENANT_ID": 1}', token=used), 403, "RK5003")
    assert stored(server, f"beside a foreign row of {m}") == []
    for twice in ('{"tenant_id": 2, "tenant_id": 1}', '{"tenant_id": 2, "TENANT_ID": 1}'):
        row = quarantined(server, send(twice, token=token))
        assert (row["c__text"], row["c__writer"]) == (twice, "2")
    bad = json.dumps({"tenant_id": 1, "units": "many", "note": m})
    assert quarantined(server, send(f"{bad}\n{own}", token=token), beside=1)["c__text"] == bad
    assert [r[0] for r in stored(server, m)] == [2, 2, 2, 2]
