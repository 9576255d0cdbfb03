"""One tenant cannot use up the concurrent queries of an endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.errors import RookeryError
from engine.query.executor import Queries
from engine.query.request import QueryRequest
from engine.query.result import QueryResult
from engine.tokens.claims import Claims, Scope
from tests.support.in_process import Rookery, open_rookery

# The result is longer than what is read ahead, so the query runs until its result is closed.
LONG = "sql: SELECT number, repeat('x', 1000) AS text FROM numbers(12000)\nendpoint: {limits: {max_concurrent: %d}}\n"


def caller(name: str, tenant: str | None) -> Claims:
    return Claims(name, (Scope("PIPES:READ", "long"),), tenant)


class Calls:
    """Calls of one endpoint that run until they are closed."""

    def __init__(self, rookery: Rookery, limit: int) -> None:
        rookery.push({"pipes/long.yaml": LONG % limit})
        self._queries = Queries(rookery.workspace)
        self._running: list[tuple[str | None, QueryResult]] = []

    def start(self, times: int, name: str, tenant: str | None) -> int:
        """How many of the calls run."""
        before = len(self._running)
        for _ in range(times):
            try:
                result = self._queries.endpoint(QueryRequest(caller(name, tenant)), "long")
                self._running.append((tenant, result))
            except RookeryError as exc:
                assert exc.code.id == "RK4010" and exc.headers["Retry-After"]
        return len(self._running) - before

    def end(self, times: int, *tenants: str | None) -> None:
        """End some calls of each of these tenants."""
        for tenant in tenants:
            for call in [c for c in self._running if c[0] == tenant][:times]:
                call[1].close()
                self._running.remove(call)

    def end_all(self) -> None:
        self.end(len(self._running), *{tenant for tenant, _ in self._running})
        assert not len(self._queries.in_flight)


@pytest.fixture(scope="module")
def rookery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rookery]:
    with open_rookery(tmp_path_factory.mktemp("share"), readers=10) as opened:
        opened.add("1", "2", "3", placement="pooled")
        yield opened


@pytest.fixture
def calls(rookery: Rookery, request: pytest.FixtureRequest) -> Iterator[Calls]:
    opened = Calls(rookery, request.param)
    yield opened
    opened.end_all()


@pytest.mark.parametrize(("calls", "limit"), [(n, n) for n in (4, 2, 1)], indirect=["calls"])
def test_a_tenant_leaves_calls_of_an_endpoint_to_others(calls: Calls, limit: int) -> None:
    share = {4: 3, 2: 1, 1: 1}[limit]
    # Several tokens of a tenant share its part.
    assert calls.start(limit, "a", "1") + calls.start(limit, "b", "1") == share
    assert calls.start(limit, "c", "2") == limit - share
    calls.end_all()
    assert calls.start(1, "d", None) == 1


@pytest.mark.parametrize("calls", [8], indirect=True)
def test_two_tenants_leave_calls_of_an_endpoint_to_a_third(calls: Calls) -> None:
    assert calls.start(8, "a", "1") == 6
    assert calls.start(8, "b", "2") == 1
    assert calls.start(8, "c", "3") == 1
    for ending, next_to_end in [("1", "2"), ("2", "1")] * 4:
        calls.end(8, "3")
        calls.end(1, ending)
        calls.start(8, "b", next_to_end)
        calls.start(8, "a", ending)
        assert calls.start(1, "c", "3") == 1


@pytest.mark.parametrize("calls", [8], indirect=True)
def test_tenants_that_call_at_once_have_equal_parts_of_an_endpoint(calls: Calls) -> None:
    started = [(calls.start(1, "a", "1"), calls.start(1, "b", "2")) for _ in range(8)]
    assert [sum(of) for of in zip(*started, strict=True)] == [4, 3]
    assert calls.start(8, "c", "3") == 1
