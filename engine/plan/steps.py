"""A plan as data: what would be done, why, and what it costs. Showing, applying and JSON are interpreters of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.plan.missing_blocks import Lack
from engine.schema import Column, Mark, Name, Table, View

Loss = Literal["none", "recomputed", "lost"]
"""What becomes of rows or values: they stay, are dropped and computed again in full, or are lost for good."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change. `resource` is the name that permits it when `destructive`; `loss` says whether rows are lost or
    computed again, and `cost` describes it."""

    resource: str
    reason: str
    destructive: bool = False
    cost: str = ""
    tenant: str | None = None
    loss: Loss = field(default="none", kw_only=True)

    @property
    def action(self) -> str:
        return type(self).__name__

    @property
    def subject(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class CreateDatabase(Step):
    """Create a database."""

    database: str = ""

    @property
    def subject(self) -> str:
        return self.database


@dataclass(frozen=True, slots=True)
class DropDatabase(Step):
    """Drop an empty database."""

    database: str = ""

    @property
    def subject(self) -> str:
        return self.database


@dataclass(frozen=True, slots=True)
class CreateTable(Step):
    """Create a table."""

    table: Table = field(default=Table(Name("", ""), ()))

    @property
    def subject(self) -> str:
        return str(self.table.name)


@dataclass(frozen=True, slots=True)
class DropTable(Step):
    """Drop a table with its rows."""

    name: Name = field(default=Name("", ""))

    @property
    def subject(self) -> str:
        return str(self.name)


@dataclass(frozen=True, slots=True)
class StartReaders(Step):
    """Let tenants read a landing datasource from its beginning, into copies that are about to be created."""

    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        return ", ".join(self.readers)


@dataclass(frozen=True, slots=True)
class AddColumn(Step):
    """Add a column."""

    name: Name = field(default=Name("", ""))
    column: Column = field(default=Column("", ""))
    late: bool = False
    """Whether it waits for the fence: a landing column appears together with the views that deliver it."""

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column.name}"


@dataclass(frozen=True, slots=True)
class ChangeColumn(Step):
    """Change a column's type, default or codec."""

    name: Name = field(default=Name("", ""))
    column: Column = field(default=Column("", ""))

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column.name}"


@dataclass(frozen=True, slots=True)
class DropColumn(Step):
    """Drop a column with its values."""

    name: Name = field(default=Name("", ""))
    column: str = ""

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column}"


@dataclass(frozen=True, slots=True)
class ChangeClause(Step):
    """TTL, setting or comment of a table; `sql` is the ALTER statement."""

    name: Name = field(default=Name("", ""))
    sql: str = ""

    @property
    def subject(self) -> str:
        return str(self.name)


@dataclass(frozen=True, slots=True)
class NoteFeeders(Step):
    """Put the views that deliver into a table into its mark, once they do."""

    name: Name = field(default=Name("", ""))
    mark: Mark = field(default=Mark("", "", ""))

    @property
    def subject(self) -> str:
        return str(self.name)


@dataclass(frozen=True, slots=True)
class CreateView(Step):
    """Create a view behind the fence. One that was suspended gets what it is `missing`; one that `replaces` another
    of the same query continues where that one ends; any other gets the history of its source.

    One that `continues` a target that an earlier query filled gets no history either.
    """

    view: View = field(default=View(Name("", ""), Name("", ""), Name("", ""), ""))
    replaces: bool = False
    missing: tuple[Lack, ...] = ()
    continues: bool = False

    @property
    def subject(self) -> str:
        return str(self.view.name)


@dataclass(frozen=True, slots=True)
class DropView(Step):
    """Drop a view; its target stays."""

    name: Name = field(default=Name("", ""))

    @property
    def subject(self) -> str:
        return str(self.name)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they are applied. Empty when live and desired agree."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def destructive(self) -> tuple[str, ...]:
        return tuple(sorted({s.resource for s in self.steps if s.destructive}))

    @property
    def lost(self) -> tuple[Step, ...]:
        """The steps by which rows or values are lost."""
        return tuple(s for s in self.steps if s.loss == "lost")

    def as_list(self) -> list[dict[str, Any]]:
        return [
            {
                "action": s.action,
                "subject": s.subject,
                "resource": s.resource,
                "tenant": s.tenant,
                "reason": s.reason,
                "destructive": s.destructive,
                "loss": s.loss,
                "cost": s.cost,
            }
            for s in self.steps
        ]
