"""Functions whose time grows with the product of their arguments' lengths refuse long arguments, and still work."""

from __future__ import annotations

import random

import httpx
import pytest

from engine.sql.argument_bounds import SEARCHING, SMALL_BLOCK_ROWS
from engine.sql.functions import sections
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


MANY_ROWS = (
    "SELECT max(damerauLevenshteinDistance(s, reverse(s))) AS x FROM (SELECT repeat('ab', {n}) AS s FROM numbers(1)"
    " ARRAY JOIN range(100000))",
    "SELECT max(editDistance(s, toString(x))) AS x FROM (SELECT arrayJoin(range(300000)) AS x, repeat('ab', {n}) AS s)",
    "SELECT arrayMax(arrayMap(x -> editDistance(repeat('ab', {n}), toString(x)), range(300000 + number))) AS x"
    " FROM numbers(1)",
    "SELECT arrayMax(arrayMap(x -> levenshteinDistance(s, s), arrayResize([s], 100000))) AS x"
    " FROM (SELECT repeat('ab', {n}) AS s)",
    "SELECT sum(hasAll(a, b)) AS x FROM (SELECT range({n} * 20 + number) AS a, arrayReverse(a) AS b FROM numbers(9))",
    "SELECT sum(hasAny(a, arrayMap(x -> x + 1000000, a))) AS x FROM (SELECT range({n} * 20) AS a FROM numbers(9))",
    "SELECT hasSubstr(a, arrayPushBack(a, 7)) AS x FROM (SELECT range({n} * 20 + number) AS a FROM numbers(1))",
)


@pytest.mark.parametrize("sql", MANY_ROWS, ids=range(len(MANY_ROWS)))
def test_the_work_of_a_block_is_limited(server: Server, sql: str) -> None:
    """After arrayJoin and in lambdas, a block has any number of rows."""

    def ask(n: int) -> httpx.Response:
        return server.post("/v0/sql", server.admin_token, content=sql.format(n=n))

    assert ask(1).status_code == 200, ask(1).text
    refused(ask(4_000), 400)


NEEDLES = "arrayMap(x -> concat('abcdef', toString(x)), range({n}))"
ROW = "FROM (SELECT toString(number) AS s FROM numbers(1))"
MULTIPLE = (
    f"SELECT multiSearchFirstPositionCaseInsensitive(s, {NEEDLES}) AS x {ROW}",
    f"SELECT multiMatchAny(s, materialize({NEEDLES})) AS x {ROW}",
    f"SELECT multiFuzzyMatchAny(s, 1, {NEEDLES}) AS x {ROW}",
    f"SELECT max(arrayMax(arrayMap(y -> multiSearchAnyUTF8(toString(y), {NEEDLES}), range(9)))) AS x FROM numbers(9)",
)


@pytest.mark.parametrize("sql", MULTIPLE, ids=range(len(MULTIPLE)))
def test_the_number_of_strings_that_are_searched_at_once_is_limited(server: Server, sql: str) -> None:
    """Ten thousand of them kept a function busy for minutes on one row of a megabyte."""
    few = server.post("/v0/sql", server.admin_token, content=sql.format(n=50))
    assert few.status_code == 200, few.text
    error = refused(server.post("/v0/sql", server.admin_token, content=sql.format(n=5_000)), 400)
    assert "too long" in error["error"]


@pytest.mark.guard
def test_a_short_list_of_strings_needs_no_small_blocks(server: Server) -> None:
    sql = (
        "SELECT uniqExact(nowInBlock64(9)) AS blocks, max(multiSearchAny(s, ['7', '9'])) AS m "
        "FROM (SELECT repeat(toString(number), 90000) AS s FROM numbers(64))"
    )
    assert server.sql(sql) == [{"blocks": 1, "m": 1}]


@pytest.mark.guard
@pytest.mark.parametrize("condition", ["hasAny(tags, ['a', 'b'])", "hasAll(['a', 'b'], tags)", "hasAny(tags, tags)"])
def test_lists_in_the_query_have_no_limit(server: Server, condition: str) -> None:
    sql = f"SELECT count() AS n FROM (SELECT arrayMap(x -> toString(x), range(5000)) AS tags) WHERE {condition}"
    assert server.post("/v0/sql", server.admin_token, content=sql).status_code == 200


LIST, STRING = (
    "SELECT groupArray(number + 1000000) FROM numbers({n})",
    "SELECT arrayStringConcat(groupArray('ab')) FROM numbers({n})",
)
MAP = "SELECT CAST((groupArray(toString(number + 1000000)), groupArray(number)), 'Map(String, UInt64)') FROM numbers({n})"
SEARCHES = {
    "has": LIST, "notHas": LIST, "indexOf": LIST, "countEqual": LIST,
    "position": STRING, "positionCaseInsensitive": STRING, "countSubstrings": STRING, "hasSubsequence": STRING,
    "mapContains": MAP, "mapContainsKey": MAP, "arrayElement": MAP, "arrayIntersect": LIST, "locate": STRING,
}  # fmt: skip
"""Function → a query for a long value that it searches."""
NESTINGS = {
    "a lambda": "SELECT length(arrayMap(x -> {call}, range(number, 30000))) AS x FROM (SELECT ({c}) AS c, number FROM numbers(1))",
    "nested lambdas": "SELECT arrayMap(y -> length(arrayFilter(x -> ignore({call}), range(y, 30000))), range(number, 2)) AS x"
    " FROM (SELECT ({c}) AS c, number FROM numbers(1))",
    "an array of the query": "WITH ({c}) AS c SELECT sum(ignore({call})) AS x FROM numbers(1) ARRAY JOIN range(30000) AS x",
    "arrayJoin": "SELECT max(ignore({call})) AS x FROM (SELECT ({c}) AS c, arrayJoin(range(30000)) AS x)",
    "a subquery": "WITH ({c}) AS c SELECT max(ignore({call})) AS x FROM (SELECT number AS x FROM numbers(30000))",
}
SEARCHED = random.Random(3).sample([(f, n) for f in SEARCHES for n in NESTINGS], 14)


def test_searching_functions_are_allowed() -> None:
    assert {function.lower() for function in SEARCHES} <= SEARCHING
    assert not SEARCHING - sections()["plain"]


@pytest.mark.parametrize(("function", "nesting"), SEARCHED)
def test_the_search_of_a_constant_is_limited(server: Server, function: str, nesting: str) -> None:
    """A block has a constant once, so memory does not limit its length times the rows."""
    searched = "x" if SEARCHES[function] is LIST else "toString(x)"
    arguments = {"locate": f"{searched}, c", "arrayIntersect": f"c, [{searched}]"}.get(function, f"c, {searched}")

    def ask(n: int) -> httpx.Response:
        sql = NESTINGS[nesting].format(call=f"{function}({arguments})", c=SEARCHES[function].format(n=n))
        return server.post("/v0/sql", server.admin_token, content=sql)

    assert ask(20).status_code == 200, ask(20).text
    error = refused(ask(20_000), 400)
    assert "too long" in error["error"]


@pytest.mark.guard
def test_searches_of_ordinary_values_are_unchanged(server: Server) -> None:
    sql = """WITH ['a', 'b'] AS list, (SELECT groupArray(number) FROM numbers(3)) AS numbers, 'b' AS b
    SELECT has(list, s) AS x, indexOf(list, b) AS y, position(s, n) AS z, m[s] AS v, arrayMap(i -> list[i], [2, 1]) AS w,
        arrayFilter(i -> has(numbers, i), [2, 7]) AS f, arrayIntersect(list, t) AS t2, has(t, NULL) AS u
    FROM (SELECT 'b' AS s, toNullable('b') AS n, map('b', 4) AS m, ['b', NULL] AS t)"""
    expected_values = {"x": 1, "y": 2, "z": 1, "v": 4, "w": ["b", "a"], "f": [2], "t2": ["b"], "u": 1}
    assert server.sql(sql) == [expected_values]


SMALL = (
    "has(range(10 + number), number)",
    "position(repeat('ab', 9), toString(number))",
    "length(polygonsIntersectionCartesian([[[(0., 0.), (0., toFloat64(number)), (1., 1.)]]], [[[(0., 0.), (0., 1.), (1., 1.)]]]))",
)


@pytest.mark.parametrize("call", SMALL)
def test_functions_that_scan_long_constants_get_small_blocks(server: Server, call: str) -> None:
    sql = f"SELECT uniqExact(nowInBlock64(9)) AS blocks, max({call}) AS m FROM numbers(640)"
    assert server.sql(sql)[0]["blocks"] == 640 / SMALL_BLOCK_ROWS


@pytest.mark.guard
def test_usual_calls_of_these_functions_do_not(server: Server) -> None:
    sql = "SELECT uniqExact(nowInBlock64(9)) AS blocks, max(has([1, 2], number)) AS m FROM numbers(640)"
    assert server.sql(sql)[0]["blocks"] == 1


def test_the_size_of_a_block_is_not_shown(server: Server) -> None:
    for sql in (
        "SELECT blockSize()",
        "SELECT max(blockSerializedSize(number)) FROM numbers(9)",
        "SELECT editDistance(toString(blockSize()), 'a')",
        "SELECT arrayMap(blockSize, [1])",
    ):
        refused(server.post("/v0/sql", server.admin_token, content=sql), 400, "RK2003")


LONG_CALLS = (
    "length(range({n}, 1000000))",
    "length(repeat('ab', toUInt32({n} + 1)))",
    "length(leftPad('a', 900000 + {n}))",
)


@pytest.mark.parametrize("call", LONG_CALLS)
def test_the_number_of_long_constants_is_limited(server: Server, call: str) -> None:
    """The engine calculates constants while it plans, without a time limit."""

    def ask(times: int, template: str) -> httpx.Response:
        sql = "SELECT [" + ", ".join(template.format(n=n) for n in range(times)) + "] AS x"
        return server.post("/v0/sql", server.admin_token, content=sql)

    assert ask(3, call).status_code == 200
    assert ask(300, "length(leftPad('{n}', 10))").status_code == 200
    refused(ask(300, call), 400, "RK4040")
