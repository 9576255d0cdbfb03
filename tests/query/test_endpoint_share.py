"""One tenant cannot use up the concurrent queries of an endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import RookeryError
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.query.result import QueryResult
from engine.tokens.claims import Claims, Scope
from tests.support.in_process import open_rookery

# The result is longer than what is read ahead, so the query runs until its result is closed.
LONG = (
    "sql: SELECT number, repeat('x', 1000) AS text FROM numbers(100000)\nendpoint: {limits: {max_concurrent: %d}}\n"
)


def caller(name: str, tenant: str | None) -> Claims:
    return Claims(name, (Scope("PIPES:READ", "long"),), tenant)


@pytest.mark.parametrize("limit", [4, 2, 1])
def test_a_tenant_leaves_calls_of_an_endpoint_to_others(tmp_path: Path, limit: int) -> None:
    with open_rookery(tmp_path, readers=6) as rookery:
        rookery.push({"pipes/long.yaml": LONG % limit})
        rookery.add("1", "2", placement="pooled")
        queries, running = Queries(rookery.workspace), list[QueryResult]()

        def calls(times: int, name: str, tenant: str | None) -> int:
            """How many calls run at once."""
            before = len(running)
            for _ in range(times):
                try:
                    running.append(queries.endpoint(QueryRequest(caller(name, tenant)), "long"))
                except RookeryError as exc:
                    assert exc.code.id == "RK4010" and exc.headers["Retry-After"]
            return len(running) - before

        try:
            share = {4: 3, 2: 1, 1: 1}[limit]
            # Several tokens of a tenant share its part.
            assert calls(limit, "a", "1") + calls(limit, "b", "1") == share
            assert calls(limit, "c", "2") == limit - share
        finally:
            for result in running:
                result.close()
        assert not len(queries.in_flight)
        assert calls(1, "d", None) == 1
        running[-1].close()
