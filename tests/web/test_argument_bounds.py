"""Functions whose time grows with the product of their arguments' lengths refuse long arguments, and still work."""

from __future__ import annotations

import pytest

from tests.support.server import Server
from tests.web.responses import refused

TEXT, ARRAY = "materialize(repeat('ab', {n}))", "materialize(range({n}))"
CALLS = (
    ("editDistance({text}, {text})", TEXT),
    ("editDistanceUTF8({text}, {text})", TEXT),
    ("levenshteinDistance({text}, 'a')", TEXT),
    ("damerauLevenshteinDistance('a', {text})", TEXT),
    ("jaroSimilarity({text}, {text})", TEXT),
    ("length(sparseGrams({text}))", TEXT),
    ("arrayLevenshteinDistance({text}, arrayReverse({text}))", ARRAY),
    ("arraySimilarity({text}, {text}, {text}, {text})", ARRAY),
    ("arrayMap(x -> editDistance(x, 'a'), [{text}])[1]", TEXT),
    ("editDistance(toString(editDistance({text}, 'a')), 'b')", TEXT),
)


@pytest.mark.parametrize(("call", "argument"), CALLS)
def test_long_arguments_are_refused(server: Server, call: str, argument: str) -> None:
    def ask(n: int) -> object:
        sql = f"SELECT {call.format(text=argument.format(n=n))} AS x FROM numbers(1)"
        return server.post("/v0/sql", server.admin_token, content=sql)

    assert ask(50).status_code == 200, ask(50).text
    refused(ask(10_001), 400)


@pytest.mark.guard
def test_results_are_unchanged(server: Server) -> None:
    sql = """SELECT editDistance(a, b) AS x, editDistance(a, 'kitten') AS y, arrayLevenshteinDistance([1, 2], list) AS z
    FROM (SELECT 'sitting' AS a, CAST('kitten' AS Nullable(String)) AS b, [toUInt8(1)] AS list)"""
    assert server.sql(sql) == [{"x": 3, "y": 3, "z": 1}]
