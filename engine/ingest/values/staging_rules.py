"""How a value is staged, checked and converted, as SQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Sql = Callable[[str], str]
"""Builds an SQL expression from the SQL of a value."""


@dataclass(frozen=True, slots=True)
class WideType:
    """How values of a ClickHouse type are staged, checked and converted."""

    staging_type: str
    """The ClickHouse type in which values are staged."""
    check: Sql | None = None
    """The condition under which a staged value can be stored; None if every staged value can."""
    convert: Sql | None = None
    """The value to cast to the column's type; None if it is the staged value."""
    has_invalid_default: bool = False
    """Whether the staging type's default is not a valid value, such as the empty string for a date."""
    restage: Sql | None = None
    """The value that is staged for a default of the column's type, before it is cast to the staging type. None if a
    default is staged without the column's type."""


@dataclass(frozen=True, slots=True)
class ColumnRules:
    """How the values of one staged column are checked and stored, as SQL over the stage's columns."""

    check: str | None
    """The condition under which a value can be stored; None if every value can."""
    stored: str
    """The value that is stored."""


@dataclass(frozen=True, slots=True)
class StagedColumn:
    """How one column of a datasource is staged."""

    column: str
    """The column's name in the datasource."""
    name: str
    """The stage's column that the value is read from. Several columns can share one."""
    type: str
    """The type of the stage's column."""
    default: str
    """The DEFAULT of the stage's column, as SQL; empty if it has none."""
    value: str
    """The value that arrived, as SQL."""
    full: ColumnRules
    """The rules that accept every valid value."""
    fast: ColumnRules | None = None
    """Shorter rules. They accept fewer values, and store the same ones; `stored` may throw on invalid values."""
    path: tuple[str | None, ...] = ()
    """The keys from the stage's column to the value; None means every element of an array."""
    key: str = ""
    """The event's key, if it is not the name of the stage's column."""
    guard: str = ""
    """The condition that must hold because the full rules could throw otherwise; empty if they never throw."""

    @property
    def source_name(self) -> str:
        """The key of the value in an event, or its column in a file."""
        return self.key or self.name
