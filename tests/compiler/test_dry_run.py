"""Dry runs with sample values: texts that the engine converts, columns, and real mistakes."""

from __future__ import annotations

import pytest

from engine import errors
from engine.compiler.build import parameters_of
from engine.control.tenants import add
from engine.errors import Problems, RookeryError
from engine.template.environment import Binder
from engine.workspace.workspace import Workspace
from tests.support.compiling import BASE, compiled, problems_of, pushed

THINGS = """
columns:
  - {name: aaa, type: String}
  - {name: at, type: DateTime}
  - {name: day, type: Date}
  - {name: n, type: UInt16}
  - {name: amount, type: "Nullable(Decimal(9, 2))"}
  - {name: id, type: UUID}
  - {name: ip, type: IPv4}
  - {name: state, type: "Enum8('new' = 1, 'old' = 2)"}
  - {name: tags, type: "Array(String)"}
  - {name: payload, type: String}
engine: {sorting_key: [at]}
"""

CONVERTED = [
    "toDate({{ String(x) }})",
    "toDate32({{ String(x) }})",
    "toDateTime({{ String(x) }})",
    "toDateTime({{ String(x) }}, {{ String(zone) }})",
    "toDateTime64({{ String(x) }}, 3, {{ String(zone) }})",
    "parseDateTimeBestEffort({{ String(x) }})",
    "parseDateTime({{ String(x) }}, '%Y-%m-%d')",
    "parseDateTime({{ String(x) }}, {{ String(form) }}, {{ String(zone) }})",
    "toInt64({{ String(x) }})",
    "toUInt8({{ String(x) }}) + toFloat64({{ String(y) }})",
    "toDecimal64({{ String(x) }}, 2)",
    "toUUID({{ String(x) }})",
    "toIPv4({{ String(x) }})",
    "toBool({{ String(x) }})",
    "CAST({{ String(x) }} AS Date)",
    "{{ String(x) }}::UInt32",
    "CAST({{ String(x) }} AS Enum8('a' = 1))",
    "toTimeZone(at, {{ String(zone) }})",
    "toStartOfDay(at, {{ String(zone) }})",
    "formatDateTime(at, '%H', {{ String(zone) }})",
    "dateTrunc({{ String(unit) }}, at)",
    "dateDiff({{ String(unit) }}, at, now())",
    "toStartOfInterval(at, INTERVAL {{ Int32(step) }} MINUTE)",
    "intDiv(100, {{ Int32(by) }})",
    "substring(aaa, {{ Int32(start) }})",
    "addDays(toDate({{ String(x) }}), {{ Int32(k) }})",
    "toDate(concat({{ String(month) }}, '-01'))",
    "toDate({{ String(month) + '-01' }})",
    "JSON_VALUE(payload, {{ String(path) }})",
    "splitByChar({{ String(sep) }}, aaa)",
    "arrayMap(x -> toDate(x), {{ Array(days) }})",
    "at >= {{ String(x) }}",
    "day = {{ String(x) }}",
    "toDate(at) BETWEEN {{ String(x) }} AND {{ String(y) }}",
    "n = {{ String(x) }} OR id = {{ String(y) }} OR state = {{ String(z) }} OR ip = {{ String(w) }}",
    "n IN {{ Array(x) }} AND day NOT IN {{ Array(y) }} AND amount > {{ String(z) }}",
    "toDate({{ String(a) }}) < day AND toInt32({{ String(b) }}) > n AND toUUID({{ String(c) }}) = id "
    "AND toTimeZone(at, {{ String(d) }}) > toDateTime({{ String(e) }})",
    "tupleElement(CAST(tuple(1) AS Tuple(one UInt8)), {{ String(name, example='one') }})",
    "toDate({{ String(x, '') }}) {% if not defined(x) %} + 1 {% end %}",
]


@pytest.mark.parametrize("expression", CONVERTED[:-1])
def test_parameters_that_the_engine_converts_can_be_checked(workspace: Workspace, expression: str) -> None:
    build = compiled(workspace, {"things": THINGS, "asked": f"sql: |\n  SELECT {expression} AS result FROM things\n"})
    assert [c.name for c in build.outputs["asked"]] == ["result"]
    assert build.warnings == ()


WRONG = [
    ("toDate('garbage')", "garbage|date"),
    ("toDate({{ String(x, 'garbage') }})", "date"),
    ("toDate({{ 'garbage' }})", "date"),
    ("toDate('garbage') > toDate({{ String(x) }})", "date"),
    ("toDate('garbage') > toDate(toTimeZone(at, {{ String(zone) }}))", "date"),
    ("toInt64({{ String(x, example='many') }})", "many"),
    ("intDiv(1, 0) + {{ Int8(x) }}", "[Dd]ivision"),
    ("nope = {{ String(x) }}", "nope"),
    ("toDate({{ String(x) }}, 1, 2, 3)", "toDate"),
    ("sum({{ column(by) }}) + nope", "nope"),
]


def test_mistakes_are_errors(workspace: Workspace) -> None:
    for expression, message in WRONG:
        files = {"things": THINGS, "asked": f"sql: |\n  SELECT {expression} AS result FROM things\n"}
        with pytest.raises(Problems, match=message) as caught:
            compiled(workspace, files)
        assert [p.code for p in caught.value.problems] == [errors.SQL_SEMANTICS], expression


UNKNOWABLE = "sql: SELECT tupleElement(CAST(tuple(1) AS Tuple(one UInt8)), {{ String(name) }}) AS result\n"


def test_a_template_without_a_valid_sample_gets_one_warning(workspace: Workspace) -> None:
    files = {"things": THINGS, "asked": UNKNOWABLE, "outer": "sql: SELECT result FROM asked\n"}
    build = compiled(workspace, files)
    (warning,) = build.warnings
    assert warning.code is errors.SAMPLE
    assert "`name`" in warning.message
    assert str(warning.place).startswith("asked.yaml:1:6")
    assert "example=" in str(warning.hint)
    exampled = UNKNOWABLE.replace("(name)", "(name, example='one')")
    assert compiled(workspace, {**files, "asked": exampled}).warnings == ()
    declared = UNKNOWABLE + "parameters: [{name: name, example: one}]\n"
    assert compiled(workspace, {**files, "asked": declared}).warnings == ()


ONLY_SOME = [
    "{% if Int32(offset, defined=False) %} nope {% else %} 1 {% end %}",
    "toDate({{ String(d, '2020-01-01', example='1/2/2020') }})",
    "{% if String(how, 'plain', example='odd') == 'plain' %} 1 {% else %} toDate(aaa, 1, 2, 3) {% end %}",
]


@pytest.mark.parametrize("expression", ONLY_SOME)
def test_a_template_that_fails_only_with_samples_gets_one_warning(workspace: Workspace, expression: str) -> None:
    asked = f"sql: |\n  SELECT {expression} AS result FROM things\n"
    build = compiled(workspace, {"things": THINGS, "asked": asked, "outer": "sql: SELECT result FROM asked\n"})
    assert [w.code.id for w in build.warnings] == ["RK2021"]
    assert str(build.warnings[0].place).startswith("asked.yaml:2")
    assert [c.name for c in build.outputs["asked"]] == ["result"]


CHOICES = """
nodes:
  - {name: per_state, sql: "SELECT toString(state) AS zeta, count() AS hits FROM things GROUP BY zeta"}
  - {name: sorted, sql: "SELECT * FROM per_state ORDER BY {{ column(sort, 'hits') }}, {{ column(also) }}"}
"""


def test_columns_of_a_node_can_be_chosen(workspace: Workspace) -> None:
    other = "columns: [{name: a_first_of_all, type: String}]\nengine: {sorting_key: [a_first_of_all]}\n"
    files = {"things": THINGS, "other": other, "sort_by": CHOICES}
    build = compiled(workspace, files)
    assert {"zeta", "hits", "aaa"} <= build.pipes["sort_by"].columns
    assert "a_first_of_all" not in build.pipes["sort_by"].columns
    template = build.pipes["sort_by"].nodes[-1].template
    for name in ("a_first_of_all", "_rk_at", "_rk_batch", "_rk_t", "events.at", "zeta` --", "1", "*"):
        with pytest.raises(RookeryError) as caught:
            template.render({"sort": name, "also": "hits"}, Binder(), build.pipes["sort_by"].columns)
        assert caught.value.code is errors.IDENTIFIER, name
    for name, code in (("a_first_of_all", errors.SQL_SEMANTICS), ("nowhere", errors.IDENTIFIER)):
        (problem,) = problems_of(workspace, {**files, "sort_by": CHOICES.replace("'hits'", f"'{name}'")})
        assert problem.code is code
        assert str(problem.place).startswith("sort_by.yaml:4")
    summed = "sql: SELECT sum({{ column(metric) }}) AS total, {{ column(by) }} AS key FROM things GROUP BY key\n"
    assert compiled(workspace, {**files, "summed": summed}).warnings == ()


def test_a_required_parameter_with_a_default_is_optional(workspace: Workspace) -> None:
    pipe = "sql: SELECT {{ String(tz, 'UTC', required=True) }} AS tz, {{ String(must, required=True) }} AS must\n"
    build = compiled(workspace, {"asked": pipe})
    assert {p.name: p.required for p in parameters_of(build.pipes, "asked")} == {"tz": False, "must": True}


def test_a_view_over_a_template_is_refused(workspace: Workspace) -> None:
    hits = """
nodes:
  - {name: parsed, sql: "SELECT tenant_id, at, units FROM events {% if defined(k) %} WHERE kind = {{String(k)}} {% end %}"}
  - {name: last, sql: SELECT * FROM parsed}
"""
    sums = BASE["sums"].replace("FROM events", "FROM hits")
    (problem,) = problems_of(workspace, {**BASE, "hits": hits, "sums": sums})
    assert problem.code is errors.VIEW_SHAPE
    assert "`hits`" in problem.message and "`parsed` is a template" in problem.message
    assert str(problem.place).startswith("sums.yaml:3:3")


def test_an_id_that_does_not_fit_a_changed_column_is_reported(workspace: Workspace) -> None:
    texts = {n: t.replace("name: tenant_id, type: UInt32", "name: tenant_id, type: String") for n, t in BASE.items()}
    pushed(workspace, texts)
    add(workspace, ["acme"], "pooled")
    with pytest.raises(Problems) as caught:
        pushed(workspace, {"events": BASE["events"], "daily": BASE["daily"]})
    places = {str(p.place): p for p in caught.value.problems}
    assert list(places) == ["daily.yaml:4:29", "events.yaml:4:29"]
    assert {p.code for p in places.values()} == {errors.BAD_TENANT_ID}
    assert all('"acme"' in p.message for p in places.values())


NAMES = {
    "_mv_hits": "columns: [{name: _key, type: String}, {name: n, type: UInt8}]\nengine: {sorting_key: [_key]}\n",
    "__top": """
nodes:
  - {name: _top_0, sql: "SELECT _key, n AS __n FROM _mv_hits WHERE _key = {{ String(__key, 'a') }}"}
  - {name: _top, sql: "SELECT __n FROM _top_0 WHERE __n > {{ UInt8(_least, 0) }}"}
endpoint: {node: _top}
parameters: [{name: _least, type: UInt8}]
""",
    "_fill": "sql: SELECT _key, n FROM _src\nmaterialize: {target: _mv_hits, node: _fill_node}\n",
    "_src": "columns: [{name: _key, type: String}, {name: n, type: UInt8}]\nengine: {sorting_key: [_key]}\n",
}


def test_names_can_begin_with_an_underscore(workspace: Workspace) -> None:
    build = compiled(workspace, NAMES)
    assert [c.name for c in build.outputs["__top"]] == ["__n"]
    assert {p.name for p in parameters_of(build.pipes, "__top")} == {"__key", "_least"}
    for name in ("_rk_a", "_rk1_a", "_RK_a", "__"):
        problems = problems_of(workspace, {"a": f"nodes: [{{name: {name}, sql: SELECT 1}}]\n"})
        assert [p.code for p in problems] == [errors.BAD_NAME], name


def test_a_parameter_of_two_types_is_a_warning_and_one_against_the_file_an_error(workspace: Workspace) -> None:
    pipe = """
nodes:
  - {name: days, sql: "SELECT n FROM things WHERE day >= {{ Date(since) }} AND at >= {{ DateTime(since) }}"}
  - {name: last, sql: "SELECT n FROM days WHERE {{ String(since) }} != ''"}
"""
    build = compiled(workspace, {"things": THINGS, "asked": pipe})
    assert [(w.code, str(w.place)[:12]) for w in build.warnings] == [
        (errors.PARAMETER_CLASH, "asked.yaml:3"),
        (errors.PARAMETER_CLASH, "asked.yaml:4"),
    ]
    assert [p.type for p in parameters_of(build.pipes, "asked")] == ["Date"]
    (problem,) = problems_of(
        workspace, {"asked": pipe + "parameters: [{name: since, type: UUID}]\n", "things": THINGS}
    )
    assert problem.code is errors.PARAMETER_CLASH
