"""Splitting lists of expressions, such as sorting keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.project.expressions import plain_name, single_expression, split_list


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a",)),
        (" a , b ", ("a", "b")),
        ("(a, b)", ("a", "b")),
        ("((a), (b))", ("a", "b")),
        ("tuple(a, b)", ("a", "b")),
        ("tuple()", ()),
        ("tuple ( )", ()),
        ("tuple(a), b", ("tuple(a)", "b")),
        ("(a), (b)", ("a", "b")),
        ("a, (b, c)", ("a", "(b, c)")),
        ("f(a, b), [c, d], {e, f}", ("f(a, b)", "[c, d]", "{e, f}")),
        ('`a`, "b", `c d`', ("a", "b", "`c d`")),
        ("splitByChar(',', a), 'it''s, ok', '\\', '", ("splitByChar(',', a)", "'it''s, ok'", "'\\', '")),
    ],
)
def test_expression_lists_are_split(text: str, parts: tuple[str, ...]) -> None:
    assert split_list(text) == parts
    assert tuple(single_expression(part) for part in parts) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,",
        ",",
        "a,,b",
        "()",
        "(a",
        "a)",
        "(a]",
        "'a",
        "`a",
        "'a\\",
        "a -- b",
        "a /* , */",
        "a # b",
        "(" * 9999 + ")" * 9999,
    ],
)
def test_invalid_lists_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(an? |brackets |comments )"):
        split_list(text)


@pytest.mark.parametrize("text", ["a, b", "", "(a", "a,"])
def test_several_expressions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"item|empty|brackets"):
        single_expression(text)


@given(st.text("ab(),'`\"[] \\t", max_size=20))
def test_parts_are_stable_when_parsed_again(text: str) -> None:
    try:
        parts = split_list(text)
    except ValueError:
        return
    assert tuple(single_expression(part) for part in parts) == parts


def test_plain_names_are_recognized() -> None:
    assert plain_name("_a1") == "_a1"
    assert plain_name("a b") is None
    assert plain_name("a\n") is None
