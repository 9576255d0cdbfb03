"""The work of constants is estimated before the engine calculates them, which no time limit would stop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.errors import RookeryError
from engine.sql.expanded_size import Extent, check_extent, table_extent
from engine.sql.verify import verify
from engine.warehouse.embedded import EmbeddedWarehouse
from engine.warehouse.port import WarehouseOptions

NODES = {"long": "SELECT range(1000000) AS r, 5 AS n", "shared": "SELECT *, 1 AS more FROM long"}
SLOW = "arraySum(arrayMap(x -> cityHash64(toString(sqrt(x + {i}))), {a}))"
NESTED = "arraySum(arrayMap(x -> arraySum(arrayMap(y -> x + y, {a})), {b}))"


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedWarehouse]:
    made = EmbeddedWarehouse(None, WarehouseOptions(database="constants", readers=1, writers=1))
    yield made
    made.close()


def _extent(engine: EmbeddedWarehouse, sql: str) -> Extent:
    known = {"events": table_extent(4)}
    for name, text in NODES.items():
        known[name] = verify(text, engine, bound=frozenset(known), placeholders={}).extent.evaluated(known)
    return verify(sql, engine, bound=frozenset(known), placeholders={}).extent.evaluated(known)


def _many(call: str, times: int, tail: str = "") -> str:
    return f"SELECT {', '.join(call.format(i=i) for i in range(times))} {tail}"


REFUSED = {
    "long constants": _many(SLOW.format(i="{i}", a="range(1000000)"), 60),
    "constants of unknown length": _many(SLOW.format(i="{i}", a="range(toUInt32(1e6))"), 60),
    "short lists in nested lambdas": _many(NESTED.format(a="range(9000)", b="range(9000 + {i} * 0)"), 40),
    "three lambdas over a list": "WITH [" + ", ".join(["1"] * 900) + "] AS a SELECT "
    "arrayMap(x -> arraySum(arrayMap(y -> arraySum(arrayMap(z -> x + y + z, a)), a)), a) AS s",
    "a column of a subquery": _many(SLOW.format(i="{i}", a="r"), 60, "FROM (SELECT range(1000000) AS r)"),
    "a column of a WITH query": "WITH a AS (SELECT range(1000000) AS r) " + _many(SLOW.format(i="{i}", a="r"), 60, "FROM a"),
    "a column of a node": _many(SLOW.format(i="{i}", a="r"), 60, "FROM long"),
    "a column behind a star": _many(SLOW.format(i="{i}", a="r"), 60, "FROM shared"),
    "a column of a joined node": _many(SLOW.format(i="{i}", a="l.r"), 60, "FROM events AS e CROSS JOIN long AS l"),
    "a node's column in a lambda": "SELECT arrayMap(y -> " + SLOW.format(i="y", a="r") + ", range(300)) FROM long",
    "a lambda over a node's column": "SELECT " + NESTED.format(a="range(2000)", b="r") + " FROM long",
    "an alias": f"WITH {SLOW.format(i=1, a='range(1000000)')} AS s SELECT " + ", ".join(["s + {i}"] * 60),
    "many columns": "SELECT arrayMap(y -> " + SLOW.format(i="y", a="arrayConcat(c1, c2, c3, c4, c5, c6, c7, c8, r)")
    + ", range(300)) FROM long",
}  # fmt: skip
ACCEPTED = {
    "a series": "SELECT arrayJoin(arrayMap(d -> toDate('2026-01-01') + d, range(366))) AS day",
    "a series up to a column": "SELECT arrayMap(x -> addDays(at, x), range(toUInt32(dateDiff('day', at, until)))) FROM events",
    "a matrix of columns": "SELECT "
    + NESTED.format(a="range(toUInt32(units))", b="range(toUInt32(amount))")
    + " FROM events",
    "a long list": "SELECT arrayMap(x -> x + n, r) AS q, length(r) AS l FROM long",
    "two lists": "SELECT arrayMap(i -> arrayMap(j -> i * j, range(20)), range(20)) AS products",
    "lambdas over columns": _many("arrayMap(x -> arrayCount(y -> y > x + {i}, tags), tags)", 200, "FROM events"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_too_much_work_is_refused(engine: EmbeddedWarehouse, what: str) -> None:
    with pytest.raises(RookeryError) as raised:
        check_extent(_extent(engine, REFUSED[what].replace("{i}", "7")), "the query")
    assert raised.value.code.id == "RK4040"


@pytest.mark.parametrize("what", ACCEPTED)
def test_ordinary_constants_are_accepted(engine: EmbeddedWarehouse, what: str) -> None:
    check_extent(_extent(engine, ACCEPTED[what]), "the query")
