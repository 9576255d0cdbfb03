"""The leak suite: every answer to a tenant is what it would be without the rows of other tenants.

Every question is put twice, to a workspace with the rows of all tenants and to one that holds only the asker's own. The
answers, errors among them, must not differ in a byte but for the time taken; and no text of others may be in them.
`ROOKERY_TEST_LEAKS=full` runs the whole matrix and many more random statements.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from engine import errors
from engine.errors import RookeryError
from engine.query import authorize, executor
from engine.tokens.claims import Scope
from engine.warehouse.port import Format
from engine.web import openapi
from tests.isolation.marked_rows import OWN_WORKSPACE, PIPES, PLACEMENTS, READABLE, ROWS, sentinels
from tests.isolation.probes import LANDING_PROBES, OTHERS, PROBES, SHAPES, matrix
from tests.isolation.random_sql import Grammar
from tests.isolation.services import Service, leaks, outcome, scopes_of, services, shown
from tests.isolation.two_tenants import statements
from tests.support.soak import soaking

FULL = os.environ.get("ROOKERY_TEST_LEAKS") == "full" or soaking()
STEP = 1 if FULL else 47
RANDOM = 4000 if FULL else 40
T = TypeVar("T")


class Pair:
    """A tenant that asks in the full workspace and in its own."""

    def __init__(self, found: dict[str, Service], tenant: str) -> None:
        self.tenant = tenant
        self.full, self.own = found["full"], found[tenant]
        self.tokens = {w.name: w.token(*scopes_of(), tenant=tenant) for w in (self.full, self.own)}

    def some(self, questions: Sequence[T], step: int) -> Sequence[T]:
        """All of them for the first tenant; for the second, whose statements differ only in their tables, a sample."""
        return questions if FULL or self.tenant == OWN_WORKSPACE[0] else questions[::step]

    def sql(self, text: str, **more: Any) -> tuple[str, Any]:
        return self.ask(lambda w: w.sql(self.tokens[w.name], text, **more), text)

    def call(self, pipe: str, given: dict[str, Any] | None = None, format: Format = Format.JSON) -> tuple[str, Any]:
        return self.ask(lambda w: w.call(self.tokens[w.name], pipe, given, format), json.dumps(given or {}))

    def ask(self, question: Callable[[Service], bytes], sent_text: str = "") -> tuple[str, Any]:
        """The answer of the full workspace, once it is clear that it reveals nothing of others."""
        seen = outcome(lambda: question(self.full))
        alone = outcome(lambda: question(self.own))
        assert leaks(seen, self.tenant, sent_text) == [], (sent_text, shown(seen)[:500])
        assert seen == alone, f"{self.tenant} learns of others by: {sent_text}"
        return seen


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    with services(tmp_path_factory.mktemp("services")) as made:
        yield made


@pytest.fixture(scope="module", params=OWN_WORKSPACE)
def pair(found: dict[str, Service], request: pytest.FixtureRequest) -> Pair:
    return Pair(found, request.param)


def test_an_admin_sees_the_difference_between_the_workspaces(found: dict[str, Service]) -> None:
    """Otherwise the following tests would prove nothing."""
    for tenant in PLACEMENTS:
        rows = found["full"].workspace.warehouse.query("SELECT * FROM full.events").rows
        assert sum(any(s in repr(r) for s in sentinels(tenant)) for r in rows) == ROWS
    own = found["acme"].workspace.warehouse.query("SELECT DISTINCT tenant FROM acme.events").rows
    assert own == [("acme",)]


# --- endpoints that their authors got wrong ---


@pytest.mark.proves("A1", "A2", "A11")
@pytest.mark.parametrize("pipe", PIPES)
def test_an_endpoint_without_a_tenant_filter_shows_only_own_rows(pair: Pair, pipe: str) -> None:
    given = {"text": "5", "tenant_id": pair.tenant} if pipe in ("parsed", "other_tenant") else {}
    kind, document = pair.call(pipe, given)
    assert kind == "answer", document
    assert document["rows"] > 0 or pipe == "wrong_tenant"
    for format in pair.some((Format.CSV, Format.NDJSON, Format.PARQUET), 3):
        bodies = [w.call(pair.tokens[w.name], pipe, given, format) for w in (pair.full, pair.own)]
        assert leaks(("bytes", [b.decode("latin-1") for b in bodies]), pair.tenant) == []
        assert sorted(bodies[0].splitlines()) == sorted(bodies[1].splitlines()) or format is Format.PARQUET


@pytest.mark.proves("A1", "A4", "A5")
def test_only_the_token_selects_the_tenant(pair: Pair, found: dict[str, Service]) -> None:
    full, mine = found["full"], pair.tenant
    for other in PLACEMENTS:
        # A fixed parameter wins silently, be it set by the token's tenant or by the token itself.
        assert pair.call("keyed", {"customer": other}) == pair.call("keyed", {"customer": mine})
        fixed = full.token(Scope("PIPES:READ", "keyed", fixed_params={"customer": mine}))
        rows = outcome(lambda t=fixed, o=other: full.call(t, "keyed", {"customer": o}))  # type: ignore[misc]
        assert rows == pair.call("keyed", {"customer": mine})
        # A parameter that is only compared with the column finds no rows of others.
        assert pair.call("other_tenant", {"tenant_id": other})[1]["rows"] == (ROWS if other == mine else 0)
    without_tenant = full.token("PIPES:READ:keyed", "PIPES:READ:everything", "DATASOURCES:READ:events")
    for attempt, code in (
        (lambda: full.call(without_tenant, "keyed", {"customer": "omega"}), errors.TENANT_FROM_QUERY),
        (lambda: full.call(without_tenant, "keyed"), errors.NO_TENANT),
        (lambda: full.call(without_tenant, "everything"), errors.NO_TENANT),
        (lambda: full.sql(without_tenant, "SELECT * FROM events"), errors.NO_TENANT),
        (
            lambda: full.sql(without_tenant, "SELECT * FROM keyed", given={"customer": "omega"}),
            errors.TENANT_FROM_QUERY,
        ),
    ):
        with pytest.raises(RookeryError) as refused:
            attempt()
        assert refused.value.code is code


HOSTILE: tuple[Any, ...] = (
    "' OR 1=1 --", "omega' UNION ALL SELECT s FROM full.events --", "$a$ x $a$", "\\", "\\'", "`", "tenant", "*",
    "{rk_tenant_string:String}", "{p1:String}", "%(q)s", "%s", "{{ 7 * 7 }}", "{% raw %}", "omega-secret-3", "acme\0",
    "\ud800", "a\u0301", "☃" * 300, "", "null", "NaN", "-1", "1e400", "9" * 80, "0x1F", "2024-99-99", "[1,2", "','",
    "2024-01-01T00:00:00+99:99", "x,y' , 'z", True, None, 7, -7, 2**70, 1.5, float("inf"), [], ["a", "' OR 1=1"],
    [["a"]], {"a": 1}, ["\\", "\0"], "s`, tenant, `s", "s FROM full.events --", "rk_tenant_string", "_rk_t.tenant",
    "t.a", "events.s", "lc", "lc,tenant", "'); DROP TABLE full.events; --", "(SELECT max(s) FROM events)",
    "file('/etc/passwd')", "s AS tenant", "COLUMNS('.*')",
)  # fmt: skip
PARAMETERS = {
    "typed": ("text", "list", "number", "day", "moment", "id", "ratio"),
    "chosen": ("which", "by", "low"),
    "keyed": ("customer", "tenant"),
    "other_tenant": ("tenant_id",),
    "parsed": ("text",),
    "everything": ("tenant", "limit", "q", "format", "token", "rk_tenant_string", "_rk_t"),
}


@pytest.mark.proves("A2", "A3")
@pytest.mark.parametrize("pipe", PARAMETERS)
def test_hostile_values_are_bound_as_values(pair: Pair, pipe: str) -> None:
    before = pair.full.workspace.warehouse.query("SELECT count() FROM full.events").rows
    for number, name in enumerate(PARAMETERS[pipe]):
        # No template reads the parameters of `everything`.
        step = 2 - FULL if pipe in ("typed", "chosen") else 15 if pipe == "everything" and not FULL else 5
        for value in pair.some(HOSTILE, 4)[number % step :: step]:
            kind, seen = pair.call(pipe, {name: value})
            assert kind == "answer" or (400 <= seen[0] < 500 and seen[1]["error"]), (name, value, seen)
    assert pair.full.workspace.warehouse.query("SELECT count() FROM full.events").rows == before


@pytest.mark.proves("A3")
def test_an_identifier_can_only_be_a_readable_column(pair: Pair) -> None:
    for value in ("omega_column", "plan", "_part", "_rk_at", "users", "price", "rk_after", "name", "database"):
        kind, seen = pair.call("chosen", {"which": value})
        assert (kind, seen[0]) == ("error", 400), value


# --- ad-hoc SQL ---


@pytest.mark.proves("A2", "A11", "B3")
def test_functions_never_see_rows_of_other_tenants(pair: Pair) -> None:
    """Probes throw on rows, texts and key ranges that only others have: no answer may depend on them."""
    kinds = [pair.sql(sql)[0] for sql in pair.some(list(matrix())[::STEP], 3)]
    assert kinds.count("answer") > 0.8 * len(kinds)


@pytest.mark.proves("A2", "A11")
def test_answers_do_not_depend_on_the_barrier_rerun(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed query runs again behind a barrier. That is for index analysis alone: rows are never looked at."""

    def without_barrier(value: Any, **changes: Any) -> Any:
        return dataclasses.replace(value, **{k: v for k, v in changes.items() if k != "barrier"})

    monkeypatch.setattr(executor, "replace", without_barrier)
    probes = {**PROBES, **LANDING_PROBES}
    for number, (name, probe) in enumerate(pair.some(list(probes.items()), 2)):
        if name not in ON_KEYS:
            for shape in list(SHAPES.values())[number % 5 :: 5 if FULL else 10]:
                pair.sql(shape.format(t="events" if name in LANDING_PROBES else "latest", p=probe))


ON_KEYS = frozenset(
    {"zero divisor", "smallest divided", "out of range", "number thrown on", "round by key", "julian day", "moment"}
    | {"first and last day"}
)
"""Probes over columns of sorting keys and minmax indexes."""


@pytest.mark.proves("A2", "A11", "B3")
def test_storage_and_names_reveal_nothing(pair: Pair) -> None:
    kinds = {sql: pair.sql(sql)[0] for sql in pair.some(OTHERS, 3)}
    assert {"answer", "error"} == set(kinds.values())


@pytest.mark.proves("A2", "A11", "B3")
def test_attacks_reveal_nothing(pair: Pair) -> None:
    for _, sql in pair.some(list(statements("attacks.sql")), 4):
        pair.sql(sql)


@pytest.mark.proves("A2", "A11")
def test_random_statements_reveal_nothing(found: dict[str, Service]) -> None:
    pairs = [Pair(found, t) for t in OWN_WORKSPACE]
    kinds = [pairs[seed % 2].sql(Grammar(seed).statement())[0] for seed in range(RANDOM)]
    assert kinds.count("answer") > 0.6 * len(kinds)


@pytest.mark.proves("A2")
def test_a_failed_query_does_not_affect_later_queries(pair: Pair) -> None:
    """The engine's cache of conditions would keep what a failed query had not read as if it did not match."""
    for table in ("events", "logs"):
        for _ in range(3):
            kind, _ = pair.sql(
                f"SELECT count() FROM {table} AS a LEFT JOIN (SELECT s AS k, i AS y FROM {table} "
                "PREWHERE nums[1] < 30) AS b ON a.s = b.k AND throwIf(b.y = 7) = 0"
            )
            assert kind == "error"
        assert json.loads(pair.sql(f"SELECT count() AS c FROM {table}")[1]["data"][0]) == {"c": ROWS}
        everything = f"SELECT count() AS c FROM {table} WHERE toString(i) != 'x' OR (s, i) IN (('a', 1))"
        assert json.loads(pair.sql(everything)[1]["data"][0]) == {"c": ROWS}


@pytest.mark.proves("A2", "A11")
@pytest.mark.parametrize("format", Format)
def test_no_format_contains_dictionaries_or_paths_of_other_tenants(pair: Pair, format: Format) -> None:
    """Dictionaries of LowCardinality and paths of JSON are shared by all rows of a part."""
    for table in pair.some(READABLE, 3):
        if table == "prices":
            continue  # a dimension that all tenants share, and may see
        columns = "* EXCEPT (users, names)" if table == "states" else "*"
        body = pair.full.sql(pair.tokens["full"], f"SELECT {columns} FROM {table}", format)
        assert leaks(("bytes", body.decode("latin-1")), pair.tenant) == []
        # Streamed: more than is taken whole.
        many = f"SELECT {columns} FROM {table} CROSS JOIN numbers(150) AS n"
        body = pair.full.sql(pair.tokens["full"], many, format)
        assert leaks(("bytes", body.decode("latin-1")), pair.tenant) == []
        assert len(body) > 1000


# --- tokens with filters ---


@pytest.mark.proves("A2", "A5")
def test_a_row_filter_isolates_like_the_tenant(found: dict[str, Service]) -> None:
    """Static tokens and JWTs that select the tenant by a filter, with a further condition beside it."""
    for tenant in OWN_WORKSPACE:
        equality = [f"DATASOURCES:READ:{t}:tenant = '{tenant}'" for t in ("events", "logs", "latest", "bare")]
        narrow = f"DATASOURCES:READ:events:'{tenant}' = tenant AND CAST(s AS Int64) > 3"
        both = (found["full"], found[tenant])
        wide_tokens = {w.name: w.static(f"filtered {tenant}", *equality) for w in both}
        narrow_tokens = {w.name: w.token(narrow) for w in both}
        probes = [s for s in list(matrix())[5 :: 97 if FULL else 197] if "prices" not in s]
        for sql in probes:
            seen = _seen(both, wide_tokens, sql)
            assert leaks(seen, tenant, sql) == []
        for sql in ("SELECT count(), max(s) FROM events", "SELECT count() FROM events WHERE toInt64(s) > 0"):
            assert _seen(both, narrow_tokens, sql)[0] == "answer"


def _seen(both: tuple[Service, Service], by_service: dict[str, str], sql: str) -> tuple[str, Any]:
    """The outcome of a statement, which is the same in both workspaces."""
    first, second = (outcome(lambda w=w: w.sql(by_service[w.name], sql)) for w in both)  # type: ignore[misc]
    assert first == second, sql
    return first


@pytest.mark.proves("A2")
def test_a_row_filter_without_a_tenant_isolates(found: dict[str, Service]) -> None:
    """Rows that a filter hides are not looked at either, not even the ends of key ranges in the index."""
    files = {
        "regions": """
columns:
  - {name: region, type: String}
  - {name: k, type: Int64}
engine: {sorting_key: [k], settings: {index_granularity: 4}}
"""
    }
    seen: list[list[tuple[str, Any]]] = []
    for name in ("full", "acme"):
        service = found[name]
        service.push(files)
        hidden = [{"region": "us", "k": k} for k in (-(2**63), 0, 5_000_000)] if name == "full" else []
        service.append("regions", [{"region": "eu", "k": k} for k in range(1, 9)] + hidden)
        token = service.token("DATASOURCES:READ:regions:region = 'eu'")
        answers = ["intDiv(k, -1) < 0", "round(1.5, k) > 0", "throwIf(k > 100) = 0", "accurateCast(k, 'UInt8') > 0"]
        texts = [f"SELECT count() FROM regions WHERE {condition}" for condition in answers]
        seen.append([outcome(lambda w=service, s=s, t=token: w.sql(t, s)) for s in texts])  # type: ignore[misc]
    assert seen[0] == seen[1]
    assert [kind for kind, _ in seen[0]] == ["answer"] * 4


@pytest.mark.proves("A2", "D8", "D10")
def test_filters_that_select_no_tenant_or_two_are_refused(found: dict[str, Service]) -> None:
    full = found["full"]
    for condition in (
        "tenant != 'omega'", "tenant = 'acme' OR tenant = 'omega'", "tenant IN ('acme', 'omega')", "s = '7710001'",
        "lower(tenant) = 'acme'", "tenant = concat('ac', 'me')", "tenant LIKE '%'", "1 = 1", "tenant = tenant",
        "tenant = 'acme' AND tenant = 'omega'", "tenant = 'no-one'", "(SELECT 1)", "tenant = 'acme', 1",
        "tenant = 'acme' -- x\n OR 1", "tenant = 'acme' UNION ALL SELECT 1", "throwIf(s = 'x') = 0", "_part = 'x'",
        "tenant = 'acme' SETTINGS max_threads = 1", "x -> 1", "tenant = {p:String}", "tenant AS x = 'acme'",
    ):  # fmt: skip
        token = full.signed(Scope("DATASOURCES:READ", "events", filter=condition))
        kind, seen = outcome(lambda t=token: full.sql(t, "SELECT * FROM events"))  # type: ignore[misc]
        if condition.startswith("tenant = 'acme' -- x"):
            # The comment ends with its line: this is an OR, which selects no tenant.
            assert kind == "error"
        assert kind == "error", condition
        assert seen[0] in (401, 403), (condition, seen)
        assert leaks((kind, seen), "acme", condition) == []


@pytest.mark.proves("B12", "B13", "B3")
def test_a_token_reads_only_what_it_names(found: dict[str, Service]) -> None:
    full = found["full"]
    token = full.token("DATASOURCES:READ:sums", "PIPES:READ:totals", tenant="acme")
    for name in (*FORBIDDEN, "omega_ds", "omega_usage", "nothing_of_that_name"):
        kind, seen = outcome(lambda n=name: full.sql(token, f"SELECT * FROM {n}"))  # type: ignore[misc]
        assert (kind, seen[0], seen[1]["code"]) == ("error", 403, "RK2004"), name
        kind, called = outcome(lambda n=name: full.call(token, n))  # type: ignore[misc]
        assert (kind, called[0], called[1]) == (
            "error",
            403,
            {"code": "RK4003", "error": f"the token does not allow the endpoint `{name}`"},
        )
    assert outcome(lambda: full.call(token, "totals"))[0] == "answer"


FORBIDDEN = ("events", "logs", "everything", "fill_sums", "accounts")


# --- texts ---


@pytest.mark.proves("A7", "B3")
def test_openapi_and_logs_contain_no_names_and_no_tokens(found: dict[str, Service]) -> None:
    full = found["full"]
    build = full.workspace.current.build
    token = full.token(*scopes_of(), tenant="acme")
    claims = authorize.authenticate(full.workspace, token)
    document = json.dumps(openapi.document(build, ["totals", "keyed"], "http://localhost", claims))
    assert leaks(("bytes", document), "acme") == []
    assert not any(f'"{n}"' in document for n in ("everything", "logs", "customer", "tenant"))
    with capture_logs() as lines:
        for sql in OTHERS[:40]:
            outcome(lambda s=sql: full.sql(token, s))  # type: ignore[misc]
        outcome(lambda: full.call(token[:-3] + "abc", "totals"))
        outcome(lambda: full.call(token, "parsed", {"text": "x"}))
    assert any("query failed" in line["event"] for line in lines)
    written = json.dumps(lines, default=repr)
    assert token not in written
    assert token.split(".")[2] not in written
