"""Templates: the documented examples, static text, columns and the metadata of parameters."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.errors import (
    IDENTIFIER,
    MISSING_PARAMETER,
    TEMPLATE,
    Place,
)
from engine.template.dry_run import Sample, samples
from engine.template.environment import TEMPLATE_FUNCTIONS, UNSUPPORTED, Binder, PipeError, compile_template
from tests.template.rendering import COLUMNS, refused, render

DOCS = Path(__file__).parents[2] / "docs" / "templates.md"


# --- documentation ---
def _examples() -> list[tuple[str, dict[str, Any]]]:
    matches = re.findall(r"```jinja\n(.*?)\n```\n\n```json\n(.*?)\n```", DOCS.read_text(), re.S)
    return [(sql, json.loads(outcome)) for sql, outcome in matches]


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
    assert all(word in message for word in ("`x`", "Int32 on line 1", "String on line 2"))
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
