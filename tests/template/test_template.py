"""Templates: what they render, what they refuse, and that no value ever reaches the text."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import (
    BAD_PARAMETER,
    CUSTOM,
    IDENTIFIER,
    MISSING_PARAMETER,
    TEMPLATE,
    Place,
    RookeryError,
)
from engine.template.dry_run import Sample, samples
from engine.template.environment import TEMPLATE_FUNCTIONS, UNSUPPORTED, Binder, PipeError, Template, compile_template
from engine.template.values import Branches

COLUMNS = frozenset({"kind", "ts", "amount", "a`b", "n.x"})
LEAKS = r"0x[0-9a-f]{6}|jinja|object at|engine\.|/engine/|\.py\b"
DOCS = Path(__file__).parents[2] / "docs" / "templates.md"


def render(sql: str, request: Mapping[str, object] | None = None, **named: object) -> tuple[str, list[Any]]:
    binder = Binder()
    text = compile_template(sql).render({**(request or {}), **named}, binder, COLUMNS)
    assert list(binder.bindings) == list(binder.types) == [f"p{n}" for n in range(1, len(binder.bindings) + 1)]
    assert all(f"{{{name}:{type}}}" in text for name, type in binder.types.items())
    return text, list(binder.bindings.values())


def refused(sql: str, request: Mapping[str, object] | None = None, **named: object) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        render(sql, request, **named)
    return caught.value


# --- documentation ---
def _examples() -> list[tuple[str, dict[str, Any]]]:
    found = re.findall(r"```jinja\n(.*?)\n```\n\n```json\n(.*?)\n```", DOCS.read_text(), re.S)
    return [(sql, json.loads(outcome)) for sql, outcome in found]


@pytest.mark.parametrize(("sql", "outcome"), _examples())
def test_documented_example(sql: str, outcome: dict[str, Any]) -> None:
    if "error" in outcome:
        error = refused(sql, outcome["request"])
        assert (error.code.id, error.message) == (outcome["error"], outcome["message"])
        if "status" in outcome:
            assert isinstance(error, PipeError)
            assert (error.status, error.code.status, error.body) == (418, 418, outcome["body"])
        return
    text, values = render(sql, outcome["request"])
    assert text == outcome["sql"]
    plain = [str(v) if isinstance(v, Decimal) else v for v in values]
    assert dict(zip([f"p{n}" for n in range(1, 99)], plain, strict=False)) == outcome["bindings"]


def test_every_function_is_documented_with_an_example() -> None:
    text = DOCS.read_text()
    headings = {name for line in re.findall(r"^### (.*)$", text, re.M) for name in re.findall(r"`(\w+)`", line)}
    assert headings == set(TEMPLATE_FUNCTIONS)
    assert all(f"`{name}`" in text for name in UNSUPPORTED)
    shown = " ".join(sql for sql, _ in _examples())
    numbers = {name for name in TEMPLATE_FUNCTIONS if re.fullmatch(r"U?Int\w*|Float\w*|Bool", name)}
    assert not [name for name in set(TEMPLATE_FUNCTIONS) - numbers if f"{name}(" not in shown]
    assert text.count("```jinja") == len(_examples())


# --- static text ---
@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT {x:String}, '%', '}}', '{', \"%}\"", "", "\n", "SELECT '{ {'"])
def test_static_text_is_untouched(sql: str) -> None:
    template = compile_template(sql)
    assert template.is_static
    assert template.render({"x": "1"}, Binder(), COLUMNS) == sql
    assert samples(template, COLUMNS) == [Sample(sql, Binder())]
    assert template.parameters == ()


@pytest.mark.parametrize(
    ("sql", "text"), [("%\nSELECT 1", "SELECT 1"), ("\n % \nSELECT 1", "SELECT 1"), ("%SELECT 1",) * 2]
)
def test_template_marker(sql: str, text: str) -> None:
    assert compile_template(sql).text == text.lstrip("%")


def test_clickhouse_placeholders_and_white_space_pass_through() -> None:
    assert render("  SELECT {a: String} , {{ x }}\n\n", x="1") == ("  SELECT {a: String} , {p1:String}\n\n", ["1"])


# --- parameters ---
def test_placeholder_names_continue_across_nodes() -> None:
    binder = Binder()
    texts = [compile_template("{{ x }}").render({"x": "1"}, binder, COLUMNS) for _ in range(3)]
    assert texts == ["{p1:String}", "{p2:String}", "{p3:String}"]


@pytest.mark.parametrize(
    ("value", "type"),
    [
        ("1", "String"),
        ("é", "String"),
        (1, "Int64"),
        (1.5, "Float64"),
        (True, "Bool"),
        (["a"], "Array(String)"),
        ([], "Array(String)"),
        ([1, 2], "Array(Int64)"),
        ([1, 2.5], "Array(Float64)"),
        ([True], "Array(Bool)"),
        ({"a": 1}, "String"),
    ],
)
def test_bare_values_are_bound_by_their_type(value: object, type: str) -> None:
    assert render("{{ x }}", x=value)[0] == f"{{p1:{type}}}"


@pytest.mark.parametrize("value", [2**63, "\ud800", [1, "a"], [[1]], [None], ["\ud800"]])
def test_bare_values_that_cannot_be_bound(value: object) -> None:
    assert refused("{{ x }}", x=value).code in (BAD_PARAMETER, TEMPLATE)


def test_json_null_is_absent() -> None:
    assert refused("{{ x }}", x=None).code is MISSING_PARAMETER
    assert render("{{ Int8(x, 1) }}", x=None) == ("{p1:Int8}", [1])


@pytest.mark.parametrize(
    "sql",
    [
        "{% if x %}1{% else %}0{% end %}",
        "{% if x == 'a' %}1{% else %}0{% end %}",
        "{% if x in ['a', 'b'] %}1{% else %}0{% end %}",
        "{% if defined(x) %}1{% else %}0{% end %}",
        "{% if x is defined %}1{% else %}0{% end %}",
        "{% if x is not None %}1{% else %}0{% end %}",
        "{% if x != None %}1{% else %}0{% end %}",
        "{% if String(x, defined=False) %}1{% else %}0{% end %}",
        "{% if 'a' == x %}1{% else %}0{% end %}",
        "{% if not (x is None) and x %}1{% elif x %}2{% else %}0{% end %}",
        "{% set y = x %}{% if y %}1{% else %}0{% end %}",
    ],
)
def test_absent_parameters(sql: str) -> None:
    assert render(sql) == ("0", [])
    assert render(sql, x="a") == ("1", [])


@pytest.mark.parametrize(
    "sql",
    [
        *["{{ x }}", "{{ Int8(x) }}", "{{ x + 1 }}", "{{ x ~ 'a' }}", "{{ x[0] }}", "{{ x[1:] }}", "{{ -x }}"],
        *["{{ x.split(',') }}", "{% for a in x %}{% end %}", "{% if x > 5 %}{% end %}", "{{ len(x) }}", "{{ [x] }}"],
        *["{{ column(x) }}", "{{ columns(x) }}", "{{ symbol(x) }}", "{{ split_to_array(x) }}", "{{ min(x, 1) }}"],
        *["{{ Int8(y, x) }}", "{{ String(x, defined=False) }}", "{{ int(x) }}", "{{ day_diff(x, '2020-01-01') }}"],
        *["{{ String(x, required=True) }}", "{{ Boolean(x) }}", "{{ 'a,b'.split(x) }}", "{{ Array(x) }}"],
        *[
            "{{ error(x) }}",
            "{{ {'a': 1}[x] }}",
            "{{ JSON(x)['a'] }}",
            "{{ Decimal(x, 3, 2) }}",
            "{{ 1 if 1 else x }}{{x}}",
        ],
    ],
)
def test_missing_parameters_are_errors(sql: str) -> None:
    error = refused(sql)
    assert error.code is MISSING_PARAMETER
    assert error.message == "required parameter missing: `x`"


def test_all_missing_parameters_are_named_even_before_another_error() -> None:
    assert refused("{{ Int8(a) }}{{ column(b) }}{{ 1 / 0 }}").message.endswith("missing: `a`, `b`")


def test_invalid_values_do_not_fall_back_to_defaults() -> None:
    assert refused("{{ Int8(x, 1) }}", x="").code is BAD_PARAMETER
    assert refused("{{ Int8(x, 'one') }}").code is TEMPLATE
    assert render("{{ Int8(x, y) }}", y="3") == ("{p1:Int8}", [3])


def test_enum_of_arrays_and_numbers() -> None:
    assert render("{{ Array(x, 'Int8', enum=[1, 2]) }}", x="1,2,1")[1] == [[1, 2, 1]]
    assert refused("{{ Array(x, 'Int8', enum=[1, 2]) }}", x="1,3").code is BAD_PARAMETER
    error = refused("{{ Int8(x, enum=[1, 2]) }}", x="3")
    assert error.code is BAD_PARAMETER
    assert all(word in error.message for word in ("`x`", "1, 2", "got 3"))


def test_arithmetic_keeps_python_types() -> None:
    sql = "{{ Int8(x)+1 }} {{ Int8(x)/2 }} {{ -Int8(x) }} {{ min(Int8(x), Int32(y)) }} {{ 'a'+z }}"
    text, values = render(sql, z="b", x="3", y=5)
    assert text == "{p1:Int64} {p2:Float64} {p3:Int64} {p4:Int8} {p5:String}"
    assert values == [4, 1.5, -3, 3, "ab"]


def test_array_items_keep_their_type() -> None:
    sql = "{% for d in Array(x, 'Date') %}{{ d }}{% end %}{{ Array(x, 'Date')[0] }}{{ Array(x, 'Date')[:1] }}"
    assert render(sql, x="2020-01-01")[0] == "{p1:Date}{p2:Date}{p3:Array(Date)}"


def test_literals_are_bound() -> None:
    assert render("{{ 'a' }}{{ 1 }}{{ 1.5 }}{{ true }}{{ ['a'] }}{{ String('q') }}")[0] == (
        "{p1:String}{p2:Int64}{p3:Float64}{p4:Bool}{p5:Array(String)}{p6:String}"
    )


def test_request_names_cannot_shadow_functions_or_internals() -> None:
    hostile = {"String": "x", "rk_fn_String": "x", "rk_each": "x", "run": "x", "context": "x", "environment": "x"}
    sql = "{% for a in split_to_array(v) %}{{ String(a) }}{% end %}{{ environment }}{{ context }}{{ String }}"
    assert render(sql, hostile, v="1")[1] == ["1", "x", "x", "x"]


def test_names_set_in_one_branch_only_are_parameters() -> None:
    template = compile_template(
        "{% if a %}{% set y = 1 %}{% set z = 1 %}{% else %}{% set z = 2 %}{% end %}{{ y }}{{ z }}"
    )
    assert [p.name for p in template.parameters] == ["a", "y"]
    binder = Binder()
    template.render({"a": "1"}, binder, COLUMNS)
    template.render({"y": "given", "z": "ignored"}, binder, COLUMNS)
    assert list(binder.bindings.values()) == [1, 1, "given", 2]


# --- columns ---
def test_identifiers_are_quoted() -> None:
    assert render("{{ column(x) }}", x="a`b") == ("`a\\`b`", [])
    assert render("{{ columns(x, fn='max') }}", x="n.x, ts")[0] == "max(`n.x`) AS `n.x`,max(`ts`) AS `ts`"
    assert render("{{ sql_and(n=1) if 0 else column('ts') }}")[0] == "`ts`"


@pytest.mark.parametrize(
    "sql", ["{{ column(x) }}", "{{ columns(x) }}", "{{ symbol(x) }}", "{{ columns('ts,' + x) }}"]
)
@pytest.mark.parametrize("value", ["knd", "", "1", "ts`", "KIND", "ts--", "kind AS x", ["x"], 5])
def test_only_known_columns_are_identifiers(sql: str, value: object) -> None:
    assert refused(sql, x=value).code in (IDENTIFIER, TEMPLATE)


def test_similar_names_are_suggested() -> None:
    assert refused("{{ column(x) }}", x="knd").hint == "did you mean `kind`?"
    assert refused("{{ sql_and(knd=1) }}").code is IDENTIFIER


@pytest.mark.parametrize("fn", ["sum(x),", "a b", "1a", "", "sum\n", "sümme"])
def test_function_names_of_columns(fn: str) -> None:
    assert refused("{{ columns('ts', fn=f) }}", f=fn).code is TEMPLATE


def test_sql_and_binds_in_order_and_drops_the_absent() -> None:
    sql = "{{ sql_and(kind=x, amount__gt=Int8(a, defined=False), ts__not_in=['b'], amount__lte=y) }}"
    assert render(sql, y=5)[0] == "`ts` not in {p1:Array(String)} and `amount` <= {p2:Int64}"
    assert render("{{ sql_and(kind=x) }}") == ("", [])
    assert refused("{{ sql_and(kind__in=x) }}", x="a").code is TEMPLATE


# --- metadata ---
def test_parameters() -> None:
    sql = """
      {% if x == '1' %}{{ Int32(x, 5, description='how many', enum=[1, 5], example=5, format='n') }}{% end %}
      {{ Array(ids, 'Int', default='1,2') }} {{ bare }} {% if seen %}{{ String(inner) }}{% end %}
      {{ column(by, 'ts') }} {{ String(must, 'd', required=True) }} {{ Date(opt, defined=False) if opt }}
    """.replace("{{ Date(opt, defined=False) if opt }}", "{% if Date(opt, defined=False) %}{% end %}")
    specs = {p.name: p for p in compile_template(sql).parameters}
    assert list(specs) == ["x", "ids", "bare", "seen", "inner", "by", "must", "opt"]
    x = specs["x"]
    assert (x.type, x.default, x.description, x.enum, x.example, x.format) == ("Int32", 5, "how many", (1, 5), 5, "n")
    assert (specs["ids"].type, specs["ids"].default) == ("Array(Int64)", "1,2")
    assert (specs["by"].type, specs["by"].default) == ("String", "ts")
    assert [n for n, p in specs.items() if p.required] == ["bare"]
    assert [n for n, p in specs.items() if not p.explicit] == ["bare", "seen"]


def test_types_of_parameters_are_canonical() -> None:
    sql = "{{ Int(a) }}{{ Boolean(b) }}{{ DateTime64(c, precision=3) }}{{ Decimal(d, 9, 2) }}{{ Float(e) }}"
    types = [p.type for p in compile_template(sql).parameters]
    assert types == ["Int64", "Bool", "DateTime64(3)", "Decimal(9, 2)", "Float64"]


def test_conflicting_types_are_noted_and_each_place_converts_for_itself() -> None:
    template = compile_template("{{ Int32(x) }}\n{{ String(x) }}", Place("a.yaml", 10))
    ((place, message),) = template.type_conflicts
    assert place == Place("a.yaml", 11)
    assert all(word in message for word in ("`x`", "Int32 in line 1", "String in line 2"))
    assert [p.type for p in template.parameters] == ["Int32"]
    binder = Binder()
    template.render({"x": "7"}, binder, COLUMNS)
    assert list(binder.bindings.values()) == [7, "7"]
    assert not compile_template("{{ Int(x) }}{{ Int64(x) }}{{ Integer(x) }}{% if x %}{% end %}").type_conflicts


def test_the_item_type_can_be_unquoted_or_invalid() -> None:
    assert render("{{ Array(x, Int8) }}{{ Array(x, 'ids') }}", x="1,2") == (
        "{p1:Array(Int8)}{p2:Array(String)}",
        [[1, 2], ["1", "2"]],
    )
    sql = """{{ Array(x, "'free', 'paid'", description='Which', required=False) }}"""
    assert render(sql, x="a")[0] == "{p1:Array(String)}"
    assert refused(sql).code is MISSING_PARAMETER


# --- refusals ---
REFUSED = [
    *[
        "{{ ''.__class__ }}",
        "{{ String.__globals__ }}",
        "{{ x.__init__ }}",
        "{{ x['__class__'].mro() }}",
        "{{ self }}",
    ],
    *["{{ cycler('a') }}", "{{ namespace() }}", "{{ lipsum() }}", "{{ joiner() }}", "{{ dict() }}", "{{ caller() }}"],
    *["{{ super() }}", "{{ varargs }}", "{{ kwargs }}", "{{ loop }}", "{{ __import__('os') }}", "{{ rk_each }}"],
    *["{{ x|safe }}", "{{ x|e }}", "{{ x|tojson }}", "{{ x|attr('__class__') }}", "{{ '%s'|format(x) }}"],
    *["{{ x.format(1) }}", "{{ x.format_map({}) }}", "{{ x.encode() }}", "{{ x.__class__() }}", "{{ x.upper }}"],
    *["{% macro m() %}{% endmacro %}", "{% import 'a' as b %}", "{% from 'a' import b %}", "{% include 'a' %}"],
    *["{% extends 'a' %}", "{% block a %}{% endblock %}", "{% raw %}{{ x }}{% endraw %}", "{% call m() %}{% end %}"],
    *["{% filter upper %}a{% endfilter %}", "{% autoescape false %}{% end %}", "{% with a = 1 %}{% end %}"],
    *["{% set a %}text{% endset %}", "{% set a.b = 1 %}", "{% set x.__class__ = 1 %}", "{% print x %}", "{% do x %}"],
    *["{% while 1 %}{% end %}", "{% try %}{% end %}", "{% for a in b recursive %}{{ loop(a) }}{% end %}"],
    *["{% for a in b %}{% else %}{% end %}", "{% for a in b %}{{ loop.cycle(1) }}{% end %}", "{% break %}"],
    *["{% for a in b %}{{ loop }}{% end %}", "{% for a in b %}{{ loop.nextitem }}{% end %}", "{% continue %}"],
    *[
        "{{ x ** 2 }}",
        "{{ x() }}",
        "{{ [1][0]() }}",
        "{{ String(*x) }}",
        "{{ String(**x) }}",
        "{{ String }}{{ String() }}",
    ],
    *[
        "{{ String(x, nope=1) }}",
        "{{ Array(x, 'Nope') }}",
        "{{ Array(x, y) }}",
        "{{ Decimal(x, 99, 1) }}",
        "{{ Decimal(x) }}",
    ],
    *[
        "{{ x",
        "{% if x %}",
        "{% end %}",
        "{% endif %}",
        "{% if x %}{% endfor %}",
        "{{ }}",
        "{% %}",
        "{% if %}{% end %}",
    ],
    *["{# a", "{% comment", "{% for %}{% end %}", "{{ 1 2 }}", "{{ 'a }}", "{% else %}", "{{ x if y }}", "{{ é }}"],
    *["{{ x is string }}", "{{ x is sameas(1) }}", "{{ x is in [1] }}", "{% nope %}", "{% 5 %}", "{{ {{ x }} }}"],
    *["{{" + "(" * 500 + "1" + ")" * 500 + "}}", "{{ " + "-" * 500 + "1 }}", "{% if 1 %}" * 150 + "{% end %}" * 150],
    *[
        "{{ " + "9" * 5000 + " }}",
        "{% for a in b %}" * 25 + "{% end %}" * 25,
        "{{ x }}" + " " * 70_000,
        "{{ 1 }}\ud800",
    ],
    *[
        "{% set n = 0 %}{% for a in b %}{% set n = n + 1 %}{% end %}{{ n }}",
        *(f"{{{{ {f}(1) }}}}" for f in UNSUPPORTED),
    ],
]


@pytest.mark.parametrize("sql", REFUSED, ids=lambda s: ascii(s)[:60])
def test_templates_refused_when_compiled(sql: str) -> None:
    with pytest.raises(RookeryError) as caught:
        compile_template(sql)
    assert caught.value.code is TEMPLATE
    assert not re.search(r"0x[0-9a-f]{6}|jinja|object at|/", f"{caught.value.message}{caught.value.hint}", re.I)


@pytest.mark.parametrize(
    "sql",
    [
        *[
            "{{ 1 / 0 }}",
            "{{ None }}",
            "{{ range(3) }}",
            "{{ [1, 'a'] }}",
            "{{ [[1]] }}",
            "{{ x < 5 }}",
            "{{ 'a' * 10**1 }}",
        ][:6],
        *["{{ 'a' * 2000000 }}", "{{ [1] * 2000000 }}", "{{ range(10001) }}", "{{ range(9999999999999999999999) }}"],
        *["{% for a in range(101) %}{% for b in range(101) %}{% end %}{% end %}", "{% for c in 'abc' %}{% end %}"],
        *["{% for a in range(9000) %}12345678{% end %}", "{{ x.replace('', x * 100000) }}", "{{ '%d' % 5 }}"],
        *["{% for a in range(9000) %}{{ a }}{% end %}", "{{ x * x }}", "{{ len(5) }}", "{{ x[99] }}", "{{ 5[0] }}"],
        *["{{ 99999999999999999999 * 99999999999999999999 }}", "{{ {[1]: 2} }}", "{{ min() }}", "{{ x.split('') }}"],
        *["{{ 9999999999999999999999999999999999999999 * " * 12 + "1" + " }}", "{{ String(None) }}", "{{ int(x) }}"][
            1:
        ],
        *[
            "{{ Decimal(n, 5, 2) + 1 }}",
            "{{ column('ts') ~ 'a' }}",
            "{{ column('ts') + 'a' }}",
            "{{ [column('ts')] }}",
        ],
        *["{{ error(column('ts')) }}", "{{ custom_error('a', 200) }}", "{{ custom_error(column('ts')) }}"],
        *["{{ String(column('ts')) }}", "{{ {'a': column('ts')} }}", "{{ day_diff('a', 'b') }}", "{{ -x }}"],
        *["{{ '\\ud800' }}", "{{ day_diff('2020-01-01', '2021-01-01', date_format=5) }}", "{{ enumerate(5) }}"],
    ],
    ids=lambda s: s[:60],
)
def test_templates_refused_when_rendered(sql: str) -> None:
    error = refused(sql, x="text", n="1")
    assert error.code in (TEMPLATE, BAD_PARAMETER)
    assert not re.search(LEAKS, f"{error.message}{error.hint}", re.I)


def test_work_on_large_requests_is_bounded() -> None:
    for body in ("{% if Array(x, 'Int8') %}{% end %}", "{% set y = x.replace('1', '2') %}", "{% set y = x + x %}"):
        started = time.thread_time()
        assert refused("{% for i in range(9999) %}" + body + "{% end %}", x="1," * 40_000 + "1").code is TEMPLATE
        assert time.thread_time() - started < 5


def test_growing_text_is_bounded() -> None:
    sql = "{% set a = 'aaaaaaaaaa' %}" + "".join(f"{{% set a = a {op} a %}}" for op in "~+" * 30) + "{{ a }}"
    started = time.thread_time()
    assert refused(sql).code is TEMPLATE
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("{{ Strng(x) }}", "did you mean `String`?"),
        ("{{ x.splt(',') }}", "did you mean `split`?"),
        ("{% fro a in b %}", "did you mean for?"),
        ("{{ max_threads(3) }}", UNSUPPORTED["max_threads"]),
    ],
)
def test_hints(sql: str, hint: str) -> None:
    with pytest.raises(RookeryError) as caught:
        compile_template(sql)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "sql",
    [
        "%\nSELECT 1,\n{{ nope(x) }}",
        "SELECT 1,\n\n{{ x.y }}",
        "a\nb\n{% if x %}",
        "\n\n{{ x",
        "\n\n{{ 1 / 0 }}",
        "\n\n{{ [] ~ 1 }}",
    ],
)
def test_places(sql: str) -> None:
    for place, position in (
        (Place("p.yaml", 5), None),
        (Place("p.yaml", 5), lambda line, column: Place("p.yaml", 100 + line, column)),
    ):
        with pytest.raises(RookeryError) as caught:
            compile_template(sql, place, position).render({}, Binder(), COLUMNS)
        assert caught.value.place == (Place("p.yaml", 7) if position is None else Place("p.yaml", 103, 1))


def test_custom_errors() -> None:
    assert refused("{{ error('no ' + x) }}", x="way").code is CUSTOM
    error = refused("{{ custom_error({'error': x, 'list': [1, y]}, 503) }}", x="no")
    assert isinstance(error, PipeError)
    assert (error.status, error.body) == (503, {"error": "no", "list": [1, None]})
    plain = refused("{{ custom_error('gone', 410) }}")
    assert isinstance(plain, PipeError)
    assert (plain.message, plain.body, plain.code.id) == ("gone", "gone", CUSTOM.id)


# --- dry runs ---
def texts(sql: str) -> list[str]:
    return [sample.text for sample in samples(compile_template(sql), COLUMNS)]


def test_samples_take_both_branches() -> None:
    assert texts("{% if defined(x) %}a{{ Int8(x) }}{% else %}b{% end %}") == ["a{p1:Int8}", "b"]
    assert texts("{{ Int8(n) }}{% if x %}{{ x }}{% end %}") == ["{p1:Int8}{p2:String}", "{p1:Int8}"]


def test_samples_take_compared_constants_and_enums() -> None:
    found = texts("{% if x == 'a' %}A{% elif String(x, 'q') in ['b', 'c'] %}B{% else %}C{% end %}")
    assert sorted(found) == ["A", "B", "C"]
    assert len(texts("{{ column(x, 'ts', enum=['ts', 'kind']) }}")) == 2


def test_samples_choose_columns_and_suppress_errors() -> None:
    assert texts("{{ column(x) }}{{ error('no') }}{{ custom_error({}, 500) }}") == ["`a\\`b`"]
    assert texts("{{ columns(x, 'ts') }}{{ 1 / Int8(y) }}{{ x[3] }}{{ day_diff(a, b) }}{{ int(c) }}")


def test_samples_show_mistakes() -> None:
    for sql, code in (
        ("{{ column('nope') }}", IDENTIFIER),
        ("{{ Int8(x, 'a') }}", TEMPLATE),
        ("{{ x + 1 }}", TEMPLATE),
    ):
        with pytest.raises(RookeryError) as caught:
            samples(compile_template(sql), COLUMNS)
        assert caught.value.code is code


def test_a_dry_run_keeps_bindings_of_other_templates() -> None:
    binder = Binder()
    first, second = compile_template("{{ Int8(n) }}"), compile_template("{{ Date(d) }}{{ n }}{{ String(late) }}")
    values = {"n": 3, "d": "2020-02-02", "late": "x"}
    assert first.dry_run(values, {}, binder, COLUMNS, Branches()) == "{p1:Int8}"
    # Samples for missing parameters are found in another attempt, which must not drop or repeat anything.
    assert second.dry_run({"n": 3}, values, binder, COLUMNS, Branches()) == "{p2:Date}{p3:Int64}{p4:String}"
    assert list(binder.bindings.values()) == [3, "2020-02-02", 3, "x"]
    assert list(binder.types.values()) == ["Int8", "Date", "Int64", "String"]


# --- properties ---
CORPUS = [
    "SELECT {{ x }}, {{ String(y, 'd') }}",
    "{{ sql_and(kind=x, ts__gte=String(y, defined=False)) }} {{ x + y }} {{ x ~ y }} {{ x.replace('a', y) }}",
    "{{ Array(x) }} {{ split_to_array(x) }} {{ [x, y] }} {{ {'k': x} }} {{ x.split(',') }} {{ x.upper() + y[1:] }}",
    "{% set z = x %}{{ z }}{% for v in [x, y, 'lit'] %}{{ v }}{% end %}{{ x if 1 else y }}{{ min(x, y) }}",
    "{% for n, v in enumerate([x, y]) %}{% if loop.first %}{{ n }}{% end %}{{ v.strip() }}{% end %}{{ len(x) }}",
    "{{ sql_unescape(String(x), '%') }} {{ ','.join([x, y]) }} {{ enumerate_with_last([x])[0][1] }}",
]
TEMPLATES = [compile_template(sql) for sql in CORPUS]


@pytest.mark.proves("A3")
@given(st.sampled_from(TEMPLATES), st.text(), st.text())
@example(TEMPLATES[0], "' OR 1=1 --", "\\'; DROP TABLE t; --")
@example(TEMPLATES[1], "{p1:String}", "{{ x }}")
@example(TEMPLATES[2], '<b>&</b>\0`"$a$', "{% end %}")
def test_values_never_change_the_text(template: Template, x: str, y: str) -> None:
    binder, quiet = Binder(), Binder()
    found = template.render({"x": x, "y": y}, binder, COLUMNS)
    assert found == template.render({"x": "a", "y": "b"}, quiet, COLUMNS)
    assert binder.types == quiet.types


@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "z"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
            lambda s: st.lists(s, max_size=2) | st.dictionaries(st.text(), s, max_size=2),
        ),
    ),
    st.sampled_from(TEMPLATES),
)
def test_any_request_gives_text_or_a_rookery_error(request: dict[str, Any], template: Template) -> None:
    try:
        template.render(request, Binder(), COLUMNS)
    except RookeryError as exc:
        assert exc.code in (BAD_PARAMETER, MISSING_PARAMETER, TEMPLATE)


PIECES = st.sampled_from(
    [
        *[
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "{%-",
            "-%}",
            " ",
            "\n",
            "x",
            "y",
            "1",
            "'a'",
            "(",
            ")",
            "[",
            "]",
            ",",
            "|",
        ],
        *["if", "for", "in", "set", "end", "else", "elif", "=", "==", "+", "*", "~", ".", "not", "is", "and", "None"],
        *[
            "String",
            "Int32",
            "Array",
            "column",
            "sql_and",
            "defined",
            "range",
            "loop",
            "split",
            "raw",
            "comment",
            "{",
            "}",
        ],
        *[
            "{{ x }}",
            "{% if x %}",
            "{% for a in Array(x) %}",
            "{% end %}",
            "{% set y = ",
            "{{ Int8(",
            "default=",
            "a",
        ],
    ]
)


class Recorder(dict[str, object]):
    """A request that gives every parameter and remembers which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, key: str, default: object = None) -> object:
        self.names.add(key)
        return "1"


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=25), st.booleans())
def test_any_text_gives_a_template_or_a_rookery_error(pieces: list[str], spaced: bool) -> None:
    try:
        template = compile_template((" " if spaced else "").join(pieces))
        names = {p.name for p in template.parameters}
        samples(template, COLUMNS)
        asked = Recorder()
        template.render(asked, Binder(), COLUMNS)
        assert asked.names <= names
    except RookeryError as exc:
        assert exc.code in (TEMPLATE, BAD_PARAMETER, MISSING_PARAMETER, IDENTIFIER)


MOST_CALLS = 300
"""Of functions, for a template of three parameters; compiling one of a single parameter takes 1,500."""


def test_rendering_makes_few_calls() -> None:
    """It is done for each request: parsing, or sampling, would take many times the calls."""
    template = compile_template(
        "SELECT * FROM t WHERE a = {{ Int32(x) }}{% if y %} AND b = {{ String(y) }}{% end %} LIMIT {{ Int32(n, 10) }}"
    )
    template.render({"x": "5", "y": "z"}, Binder(), COLUMNS)
    calls: Counter[str] = Counter()
    sys.setprofile(lambda _frame, event, _argument: calls.update([event]))
    try:
        template.render({"x": "5", "y": "z"}, Binder(), COLUMNS)
    finally:
        sys.setprofile(None)
    assert calls["call"] + calls["c_call"] < MOST_CALLS
