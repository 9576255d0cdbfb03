"""The verifier: which statements it accepts and refuses, and that its walk over the tree misses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from engine import errors
from engine.errors import RookeryError
from engine.sql.checker import check_tree
from engine.sql.functions import is_allowed, is_niladic, sections, takes_lambda
from engine.sql.verify import MAX_SQL_BYTES, check_canonical, verify
from tests.isolation.two_tenants import SENTINEL, Engine, statements
from tests.isolation.verifying import BOUND, PLACEHOLDERS, VALUES, judged, refused, used, wrapped
from tests.support.soak import soaking

LEGITIMATE = statements("legitimate.sql")
RANDOM = ("rand()", "now()", "generateUUID", "SAMPLE")


# --- what is accepted ---


@pytest.mark.parametrize("sql", [sql for _, sql in LEGITIMATE])
def test_legitimate_statements_pass_and_their_canonical_text_is_stable(engine: Engine, sql: str) -> None:
    verified = judged(engine, sql)
    again = judged(engine, verified.canonical)
    assert again.canonical == verified.canonical
    assert again.reads == verified.reads <= BOUND


@pytest.mark.proves("A2", "A11")
def test_canonical_text_over_relations_means_what_the_author_wrote(engine: Engine) -> None:
    compared = 0
    for _, sql in LEGITIMATE:
        if any(r in sql for r in RANDOM):
            continue
        engine.client.command("USE own")
        try:
            names, expected = engine.named(sql.rstrip(";"), used(sql, VALUES))
        except ClickHouseError:
            engine.client.command("SET max_threads = 2")
            continue
        finally:
            engine.client.command("USE none")
        if len(set(names)) < len(names):
            continue  # two columns of one name are one column inside any subquery
        statement = wrapped({"n1": judged(engine, sql)})
        found_names, result_rows = engine.named(statement, used(statement, {**VALUES, "rk_tenant": "a"}))
        if not any("(" in n or "." in n or " " in n for n in names):
            assert found_names == names, sql
        assert sorted(map(repr, result_rows)) == sorted(map(repr, expected)), sql
        assert SENTINEL not in repr(result_rows)
        compared += 1
    assert compared > 75


# --- what is refused ---


@pytest.mark.proves("A11", "B3")
@pytest.mark.parametrize(("expected", "sql"), statements("attacks.sql"))
def test_attacks_are_refused(engine: Engine, expected: str, sql: str) -> None:
    code, _, text = expected.partition(" ")
    error = refused(engine, sql.partition("\n")[2])
    assert error.code is getattr(errors, code)
    assert text in str(error)


@pytest.mark.parametrize(("expected", "sql"), statements("views.sql"))
def test_queries_that_cannot_be_views_are_refused(engine: Engine, expected: str, sql: str) -> None:
    code, _, text = expected.partition(" ")
    query = sql.partition("\n")[2]
    error = refused(engine, query, view=True)
    assert error.code is getattr(errors, code)
    assert text in str(error)
    assert error.hint
    judged(engine, query)


def test_names_with_control_characters_are_refused(engine: Engine) -> None:
    for character in "\x01\x1b\x7f\x85\u2028\n\t":
        assert refused(engine, f"SELECT v AS `a{character}b` FROM events").code is errors.SQL_REFUSED
        assert refused(engine, f"SELECT `a{character}b`.v FROM events").code is errors.SQL_REFUSED


def test_unparsable_texts_are_refused_before_the_engine_sees_them(engine: Engine) -> None:
    long = "SELECT '" + "é" * (MAX_SQL_BYTES // 2) + "'"
    nul, half = "SELECT '\0'", "\ud800"
    for text, code in ((long, errors.SQL_REFUSED), (nul, errors.SQL_REFUSED), (half, errors.SQL_SYNTAX)):
        with pytest.raises(RookeryError) as caught:
            verify(text, _Silent(), bound=BOUND, placeholders={})
        assert caught.value.code is code


def test_deep_and_long_texts_are_errors_with_codes(engine: Engine) -> None:
    for text in (
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "+".join(["1"] * 5000),
        "SELECT " + "a" + "[1]" * 5000,
        "SELECT * FROM " + "(SELECT * FROM " * 500 + "events" + ")" * 500,
        "SELECT " + "f(" * 2000 + "1" + ")" * 2000,
        "SELECT " + "INTERVAL (" * 180,
        "SELECT '\\xff'",
    ):
        assert refused(engine, text).code in (errors.SQL_SYNTAX, errors.FUNCTION_REFUSED)


def test_a_very_deep_tree_does_not_exhaust_the_stack() -> None:
    node: dict[str, Any] = {"type": "Literal", "value": {"field_type": "UInt64", "value": 1}}
    for _ in range(20_000):
        node = {"type": "Function", "name": "negate", "arguments": {"type": "ExpressionList", "children": [node]}}
    select = {"type": "SelectQuery", "select": {"type": "ExpressionList", "children": [node]}}
    root = {"type": "SelectWithUnionQuery", "list_of_selects": {"type": "ExpressionList", "children": [select]}}
    check_tree(root, bound=BOUND, placeholders={}, engine_functions=frozenset)


class _Silent:
    """A parser that must not be reached."""

    def parse(self, sql: str) -> tuple[dict[str, Any], str]:
        raise AssertionError(sql)

    def format(self, tree: dict[str, Any]) -> str:
        raise AssertionError(tree)

    def functions(self) -> frozenset[str]:
        return frozenset()


# --- the walk misses nothing ---


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if isinstance(tree.get("type"), str):
            yield tree
        for value in tree.values():
            yield from nodes_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes_of(value)


def test_every_node_of_a_legitimate_tree_is_checked(engine: Engine) -> None:
    """An unknown key, a forbidden function or a forbidden table is found at any place."""
    mutations: dict[str, dict[str, Any]] = {
        "Function": {"name": "file"},
        "TableIdentifier": {"name": "secrets"},
        "QueryParameter": {"name": "rk_tenant"},
        "Identifier": {"name": "a\nb"},
        "WithElement": {"name": "ws.events"},
        "ColumnsApplyTransformer": {"func_name": "file"},
    }
    judged_nodes = 0
    for _, sql in LEGITIMATE:
        tree, _ = engine.parse(sql)
        for node in list(nodes_of(tree)):
            for change in ({"surprise": True}, mutations.get(node["type"], {"type": "Surprise"})):
                before = dict(node)
                node.update(change)
                with pytest.raises(RookeryError):
                    check_tree(tree, bound=BOUND, placeholders=PLACEHOLDERS, engine_functions=frozenset)
                node.clear()
                node.update(before)
            judged_nodes += 1
    assert judged_nodes > 2000


def test_a_formatter_that_changes_the_text_is_not_trusted(engine: Engine) -> None:
    class Forger:
        def __init__(self, text: str) -> None:
            self.text = text

        def parse(self, sql: str) -> tuple[dict[str, Any], str]:
            return engine.parse(sql)

        def format(self, tree: dict[str, Any]) -> str:
            return self.text

        def functions(self) -> frozenset[str]:
            return engine.functions()

    for forged in (
        "SELECT * FROM ws.users",
        "SELECT 1 FROM events) SELECT (1",
        "SELECT file('/etc/passwd')",
        "SELECT 1 -- x",
        "SELECT * FROM events FINAL",
        "SELECT $a$ x $a$ FROM events",
    ):
        with pytest.raises(RookeryError):
            verify("SELECT 1 FROM events", Forger(forged), bound=BOUND, placeholders={})


def test_canonical_text_is_checked_for_comments_and_parentheses() -> None:
    for good in ("SELECT 'a)--$$;' AS `b(/*`, {p1:String}", r"SELECT 'it\'s (', '''('", "SELECT `a\\`(`"):
        check_canonical(good)
    for bad in ("SELECT 1)", "SELECT (1", "SELECT ')' )(", "SELECT $a$", "SELECT 1 --", "SELECT 1 /* x */"):
        with pytest.raises(RookeryError):
            check_canonical(bad)
    for bad in ("SELECT 1;", "SELECT 1 # x", "SELECT 'open", "SELECT é", "SELECT “a”", "SELECT 1\r", "SELECT '\\' ("):
        with pytest.raises(RookeryError):
            check_canonical(bad)


# --- functions ---


def test_the_list_of_functions_is_closed_and_fits_the_engine(engine: Engine) -> None:
    rows = engine.rows("SELECT name, is_aggregate, ifNull(higher_order, 0) FROM system.functions")
    lists = sections()
    listed = lists["plain"] | lists["lambda"] | lists["aggregate"]
    names = {name.lower() for name, _, _ in rows}
    assert listed - names == {"exists", "grouping", "untuple"}
    for name, aggregate, higher_order in rows:
        assert is_allowed(name) == (name.lower() in listed), name
        if name.lower() in listed:
            assert (name.lower() in lists["aggregate"]) == bool(aggregate), name
            assert takes_lambda(name) == bool(higher_order), name
    for name in ("file", "dictGet", "joinGet", "getSetting", "hostName", "sleep", "__getScalar", "user"):
        assert not is_allowed(name)
        assert not is_allowed(name + "If")
    assert not lists["niladic"] & listed


def test_refused_functions_that_work_without_parentheses_are_listed(engine: Engine) -> None:
    """The engine calls some functions for a bare name, at any place."""
    niladic = set()
    for name in sorted(n for n in engine.functions() if not is_allowed(n)):
        for spelled in {name, name.upper(), name.lower()}:
            try:
                engine.rows(f"SELECT `{spelled}`")
                niladic.add(spelled)
            except ClickHouseError:
                continue
    assert all(is_niladic(name) for name in niladic), sorted(niladic)
    assert "currentUser" in niladic


@pytest.mark.soak
def test_only_functions_with_lambdas_accept_a_function_name(engine: Engine) -> None:
    """This is why a column called `version` can stand in any other function without being qualified."""
    assert engine.rows("SELECT arrayMap(lower, ['A'])") == [(["a"],)]
    names = sorted(sections()["plain"] | sections()["aggregate"])
    for name, arguments in [*product(names, ("lower, s", "s, lower"))][:: 1 if soaking() else 5]:
        with pytest.raises(ClickHouseError):
            engine.rows(f"SELECT `{name}`({arguments}) FROM own.users")


# --- hoisting, branches and what else is reported ---


def test_final_sample_and_prewhere_move_out_of_the_text(engine: Engine) -> None:
    verified = judged(
        engine,
        "SELECT v FROM events AS e FINAL SAMPLE 1/10 OFFSET 1/2 PREWHERE v > 1 WHERE s = 'x' OR v IN "
        "(SELECT id FROM users FINAL PREWHERE v > 2)",
    )
    assert verified.final == {"events", "users"}
    assert verified.sample == {"events": ("1 / 10", "1 / 2")}
    assert verified.canonical == (
        "SELECT v FROM events AS e WHERE (v > 1) AND ((s = 'x') OR (v IN (SELECT id FROM users WHERE v > 2)))"
    )


def test_ambiguous_function_names_are_qualified_with_the_only_table(engine: Engine) -> None:
    assert judged(engine, "SELECT user FROM events AS `a b`").canonical == "SELECT `a b`.user FROM events AS `a b`"
    assert judged(engine, "SELECT user AS user FROM events GROUP BY user").canonical == (
        "SELECT events.user AS user FROM events GROUP BY user"
    )
    assert "(events.file)" in judged(engine, "SELECT arraySum(file) FROM events").canonical
    assert judged(engine, "SELECT version FROM events, users").canonical == "SELECT version FROM events, users"


@pytest.mark.parametrize(
    ("sql", "leftmost"),
    [
        ("SELECT 1", None),
        ("SELECT * FROM numbers(3), events", None),
        ("SELECT * FROM users JOIN events ON 1 = 1", "users"),
        ("SELECT * FROM (SELECT * FROM (SELECT * FROM events) AS a) AS b, users", "events"),
        ("WITH q AS (SELECT * FROM users), r AS (SELECT * FROM q) SELECT * FROM r JOIN events ON 1 = 1", "users"),
        ("WITH q AS (SELECT * FROM users UNION ALL SELECT * FROM events) SELECT * FROM q", "users"),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r", None),
        ("WITH RECURSIVE r AS (SELECT v FROM events UNION ALL SELECT v FROM r) SELECT * FROM r", "events"),
        ("SELECT * FROM (events JOIN users ON 1 = 1)", "events"),
        ("WITH q AS (SELECT 1) SELECT * FROM (WITH q AS (SELECT * FROM events) SELECT * FROM q) AS z", "events"),
    ],
)
def test_the_leftmost_table_is_found(engine: Engine, sql: str, leftmost: str | None) -> None:
    assert judged(engine, sql).leftmost == leftmost


def test_branches_of_a_union_are_separate_statements(engine: Engine) -> None:
    verified = judged(
        engine,
        "WITH q AS (SELECT v FROM events), 2 AS two SELECT v FROM q UNION ALL (SELECT id FROM users UNION ALL "
        "(WITH 3 AS two SELECT v + two FROM q))",
        view=True,
    )
    assert verified.branch_leftmost == ("events", "users", "events")
    assert verified.branches == (
        "WITH q AS (SELECT v FROM events), 2 AS two SELECT v FROM q",
        "WITH q AS (SELECT v FROM events), 2 AS two SELECT id FROM users",
        "WITH q AS (SELECT v FROM events), 3 AS two SELECT v + two FROM q",
    )
    plain = judged(engine, "SELECT v FROM events PREWHERE v > 1 LIMIT 1 BY v", view=True)
    assert plain.branches == (plain.canonical,)
    assert plain.branch_leftmost == ("events",)


def test_output_names_are_known_where_evident(engine: Engine) -> None:
    assert judged(engine, "SELECT v, e.s, v + 1, v AS x FROM events AS e").outputs == ("v", "s", None, "x")
    assert judged(engine, "SELECT v, * FROM events").outputs is None


def test_placeholder_types_can_differ_in_spaces_only(engine: Engine) -> None:
    assert "{p3:" in judged(engine, "SELECT {p3:Array( String )}").canonical
    assert refused(engine, "SELECT {p3:Array(UInt8)}").code is errors.SQL_REFUSED
