"""Type names, as the engine spells them."""

from __future__ import annotations

import pytest

from engine.warehouse.type_names import Type, on_one_line, parse_type


@pytest.mark.parametrize(
    ("text", "kind", "nullable", "parts"),
    [
        ("UInt8", "UInt8", False, []),
        ("LowCardinality(Nullable(String))", "String", True, []),
        ("Map(String, Array(Date))", "Map", False, ["String", "Array"]),
        ("Tuple(`a b` UInt8, c Nullable(Int8))", "Tuple", False, ["UInt8", "Int8"]),
        ("SimpleAggregateFunction(max, Int64)", "Int64", False, []),
        ("Enum8('a,b)' = 1)", "Enum8", False, []),
        ("Nonsense(1, 2", "Nonsense(1, 2", False, []),
    ],
)
def test_types(text: str, kind: str, nullable: bool, parts: list[str]) -> None:
    parsed = parse_type(text)
    assert (parsed.kind, parsed.nullable, [p.kind for p in parsed.parts]) == (kind, nullable, parts)


def test_types_with_numbers() -> None:
    assert [parse_type(t).precision for t in ("Decimal(9, 2)", "Nullable(Decimal(38, 10))")] == [9, 38]
    assert [parse_type(t).scale for t in ("Decimal(76, 2)", "DateTime64(9, 'UTC')")] == [2, 9]
    assert parse_type("Tuple(a UInt8, b String)").names == ("a", "b")
    assert parse_type("String") == Type("String", "String")


def test_a_type_on_several_lines() -> None:
    assert on_one_line("Tuple(\n    a UInt8,\n    b Array(Tuple(\n        c String)))") == (
        "Tuple(a UInt8, b Array(Tuple(c String)))"
    )
