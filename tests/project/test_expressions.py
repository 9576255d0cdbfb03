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
def test_lists(text: str, parts: tuple[str, ...]) -> None:
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
def test_what_is_not_a_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(an? |brackets |comments )"):
        split_list(text)


@pytest.mark.parametrize("text", ["a, b", "", "(a", "a,"])
def test_what_is_not_one_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r"item|empty|brackets"):
        single_expression(text)


@given(st.text("ab(),'`\"[] \\t", max_size=20))
def test_parts_stay_as_they_are_when_read_again(text: str) -> None:
    try:
        parts = split_list(text)
    except ValueError:
        return
    assert tuple(single_expression(part) for part in parts) == parts


def test_plain_names() -> None:
    assert plain_name("_a1") == "_a1"
    assert plain_name("a b") is None
    assert plain_name("a\n") is None
