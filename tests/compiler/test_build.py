"""The compiler on whole projects: what it refuses, and the statements and views that it makes."""

import pytest

from engine import errors
from engine.compiler import compose, pipes
from engine.compiler.compose import Caller
from engine.compiler.scope import Scope
from engine.compiler.views import nest_schema, workspace_schema
from engine.control.materialize import MaterializeRequest, propose
from engine.errors import Code, RookeryError
from engine.template.environment import Binder, Template
from engine.workspace.snapshot import parse_sources
from engine.workspace.workspace import Workspace
from tests.support.compiling import BASE, EVENTS, compiled, problems_of, pushed, sources


def _columns(**changes: str) -> dict[str, str]:
    text = EVENTS
    for old, new in changes.items():
        text = text.replace(old, new)
    return {**BASE, "events": text}


SNOWFLAKE = "sql: SELECT generateSnowflakeID() AS id FROM daily\n"
MANY_NODES = "nodes:\n" + "".join(f"  - {{name: n{i}, sql: SELECT 1 AS x}}\n" for i in range(1001))
CASES: list[tuple[str, dict[str, str], Code, str]] = [
    ("a type that does not exist", _columns(Float64="Flaot64"), errors.BAD_TYPE, "events.yaml:7:"),
    ("a default that reads a file", _columns(**{"now()": "file('x')"}), errors.FUNCTION_REFUSED, "events.yaml:5:"),
    ("a default that is more than one", _columns(**{"now()": "'1, 2'"}), errors.SQL_REFUSED, "events.yaml:5:"),
    ("an unknown column", {**BASE, "usage": "sql: SELECT dya FROM daily\n"}, errors.SQL_SEMANTICS, "usage.yaml:1:13"),
    ("an unknown table", {**BASE, "usage": "sql: SELECT 1 FROM dayly\n"}, errors.UNKNOWN_TABLE, "usage.yaml:1:20"),
    ("a syntax error", {**BASE, "usage": "sql: |\n  SELECT\n  1 FRM daily\n"}, errors.SQL_SYNTAX, "usage.yaml:3"),
    ("too many nodes", {**BASE, "a": MANY_NODES}, errors.BAD_VALUE, "a.yaml:2:"),
    ("a circle", {**BASE, "a": "sql: SELECT * FROM b\n", "b": "sql: SELECT * FROM a\n"}, errors.CYCLE, ""),
    (
        "a target without the output's column",
        {**BASE, "daily": BASE["daily"].replace("name: units", "name: sum").replace("[units]", "[sum]")},
        errors.TARGET_COLUMNS,
        "sums.yaml",
    ),
    (
        "a view on a table function",
        {
            **BASE,
            "sums": "sql: SELECT toUInt32(number) AS tenant_id, today() AS day, 1. AS units FROM numbers(3)\n"
            "materialize: {target: daily, per_tenant: true}\n",
        },
        errors.VIEW_SHAPE,
        "sums.yaml",
    ),
    (
        "a template in a view",
        {**BASE, "sums": BASE["sums"].replace("events GROUP", "events WHERE kind = {{String(k, 'a')}} GROUP")},
        errors.VIEW_SHAPE,
        "sums.yaml",
    ),
    (
        "a value inside quotes",
        {**BASE, "usage": "sql: SELECT day FROM daily WHERE toString(day) LIKE '%{{String(x, 'a')}}%'\n"},
        errors.TEMPLATE,
        "usage.yaml",
    ),
]


@pytest.mark.parametrize(("files", "code", "place"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_problems_have_a_code_and_a_place(
    workspace: Workspace, files: dict[str, str], code: Code, place: str
) -> None:
    problems = problems_of(workspace, files)
    assert code in [p.code for p in problems], [str(p) for p in problems]
    problem = next(p for p in problems if p.code is code)
    assert str(problem.place or "").startswith(place)


@pytest.mark.parametrize(("written", "meant"), [("float64", "Float64"), ("FLOAT64", "Float64"), ("uint64", "UInt64")])
def test_a_type_in_the_wrong_case_is_recognized(workspace: Workspace, written: str, meant: str) -> None:
    (problem,) = [p for p in problems_of(workspace, _columns(Float64=written)) if p.code is errors.BAD_TYPE]
    assert f"`{meant}`?" in str(problem.hint)


def test_all_problems_are_reported_at_once(workspace: Workspace) -> None:
    files = {
        **BASE,
        "a": "sql: SELECT 1 FROM nowhere\n",
        "b": "sql: SELECT file('x')\n",
        "d": "sql: SELECT dya FROM daily\n",
        "c": "sql: SELECT (1\n",
    }
    codes = {p.code for p in problems_of(workspace, files)}
    assert codes == {errors.UNKNOWN_TABLE, errors.FUNCTION_REFUSED, errors.SQL_SYNTAX, errors.SQL_SEMANTICS}


def _render(template: Template, binder: Binder, columns: frozenset[str]) -> str:
    return template.render({}, binder, columns)


def test_pooled_tenants_read_filtered_rows_and_others_their_nest(workspace: Workspace) -> None:
    build = compiled(workspace, BASE)
    pooled = build.composer.request(build, "usage", Caller(_render, Scope("main", tenant="7")))
    assert "FROM `main`.`daily` AS _rk_t PREWHERE (_rk_t.`tenant_id` = {rk_tenant_uint32:UInt32})" in pooled.sql
    own = build.composer.request(build, "usage", Caller(_render, Scope("main", tenant="7", nest="main_nest_7")))
    assert "FROM `main_nest_7`.`daily` AS _rk_t\n" in own.sql
    assert "rk_tenant" not in own.sql


def test_the_barrier_and_the_shape_of_the_scope_change_the_text(workspace: Workspace) -> None:
    build = compiled(workspace, BASE)
    scope = Scope("main", tenant="7", barrier=True)
    assert "LIMIT 9223372036854775807" in build.composer.request(build, "usage", Caller(_render, scope)).sql


@pytest.mark.proves("B1", "D13")
def test_landing_is_laid_out_as_a_log_and_nests_refuse_foreign_rows(workspace: Workspace) -> None:
    build = compiled(workspace, BASE)
    landing = next(t for n, t in workspace_schema(build).tables.items() if n.name == "events")
    assert landing.engine == "MergeTree"
    assert landing.partition_key == "toYYYYMM(_rk_at)"
    assert ("enable_block_number_column", "1") in landing.settings
    assert {c.name for c in landing.columns} >= {"_rk_at", "_rk_batch"}
    assert landing.sorting_key.startswith("(tenant_id")
    nest = nest_schema(build, "7")
    copy = next(t for n, t in nest.tables.items() if n.name == "events")
    assert copy.constraints == (("own", "`tenant_id` = 7"),)
    sources = {v.name.name: str(v.source) for v in nest.views.values()}
    assert sources == {"_rk_events": "main.events", "_rk_sums": "main_nest_7.events"}


def test_the_view_of_the_pool_delivers_only_pooled_tenants(workspace: Workspace) -> None:
    (view,) = workspace_schema(compiled(workspace, BASE)).views.values()
    assert "IN (SELECT id FROM `main`.`_rk_pool`)" in view.sql


def test_a_union_becomes_one_view_for_each_source(workspace: Workspace) -> None:
    union = """
sql: |
  SELECT tenant_id, toDate(at) AS day, units FROM events
  UNION ALL
  SELECT tenant_id, toDate(at) AS day, units * 2 AS units FROM imports
materialize: {target: daily, per_tenant: true}
"""
    build = compiled(workspace, {**BASE, "sums": union, "imports": EVENTS})
    views = workspace_schema(build).views
    assert sorted(str(v.source) for v in views.values()) == ["main.events", "main.imports"]
    assert len({v.name for v in views.values()}) == 2


@pytest.mark.parametrize(
    ("type", "output", "warned"),
    [
        ("UInt8", "count()", True),
        ("Nullable(Int16)", "sum(toInt32(units))", True),
        ("UInt32", "count()", False),
        ("UInt8", "max(toHour(at))", False),
        ("Float64", "count()", False),
    ],
    ids=range(5),
)
def test_counts_in_narrow_columns_get_a_warning(workspace: Workspace, type: str, output: str, warned: bool) -> None:
    target = BASE["daily"].replace("Float64", type)
    sums = BASE["sums"].replace("sum(units)", output)
    assert output in sums and type in target
    build = compiled(workspace, {**BASE, "daily": target, "sums": sums})
    assert [w.code for w in build.warnings] == [errors.TARGET_COLUMNS] * warned


def test_an_unprotected_tenant_parameter_gets_a_warning(workspace: Workspace) -> None:
    pipe = "sql: SELECT day FROM daily WHERE tenant_id = {{UInt32(tenant_id, 1)}}\n"
    build = compiled(workspace, {**BASE, "usage": pipe})
    assert [w.code for w in build.warnings] == [errors.TENANT_KEY]
    guarded = pipe + "parameters: [{name: tenant_id, type: UInt32, tenant_key: true}]\n"
    assert compiled(workspace, {**BASE, "usage": guarded}).warnings == ()


def test_a_new_resource_does_not_verify_others_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"usage_{n}": f"sql: SELECT day, {n} AS n FROM daily\n" for n in range(10)}
    compiled(workspace, {**BASE, **many})
    verified: list[str] = []

    def counting(sql: str, *args: object, **more: object) -> object:
        verified.append(sql)
        return verify(sql, *args, **more)  # type: ignore[arg-type]

    verify = compose.verify
    monkeypatch.setattr(compose, "verify", counting)
    compiled(workspace, {**BASE, **many, "another": "sql: SELECT day FROM daily\n"})
    assert [sql.strip() for sql in verified] == ["SELECT day FROM daily"]


def test_a_server_starts_with_what_was_deployed_before_a_limit(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "MAX_NODES", 0)
    assert {p.code for p in problems_of(workspace, BASE)} == {errors.BAD_VALUE}
    assert workspace.compile(parse_sources(sources(BASE)), tolerated=None).pipes.keys() == {"sums", "usage"}


def test_a_server_starts_with_functions_that_were_allowed_when_they_were_deployed(workspace: Workspace) -> None:
    """A newer version could not be started otherwise, and not even remove the file."""
    files = {**_columns(**{'default: "1"': "default: generateSnowflakeID()"}), "usage": SNOWFLAKE}
    for changed in ({**files, "usage": BASE["usage"]}, {**BASE, "usage": SNOWFLAKE}):
        assert {p.code for p in problems_of(workspace, changed)} == {errors.FUNCTION_REFUSED}
    deployed = workspace.compile(parse_sources(sources(files)), tolerated=None)
    assert deployed.pipes.keys() == {"sums", "usage"}
    verifier = deployed.composer.verifier
    with pytest.raises(RookeryError) as refused:
        verifier.sent(SNOWFLAKE.removeprefix("sql: "), frozenset(deployed.relations), None)
    assert refused.value.code is errors.FUNCTION_REFUSED
    other = "sql: SELECT hostName() AS id FROM daily\n"
    with pytest.raises(RookeryError):
        workspace.compile(parse_sources(sources({**files, "usage": other})), tolerated=None)


def test_a_proposed_target_is_limited_like_a_push(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits apply to new and changed files, and not to what is deployed."""
    pushed(workspace, BASE)
    monkeypatch.setattr(pipes, "MAX_NODES", 0)
    request = MaterializeRequest("usage", "stored")
    assert propose(workspace, {}, request).node == "usage_node"
    for changed in ("usage", "sums"):
        files = sources({changed: BASE[changed] + "# changed\n"})
        with pytest.raises(RookeryError) as refused:
            propose(workspace, files, request)
        assert refused.value.code is errors.BAD_VALUE
