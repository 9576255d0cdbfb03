"""Properties of templates: no value ever reaches the text, and any text gives a template or an error."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import (
    BAD_PARAMETER,
    IDENTIFIER,
    MISSING_PARAMETER,
    TEMPLATE,
    RookeryError,
)
from engine.template.dry_run import samples
from engine.template.environment import Binder, Template, compile_template
from tests.template.rendering import COLUMNS

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
    rendered = template.render({"x": x, "y": y}, binder, COLUMNS)
    assert rendered == template.render({"x": "a", "y": "b"}, quiet, COLUMNS)
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
        request = Recorder()
        template.render(request, Binder(), COLUMNS)
        assert request.names <= names
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
