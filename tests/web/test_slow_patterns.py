"""Texts on which a quadratic pattern takes minutes get a response, over HTTP."""

from __future__ import annotations

import pytest

from tests.support.server import Server
from tests.web.responses import refused

LENGTH = 500_000


@pytest.mark.parametrize("unit", [" ", "\n", " FORMAT", " FORMAT JSON"])
def test_many_spaces_in_sql(server: Server, unit: str) -> None:
    text = "SELECT 1" + unit * (LENGTH // len(unit)) + "x"
    for token in (server.admin_token, server.mint("DATASOURCES:APPEND:events")):
        response = server.post("/v0/sql", token, content=text)
        assert response.status_code in {200, 400, 403}, response.text


def test_many_spaces_after_the_name_of_an_aggregate(server: Server) -> None:
    text = f"SELECT arrayReduce('sum{' ' * LENGTH}!', [1]) AS x"
    refused(server.post("/v0/sql", server.admin_token, content=text), 400)


@pytest.mark.parametrize("unit", [" ", ". ", "(AAAA) ", "Code: 1. "])
def test_many_spaces_in_an_engine_error(server: Server, unit: str) -> None:
    text = f"SELECT throwIf(number = 0, '{unit * (200_000 // len(unit))}x') AS x FROM numbers(1)"
    for token in (server.admin_token, server.mint("DATASOURCES:READ:prices")):
        refused(server.post("/v0/sql", token, content=text), 400)


def test_token_fragments_in_a_path(server: Server) -> None:
    response = server.get(f"/v0/pipes/{'ey-' * 10_000}.json", server.admin_token)
    assert response.status_code == 404
