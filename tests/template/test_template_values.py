"""Values in templates: how they are bound, which are missing, and what stays a Python value."""

from __future__ import annotations

import pytest

from engine.errors import (
    BAD_PARAMETER,
    MISSING_PARAMETER,
    TEMPLATE,
)
from engine.template.environment import Binder, compile_template
from tests.template.rendering import COLUMNS, refused, render


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
