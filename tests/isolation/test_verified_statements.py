"""Verified statements on a real engine: none shows rows of another tenant or means something else in a subquery."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import errors
from engine.errors import RookeryError
from engine.sql.checker import check_tree
from engine.sql.verify import Verified, verify
from tests.isolation.two_tenants import SENTINEL, Engine
from tests.isolation.verifying import BOUND, judged, refused, run, wrapped
from tests.support.soak import soak_rounds

TRICKS = [
    "SELECT count(), any(s) FROM (WITH notEquals AS equal SELECT * FROM events)",
    "WITH 'b' AS tenant_id SELECT count(), any(s) FROM events",
    "WITH 'b' AS `t.tenant_id` SELECT count(), any(s) FROM events",
    "WITH CAST(tuple('b'), 'Tuple(tenant_id String)') AS t SELECT count(), any(s) FROM events",
    "SELECT 'b' AS tenant_id, s FROM events",
    "SELECT s FROM events ARRAY JOIN ['b'] AS tenant_id",
    "SELECT s, tenant_id FROM events",
    "SELECT events.tenant_id FROM events",
    "SELECT * FROM (SELECT 'b' AS tenant_id) AS ws, events",
    "SELECT * FROM numbers(2) AS ws, events",
    "WITH tuple('b') AS ws SELECT * FROM events",
    "WITH ws AS (SELECT 1 AS users) SELECT * FROM events, ws",
    "SELECT * REPLACE ('b' AS s) FROM events",
    "SELECT COLUMNS('.*') FROM events",
    "SELECT throwIf(s LIKE '%EIGN%') FROM events",
    "SELECT toInt64(replaceOne(s, 'own-', '')) FROM events",
    "SELECT count() FROM events WHERE toInt64(replaceOne(s, 'own-', '')) >= 0",
    "SELECT count() FROM events PREWHERE throwIf(user LIKE '%EIGN%') = 0",
    "SELECT v FROM events WHERE id IN (SELECT id FROM users WHERE throwIf(s LIKE '%EIGN%') = 0)",
    "SELECT s FROM events AS users, users AS events",
    "SELECT (SELECT groupArray(s) FROM users) AS events, s FROM events",
    "SELECT s FROM events WHERE s NOT IN (SELECT s FROM users) OR 1",
    "SELECT e.s, u.s FROM events AS e FULL JOIN users AS u ON e.id = u.id + 1000",
    "SELECT groupUniqArray(s), groupUniqArray(user), maxMap(m) FROM events FINAL",
    "SELECT s FROM events SAMPLE 1/2 OFFSET 1/4",
    "SELECT s FROM events WHERE v IN (WITH q AS (SELECT v FROM events) SELECT v FROM q) LIMIT 3 BY s",
    "SELECT s FROM events AS e WHERE EXISTS (SELECT 1 FROM users AS u WHERE u.id = e.id)",
    "SELECT arrayMap(x -> (x, s), arr) FROM events",
    "SELECT $$'$$ || s AS `x) SELECT s FROM ws.events --` FROM events",
    "SELECT 'x') SELECT s FROM ws.events --",
    "SELECT s FROM events -- ) SELECT s FROM ws.events",
    "SELECT s FROM events /* ) SELECT s FROM ws.events */",
]


@pytest.mark.proves("A2", "A11", "B3")
@pytest.mark.parametrize("sql", TRICKS)
def test_accepted_statements_show_no_rows_of_another_tenant(engine: Engine, sql: str) -> None:
    try:
        verified = judged(engine, sql)
    except RookeryError:
        return
    assert SENTINEL not in run(engine, {"n1": verified})


@pytest.mark.proves("A2", "A11")
def test_lambda_capture_works_on_the_engine_and_is_refused_here(engine: Engine) -> None:
    for sql in (
        "SELECT s FROM (WITH (x, y) -> 1 AS equals SELECT s FROM events)",
        "SELECT s FROM (WITH lambda(tuple(x, y), 1) AS equals SELECT s FROM events)",
        "SELECT arrayMap(((x, y) -> 1) AS equals, [1], [2]), (SELECT groupArray(s) FROM events)",
    ):
        raw = Verified(canonical=sql, reads=BOUND)
        assert SENTINEL in run(engine, {"n1": raw}), "the attack lost its teeth; find a sharper one"
        assert refused(engine, sql).code is errors.SQL_REFUSED


@pytest.mark.proves("A11")
def test_a_heredoc_cannot_span_two_nodes(engine: Engine) -> None:
    first = "SELECT s AS x, $a$ AS y FROM events"
    second = "SELECT x, '$a$ AS y FROM events), n2 AS (SELECT s AS x, tenant_id AS y FROM ws.users -- ' AS y FROM n1"
    raw = {"n1": Verified(first, BOUND), "n2": Verified(second, BOUND)}
    assert SENTINEL in run(engine, raw), "the attack lost its teeth; find a sharper one"
    texts = {"n1": judged(engine, first), "n2": verify(second, engine, bound=BOUND | {"n1"}, placeholders={})}
    assert texts["n1"].canonical == "SELECT s AS x, `$a$` AS y FROM events"
    answer = run(engine, texts)
    assert SENTINEL not in answer
    assert "`$a$`" in answer, "alone, the name means a column that does not exist"


QUOTES = ["'", "''", "\\'", '"', "`", "``", "$a$", "$$", "$", "b'1'", "\\", "\\xff", "“"]
COMMENTS = ["--", "/*", "*/", "#", "#!", ";", "\n", "\t", "\r", "\x01", "\0"]
SIGNS = ["(", ")", ",", "{", "}", "=", "[", "]", "-", "::", ".", "*", "@", "->", "−", " "]
WORDS = ["SELECT ", " FROM events", "v", "s", "1", " AS ", "x", "{p1:String}", "é", " UNION ALL ", " WHERE "]
PIECES = st.sampled_from(QUOTES + COMMENTS + SIGNS + WORDS)
FRAMES = st.sampled_from(
    [
        "{}",
        "SELECT {}",
        "SELECT '{}' FROM events",
        "SELECT `{}` FROM events",
        'SELECT v AS "{}" FROM events',
        "SELECT $a${}$a$ FROM events",
        "SELECT v /*{}*/ FROM events",
        "SELECT v --{}\n FROM events",
        "SELECT 1 AS x, {} FROM events",
        "SELECT ({}) FROM events WHERE v IN ({})",
        "SELECT $${}$$ {}",
    ]
)
TEXTS = st.builds(lambda frame, inner: str(frame).replace("{}", "".join(inner)), FRAMES, st.lists(PIECES, max_size=9))


@pytest.mark.soak
@settings(max_examples=soak_rounds(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sql=TEXTS, other=TEXTS)
def test_accepted_statements_mean_the_same_in_a_subquery(engine: Engine, sql: str, other: str) -> None:
    try:
        first, second = judged(engine, sql), judged(engine, other)
    except RookeryError:
        try:
            first = second = judged(engine, sql)
        except RookeryError:
            return
    assert judged(engine, first.canonical).canonical == first.canonical
    tree, _ = engine.parse(wrapped({"n1": first, "n2": second}))
    select = tree["list_of_selects"]["children"][0]
    bodies = {e["name"]: e["subquery"]["children"][0] for e in select["with"]["children"]}
    assert bodies["n1"] == engine.parse(first.canonical)[0]
    assert bodies["n2"] == engine.parse(second.canonical)[0]
    assert set(bodies) == {"n1", "n2"} | first.reads | second.reads


def test_trees_are_plain_data_and_are_not_shared(engine: Engine) -> None:
    tree, _ = engine.parse("SELECT v FROM events FINAL")
    copy = deepcopy(tree)
    check_tree(tree, bound=BOUND, placeholders={}, engine_functions=engine.functions)
    assert json.dumps(tree) == json.dumps(copy)
