"""Appended rows: they reach only the tenant of their token or their own, whatever fails for another one."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from engine.compiler.scope import tenant_literal
from engine.control.erasure import delete_rows
from engine.errors import (
    BAD_SCOPE,
    BAD_TENANT_ID,
    FOREIGN_TENANT,
    NOT_WRITABLE,
    SCOPE,
    UNDELIVERED,
    UNKNOWN_DATASOURCE,
    RookeryError,
)
from engine.ingest import quarantine
from engine.ingest.gateway import Gateway
from engine.ingest.staging_pool import StagingPool
from engine.query import authorize
from engine.query.executor import Queries
from engine.schema import Name
from engine.warehouse.port import Input
from engine.workspace.workspace import Workspace
from tests.isolation.five_tenants import FILES, PLACEMENTS, ROWS, token_of
from tests.isolation.services import Service

NUMBERED = {
    "numbered": """
tenant: tenant
columns:
  - {name: tenant, type: UInt32}
  - {name: word, type: String}
  - {name: again, type: String, json: $.tenant}
engine: {sorting_key: [tenant, word]}
""",
}


def stored(service: Service, table: str, database: str = "main") -> list[tuple[Any, ...]]:
    return sorted(service.workspace.warehouse.query(f"SELECT * FROM `{database}`.`{table}`").rows)


def append(service: Service, name: str, body: str | bytes, bound: str | None, format: Input = Input.NDJSON) -> str:
    """`stored`, `quarantined`, `partly` stored, or the code of the refusal; `bound` is the tenant of the token."""
    token = service.token(f"DATASOURCES:APPEND:{name}", tenant=bound)
    try:
        tenant = authorize.for_append(
            service.workspace.current, authorize.authenticate(service.workspace, token), name
        )
        sent = body.encode() if isinstance(body, str) else body
        outcome = service.ingestion.append(name, sent, format, tenant).result()
    except RookeryError as exc:
        assert "bee-word" not in json.dumps(exc.as_dict())
        return exc.code.id
    if outcome.quarantined:
        return "partly" if outcome.rows else "quarantined"
    return "stored"


def in_quarantine(service: Service, name: str) -> list[dict[str, Any]]:
    """The newest first."""
    rows: list[dict[str, Any]] = quarantine.listing(service.workspace, name, 10_000, 0)["rows"]
    return rows


CLAIMS = [
    '{"tenant": "bee", "word": "x", "k": 1000}',
    '{"tenant": "ant", "word": "x", "k": 1000, "tenant": "bee"}',
    '{"tenant": "bee", "word": "x", "k": 1000, "tenant": "ant"}',
    '{"TENANT": "bee", "word": "x", "k": 1000}',
    '{"tenant": "ant", "Tenant": "bee", "word": "x", "k": 1000}',
    '{"\\u0074enant": "bee", "word": "x", "k": 1000}',
    '{"tenant ": "bee", "word": "x", "k": 1000}',
    '{"tenant": "BEE", "word": "x", "k": 1000}',
    '{"tenant": " bee", "word": "x", "k": 1000}',
    '{"tenant": "be\\u0065\\u0301", "word": "x", "k": 1000}',
    '{"tenant": "\\uff42ee", "word": "x", "k": 1000}',
    '{"tenant": "bee\\u0000", "word": "x", "k": 1000}',
    '{"tenant": "bee\\u200b", "word": "x", "k": 1000}',
    '{"tenant": ["bee"], "word": "x", "k": 1000}',
    '{"tenant": {"id": "bee"}, "word": "x", "k": 1000}',
    '{"tenant": null, "word": "x", "k": 1000}',
    '{"tenant": "", "word": "x", "k": 1000}',
    '{"tenant": 1, "word": "x", "k": 1000}',
    '{"tenant": true, "word": "x", "k": 1000}',
    '{"word": "x", "k": 1000}',
    '[{"tenant": "ant", "word": "x", "k": 1000}, {"tenant": "bee", "word": "x", "k": 1000}]',
    '{"tenant": "ant", "word": "x", "k": 1000}{"tenant": "bee", "word": "x", "k": 1000}',
    '{"tenant": "ant", "word": "x\\n{\\"tenant\\": \\"bee\\"}", "k": 1000}',
    '{"tenant": "ant", "word": "x", "k": 1000, "_rk_at": 0, "_rk_batch": "in:0", "_block_number": 1}',
]
"""Rows by which a writer for `ant` tries to reach `bee`."""


@pytest.mark.proves("D11", "B12")
def test_an_append_token_writes_only_for_its_tenant(service: Service) -> None:
    nest = "main_nest_bee"
    before = {t: stored(service, t, d) for t, d in (("events", nest), ("counts", nest))}
    bee = [r for r in stored(service, "events") if r[0] == "bee"]
    others = {r[0] for r in stored(service, "events")}
    outcomes = Counter(append(service, "events", body, "ant") for body in CLAIMS)
    assert outcomes["stored"] >= 3
    assert outcomes[FOREIGN_TENANT.id] >= 5
    assert outcomes["partly"] == 0
    kept = in_quarantine(service, "events")
    assert len(kept) == outcomes["quarantined"] >= 1
    assert {r["c__text"] for r in kept} <= set(CLAIMS) and {r["c__writer"] for r in kept} == {"ant"}
    assert {r[0] for r in stored(service, "events")} == others
    assert [r for r in stored(service, "events") if r[0] == "bee"] == bee
    assert {t: stored(service, t, nest) for t in before} == before
    # One bad row keeps all of a large batch out, which the engine reads in two blocks (of 65,409 rows).
    many = "\n".join(json.dumps({"tenant": "ant", "word": "late", "k": k}) for k in range(70_000))
    assert append(service, "events", many + '\n{"tenant": "bee", "word": "late", "k": 1}', "ant") == FOREIGN_TENANT.id
    csv = "tenant,word,k\nant,late,1\nbee,late,2\n"
    assert append(service, "events", csv, "ant", Input.CSV) == FOREIGN_TENANT.id
    assert not [r for r in stored(service, "events") if r[1] == "late"]
    assert len(in_quarantine(service, "events")) == len(kept), "what is refused leaves nothing in quarantine either"


@pytest.mark.proves("D11")
def test_a_row_reaches_only_the_nest_of_its_tenant(service: Service) -> None:
    """Without a bound tenant, as for an ingest token: look-alikes are refused or are tenants of their own."""
    before = [r for r in stored(service, "events") if r[0] in PLACEMENTS]
    kept = len(in_quarantine(service, "events"))
    outcomes: Counter[str] = Counter()
    allowed = {"BEE", " bee", "\uff42ee", "bee\u200b", "1", "true", '["bee"]', '{"id": "bee"}'}
    for body in CLAIMS[6:]:
        outcome = append(service, "events", body, None)
        assert outcome in ("stored", "quarantined"), (body, outcome)
        outcomes[outcome] += 1
    assert outcomes["quarantined"] >= 5
    assert len(in_quarantine(service, "events")) == kept + outcomes["quarantined"]
    strange = {r[0] for r in stored(service, "events")} - set(PLACEMENTS)
    assert strange <= allowed, strange
    for tenant, placement in PLACEMENTS.items():
        own = {r[1] for r in stored(service, "events") if r[0] == tenant}
        body = json.loads(service.call(token_of(service, tenant), "words"))
        assert {r["word"] for r in body["data"]} == own
        if placement == "tables":
            assert {r[0] for r in stored(service, "events", f"main_nest_{tenant}")} == {tenant}
            assert {r[0] for r in stored(service, "counts", f"main_nest_{tenant}")} == {tenant}
    assert {r[0] for r in stored(service, "counts")} == {t for t, p in PLACEMENTS.items() if p == "pooled"}
    assert len(before) >= ROWS * len(PLACEMENTS)


@pytest.mark.proves("D11")
def test_a_nested_tenant_value_follows_the_same_rule(service: Service) -> None:
    good = '{"who": {"id": "ant", "name": "bee"}, "word": "deep"}'
    assert append(service, "nested", good, "ant") == "stored"
    for body in (
        '{"who": {"id": "bee"}, "word": "deep"}',
        '{"who": {"id": "ant"}, "word": "deep"}\n{"who": {"id": "bee"}, "word": "deep"}',
        '{"who": {"id": ["bee"]}, "word": "deep"}',
        '{"who": {"id": "ant"}, "word": "deep", "who": {"id": "bee"}}',
        '{"who": {"id": "ant", "id": "bee"}, "word": "deep"}',
        '{"who.id": "bee", "word": "deep"}',
        '{"who": "bee", "word": "deep"}',
        '{"who": {"Id": "bee"}, "word": "deep"}',
        '{"who": {"id": 1.0}, "word": "deep"}',
    ):
        append(service, "nested", body, "ant")
    assert {r[0] for r in stored(service, "nested")} == {"ant"}
    assert append(service, "nested", '{"who": {"id": "bee"}, "word": "deep"}', "ant") == FOREIGN_TENANT.id


@pytest.mark.proves("D11")
def test_a_numeric_tenant_is_the_same_in_every_spelling(service: Service) -> None:
    settings = service.workspace.settings.model_copy(update={"workspace": "numbers"})
    workspace = Workspace(settings, service.workspace.warehouse)
    numbers = Service(workspace, Queries(workspace), Gateway(workspace, StagingPool(workspace)))
    numbers.push(NUMBERED)
    for value in (
        '"01"',
        "1.0",
        '"1.0"',
        "1e0",
        '" 1"',
        '"+1"',
        "-1",
        "4294967297",
        '"4294967297"',
        "true",
        "null",
        '""',
    ):
        body = f'{{"tenant": {value}, "word": "w"}}'
        assert append(numbers, "numbered", body, None) == "quarantined", value
        assert in_quarantine(numbers, "numbered")[0]["c__text"] == body
    beside = '{"tenant": 7, "word": "w"}\n{"tenant": "01", "word": "w"}\n{"tenant": 8, "word": "w"}'
    assert append(numbers, "numbered", beside, None) == "partly"
    assert [r[0] for r in stored(numbers, "numbered", "numbers")] == [7, 8]
    assert append(numbers, "numbered", '{"tenant": 7, "word": "w"}', None) == "stored"
    assert append(numbers, "numbered", '{"tenant": "8", "word": "w"}', None) == "stored"
    assert [r[0] for r in stored(numbers, "numbered", "numbers")] == [7, 7, 8, 8]
    workspace.analyser.close()


@pytest.mark.proves("D10", "D11")
def test_text_ids_never_reach_a_view_over_numeric_tenants(service: Service) -> None:
    """The SQL of nests' views contains ids: one that is not a number must not reach a column of numbers."""
    with pytest.raises(RookeryError) as refused:
        service.push(NUMBERED)
    assert refused.value.code is BAD_TENANT_ID
    assert "numbered" not in service.workspace.refresh().build.datasources
    for tenant in ("bee", "tenant", "7 OR 1=1", "1) OR (1", "01", "-0", "4294967296", ""):
        for kind in ("UInt32", "UUID"):
            with pytest.raises(RookeryError):
                tenant_literal(kind, tenant)


@pytest.mark.proves("B3")
def test_a_failing_view_of_another_tenant_does_not_affect_the_sender(service: Service) -> None:
    """The row arrives once with its own tenant; the view that failed is taken down, and a push puts it back."""
    execute, query = service.workspace.warehouse.execute, service.workspace.warehouse.query
    there = "SELECT count() FROM system.tables WHERE database = 'main_nest_dog' AND engine = 'MaterializedView'"
    views = query(there).rows
    execute("RENAME TABLE main_nest_dog.counts TO main_nest_dog.counts_away")
    try:
        assert append(service, "events", '{"tenant": "ant", "word": "ant-word-x", "k": -1}', "ant") == "stored"
    finally:
        execute("RENAME TABLE main_nest_dog.counts_away TO main_nest_dog.counts")
    assert [r[:2] for r in stored(service, "events") if r[2] == -1] == [("ant", "ant-word-x")]
    assert [r for r in stored(service, "counts") if r[1] == "ant-word-x"] == [("ant", "ant-word-x", 1)]
    service.push(FILES)
    assert query(there).rows == views
    delete_rows(service.workspace, Name("main", "events"), "k = -1")
    delete_rows(service.workspace, Name("main", "counts"), "word = 'ant-word-x'")


@pytest.mark.proves("B3")
def test_errors_of_foreign_views_reveal_nothing_to_the_sender(service: Service) -> None:
    execute = service.workspace.warehouse.execute
    execute("CREATE TABLE main_nest_dog.strange (x UInt8) ENGINE = Memory")
    execute(
        "CREATE MATERIALIZED VIEW main_nest_dog.stranger TO main_nest_dog.strange AS "
        "SELECT throwIf(k = -2, 'dog-word') AS x FROM main.events"
    )
    try:
        token = authorize.authenticate(service.workspace, service.token("DATASOURCES:APPEND:events", tenant="ant"))
        bound = authorize.for_append(service.workspace.current, token, "events")
        body = b'{"tenant": "ant", "word": "ant-word-x", "k": -2}'
        with pytest.raises(RookeryError) as failed:
            service.ingestion.append("events", body, Input.NDJSON, bound).result()
        assert failed.value.code is UNDELIVERED
        text = json.dumps(failed.value.as_dict())
        assert not [w for w in ("dog", "nest", "counts", "_rk_", "strange") if w in text], text
        assert "main_nest_dog" in (failed.value.detail or "")
    finally:
        execute("DROP TABLE main_nest_dog.stranger")
        execute("DROP TABLE main_nest_dog.strange")
        delete_rows(service.workspace, Name("main", "events"), "k = -2")


@pytest.mark.proves("D11", "B12")
def test_targets_and_nests_cannot_be_written_directly(service: Service) -> None:
    """Targets of pipes take no rows from outside, nests refuse foreign rows, other datasources need their scope."""
    row = '{"tenant": "ant", "word": "direct", "n": 5}'
    for bound in ("ant", None):
        with pytest.raises(RookeryError) as refused:
            service.token("DATASOURCES:APPEND:counts", tenant=bound)
        assert refused.value.code is BAD_SCOPE
        # A token that was minted before a pipe filled the datasource.
        with pytest.raises(RookeryError) as refused:
            service.ingestion.append("counts", row.encode(), Input.NDJSON, bound)
        assert refused.value.code is NOT_WRITABLE
    execute = service.workspace.warehouse.execute
    for table, columns, values in (
        ("events", "tenant, word, k", "'ant', 'direct', 1"),
        ("counts", "tenant, word, n", "'ant', 'direct', 1"),
    ):
        with pytest.raises(RookeryError):
            execute(f"INSERT INTO main_nest_bee.{table} ({columns}) VALUES ({values})")
    claims = authorize.authenticate(service.workspace, service.token("DATASOURCES:APPEND:events", tenant="ant"))
    for name in ("nested", "counts", "nothing", "_rk_pool"):
        with pytest.raises(RookeryError) as refused:
            authorize.for_append(service.workspace.current, claims, name)
        assert refused.value.code is SCOPE
    with pytest.raises(RookeryError) as unknown:
        service.ingestion.append("nothing", b"{}", Input.NDJSON)
    assert unknown.value.code is UNKNOWN_DATASOURCE
    reading = authorize.authenticate(service.workspace, token_of(service, "ant"))
    with pytest.raises(RookeryError) as refused:
        authorize.for_append(service.workspace.current, reading, "events")
    assert refused.value.code is SCOPE
