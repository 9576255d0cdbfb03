"""Queries that the engine would plan for seconds, beyond its time limit, are refused before it gets them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from engine.sql.argument_bounds import SMALL_BLOCK_ROWS
from tests.support.server import Server, sources
from tests.support.soak import soak_rounds
from tests.web.responses import refused

STEPS: dict[str, tuple[int, str]] = {
    "crossed": (2, "SELECT a.units AS units FROM {c} AS a CROSS JOIN {c} AS b"),
    "united": (3, "SELECT units FROM {c} UNION ALL SELECT units FROM {c} UNION ALL SELECT units + 1 FROM {c}"),
    "scalar": (2, "SELECT units + (SELECT max(units) FROM {c}) AS units FROM {c}"),
    "among": (2, "SELECT units FROM {c} WHERE units IN (SELECT units FROM {c})"),
    "named": (2, "SELECT units FROM {c} WHERE units IN {c}"),
    "once": (1, "SELECT units FROM (SELECT units FROM {c}) WHERE units > 0"),
    "aliased": (1, "SELECT x + x AS units FROM (SELECT units + 1 AS x FROM {c})"),
}
"""WITH queries over the one before, by how often they read it."""


def _program(steps: list[str], end: str = "SELECT count() AS n FROM c{n}") -> str:
    texts = ["c0 AS (SELECT units FROM events LIMIT 1)"]
    texts += [f"c{n} AS ({STEPS[step][1].replace('{c}', f'c{n - 1}')})" for n, step in enumerate(steps, 1)]
    return f"WITH {', '.join(texts)} {end.format(n=len(steps))}"


def _chain(first: str, step: str, n: int) -> str:
    return ", ".join([f"{first} AS x0", *(step.format(x=f"x{i - 1}") + f" AS x{i}" for i in range(1, n + 1))])


BOMBS: dict[str, Callable[[], str]] = {
    "sums of aliases": lambda: f"SELECT {_chain('units', '{x} + {x}', 20)} FROM events",
    "aliases of WITH": lambda: f"WITH {_chain('1', '{x} + {x}', 20)} SELECT x20 FROM events",
    "aliases used in WHERE": lambda: f"SELECT {_chain('units', '{x} + {x}', 20)} FROM events WHERE x20 = 1",
    "tuples of tuples": lambda: "SELECT x FROM " + "(SELECT (x, x) AS x FROM " * 16 + "(SELECT 1 AS x)" + ")" * 16,
    "columns of columns": lambda: "SELECT * FROM " + "(SELECT *, * FROM " * 16 + "events" + ")" * 16,
    "stars": lambda: f"SELECT {', '.join(['*'] * 9000)} FROM events",
    "many joins": lambda: (
        "SELECT count() FROM events AS t0 "
        + " ".join(f"JOIN events AS t{n} ON t0.units = t{n}.units" for n in range(1, 150))
    ),
    "many selects": lambda: " UNION ALL ".join(["SELECT units FROM events"] * 600),
    "IN within IN": lambda: "SELECT units FROM events WHERE units IN (" * 20 + "1" + ")" * 20,
    "a cube": lambda: f"SELECT count() FROM events GROUP BY CUBE({', '.join(f'units + {n}' for n in range(14))})",
    "many transformers": lambda: f"SELECT * {'APPLY toString ' * 2000} FROM events",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_queries_that_expand_are_refused(server: Server, bomb: str) -> None:
    refused(server.post("/v0/sql", server.admin_token, content=BOMBS[bomb]()), 400, "RK4040")


def test_random_chains_are_refused_exactly_above_the_limit(server: Server) -> None:
    chosen = random.Random(7)
    counts = {"refused": 0, "taken": 0}
    for _ in range(soak_rounds(35)):
        steps = [chosen.choice([*STEPS]) for _ in range(chosen.randint(1, 14))]
        copies = 1
        for step in steps:
            copies *= STEPS[step][0]
        answer = server.post("/v0/sql", server.admin_token, content=_program(steps))
        if copies > 500:
            refused(answer, 400, "RK4040")
            counts["refused"] += 1
        elif copies * 2 ** steps.count("among") < 64:
            assert answer.status_code == 200, (steps, answer.text)
            counts["taken"] += 1
    assert min(counts.values()) > 4, counts


ORDINARY = (
    "SELECT units + 1 AS units, units * 2 AS twice, twice + units AS both FROM events",
    "WITH 10 AS most SELECT kind, (SELECT max(units) FROM events WHERE units < most) AS units FROM events",
    "SELECT t.*, e.kind AS other FROM events AS t JOIN events AS e USING tenant_id WHERE t.units IN (1, 2, 3)",
    "SELECT * EXCEPT (note) REPLACE (units + 1 AS units) FROM (SELECT * FROM (SELECT * FROM events))",
    "SELECT kind, day, sum(units) FROM (SELECT kind, toDate(at) AS day, units FROM events) GROUP BY CUBE(kind, day)",
    "SELECT tupleElement(last, 1) AS first FROM (SELECT argMax((kind, note), at) AS last FROM events)",
    f"SELECT count() AS n FROM events WHERE units IN ({', '.join(map(str, range(5000)))})",
)


@pytest.mark.guard
@pytest.mark.parametrize("sql", ORDINARY)
def test_ordinary_queries_are_accepted(server: Server, sql: str) -> None:
    assert server.post("/v0/sql", server.admin_token, content=sql).status_code == 200


def test_a_pipe_whose_nodes_double_is_refused_when_it_is_pushed(inbox: Server) -> None:
    double = "SELECT a.units AS units FROM {0} AS a CROSS JOIN {0} AS b"
    nodes = [{"name": "n0", "sql": "SELECT units FROM events"}]
    nodes += [{"name": f"n{n}", "sql": double.format(f"n{n - 1}")} for n in range(1, 12)]
    text = "nodes:\n" + "".join(f'  - {{name: {n["name"]}, sql: "{n["sql"]}"}}\n' for n in nodes)
    sent = {"files": sources({"pipes/doubled.yaml": text})}
    refused(inbox.admin("POST", "/v0/push", json=sent), 400, "RK4040")


def test_a_parameter_does_not_make_a_pipe_too_large(inbox: Server) -> None:
    text = """
nodes:
  - name: listed
    sql: |
      SELECT units FROM events
      {% for kind in Array(kinds, 'String', 'a,b') %}
      UNION ALL SELECT units FROM events WHERE kind = {{ kind }}
      {% end %}
"""
    inbox.push({"pipes/repeated.yaml": text})
    assert inbox.admin("GET", "/v0/pipes/repeated.json", params={"kinds": "view,sale"}).status_code == 200
    many = ",".join(f"k{n}" for n in range(600))
    refused(inbox.admin("GET", "/v0/pipes/repeated.json", params={"kinds": many}), 400, "RK4040")


def _blocks(server: Server, call: str) -> int:
    """How many blocks the engine made of 640 rows, by the moments at which it began them."""
    sql = f"SELECT uniqExact(nowInBlock64(9)) AS blocks, max({call}) AS m FROM (SELECT toString(number) AS s FROM numbers(640))"
    return int(server.sql(sql)[0]["blocks"])


def test_slow_functions_read_small_blocks_and_can_be_stopped(server: Server) -> None:
    assert _blocks(server, "editDistance(s, '12')") == 640 / SMALL_BLOCK_ROWS
    assert _blocks(server, "length(s)") == 1


def test_pipes_with_slow_functions_read_small_blocks(inbox: Server) -> None:
    text = """
nodes:
  - name: each_row
    sql: SELECT nowInBlock64(9) AS began, editDistance(toString(number), '12') AS far FROM numbers(640)
  - name: counted
    sql: SELECT uniqExact(began) AS blocks, max(far) AS far FROM each_row
"""
    inbox.push({"pipes/near.yaml": text})
    assert inbox.admin_json("GET", "/v0/pipes/near.json")["data"][0]["blocks"] == 640 / SMALL_BLOCK_ROWS
    assert inbox.sql("SELECT blocks FROM near") == [{"blocks": 640 / SMALL_BLOCK_ROWS}]
