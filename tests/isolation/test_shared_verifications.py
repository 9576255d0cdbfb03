"""Callers share verified statements: one that may not read a name never gets what was verified for one that may."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.compiler.compose import Verifier
from engine.errors import RookeryError
from engine.sql.verify import Verified
from tests.isolation.two_tenants import Engine, statements
from tests.isolation.verifying import BOUND, PLACEHOLDERS, judged

SPELLINGS = [
    "SELECT 1 FROM events",
    "SELECT 1 FROM `events`",
    'SELECT 1 FROM "events"',
    "SELECT 1 FROM `ev\\x65nts`",
    "SELECT 1 FROM `\\x65\\x76\\x65\\x6e\\x74\\x73`",
    'SELECT 1 FROM "ev\\x65nts"',
    "SELECT 1 FROM `even\\ts`",
    "SELECT 1 FROM/**/events/**/",
    "SELECT 1 WHERE 1 IN events",
    "SELECT 1 WHERE 1 IN `ev\\x65nts`",
    "WITH a AS (SELECT 1 FROM events) SELECT 1 FROM a",
    "SELECT 1 UNION ALL SELECT 1 FROM events",
    "SELECT 1 FROM users, events",
    "SELECT 1 FROM users, `ev\\x65nts`",
    "SELECT '" + "x" * 10_000 + "' FROM events",
]


def outcome(verification: Callable[[], Verified]) -> Verified | str:
    try:
        return verification()
    except RookeryError as exc:
        return exc.code.id


@pytest.mark.guard
@pytest.mark.proves("A2")
@pytest.mark.parametrize("number", range(len(SPELLINGS)))
def test_no_spelling_of_a_name_finds_the_verification_of_another_caller(engine: Engine, number: int) -> None:
    verifier, sql = Verifier(engine), SPELLINGS[number]
    allowed = outcome(lambda: verifier(sql, frozenset({"events", "users"})))
    assert allowed != "RK2004" or "even\\ts" in sql
    for names in ({"users"}, set(), {"events_of_others", "users"}):
        fresh = outcome(lambda names=names: Verifier(engine)(sql, frozenset(names)))  # type: ignore[misc]
        assert isinstance(fresh, str)
        assert outcome(lambda names=names: verifier(sql, frozenset(names))) == fresh  # type: ignore[misc]


def test_what_is_shared_does_not_depend_on_other_names(engine: Engine) -> None:
    verifier = Verifier(engine)
    for _, sql in statements("legitimate.sql"):
        verified = verifier(sql, BOUND, PLACEHOLDERS)
        with_others = verifier(sql, BOUND | {"another", "tenant_7_ds"}, PLACEHOLDERS)
        assert with_others == verified == judged(engine, sql)


@pytest.mark.parametrize(
    "expression",
    [
        "event::JSON", "CAST(event AS JSON)", "CAST(event, 'JSON')", "event::Nullable(JSON)", "event::Array(JSON)",
        "CAST(concat(event, '') AS JSON(max_dynamic_paths = 8))", "accurateCastOrNull(event, 'json')",
        "event::Array(Dynamic)", "JSONExtract(event, 'JSON')", "JSONExtract(event, 'a', 'Array(Dynamic)')",
        "JSONExtractKeysAndValues(event, 'Dynamic')", "length(toString(event::JSON))",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["SELECT {} FROM events", "SELECT 1 FROM (SELECT ({}) AS a FROM events) WHERE 1"])
def test_text_is_not_parsed_in_the_sql_of_a_caller(engine: Engine, expression: str, form: str) -> None:
    """The engine cannot be interrupted while it finds the type of lists in lists."""
    sql = form.format(expression)
    assert outcome(lambda: Verifier(engine).sent(sql, BOUND, "a")) == "RK2002"
    assert isinstance(Verifier(engine)(sql, BOUND), Verified), "a file may do that"


def test_other_casts_are_allowed_in_the_sql_of_a_caller(engine: Engine) -> None:
    casts = "event::String, event::Dynamic, CAST('1' AS UInt8), JSONExtract(event, 'Dynamic', 'String')"
    sql = f"SELECT {casts}, JSONExtractString(event, 'JSON') FROM events"
    assert isinstance(outcome(lambda: Verifier(engine).sent(sql, BOUND, "a")), Verified)
