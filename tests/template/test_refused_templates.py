"""Templates that are refused when compiled or rendered, with a place and a hint and without internals."""

from __future__ import annotations

import re
import time

import pytest

from engine.errors import (
    BAD_PARAMETER,
    CUSTOM,
    TEMPLATE,
    Place,
    RookeryError,
)
from engine.template.environment import UNSUPPORTED, Binder, PipeError, compile_template
from tests.template.rendering import COLUMNS, refused

LEAKS = r"0x[0-9a-f]{6}|jinja|object at|engine\.|/engine/|\.py\b"


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
