"""Parses ClickHouse's type names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clickhouse_connect.datatypes.base import ClickHouseType
from clickhouse_connect.datatypes.container import Array, Map, Tuple
from clickhouse_connect.datatypes.numeric import Decimal
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.datatypes.special import SimpleAggregateFunction
from clickhouse_connect.datatypes.temporal import DateTime64
from clickhouse_connect.driver.exceptions import ClickHouseError

GEOMETRY = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
"""The types that are other names of lists and tuples."""


@dataclass(frozen=True, slots=True)
class Type:
    """A parsed type."""

    kind: str
    """The name without arguments, such as `UInt8`, `Decimal` or `Array`."""
    text: str
    """The complete name."""
    nullable: bool = False
    """Whether null is a value, even if Nullable is inside LowCardinality."""
    parts: tuple[Type, ...] = ()
    """The types of the elements; for a Map, those of key and value."""
    names: tuple[str, ...] = ()
    """The names of the elements of a Tuple, if they have any."""
    precision: int = 0
    """Of a Decimal."""
    scale: int = 0
    """Of a Decimal or DateTime64."""
    zone: str = "UTC"
    """The zone of times whose type does not name one."""

    def in_zone(self, zone: str) -> Type:
        """The type in a workspace with a time zone."""
        return replace(self, zone=zone, parts=tuple(part.in_zone(zone) for part in self.parts))


def on_one_line(text: str) -> str:
    """Join the name of a type, which the engine may write on several lines, into one line."""
    fragments: list[str] = []
    for line in (part.strip() for part in text.split("\n")):
        if fragments and line and not fragments[-1].endswith("(") and not line.startswith(")"):
            fragments.append(" ")
        fragments += [line] if line else []
    return "".join(fragments)


def parse_type(text: str) -> Type:
    """Parse the canonical name of a type. For an unknown type, the kind is the whole name and there are no parts."""
    try:
        return _read(get_from_name(text))
    except (ClickHouseError, LookupError, ValueError, AttributeError, TypeError):
        return Type(text, text)


def _read(parsed: ClickHouseType) -> Type:
    """Convert the client's type. LowCardinality and Nullable are flags there, not parts."""
    kind = "Decimal" if isinstance(parsed, Decimal) else type(parsed).__name__
    parts: list[ClickHouseType] = []
    if kind in GEOMETRY:
        return replace(_read(get_from_name(GEOMETRY[kind])), text=parsed.name)
    if isinstance(parsed, SimpleAggregateFunction):
        # Its values have the type that the function combines.
        return replace(_read(parsed.element_type), text=parsed.name)
    if isinstance(parsed, Array):
        parts = [parsed.element_type]
    elif isinstance(parsed, Map):
        parts = [parsed.key_type, parsed.value_type]
    elif isinstance(parsed, Tuple):
        parts = list(parsed.element_types)
    return Type(
        kind,
        parsed.name,
        bool(parsed.nullable),
        tuple(map(_read, parts)),
        tuple(parsed.element_names) if isinstance(parsed, Tuple) else (),
        int(parsed.prec) if isinstance(parsed, Decimal) else 0,
        int(parsed.scale) if isinstance(parsed, Decimal | DateTime64) else 0,
    )
