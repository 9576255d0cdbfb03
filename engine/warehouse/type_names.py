"""Reading ClickHouse's type names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clickhouse_connect.datatypes.base import ClickHouseType
from clickhouse_connect.datatypes.container import Array, Map, Tuple
from clickhouse_connect.datatypes.numeric import Decimal
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.datatypes.special import SimpleAggregateFunction
from clickhouse_connect.datatypes.temporal import DateTime64
from clickhouse_connect.driver.exceptions import ClickHouseError


@dataclass(frozen=True, slots=True)
class Type:
    """A type: its kind, such as `UInt8`, `Decimal` or `Array`, and what it is made of.

    `text` is its whole name, `parts` are the types of elements (of a Map: key and value), `names` those of a Tuple
    if they have any. `precision` and `scale` are a Decimal's, `scale` a DateTime64's too.
    """

    kind: str
    text: str
    nullable: bool = False
    parts: tuple[Type, ...] = ()
    names: tuple[str, ...] = ()
    precision: int = 0
    scale: int = 0


def on_one_line(text: str) -> str:
    """A type's name as the engine writes it, which may be on several lines, on one."""
    found: list[str] = []
    for line in (part.strip() for part in text.split("\n")):
        if found and line and not found[-1].endswith("(") and not line.startswith(")"):
            found.append(" ")
        found += [line] if line else []
    return "".join(found)


def parse_type(text: str) -> Type:
    """A type by its canonical name; one that is not known has its name for its kind, and no parts."""
    try:
        return _read(get_from_name(text))
    except (ClickHouseError, LookupError, ValueError, AttributeError, TypeError):
        return Type(text, text)


def _read(found: ClickHouseType) -> Type:
    kind = "Decimal" if isinstance(found, Decimal) else type(found).__name__
    parts: list[ClickHouseType] = []
    if isinstance(found, SimpleAggregateFunction):
        # Its values are those of the type that it combines.
        return replace(_read(found.element_type), text=found.name)
    if isinstance(found, Array):
        parts = [found.element_type]
    elif isinstance(found, Map):
        parts = [found.key_type, found.value_type]
    elif isinstance(found, Tuple):
        parts = list(found.element_types)
    return Type(
        kind,
        found.name,
        bool(found.nullable),
        tuple(map(_read, parts)),
        tuple(found.element_names) if isinstance(found, Tuple) else (),
        int(found.prec) if isinstance(found, Decimal) else 0,
        int(found.scale) if isinstance(found, Decimal | DateTime64) else 0,
    )
