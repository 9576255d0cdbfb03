"""A tenant's caller learns what is wrong with an argument, but not the values of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from engine.errors import RookeryError
from engine.query.executor import Queries
from engine.query.explain import explain
from engine.query.request import QueryRequest
from engine.sql.argument_bounds import SENT_BLOCK_ROWS
from engine.tokens.claims import Claims, Scope
from engine.warehouse.handles import Block, Handle
from engine.warehouse.port import Format
from tests.support.in_process import Rookery, open_rookery

EVENTS = """
tenant: tenant_id
columns: [{name: tenant_id, type: UInt32}, {name: id, type: UInt64}, {name: n, type: String}]
engine: {sorting_key: [tenant_id, id]}
"""
FAULTS = {
    "match('a', '(')": "regular expression",
    "match(n, '(')": "regular expression",
    "toUUID(n)": "UUID",
    "toIPv4(n)": "IPv4",
    "toIPv6(n)": "IPv6",
    "CAST(n AS Enum8('a' = 1))": "Enum",
    "toDateTime64('2020-01-01', 12)": "out of the range",
    "toDecimal32(9999999, 2) * toDecimal32(9999999, 2)": "decimal",
    "arrayMap((x, y) -> x, [1], [1, 2])": "length",
    "CAST(1 AS FixedString(0))": "argument of a type",
    "CAST(1 AS Unknown)": "type does not exist",
    "quantile(2)(id)": "range",
}


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("faults")) as opened:
        opened.push(
            {"datasources/events.yaml": EVENTS, "pipes/names.yaml": "sql: SELECT n FROM events\nendpoint: {}"}
        )
        opened.add("1", "2", placement="pooled")
        opened.append([{"tenant_id": t, "id": 777001, "n": f"secret-{t}"} for t in (1, 2)])
        yield opened


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_without_values(rookery: Rookery, fault: str) -> None:
    claims = Claims("a test", (Scope("DATASOURCES:READ", "events"),), tenant="1")
    with pytest.raises(RookeryError) as raised:
        Queries(rookery.workspace).sql(QueryRequest(claims), f"SELECT {fault} FROM events")
    assert FAULTS[fault] in raised.value.message
    assert "secret" not in raised.value.message and "777001" not in raised.value.message


LARGE = "SELECT number, repeat('x', 100) AS text, (SELECT max(id) FROM events) AS m FROM numbers(30000)"
WIDTH = 1000
WIDE = f"SELECT repeat('x', {WIDTH}) AS text FROM numbers(30000) ORDER BY rand()"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that readers run."""
    texts: list[str] = []
    for name in ("read_output", "blocks"):
        run = getattr(Handle, name)

        def recorded(handle: Handle, text: str, *more: Any, run: Any = run) -> Block | Iterator[Block]:
            texts.append(text)
            return run(handle, text, *more)

        monkeypatch.setattr(Handle, name, recorded)
    return texts


@pytest.mark.parametrize(
    "sql, format",
    [
        *((sql, Format.JSON) for sql in ("SELECT n FROM events", "SELECT match('a', '(') FROM events", LARGE)),
        *((LARGE, format) for format in (Format.CSV, Format.BARE_CSV, Format.NDJSON)),
        ("SELECT 1 AS x FROM numbers(30000)", Format.PARQUET),
    ],
)
def test_statements_of_a_request_have_its_id(rookery: Rookery, ran: list[str], sql: str, format: Format) -> None:
    """Otherwise they would run on when the client leaves."""
    request = QueryRequest(Claims("a test", (Scope("DATASOURCES:READ", "events"),), tenant="1"), format=format)
    with suppress(RookeryError), closing(Queries(rookery.workspace).sql(request, sql)) as result:
        while result.next_chunk() is not None:
            pass
    assert ran
    assert [text for text in ran if f"log_comment = '{request.ticket.id}'" not in text] == []


def test_a_tenant_gets_small_blocks(rookery: Rookery) -> None:
    """Each response keeps a block, and its rows may be wide."""
    request = QueryRequest(Claims("a test", (Scope("DATASOURCES:READ", "events"),), tenant="1"), format=Format.NDJSON)
    with closing(Queries(rookery.workspace).sql(request, WIDE)) as result:
        chunks = [result.head, *iter(result.next_chunk, None)]
    assert max(map(len, chunks)) < 2 * SENT_BLOCK_ROWS * WIDTH
    assert sum(map(len, chunks)) > 30_000 * WIDTH


def test_statements_of_an_explanation_have_its_id(rookery: Rookery, ran: list[str]) -> None:
    request = QueryRequest(Claims("a test", (Scope("ADMIN"),)))
    explain(Queries(rookery.workspace), rookery.workspace, "names", request)
    assert len(ran) > 2
    assert [text for text in ran if f"log_comment = '{request.ticket.id}'" not in text] == []
