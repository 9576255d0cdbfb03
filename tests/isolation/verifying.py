"""Verifying statements over the tables `events` and `users`, and running the verified ones for one tenant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from engine.errors import RookeryError
from engine.sql.verify import Verified, verify
from tests.isolation.two_tenants import Engine, relation

BOUND = frozenset({"events", "users"})
PLACEHOLDERS = {"p1": "String", "p2": "UInt8", "p3": "Array(String)", "p4": "DateTime64(3)"}
VALUES = {"p1": "own-1", "p2": 2, "p3": ["own-1", "x"], "p4": "2024-01-01 00:00:00"}


def judged(engine: Engine, sql: str, **more: Any) -> Verified:
    return verify(sql, engine, bound=BOUND, placeholders=PLACEHOLDERS, **more)


def refused(engine: Engine, sql: str, **more: Any) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        judged(engine, sql, **more)
    return caught.value


def used(sql: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if "{" + name + ":" in sql}


def wrapped(nodes: Mapping[str, Verified]) -> str:
    """The statement that a chain of verified nodes runs as, for a pooled tenant."""
    finals = frozenset(f for v in nodes.values() for f in v.final)
    samples = {k: s for v in nodes.values() for k, s in v.sample.items()}
    items = [
        f"`{n}` AS (\n{relation(n, final=n in finals, sample=samples.get(n))}\n)"
        for n in sorted(BOUND & {r for v in nodes.values() for r in v.reads})
    ]
    items += [f"`{name}` AS (\n{text.canonical}\n)" for name, text in nodes.items()]
    return "WITH " + ",\n".join(items) + f"\nSELECT * FROM `{list(nodes)[-1]}`"


def run(engine: Engine, nodes: Mapping[str, Verified]) -> str:
    """The output or the error of a chain of nodes, as text, for tenant `a`."""
    sql = wrapped(nodes)
    try:
        return repr(engine.rows(sql, used(sql, {**VALUES, "rk_tenant": "a"})))
    except ClickHouseError as exc:
        return str(exc).replace(sql, "")
