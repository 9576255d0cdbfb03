"""Dry runs: sample values take each branch of a template and show its mistakes."""

from __future__ import annotations

import pytest

from engine.errors import (
    IDENTIFIER,
    TEMPLATE,
    RookeryError,
)
from engine.template.dry_run import samples
from engine.template.environment import Binder, compile_template
from engine.template.values import Branches
from tests.template.rendering import COLUMNS, texts


def test_samples_take_both_branches() -> None:
    assert texts("{% if defined(x) %}a{{ Int8(x) }}{% else %}b{% end %}") == ["a{p1:Int8}", "b"]
    assert texts("{{ Int8(n) }}{% if x %}{{ x }}{% end %}") == ["{p1:Int8}{p2:String}", "{p1:Int8}"]


def test_samples_take_compared_constants_and_enums() -> None:
    rendered = texts("{% if x == 'a' %}A{% elif String(x, 'q') in ['b', 'c'] %}B{% else %}C{% end %}")
    assert sorted(rendered) == ["A", "B", "C"]
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
