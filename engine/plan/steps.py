"""A plan as data: its steps, their reasons, and their effects on rows. It can be shown, applied, and written as
JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.plan.missing_blocks import MissedBlocks
from engine.plurals import counted
from engine.schema import Column, Mark, Name, Table, View

ROWS = "{rows}"
"""The place of the number of rows in an effect. Effects on several tables are added up before it is filled in."""
Loss = Literal["none", "recomputed", "lost"]
"""What happens to rows or values: they are kept, are dropped and recomputed in full, or are permanently lost."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change."""

    resource: str
    """The resource that it belongs to. `--allow-destructive` with this name permits it."""
    reason: str
    destructive: bool = False
    """Whether the step needs permission."""
    effect: str = ""
    """What happens to rows. `{rows}` is the place of their number."""
    tenant: str | None = None
    """The tenant whose nest it changes; None for a shared object."""
    loss: Loss = field(default="none", kw_only=True)
    rows: int = field(default=0, kw_only=True)
    """Number of rows that the effect is about."""

    @property
    def cost(self) -> str:
        """The effect with the number of rows."""
        return with_rows(self.effect, self.rows)

    @property
    def action(self) -> str:
        return type(self).__name__

    @property
    def subject(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class _OfDatabase(Step):
    """A step that concerns a database."""

    # The fields of all kinds of steps need defaults, because fields of `Step` have them.
    database: str = ""

    @property
    def subject(self) -> str:
        return self.database


@dataclass(frozen=True, slots=True)
class _OfTable(Step):
    """A step that concerns a table or view, or a column of it."""

    name: Name = field(default=Name("", ""))

    @property
    def subject(self) -> str:
        return str(self.name)


@dataclass(frozen=True, slots=True)
class CreateDatabase(_OfDatabase):
    """Create a database."""


@dataclass(frozen=True, slots=True)
class DropDatabase(_OfDatabase):
    """Drop an empty database."""


@dataclass(frozen=True, slots=True)
class CreateTable(Step):
    """Create a table."""

    table: Table = field(default=Table(Name("", ""), ()))

    @property
    def subject(self) -> str:
        return str(self.table.name)


@dataclass(frozen=True, slots=True)
class DropTable(_OfTable):
    """Drop a table with its rows."""


@dataclass(frozen=True, slots=True)
class StartReaders(Step):
    """Deliver landing datasources from the beginning to tenants whose copies are about to be created."""

    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tenants by datasource."""

    @property
    def subject(self) -> str:
        return ", ".join(self.readers)


@dataclass(frozen=True, slots=True)
class Alteration(_OfTable):
    """Change a table in place."""

    group: int = field(default=0, kw_only=True)
    """Consecutive changes to a table with the same number run as one statement, because each of them may be possible
    only together with the others. Changes with the number 0 run alone.
    """
    late: bool = field(default=False, kw_only=True)
    """Whether it runs while the view lock is held: a landing column is added together with the views that deliver it,
    and with the changes that need it.
    """


@dataclass(frozen=True, slots=True)
class StoreValues(Alteration):
    """Write a column's values into the parts that are older than the column. Otherwise, the engine would compute them
    from the new default.
    """

    column: str = ""

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column}"


@dataclass(frozen=True, slots=True)
class AddColumn(Alteration):
    """Add a column."""

    column: Column = field(default=Column("", ""))

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column.name}"


@dataclass(frozen=True, slots=True)
class ChangeColumn(Alteration):
    """Change a column's type, default or codec."""

    column: Column = field(default=Column("", ""))
    removes: tuple[str, ...] = field(default=(), kw_only=True)
    """What the column loses: `CODEC`, or `DEFAULT`, for which a RemoveDefault follows."""
    previous: Column | None = None
    """The column before it is converted to another type; None if its type stays."""

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column.name}"


@dataclass(frozen=True, slots=True)
class RemoveDefault(Alteration):
    """Remove the constant that has replaced a column's default, after the changes that depend on the column."""

    column: str = ""

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column}"


@dataclass(frozen=True, slots=True)
class DropColumn(Alteration):
    """Drop a column with its values, while the view lock is held."""

    column: str = ""

    @property
    def subject(self) -> str:
        return f"{self.name}.{self.column}"


@dataclass(frozen=True, slots=True)
class ChangeClause(Alteration):
    """Change a table's TTL, one of its indexes, or one of its settings."""

    sql: str = ""
    """The ALTER statement."""
    kind: Literal["index", "setting", "ttl"] = field(default="setting", kw_only=True)
    changed: str = field(default="", kw_only=True)
    """The name of the index or setting."""


@dataclass(frozen=True, slots=True)
class NoteFeeders(_OfTable):
    """Write the views that feed a table into its mark, after they have been created."""

    mark: Mark = field(default=Mark("", "", ""))


@dataclass(frozen=True, slots=True)
class CreateView(Step):
    """Create a view while the view lock is held. It gets a backfill from its source unless a field specifies
    otherwise.
    """

    view: View = field(default=View(Name("", ""), Name("", ""), Name("", ""), ""))
    replaces: bool = False
    """Whether a live view of the same name is dropped first. The new view continues where the old one stopped."""
    missing: tuple[MissedBlocks, ...] = ()
    """The blocks that the view has missed while it was suspended. Only these are delivered."""
    continues: bool = False
    """Whether its target keeps the rows of an earlier query. Nothing is delivered."""

    @property
    def subject(self) -> str:
        return str(self.view.name)


@dataclass(frozen=True, slots=True)
class DropView(_OfTable):
    """Drop a view. Its target stays."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they are applied; none when the live and the desired schema agree."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def destructive(self) -> tuple[str, ...]:
        """The resources whose destructive steps need permission."""
        return tuple(sorted({s.resource for s in self.steps if s.destructive}))

    @property
    def lost(self) -> tuple[Step, ...]:
        """The steps by which rows or values are lost."""
        return tuple(s for s in self.steps if s.loss == "lost")

    def as_list(self) -> list[dict[str, Any]]:
        """The `steps` in the response of `POST /v0/push`."""
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
                "rows": s.rows,
            }
            for s in self.steps
        ]


def with_rows(effect: str, rows: int) -> str:
    """An effect with a number of rows, such as `drops 1 row`."""
    return effect.replace(ROWS, counted(rows, "row"))


def resource_of(item: Table | View) -> str:
    """The resource that a table or view belongs to, for its steps."""
    return item.mark.resource if item.mark else item.name.name


def tenant_of(item: Table | View) -> str | None:
    """The tenant that a table or view belongs to; None if it is shared."""
    return item.mark.tenant if item.mark else None
